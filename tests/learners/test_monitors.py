import json
import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learners import divergence
from learners.errors import SpecError
from learners.monitors import NAMES, Finding, Settings, State, start, update
from learners.windows import Batch, Bounds

ARMS = ("a", "b", "c", "d")
MIX = np.array([0.4, 0.3, 0.2, 0.1])
QUICK = Settings(reference=200, window=100)


def decisions(
    n: int,
    seed: int,
    *,
    mix: Any = MIX,
    served: Any = None,
    shift: float = 0.0,
    answers: float = 0.6,
    late: float = 0.0,
    moved: float = 0.0,
) -> Batch:
    """Arms drawn from ``served`` while the log says ``mix``; arm a earns ``shift`` more."""
    rng = np.random.default_rng(seed)
    real = np.asarray(mix if served is None else served)
    action = rng.choice(len(ARMS), size=n, p=real)
    chance = np.array([0.7, 0.6, 0.5, 0.4])[action] + np.where(action == 0, shift, 0.0)
    answered = rng.random(n) < answers
    reward = np.where(answered, (rng.random(n) < chance).astype(np.float64), np.nan)
    return Batch(
        arms=ARMS,
        action=action,
        distribution=np.tile(np.asarray(mix, dtype=np.float64), (n, 1)),
        reward=reward,
        waited=np.ones(n, dtype=np.bool_),
        answered=answered,
        delay_s=np.where(answered, rng.lognormal(3.0 + late, 1.0, n), np.nan),
        context={
            "chars": rng.normal(5.0 + moved, 1.0, n),
            "code": (rng.random(n) < 0.3 + moved / 4).astype(str),
        },
    )


def seen(
    name: str,
    *pieces: Batch,
    rules: Settings = Settings(),  # noqa: B008 -- frozen
) -> tuple[State, list[Finding]]:
    state, found = start(), []
    for piece in pieces:
        state, more = update(name, state, piece, rules)
        found += more
    return state, found


def alarms(found: list[Finding]) -> list[Finding]:
    return [one for one in found if one.severity == "alarm"]


@pytest.mark.parametrize(
    ("name", "change", "metrics"),
    [
        ("reward", {"shift": -0.5}, {"reward", "reward by adwin"}),
        ("arm_reward", {"shift": -0.4}, {"a"}),
        ("action_mix", {"mix": [0.1, 0.2, 0.3, 0.4]}, {"js"}),
        ("context", {"moved": 0.6}, {"chars"}),
        ("feedback", {"answers": 0.45}, {"rate"}),
        ("feedback", {"late": 0.6}, {"delay"}),
        ("propensity", {"served": [0.5, 0.25, 0.15, 0.1]}, {"a", "a in all", "c", "b in all"}),
    ],
)
def test_a_change_is_an_alarm_by_its_name_and_what_was_before_is_not(
    name: str, change: dict[str, Any], metrics: set[str]
):
    before, after = decisions(8_000, 1), decisions(4_000, 2, **change)
    state, calm = seen(name, before)
    assert not alarms(calm)
    _, found = update(name, state, after, Settings())
    told = alarms(found)
    assert {one.metric for one in told} & metrics
    assert told[0].monitor == name
    assert told[0].value > told[0].bound
    assert len(told[0].sentence) > 20


@pytest.mark.parametrize("streams", [10, pytest.param(100, marks=pytest.mark.soak)])
def test_alarms_without_any_change_are_rare(streams: int):
    """Streams of 8,000 decisions: at 2 windows of 3 standard errors, 0.3 are expected of 100."""
    told = [
        one
        for seed in range(streams)
        for name in NAMES
        for one in alarms(seen(name, decisions(8_000, 500 + seed))[1])
    ]
    assert len(told) <= streams // 50, told


