import json

from bench.measure import Measure, as_json, at_most, main, seconds_each

FAST = at_most("a call", 2.0, "µs", reference=("nothing", 0.5), limit=3.0)
SLOW = at_most("a call", 4.0, "µs", reference=("nothing", 0.5), limit=3.0)
BARE = Measure("a count", 3, "calls")


def test_a_measure_says_its_ratio_and_whether_its_goal_holds():
    (row,) = json.loads(as_json([FAST]))
    assert row == {
        "measure": "a call",
        "value": 2.0,
        "unit": "µs",
        "reference": "nothing: 0.5 µs",
        "ratio": 4.0,
        "goal": "<= 3 µs",
        "holds": True,
    }
    assert SLOW.holds is False


def test_the_command_prints_json_and_fails_when_a_goal_is_missed(capsys):
    assert main(lambda _: [FAST, BARE], ["--json"]) == 0
    assert [row["measure"] for row in json.loads(capsys.readouterr().out)] == ["a call", "a count"]
    assert main(lambda _: [FAST, SLOW], []) == 1
    assert "MISSED" in capsys.readouterr().out


def test_quick_reaches_the_benchmark(capsys):
    seen = []

    def run(quick: bool) -> list[Measure]:  # noqa: FBT001 — the shape of every benchmark
        seen.append(quick)
        return [BARE]

    main(run, ["--quick"])
    main(run, [])
    assert seen == [True, False]
    assert capsys.readouterr().out.count("a count: 3 calls") == 2


def test_works_are_timed_in_turns():
    order = []
    times = seconds_each([lambda: order.append("a"), lambda: order.append("b")], rounds=2, calls=1)
    assert order == ["a", "b", "a", "b", "a", "b"]
    assert len(times) == 2
