from dataclasses import replace

import numpy as np
import pytest

from learners.alignment import MIN_VALUES, align
from learners.errors import RewardError
from learners.rewards import RewardFunction, RewardGate, Term

REWARD = RewardFunction(
    (
        Term("score"),
        Term("cost_usd", -0.2, default=0.02, on_error=0.0, cap_high=0.05, align="score"),
        Term("energy_j", -0.1, normaliser="std", cap_low=1.0),
        Term("latency_s", -0.3, normaliser="minmax", range=(0.0, 8.0), align="score"),
    ),
    offset=0.1,
    gates=(RewardGate("cost_usd", 0.001, 0.0),),
)


def a_log(n: int = 500) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    return {
        "score": rng.random(n),
        "cost_usd": rng.lognormal(-4.0, 1.0, n),
        "energy_j": rng.gamma(2.0, 30.0, n),
        "latency_s": rng.gamma(2.0, 1.0, n),
    }


def in_units(factor: float, of: str) -> tuple[RewardFunction, dict[str, np.ndarray]]:
    """The reward and the log with a metric in a unit so many times smaller."""

    def times(value: float | None) -> float | None:
        return None if value is None else value * factor

    terms = tuple(
        term
        if term.metric != of
        else replace(
            term,
            range=term.range and (term.range[0] * factor, term.range[1] * factor),
            default=times(term.default),
            on_error=times(term.on_error),
            cap_low=times(term.cap_low),
            cap_high=times(term.cap_high),
        )
        for term in REWARD.terms
    )
    gates = [
        replace(gate, at_least=gate.at_least * factor) if gate.metric == of else gate
        for gate in REWARD.gates
    ]
    log = a_log()
    log[of] = log[of] * factor
    return replace(REWARD, terms=terms, gates=tuple(gates)), log


@pytest.mark.parametrize("metric", ["cost_usd", "energy_j", "latency_s"])
@pytest.mark.parametrize("factor", [100.0, 1 / 3600])
def test_another_unit_of_a_metric_leaves_every_reward_as_it_was(metric, factor):
    before = align(REWARD, a_log())
    other, log = in_units(factor, metric)
    after = align(other, log)
    np.testing.assert_allclose(
        after.evaluate_columns(log), before.evaluate_columns(a_log()), rtol=0, atol=1e-9
    )
    values = {name: column[3] for name, column in a_log().items()}
    changed = {name: column[3] for name, column in log.items()}
    assert after.evaluate(changed) == pytest.approx(before.evaluate(values), abs=1e-9)
    if metric == "cost_usd":  # missing, failed: what stands in is in the metric's unit too
        del values[metric], changed[metric]
        no_gate = replace(before, gates=()), replace(after, gates=())
        for more in ({}, {"error": 1.0}):
            found = no_gate[1].evaluate({**changed, **more})
            assert found == pytest.approx(no_gate[0].evaluate({**values, **more}), abs=1e-9)


def test_without_alignment_a_unit_does_change_the_reward():
    plain = RewardFunction((Term("score"), Term("cost_usd", -0.2)))
    _, log = in_units(100.0, "cost_usd")
    assert not np.allclose(plain.evaluate_columns(log), plain.evaluate_columns(a_log()))


def test_an_aligned_part_spreads_like_the_part_that_it_is_aligned_to():
    reward = RewardFunction(
        (
            Term("score", normaliser="minmax", range=(0.0, 10.0), scale=-3.0),
            Term("cost_usd", -1.0, align="score"),
            Term("energy_j", -1.0, normaliser="std"),
        )
    )
    score, cost, energy = align(reward, a_log()).part_columns(a_log()).T
    assert cost.std() == pytest.approx(score.std())
    assert energy.std(ddof=1) == pytest.approx(1.0)
    assert (cost > 0).all()


def test_the_scale_is_the_ratio_of_the_standard_deviations():
    log = {"a": np.arange(200.0), "b": 3.0 * np.arange(200.0)}
    found = align(RewardFunction((Term("a"), Term("b", -1.0, align="a"))), log)
    assert found.statistics["b"].std == pytest.approx(3 * found.statistics["a"].std)
    assert found.evaluate({"a": 0.0, "b": 6.0}) == pytest.approx(-2.0)


def test_the_same_log_gives_the_same_numbers_and_a_later_one_changes_nothing():
    first = align(REWARD, a_log())
    assert first == align(REWARD, a_log())
    assert set(first.statistics) == {"score", "cost_usd", "energy_j", "latency_s"}
    assert RewardFunction.from_json(first.as_json()) == first
    assert first.statistics["score"].n == 500


def test_missing_values_do_not_count_and_capped_ones_do_as_capped():
    term = Term("m", normaliser="std", cap_high=1.0)
    column = np.array([np.nan, *[0.0] * 100, *[9.0] * 100])
    found = align(RewardFunction((term,)), {"m": column}).statistics["m"]
    assert found.n == 200
    assert found.mean == pytest.approx(0.5)
    assert found.std == pytest.approx(np.sqrt(50 / 199))


def test_a_reward_that_needs_no_spread_gets_none():
    plain = RewardFunction((Term("score"), Term("cost_usd", -1.0)))
    assert plain.aligned
    assert align(plain, {}) == plain


@pytest.mark.parametrize(
    ("column", "said"),
    [
        (np.arange(MIN_VALUES - 1.0), "'m' has 99 values: its spread needs 100"),
        (np.full(500, np.nan), "'m' has 0 values"),
        (np.full(500, 0.1), "'m'.*not all alike"),
        (np.array([*range(200), np.inf]), "'m'.*finite"),
        (np.linspace(-1e300, 1e300, 200), "'m'.*finite"),
    ],
)
def test_a_spread_that_cannot_be_known_is_refused(column, said):
    reward = RewardFunction((Term("m", normaliser="std"),))
    with pytest.raises(RewardError, match=said):
        align(reward, {"m": np.asarray(column, dtype=np.float64)})
    with pytest.raises(RewardError, match="'m' has 0 values"):
        align(reward, {})