@settings(max_examples=15, deadline=None)
@given(
    name=st.sampled_from(NAMES),
    cuts=st.lists(st.integers(0, 900), max_size=6),
    seed=st.integers(0, 50),
)
def test_it_makes_no_difference_in_which_pieces_decisions_come(
    name: str, cuts: list[int], seed: int
):
    parts = (decisions(500, seed), decisions(400, seed + 1, shift=-0.7, mix=MIX[::-1]))
    whole = seen(name, *parts, rules=QUICK)
    both = Batch(
        arms=ARMS,
        context={
            name: np.concatenate([part.context[name] for part in parts])
            for name in ("chars", "code")
        },
        **{
            name: np.concatenate([getattr(part, name) for part in parts])
            for name in ("action", "distribution", "reward", "waited", "answered", "delay_s")
        },
    )
    edges = [0, *sorted(cuts), len(both)]
    pieces = [both.rows(slice(a, b)) for a, b in pairwise(edges)]
    state, found = seen(name, *pieces, rules=QUICK)
    assert [one.metric for one in found] == [one.metric for one in whole[1]]
    assert [one.severity for one in found] == [one.severity for one in whole[1]]
    assert [one.value for one in found] == pytest.approx([one.value for one in whole[1]])
    assert state["rows"] == whole[0]["rows"]
    assert state["streaks"] == whole[0]["streaks"]


@pytest.mark.parametrize("name", NAMES)
def test_a_state_survives_json_at_any_time(name: str):
    state, kept = start(), start()
    for number in range(12):
        piece = decisions(70, number, shift=-0.1 * number)
        state, found = update(name, state, piece, QUICK)
        kept, again = update(name, json.loads(json.dumps(kept, allow_nan=False)), piece, QUICK)
        assert found == again
    assert json.loads(json.dumps(state)) == json.loads(json.dumps(kept))


def test_one_window_out_of_bounds_is_a_warning_and_the_next_an_alarm():
    rules = Settings(reference=500, window=200, patience=2, detectors=False)
    state, _ = seen("reward", decisions(2_000, 3, answers=1.0).rows(slice(0, 500)), rules=rules)
    worse = decisions(400, 4, shift=-0.7, mix=[1, 0, 0, 0], answers=1.0)
    state, first = update("reward", state, worse.rows(slice(0, 200)), rules)
    assert [one.severity for one in first] == ["warning"]
    _, second = update("reward", state, worse.rows(slice(200, 400)), rules)
    assert [one.severity for one in second] == ["alarm"]
    assert "2 windows in a row" in second[0].sentence
    calm = decisions(200, 5, answers=1.0)
    state, _ = update("reward", state, calm, rules)
    _, third = update("reward", state, worse.rows(slice(200, 400)), rules)
    assert [one.severity for one in third] == ["warning"]


@pytest.mark.parametrize("reward", [0.1, 0.3, 1 / 3, 0.7, 123.4])
@pytest.mark.parametrize("name", ["reward", "arm_reward"])
def test_rewards_that_are_all_alike_have_not_moved(name: str, reward: float):
    stream = replace(decisions(1_000, seed=5), reward=np.full(1_000, reward))
    assert seen(name, stream, rules=QUICK)[1] == []


def test_the_widest_bounds_are_numbers_too():
    bounds = Bounds(sigmas=8.0)
    assert 8.0 < bounds.shared(100) < 9.0
    for name in NAMES:
        assert seen(name, decisions(600, seed=6), rules=replace(QUICK, bounds=bounds))[1] == []


def test_after_an_alarm_what_follows_is_usual():
    rules = Settings(reference=500, window=200, detectors=False)
    low = [decisions(4_000, seed, shift=-0.7, mix=[1, 0, 0, 0], answers=1.0) for seed in (7, 8)]
    _, found = seen("reward", decisions(1_000, 6, answers=1.0), *low, rules=rules)
    assert len(alarms(found)) == 1


def test_an_arm_that_joins_is_no_drift_of_rewards_but_of_the_mix():
    before = decisions(4_000, 9, mix=[0.5, 0.5, 0, 0])
    after = decisions(3_000, 10, mix=[0.3, 0.3, 0.4, 0])
    assert not alarms(seen("arm_reward", before, after)[1])
    assert alarms(seen("action_mix", before, after)[1])


