import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learners.errors import RewardError
from learners.features import canonical_json
from learners.rewards import GATE_PART, RewardFunction, RewardGate, Statistic, Term, parse

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
        {"terms": [{"metric": "a", "cap_low": 2, "cap_high": 1}]},
        {"terms": [{"metric": "a", "cap_high": math.nan}]},
        {"terms": [{"metric": "a", "normaliser": "rank"}]},
        {"terms": [{"metric": "a", "normaliser": "minmax"}]},
        {"terms": [{"metric": "a", "range": [0, 1]}]},
        {"terms": [{"metric": "a", "normaliser": "minmax", "range": [1, 1]}]},
        {"terms": [{"metric": "a", "normaliser": "minmax", "range": [1]}]},
        {"terms": [{"metric": "a", "align": "b"}]},
        {"terms": [{"metric": "a", "align": "a"}]},
        {"terms": [{"metric": "a", "align": "b"}, {"metric": "b", "align": "a"}]},
        {"terms": [{"metric": "a", "align": "b", "scale": 2}, {"metric": "b"}]},
        {"terms": [{"metric": "a"}], "gates": [{"metric": "b", "at_least": 1}]},
        {"terms": [{"metric": "a"}], "gates": [{"metric": "b", "at_least": 1, "reward": math.inf}]},
        {"terms": [{"metric": "a"}], "gates": [{"metric": "b", "at_least": 1, "reward": 0}] * 9},
        {"terms": [{"metric": "a"}], "statistics": {"a": {"n": 100, "mean": 0.0, "std": 0.0}}},
        {"terms": [{"metric": "a"}], "statistics": {"a": {"n": 100}}},
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


@pytest.mark.parametrize(
    ("term", "value", "expected"),
    [
        (Term("m", cap_low=1.0, cap_high=3.0), 0.0, 1.0),
        (Term("m", cap_low=1.0, cap_high=3.0), 2.5, 2.5),
        (Term("m", cap_high=3.0, weight=-2.0, scale=4.0), 9.0, -1.5),
        (Term("m", normaliser="minmax", range=(10.0, 30.0)), 15.0, 0.25),
        (Term("m", normaliser="minmax", range=(10.0, 30.0)), 50.0, 2.0),
        (Term("m", normaliser="minmax", range=(10.0, 30.0), cap_high=30.0), 50.0, 1.0),
        (Term("m", normaliser="log1p"), math.e - 1, 1.0),
        (Term("m", normaliser="log1p", scale=2.0), 1 - math.e, -0.5),
        (Term("m", normaliser="std"), 6.0, 1.5),
        (Term("m", default=9.0, cap_high=3.0), None, 3.0),
    ],
)
def test_a_value_is_capped_then_normalised_then_scaled(term, value, expected):
    reward = RewardFunction((term,), statistics={"m": Statistic(100, 5.0, 4.0)})
    assert reward.evaluate({} if value is None else {"m": value}) == pytest.approx(expected)
    if value is not None:
        assert reward.evaluate_columns({"m": np.array([value])}) == pytest.approx([expected])


def test_a_reward_that_was_stored_before_is_read_and_written_as_it_was():
    term = {"metric": "a", "weight": 2.0, "scale": 1.0, "default": None, "on_error": 0.0}
    stored = {"terms": [term], "offset": 0.5}
    assert (
        RewardFunction.from_json({**stored, "wait_s": 3, "expression": "2*a"}).as_json() == stored
    )


FORMATTED = RewardFunction(
    (Term("score", default=0.5), Term("cost_usd", -0.2, 0.01)),
    offset=0.25,
    gates=(
        RewardGate("valid", 1.0, -1.0, on_error=0.0),
        RewardGate("safe", 0.5, -2.0, default=1.0),
    ),
)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"valid": 1.0, "score": 0.8, "cost_usd": 0.01}, 0.25 + 0.8 - 0.2),
        ({"valid": 0.0, "score": 1.0, "cost_usd": 0.0}, -1.0),
        ({"valid": 0.0, "safe": 0.0}, -1.0),  # the first that is not met decides
        ({"valid": 1.0, "safe": 0.4}, -2.0),
        ({"score": 0.8, "cost_usd": 0.01}, None),  # nobody knows what the gate says
        ({"safe": 0.0}, None),
        ({"error": 1.0}, -1.0),
        ({"valid": 1.0}, None),
    ],
)
def test_a_gate_that_is_not_met_decides_before_all_else(values, expected):
    assert FORMATTED.evaluate(values) == (None if expected is None else pytest.approx(expected))


def test_a_reward_with_everything_survives_json():
    reward = RewardFunction(
        (
            Term("score", normaliser="minmax", range=(0.0, 10.0)),
            Term("cost_usd", -1.0, cap_low=0.0, cap_high=2.0, align="score"),
            Term("energy_j", -1.0, normaliser="std"),
        ),
        gates=FORMATTED.gates,
        statistics={"score": Statistic(100, 5.0, 2.0), "cost_usd": Statistic(99, 0.1, 0.5)},
    )
    assert RewardFunction.from_json(json.loads(canonical_json(reward.as_json()))) == reward
    assert reward.metrics == ("score", "cost_usd", "energy_j", "valid", "safe")
    assert not reward.aligned
    with pytest.raises(RewardError, match="'energy_j' is not known yet"):
        reward.evaluate({"valid": 1.0, "score": 1.0, "cost_usd": 1.0, "energy_j": 3.0})


columns_of_values = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "score": st.floats(0, 1),
            "cost_usd": st.floats(0, 5),
            "valid": st.sampled_from([0.0, 1.0]),
            "safe": st.floats(0, 1),
        },
    ),
    min_size=1,
    max_size=20,
)


@given(columns_of_values, st.booleans())
def test_the_parts_add_up_to_the_reward_on_every_row(rows, gated):
    reward = FORMATTED if gated else RewardFunction(FORMATTED.terms, FORMATTED.offset)
    for values in rows:
        parts, found = reward.parts(values), reward.evaluate(values)
        assert len(parts) == len(reward.part_names) == len(reward.mix)
        if found is None:
            assert None in parts
        else:
            total = np.array(parts, dtype=np.float64) @ reward.mix + reward.offset
            assert total == pytest.approx(found, abs=1e-12)


@given(columns_of_values, st.booleans())
def test_columns_give_what_rows_give(rows, gated):
    reward = FORMATTED if gated else RewardFunction(FORMATTED.terms, FORMATTED.offset)
    full = [{"score": 0.5, "safe": 1.0, **values} for values in rows]  # their defaults
    columns = {
        name: np.array([[values.get(name, np.nan)] for values in full]) for name in reward.metrics
    }
    parts, found = reward.part_columns(columns), reward.evaluate_columns(columns)
    assert parts.shape == (len(rows), 1, len(reward.mix))
    expected = np.array([[reward.evaluate(values)] for values in full], dtype=np.float64)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    np.testing.assert_allclose(parts @ reward.mix + reward.offset, expected, atol=1e-12)
    each = np.array([[reward.parts(values)] for values in full], dtype=np.float64)
    np.testing.assert_allclose(parts, each, atol=1e-12)


def test_the_parts_have_names_and_the_gates_are_the_last():
    assert FORMATTED.part_names == ("score", "cost_usd", GATE_PART)
    assert FORMATTED.mix.tolist() == [1.0, -0.2, 1.0]
    assert FORMATTED.parts({"valid": 0.0, "score": 0.9}) == (0.0, 0.0, -1.25)
    assert parse("score - 2*cost_usd + 1").part_names == ("score", "cost_usd")
