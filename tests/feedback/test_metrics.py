import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedback.errors import MetricError
from feedback.metrics import MAX_COMMENT, MAX_WAIT_S, OUTCOMES, Metric

STARS = Metric("stars", type="category", categories={"good": 1.0, "bad": 0.0})
SCORE = Metric("score", range=(0.0, 1.0))


@pytest.mark.parametrize(
    ("metric", "value", "number"),
    [
        (Metric("good", type="boolean"), True, 1.0),
        (Metric("good", type="boolean"), False, 0.0),
        (SCORE, 1, 1.0),
        (SCORE, 0.25, 0.25),
        (STARS, "good", 1.0),
        (Metric("note", type="comment"), "thanks", None),
    ],
)
def test_a_value_that_fits_becomes_its_number(metric: Metric, value: Any, number: float | None):
    assert metric.number(value) == number


@pytest.mark.parametrize(
    ("metric", "value", "remedy"),
    [
        (Metric("good", type="boolean"), 1, "true or false"),
        (SCORE, True, "give a number"),
        (SCORE, "0.5", "give a number"),
        (SCORE, 1.5, "from 0 to 1"),
        (SCORE, math.nan, "finite"),
        (SCORE, 10**400, "finite"),
        (STARS, "fair", "one of ['bad', 'good']"),
        (STARS, ["good"], "one of ['bad', 'good']"),
        (Metric("note", type="comment"), "x" * (MAX_COMMENT + 1), str(MAX_COMMENT)),
        (Metric("note", type="comment"), 5, "give a text"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_by_name(metric: Metric, value: Any, remedy: str):
    with pytest.raises(MetricError) as refused:
        metric.number(value)
    assert refused.value.field == "value"
    assert metric.name in str(refused.value)
    assert repr(value)[:40] in str(refused.value)
    assert remedy in str(refused.value)


@pytest.mark.parametrize(
    ("declared", "field"),
    [
        ({"name": "latency_s"}, "name"),
        ({"name": ""}, "name"),
        ({"name": "a\x00b"}, "name"),
        ({"name": "x" * 129}, "name"),
        ({"type": "vibes"}, "type"),
        ({"level": "project"}, "level"),
        ({"optimize": "up"}, "optimize"),
        ({"aggregation": "sum"}, "aggregation"),
        ({"wait_s": -1.0}, "wait_s"),
        ({"wait_s": math.nan}, "wait_s"),
        ({"wait_s": MAX_WAIT_S * 2}, "wait_s"),
        ({"range": (1.0, 1.0)}, "range"),
        ({"range": (0.0, math.inf)}, "range"),
        ({"default": math.inf}, "default"),
        ({"type": "category"}, "categories"),
        ({"type": "category", "categories": {"good": math.nan}}, "categories"),
    ],
)
def test_a_declaration_that_no_value_could_satisfy_names_its_field(
    declared: dict[str, Any], field: str
):
    with pytest.raises(MetricError) as refused:
        Metric(**({"name": "quality"} | declared))
    assert refused.value.field == field


@pytest.mark.parametrize("name", OUTCOMES)
def test_what_the_edge_measures_is_no_metric_of_an_app(name: str):
    with pytest.raises(MetricError, match="measured by the edge"):
        Metric(name)


finite = st.floats(-1e6, 1e6)


@given(
    st.builds(
        Metric,
        name=st.just("quality"),
        type=st.sampled_from(["boolean", "float", "comment"]),
        level=st.sampled_from(["decision", "episode"]),
        optimize=st.sampled_from(["max", "min"]),
        unit=st.text(max_size=5),
        range=st.none() | finite.map(lambda low: (low, low + 1.0)),
        wait_s=st.floats(0, MAX_WAIT_S),
        default=st.none() | finite,
        aggregation=st.sampled_from(["mean", "min", "max"]),
    )
    | st.just(STARS)
)
def test_a_metric_survives_its_stored_form(metric: Metric):
    assert Metric.from_json(metric.name, metric.as_json()) == metric


@pytest.mark.parametrize(("how", "number"), [("mean", 0.5), ("min", 0.0), ("max", 1.0)])
def test_several_sources_become_one_number(how: Any, number: float):
    assert Metric("score", aggregation=how).aggregate([1.0, 0.0, 0.5]) == number


@pytest.mark.parametrize(
    ("metric", "rising", "falling"),
    [
        (Metric("thumbs", "boolean"), 0.0, 1.0),
        (Metric("score", range=(-1.0, 5.0)), -1.0, 5.0),
        (Metric("score"), None, None),
        (Metric("kind", "category", categories={"bad": -2.0, "good": 1.0}), -2.0, 1.0),
        (Metric("said", "comment"), None, None),
    ],
)
def test_the_worst_value_depends_on_how_the_reward_changes_with_it(
    metric: Metric, rising: float | None, falling: float | None
) -> None:
    assert metric.worst(2.0) == rising
    assert metric.worst(-0.5) == falling