def test_decisions_whose_distribution_is_not_known_are_left_out():
    batch = decisions(3_000, 11, served=[0.1, 0.1, 0.1, 0.7])
    batch.distribution[:] = np.nan
    assert seen("propensity", batch) == (start(), [])


def test_feedback_is_looked_for_only_where_the_wait_is_over():
    batch = decisions(3_000, 12)
    waiting = decisions(3_000, 13, answers=0.0)
    waiting.waited[:] = False
    state, found = seen("feedback", batch, waiting)
    assert not found
    assert state == seen("feedback", batch)[0]


def test_a_feature_of_one_value_only_and_a_feature_that_vanishes_say_nothing_or_much():
    n = 400

    def constant(values: Any) -> Batch:
        plain = decisions(n, 14)
        return Batch(
            ARMS, plain.action, plain.distribution, plain.reward, plain.waited, plain.answered,
            plain.delay_s, {"x": values},
        )  # fmt: skip

    same = np.full(n, 3.0)
    assert not seen("context", constant(same), constant(same), rules=QUICK)[1]
    gone = np.full(n, math.nan)
    assert alarms(seen("context", constant(same), constant(gone), rules=QUICK)[1])


def test_a_new_value_of_a_category_counts_as_another():
    n = 600
    plain = decisions(n, 15)

    def of(values: Any) -> Batch:
        return Batch(
            ARMS, plain.action, plain.distribution, plain.reward, plain.waited, plain.answered,
            plain.delay_s, {"x": np.asarray(values)},
        )  # fmt: skip

    before, after = of(["u", "v"] * (n // 2)), of(["u", "w"] * (n // 2))
    assert alarms(seen("context", before, after, rules=QUICK)[1])


def test_divergences_are_0_for_equal_counts_and_the_second_at_most_a_bit():
    counts = np.array([10.0, 20.0, 30.0])
    assert divergence.psi(counts, counts) == 0
    assert divergence.jensen_shannon(counts, counts) == 0
    apart = divergence.jensen_shannon(np.array([1e6, 0.0]), np.array([0.0, 1e6]))
    assert apart == pytest.approx(1.0, abs=1e-3)
    assert divergence.psi(counts, np.zeros(3)) == 0


def test_divergences_by_chance_are_exceeded_about_as_often_as_they_say():
    """2,000 pairs at 1 %: 20 are expected, of a binomial of standard deviation 4.4."""
    rng = np.random.default_rng(0)
    share = np.array([0.3, 0.3, 0.2, 0.1, 0.1])
    out = np.zeros(2)
    for _ in range(2_000):
        first, second = (rng.multinomial(n, share).astype(np.float64) for n in (2_000, 500))
        out[0] += divergence.psi(first, second) > divergence.psi_by_chance(first, second, 0.01)
        out[1] += divergence.jensen_shannon(first, second) > divergence.js_by_chance(
            first, second, 0.01
        )
    assert (out >= 5).all()
    assert (out <= 40).all()


@pytest.mark.parametrize(("freedom", "chance", "truth"), [(1, 0.05, 3.841), (9, 0.0027, 25.26)])
def test_the_quantile_is_that_of_the_tables(freedom: int, chance: float, truth: float):
    assert divergence.chi_square(freedom, chance) == pytest.approx(truth, rel=0.03)


def test_what_cannot_be_a_monitor_is_refused():
    with pytest.raises(SpecError, match="no monitor 'mood'"):
        update("mood", start(), decisions(10, 0), Settings())
    with pytest.raises(SpecError, match="at least"):
        Settings(window=1)
    with pytest.raises(ValueError, match="do not fit"):
        Batch(ARMS, *(np.zeros(3) for _ in range(6)))  # type: ignore[arg-type]


def test_a_reference_is_there_once_it_is_learnt():
    state, _ = seen("reward", decisions(100, 1, answers=1.0), rules=QUICK)
    assert state["reference"] is None
    state, _ = seen("reward", decisions(300, 1, answers=1.0), rules=QUICK)
    assert state["reference"]["reward"][0] == 200
