from bench.learning_times import slow


def test_who_freezes_too_slowly_is_named_and_misses_the_goal():
    found = slow({"linucb": 0.01, "river_tree": 0.3})
    assert (found.value, found.holds) == (1, False)
    assert "(river_tree)" in found.measure
    assert slow({"linucb": 0.05}).holds is True
