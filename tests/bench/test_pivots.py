from dataclasses import asdict

from bench.measure import Measure
from bench.pivots import markdown, pivoted


def rows_of(*measures):
    return [asdict(one) for one in measures]


def earned(router, table, value, fixed="0.5000 ± 0.0100"):
    return Measure(
        f"test reward on {table}: {router} (s.e. 0.0300)",
        value,
        "reward",
        reference=f"best fixed arm: {fixed}",
    )


EARNED = rows_of(
    earned("linucb", "here", 0.6),
    earned("auto", "here", 0.7),
    earned("ridge on all outcomes", "here", 0.9),
    earned("linucb", "there", 0.4, "0.4500"),
    earned("auto", "there", 0.5, "0.4500"),
    earned("ridge on all outcomes", "there", 0.9, "0.4500"),
)


def test_routers_stand_by_their_mean_and_the_best_that_knew_no_outcomes_is_bold():
    (table,), rest = pivoted(EARNED)
    assert rest == []
    assert (table.title, table.unit) == ("test reward", "reward")
    assert markdown(table) == [
        "| | here | there | mean |",
        "|---|---|---|---|",
        "| auto | **0.7000 ± 0.0300** | **0.5000 ± 0.0300** | **0.6000 ± 0.0212** |",
        "| linucb | 0.6000 ± 0.0300 | 0.4000 ± 0.0300 | 0.5000 ± 0.0212 |",
        "| *ridge on all outcomes* | 0.9000 ± 0.0300 | 0.9000 ± 0.0300 | 0.9000 ± 0.0212 |",
        "| *best fixed arm* | 0.5000 ± 0.0100 | 0.4500 |  |",
    ]


def test_a_router_that_lacks_a_table_has_no_mean_and_comes_last():
    (table,), _ = pivoted(EARNED[1:])
    lines = markdown(table)
    assert lines[3] == "| linucb |  | 0.4000 ± 0.0300 |  |"
    assert lines[2].startswith("| auto |")


def test_of_times_the_least_is_bold_and_the_order_stays():
    times = rows_of(
        Measure("learn: vw (9 arms, 86 columns)", 30.0, "µs", "numpy: 0.7 µs"),
        Measure("freeze: vw (9 arms, 86 columns)", 2_000.0, "µs", "numpy: 445 µs"),
        Measure("learn: ema (9 arms, 86 columns)", 0.5, "µs", "numpy: 0.7 µs"),
        Measure("freeze: ema (9 arms, 86 columns)", 50.0, "µs", "numpy: 445 µs"),
    )
    (table,), rest = pivoted(times)
    assert rest == []
    assert table.title == "9 arms, 86 columns"
    assert markdown(table)[2:] == [
        "| vw | 30 | 2,000 |",
        "| ema | **0.5** | **50** |",
        "| *numpy* | 0.7 µs | 445 µs |",
    ]


def test_guards_stand_below_each_other_and_learners_side_by_side():
    shares = rows_of(
        *(
            Measure(f"share of the traffic: {learner}, {guard} (s.e. 0.0100)", 0.2, "")
            for guard in ("no guard", "5 % trusted, cap .5")
            for learner in ("vw", "ema")
        )
    )
    (table,), _ = pivoted(shares)
    assert markdown(table) == [
        "| | vw | ema |",
        "|---|---|---|",
        "| no guard | 0.2000 ± 0.0100 | 0.2000 ± 0.0100 |",
        "| 5 % trusted, cap .5 | 0.2000 ± 0.0100 | 0.2000 ± 0.0100 |",
    ]


def test_of_costs_the_least_is_bold_and_what_is_out_of_reach_is_told():
    unit = "of the best single model's cost"
    told = rows_of(
        Measure("here: auto: cost of 95% (reached in 10 of 10 seeds, s.e. 0.0100)", 0.3, unit),
        Measure("here: a mix: cost of 95% (reached in 4 of 10 seeds, s.e. 0.0100)", 0.7, unit),
        Measure(
            "there: auto: cost of 95% (reached in 0 of 10 seeds, s.e. 0.0000)", -1.0, "out of reach"
        ),
        Measure("there: a mix: cost of 95% (reached in 10 of 10 seeds, s.e. 0.0200)", 0.8, unit),
    )
    (table,), rest = pivoted(told)
    assert rest == []
    assert (table.title, table.unit) == ("cost of 95%", unit)
    assert markdown(table) == [
        "| | here | there |",
        "|---|---|---|",
        "| auto | **0.3000 ± 0.0100** | out of reach |",
        "| a mix | 0.7000 ± 0.0100 (4 of 10) | **0.8000 ± 0.0200** |",
    ]


def test_what_has_no_such_name_or_stands_alone_is_left():
    alone = rows_of(
        Measure("decisions over HTTP", 9.0, "rows/s"),
        Measure("auto over the best fixed arm, on here (s.e. 0.0100)", 0.1, "reward"),
        Measure("vw.learn: an interaction (9 arms, 87 columns)", 30.0, "µs"),
    )
    assert pivoted(alone) == ([], alone)
