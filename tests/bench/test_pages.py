from bench import pages
from bench.pages import Taken


def test_a_page_is_measured_beside_the_trivial_answer():
    trivial = Taken(first_s=0.001, whole_s=0.002, size=15)
    first, whole = pages.times("dashboard", Taken(0.01, 0.02, 50_000), trivial)
    assert (first.value, first.ratio, first.holds) == (10.0, 5.0, None)
    assert (whole.value, whole.ratio, whole.holds) == (20.0, 10.0, True)
    slow = pages.limited("dashboard", Taken(1.0, 1.0, 50_000), trivial, pages.PAGE_GOAL)
    assert slow.holds is False


def test_every_page_of_a_real_installation_answers():
    with pages.installed(2_000) as place:
        asked = [*pages.PAGES.values(), *pages.lists().values(), *pages.judged(place).values()]
        found = pages.ask(place, [*asked, pages.TRIVIAL], turns=1)
        told = pages.weight(place, found)
    assert found["/"].size > 10_000
    assert all(one.first_s <= one.whole_s for one in found.values())
    assert told.holds
