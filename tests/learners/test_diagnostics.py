"""Each check lets a sound log pass, finds its own fault, and keeps a bound that can be moved."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from scipy import stats

from learners import diagnostics, ope
from learners.errors import EstimateError
from learners.interactions import Interactions

K = 3


def served(n: int, seed: int) -> np.ndarray:
    """Probabilities of arms, each at least 0.05, shape ``(n, K)``."""
    return np.asarray(np.random.default_rng(seed).dirichlet([1.0] * K, size=n) * 0.85 + 0.05)


def drawn(distribution: np.ndarray, seed: int) -> np.ndarray:
    n = len(distribution)
    random = np.random.default_rng(seed).random((n, 1))
    return np.asarray((random > distribution.cumsum(axis=1)).sum(axis=1).clip(0, K - 1))


def make_log(distribution: np.ndarray, action: np.ndarray, eligible: np.ndarray | None = None):
    n = len(action)
    return Interactions(
        ("a", "b", "c"),
        np.ones((n, 1)),
        np.ones((n, K), np.bool_) if eligible is None else eligible,
        action,
        distribution[np.arange(n), action],
        np.zeros(n),
        np.ones(n),
    )


def test_a_log_that_is_not_newer_than_training_is_refused():
    at = np.array([5.0, 6.0, 7.0, 8.0])
    assert diagnostics.newer(at, 4.9).passed
    found = diagnostics.newer(at, 6.0)
    assert (found.value, found.passed) == (0.5, False)
    assert "2 of 4 rows are not newer" in found.sentence
    assert diagnostics.newer(at, 6.0, most=0.5).passed


def test_the_effective_size_counts_clusters_where_there_are_any():
    weights = np.ones(120)
    assert diagnostics.effective_size(weights, least=120).value == pytest.approx(120)
    clusters = np.repeat(np.arange(20), 5)
    found = diagnostics.effective_size(weights, clusters=np.append(clusters, [-1] * 20))
    assert found.value == pytest.approx(120**2 / (20 * 25 + 20))
    assert not found.passed
    assert "fewer than the 50" in found.sentence


def test_a_few_rows_with_most_of_the_weight_are_refused():
    weights = np.ones(1000)
    assert diagnostics.concentration(weights).value == pytest.approx(0.01)
    weights[17] = 1000.0
    found = diagnostics.concentration(weights)
    assert found.value == pytest.approx(1009 / 1999)
    assert not found.passed
    assert diagnostics.concentration(weights, most=0.6).passed
    assert not diagnostics.concentration(np.zeros(10)).passed


def test_choices_that_the_log_never_served_are_refused_with_the_arm():
    action = np.array([0, 1] * 200)
    log = make_log(np.full((400, K), 0.5), action)
    judged = np.tile([0.6, 0.1, 0.3], (400, 1))
    found = diagnostics.support(log, judged)
    assert found.value == pytest.approx(0.3)
    assert "most of them c" in found.sentence
    assert not found.passed
    assert diagnostics.support(log, judged, most=0.3 + 1e-9).passed
    assert diagnostics.support(log, np.tile([0.5, 0.5, 0.0], (400, 1))).value == 0


def test_an_arm_that_one_segment_never_served_is_found_there():
    labels = np.repeat(["code", "law"], 200)
    action = np.concatenate([np.tile([0, 1], 100), np.zeros(200, np.int64)])
    log = make_log(np.full((400, K), 0.5), action)
    judged = np.tile([0.2, 0.8, 0.0], (400, 1))
    assert diagnostics.support(log, judged).passed
    found = diagnostics.support(log, judged, labels=labels)
    assert found.value == pytest.approx(0.4)
    assert "b in law" in found.sentence
    assert diagnostics.support(log, judged, labels=labels, least=201).passed


def test_the_mean_weight_is_one_only_with_the_right_propensities():
    chances = served(4000, 1)
    log = make_log(chances, drawn(chances, 2))
    judged = np.tile([0.5, 0.3, 0.2], (4000, 1))
    assert diagnostics.mean_weight(ope.evaluate(log, judged, "ips")).passed
    wrong = make_log(np.clip(chances * 1.2, 0, 1), log.action)
    found = diagnostics.mean_weight(ope.evaluate(wrong, judged, "ips"))
    assert not found.passed
    assert found.value == pytest.approx(1 / 1.2, abs=0.05)
    # One user's hundred rows say no more than one row of each of a few.
    clusters = np.repeat(np.arange(4), 1000)
    assert diagnostics.mean_weight(ope.evaluate(wrong, judged, "ips", clusters=clusters)).passed


@pytest.mark.parametrize("alpha", [0.05, 1e-4])
def test_calibration_alarms_no_more_often_than_it_says(alpha):
    logs = 300
    alarms = [0, 0]
    for seed in range(logs):
        chances = served(2000, seed)
        action = drawn(chances, 5_000 + seed)
        whole = diagnostics.calibration(chances, action, ("a", "b", "c"), alpha=alpha)
        alone = diagnostics.arm_calibration(make_log(chances, action), alpha=alpha)
        alarms[0] += not whole.passed
        alarms[1] += not alone.passed
    # Twice the level for the normal approximation; 1 in 100,000 such tests fails by chance.
    most = stats.binom.isf(1e-5, logs, 2 * alpha)
    assert max(alarms) <= most, alarms


def test_probabilities_that_are_not_those_served_are_found_with_the_arm_and_the_bin():
    chances = served(20_000, 3)
    action = drawn(chances, 4)
    told = chances.copy()
    low = told[:, 1] < 0.2
    told[low, 1] += 0.05  # as a floor that was logged and not served would do
    told[low, 0] -= 0.05
    found = diagnostics.calibration(told, action, ("a", "b", "c"))
    assert not found.passed
    assert found.sentence.startswith("b was served")
    assert found.value > found.bound
    alone = diagnostics.arm_calibration(make_log(np.clip(told, 0.02, 1), action))
    assert not alone.passed


def test_an_arm_that_is_eligible_without_a_chance_is_no_calibrated_one():
    chances = np.tile([0.5, 0.5, 0.0], (1000, 1))
    chances[:500] = [0.4, 0.4, 0.2]
    log = make_log(chances, drawn(chances, 1))
    found = diagnostics.arm_calibration(log)
    assert not found.passed
    assert found.sentence.startswith("c was eligible for 1,000 rows")


def greedy(n: int, arms: int, floor: float, random: np.random.Generator) -> np.ndarray:
    """As a policy serves that mostly exploits: the rest of ``1 - floor`` on one arm a row."""
    favourite = np.where(random.random(n) < 0.7, 0, random.integers(arms, size=n))
    chances = np.full((n, arms), floor / arms)
    chances[np.arange(n), favourite] += 1.0 - floor
    return chances


@pytest.mark.parametrize(("n", "arms"), [(500, 4), (1_000, 8), (2_000, 16)])
def test_an_arm_that_a_sound_log_could_rarely_serve_is_no_alarm(n, arms):
    alarms = 0
    for seed in range(200):
        random = np.random.default_rng(seed)
        chances = greedy(n, arms, 0.05, random)
        action = (random.random((n, 1)) > chances.cumsum(axis=1)).sum(axis=1).clip(0, arms - 1)
        log = ope.Imported(
            tuple(map(str, range(arms))),
            np.ones((n, 1)),
            np.ones((n, arms), np.bool_),
            action,
            chances[np.arange(n), action],
            np.zeros(n),
        )
        alarms += not diagnostics.arm_calibration(log).passed
    assert alarms == 0  # of 200 with 1e-4 each


def test_an_arm_that_a_long_log_never_served_is_found():
    chances = greedy(6_000, K, 0.05, np.random.default_rng(0))
    chances = chances[:, :2] / chances[:, :2].sum(axis=1, keepdims=True)
    chances = np.column_stack([chances, np.zeros(len(chances))])
    log = make_log(chances, drawn(chances, 1))
    found = diagnostics.arm_calibration(log)
    assert not found.passed
    assert found.sentence.startswith("c was eligible for 6,000 rows")
    assert diagnostics.arm_calibration(log.rows(slice(0, 300))).passed


def test_an_arm_served_against_a_probability_of_nought_is_impossible():
    chances = np.tile([1.0, 0.0, 0.0], (50, 1))
    found = diagnostics.calibration(chances, np.full(50, 1), ("a", "b", "c"))
    assert not found.passed
    assert "impossible" in found.sentence


def test_too_few_rows_are_no_alarm():
    chances = served(5, 0)
    found = diagnostics.calibration(chances, drawn(chances, 0), ("a", "b", "c"))
    assert found.passed
    assert "too few" in found.sentence


def test_rows_without_a_propensity_are_counted():
    propensity = np.array([0.5, np.nan, 0.5, np.nan])
    found = diagnostics.unweighed(propensity)
    assert (found.value, found.passed) == (0.5, False)
    assert diagnostics.unweighed(propensity, most=0.5).passed


def test_a_reward_whose_wait_is_not_over_is_not_a_zero():
    at = np.array([0.0, 50.0, 90.0, 95.0])
    joined_at = np.array([10.0, 61.0, 100.0, 100.0])
    found = diagnostics.censored(at, 10.0, joined_at)
    assert (found.value, found.passed) == (0.25, False)
    assert "not zeros" in found.sentence
    assert diagnostics.censored(at, 5.0, joined_at).passed


def test_only_decisions_whose_wait_is_over_can_lack_a_reward():
    due_at = np.array([60.0, 105.0, 109.0])
    found = diagnostics.unjoined(due_at, 2, now=100.0)
    assert found.value == pytest.approx(1 / 3)
    assert not found.passed
    assert "2 more still wait" in found.sentence
    assert diagnostics.unjoined(due_at, 2, now=100.0, most=0.34).passed
    assert diagnostics.unjoined(due_at, 2, now=50.0).value == 0


def test_errors_of_two_logging_policies_that_cancel_are_found_in_each():
    n = 4_000
    chances = np.full((n, K), 1 / K)
    first = np.arange(n) < n // 2
    random = np.random.default_rng(5)
    action = np.where(
        first,
        random.choice(K, n, p=[0.5, 1 / 3, 1 / 6]),
        random.choice(K, n, p=[1 / 6, 1 / 3, 0.5]),
    )
    assert diagnostics.calibration(chances, action, ("a", "b", "c")).passed
    found = diagnostics.calibration(
        chances, action, ("a", "b", "c"), labels=np.where(first, "version 1", "version 2")
    )
    assert not found.passed
    assert "(by version" in found.sentence


def test_two_logging_policies_that_say_what_they_do_pass():
    chances = np.concatenate([served(3_000, 1), np.full((3_000, K), 1 / K)])
    labels = np.repeat(["version 1", "version 2"], 3_000)
    found = diagnostics.calibration(chances, drawn(chances, 2), ("a", "b", "c"), labels=labels)
    assert found.passed, found.sentence


def test_decisions_between_judged_ones_that_cannot_judge_refuse_only_where_asked():
    position = np.array([5, 6, 9, 14])
    assert diagnostics.unjudged(position).passed
    found = diagnostics.unjudged(position, most=0.5)
    assert not found.passed
    assert found.value == pytest.approx(0.6)
    assert found.sentence.startswith("6 of 10 decisions (60.0%) lack a reward")
    assert diagnostics.unjudged(np.empty(0, np.int64), most=0.0).passed


def test_a_change_of_the_logging_policy_refuses_only_where_asked():
    versions = np.array(["v3"] * 6 + ["v4"] * 4)
    found = diagnostics.logging_changes(versions)
    assert found.passed
    assert found.value == pytest.approx(0.4)
    assert "v3 60.0%, v4 40.0%" in found.sentence
    assert not diagnostics.logging_changes(versions, most=0.1).passed


def test_an_outcome_that_comes_twice_is_refused():
    ids = np.array(["d1", "d2", "d2", "d3"])
    found = diagnostics.duplicates(ids)
    assert (found.value, found.passed) == (0.25, False)
    assert diagnostics.duplicates(ids[:2]).passed


def test_what_failed_is_said_all_at_once_and_what_passed_is_not():
    good = diagnostics.duplicates(np.array([1, 2]))
    old = diagnostics.newer(np.array([1.0]), 2.0)
    twice = diagnostics.duplicates(np.array([1, 1]))
    diagnostics.require([good])
    with pytest.raises(EstimateError, match=r"not newer than.*; 1 of 2 outcomes repeat"):
        diagnostics.require([good, old, twice])
    assert json.loads(json.dumps(old.as_json())) == asdict(old)


def test_no_rows_are_nothing_to_complain_of_but_their_effective_size():
    none = np.empty(0)
    assert diagnostics.newer(none, 1.0).passed
    assert diagnostics.unjoined(none, 0, 1.0).passed
    assert diagnostics.logging_changes(none).passed
    assert not diagnostics.effective_size(none).passed
    assert not diagnostics.concentration(none).passed
