import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learners.errors import RewardError
from learners.features import canonical_json
from learners.rewards import RewardFunction, Term, parse

coefficients = st.floats(-1e3, 1e3)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("score", 0.5),
        ("-score + 1", 0.5),
        ("score - 0.2*cost_usd/COST_REF", 0.5 - 0.2 * 4 / 2),
        ("2*(score - 3*cost_usd)/4", 2 * (0.5 - 12) / 4),
        ("score/2 + score*3", 0.5 / 2 + 0.5 * 3),
        (" +score ", 0.5),
        ("1e-3*cost_usd", 0.004),
        ("7 + 0*score", 7.0),
    ],
)
def test_an_expression_is_worth_what_python_says(expression, expected):
    reward = parse(expression, {"COST_REF": 2.0})
    assert reward.evaluate({"score": 0.5, "cost_usd": 4.0}) == pytest.approx(expected)
    columns = {"score": np.array([0.5, 0.5]), "cost_usd": np.array([4.0, 4.0])}
    assert reward.evaluate_columns(columns) == pytest.approx([expected, expected])


@given(coefficients, coefficients, coefficients, st.floats(0, 1), st.floats(0, 10))
def test_any_linear_expression_is_evaluated(a, b, c, score, cost):
    found = parse(f"{a!r}*score + ({b!r})*cost_usd - {c!r}").evaluate(
        {"score": score, "cost_usd": cost}
    )
    assert found == pytest.approx(a * score + b * cost - c, abs=1e-6)


@pytest.mark.parametrize(
    ("expression", "why"),
    [
        ("", "does not parse"),
        ("score +", "does not parse"),
        ("score\0", "does not parse|null"),
        ("score*cost_usd", "not linear"),
        ("1/score", "not linear"),
        ("score/0", "division by zero"),
        ("score/(1-1)", "division by zero"),
        ("score**2", "use only"),
        ("max(score, 1)", "use only"),
        ("score.real", "use only"),
        ("__import__('os').system('true')", "use only"),
        ("score if 1 else 2", "use only"),
        ("True*score", "use only"),
        ("'a'", "use only"),
        ("3", "0 terms"),
        ("1e999*score", "finite"),
        ("score + 1e999", "finite"),
        ("9" * 400 + "*score", "too deep or its numbers too large"),
        ("(" * 400 + "score" + ")" * 400, "parse|too deep"),
        ("-" * 990 + "score", "parse|too deep"),
        ("+".join(f"m{i}" for i in range(33)), "33 terms"),
        ("score" + " " * 1000, "1005 characters"),
    ],
)
def test_what_is_not_linear_is_refused_and_nothing_is_run(expression, why):
    with pytest.raises(RewardError, match=why):
        parse(expression)


def test_a_missing_value_takes_its_default_or_leaves_no_reward():
    with_default = RewardFunction((Term("thumbs", 1.0, 1.0, default=0.0), Term("score")))
    assert with_default.evaluate({"score": 0.4}) == pytest.approx(0.4)
    assert with_default.evaluate({"thumbs": 1.0}) is None


def test_a_column_that_is_not_there_is_named():
    with pytest.raises(RewardError, match=r"'latency_s'.*\['score'\]"):
        parse("score - latency_s").evaluate_columns({"score": np.zeros(2)})


def test_a_function_survives_json():
    reward = parse("score - 0.3*cost_usd + 2")
    again = RewardFunction.from_json(json.loads(canonical_json(reward.as_json())))
    assert again == reward


@pytest.mark.parametrize(
    "row",
    [
        {},
        {"terms": []},
        {"terms": [{"metric": "a", "colour": 1}]},
        {"terms": [{"metric": "a"}], "offset": "high"},
        {"terms": [{"metric": "a"}], "offset": math.inf},
        {"terms": [{"metric": "a", "scale": 0.0}]},
        {"terms": [{"metric": "a", "weight": math.nan}]},
        {"terms": [{"metric": "a"}, {"metric": "a"}]},
        {"terms": [{"metric": "a", "weight": "much"}]},
        {"terms": 3},
    ],
)
def test_a_malformed_function_is_refused(row):
    with pytest.raises(RewardError):
        RewardFunction.from_json(row)


def test_a_failed_arm_is_rewarded_though_nobody_could_grade_it() -> None:
    reward = RewardFunction((Term("score", on_error=0.0), Term("cost_usd", -1.0, on_error=0.0)))
    assert reward.evaluate({"error": 1.0, "latency_s": 3.0}) == 0.0
    assert reward.evaluate({"error": 1.0, "cost_usd": 0.25}) == -0.25
    assert reward.evaluate({"error": 0.0, "cost_usd": 0.25}) is None
    assert reward.evaluate({"error": 1.0, "score": 0.5, "cost_usd": 0.25}) == 0.25
