import math
from dataclasses import replace

import numpy as np
import pytest

from bench import (
    evidence,
    evidence_canary,
    evidence_gates,
    evidence_intervals,
    evidence_obd,
    evidence_sequences,
    evidence_speed,
    tables,
)
from bench.evidence_gates import Duel
from bench.evidence_logs import Source, explored
from bench.measure import report
from controlplane import gates
from learners import ope


def source(rows: int = 400, arms: int = 4) -> Source:
    """Arms that are right in 80, 60, … % of the rows, each for itself."""
    random = np.random.default_rng(0)
    right = random.random((rows, arms)) < np.linspace(0.8, 0.4, arms)
    x = np.column_stack([np.ones(rows), random.normal(size=rows)])
    return Source("made up", x, right.astype(np.float64))


def public():
    place = tables.folder()
    if place is None:
        pytest.skip("POINTSMAN_BENCH_DATA names no folder of tables")
    return place


def test_a_drawn_log_is_served_as_it_says():
    of = source()
    logged = explored(of.best(), 0.4)
    rows, log = of.drawn(np.random.default_rng(1), logged, 20_000)
    assert np.array_equal(log.propensity, logged[rows, log.action])
    assert np.array_equal(log.reward, of.scores[rows, log.action])
    shares = np.bincount(log.action, minlength=of.arms) / len(log)
    assert shares == pytest.approx(logged[0], abs=5 * 0.5 / math.sqrt(len(log)))
    assert log.reward.mean() == pytest.approx(of.value(logged), abs=5 * 0.5 / math.sqrt(len(log)))


def test_intervals_that_are_too_narrow_miss_the_goal():
    of = source()
    judged = explored(of.scores / of.scores.sum(axis=1, keepdims=True).clip(1.0), 0.1)
    judged /= judged.sum(axis=1, keepdims=True)
    hits = evidence_intervals.covered(of, judged, 12)
    found = list(evidence_intervals.measures("made up", hits, 12, quick=False))
    assert len(found) == 10
    # Of 12 logs, 95 % intervals cover fewer than 8 in 2 of 10,000 cases.
    assert min(hits.values()) >= 8
    narrow = evidence_intervals.measures("made up", dict.fromkeys(hits, 11), 12, quick=False)
    assert {one.holds for one in narrow} == {False}


@pytest.mark.parametrize("gain", [evidence_gates.BETTER, evidence_gates.WORSE])
def test_a_candidate_is_as_good_as_it_says(gain: float):
    made = evidence_gates.duel(source(), gain)
    over_champion, over_fixed = made.gains
    asked = min(over_champion, over_fixed) if gain > 0 else over_champion
    assert asked == pytest.approx(gain, abs=1 / 400)


def test_no_candidate_gains_what_a_table_does_not_hold():
    perfect = source()
    perfect = replace(perfect, scores=np.ones_like(perfect.scores))
    with pytest.raises(ValueError, match="no candidate gains"):
        evidence_gates.duel(perfect, evidence_gates.BETTER)


def test_the_gate_promotes_the_better_and_not_the_worse():
    better, worse = (evidence_gates.duel(source(), gain) for gain in (0.1, evidence_gates.WORSE))
    looks = np.array([500, 2_000, 8_000, 32_000])
    when = evidence_gates.promoted(better, looks, 0)
    assert when in looks
    assert evidence_gates.promoted(worse, looks, 0) is None


def test_the_gate_is_asked_on_what_the_true_policies_earn():
    made: Duel = evidence_gates.duel(source(), evidence_gates.BETTER)
    rows, log = made.source.drawn(np.random.default_rng(0), made.champion, 40_000)
    found = made.looked_at(log, rows, 1)
    for policy, estimate in (
        (made.candidate, found.value),
        (made.champion, found.champion),
        (made.fixed, found.best_fixed),
    ):
        truth = made.source.value(policy)
        assert abs(estimate.value - truth) < 5 * estimate.standard_error
    assert [check.name for check in gates.judge(found, evidence_gates.GATE).checks] == [
        "judged",
        "effective_n",
        "mean_weight",
        "over_champion",
        "over_best_fixed",
        "gain_seen_over_champion",
        "gain_seen_over_best_fixed_arm",
    ]


def test_a_smaller_difference_needs_a_longer_schedule():
    made = evidence_gates.duel(source(), evidence_gates.BETTER)
    looks = evidence_gates.schedule(made, 0)
    assert (np.diff(looks) > 0).all()
    assert looks[0] >= evidence_gates.GATE.min_judged
    rows, log = made.source.drawn(np.random.default_rng(3), made.champion, 4_000)
    own, other = (
        ope.evaluate(log, policy[rows], "dr") for policy in (made.candidate, made.champion)
    )
    needed = [evidence_gates.needed(own, other, level) for level in (0.9, 0.99)]
    assert needed[0] < needed[1]


def test_what_a_broken_canary_hurt_is_judged_by_a_days_traffic():
    broken = evidence_canary.Broken(20.0, 19.5, 60, 15, 1, 40.0, "sent back: error")
    held = {one.holds for one in evidence_canary.measures(broken)}
    slow = replace(broken, hurt=1_000_000)
    assert held == {None, True}
    assert {one.holds for one in evidence_canary.measures(slow)} == {None, False}


def test_a_million_decisions_are_bounded_by_time_and_memory():
    found = evidence_speed.run(quick=True)
    assert [one.unit for one in found] == ["s", "GiB"]
    assert all(one.value > 0 for one in found)
    assert evidence_speed.bounded("", 21.0, "s", 20.0).holds is False


def test_the_open_bandit_dataset_is_covered():
    public()
    assert all(one.holds for one in evidence_obd.run(quick=True))


def test_one_part_can_be_asked_for():
    found, rest = evidence.chosen(["--part", "obd", "--quick"])
    assert found is evidence_obd.run
    assert rest == ["--quick"]
    assert evidence.chosen([])[0] is evidence.run
    with pytest.raises(SystemExit):
        evidence.chosen(["--part", "nothing"])


@pytest.mark.soak
@pytest.mark.parametrize(
    ("part", "counted"),
    [
        # Of single tables a figure may be out by luck; the benchmark shows each.
        ("intervals", ("all tables", "RMSE")),
        ("gates", ("all tables", "against the champion")),
        ("obd", ("OBD",)),
        ("speed", ("decisions",)),
    ],
)
def test_evidence_reaches_its_goals(part: str, counted: tuple[str, ...]):
    public()
    found = report(evidence.PARTS[part](False)).measures
    told = [one for one in found if any(name in one.measure for name in counted)]
    assert told
    assert [one for one in told if one.holds is False] == []


@pytest.mark.soak
def test_equal_variants_that_are_watched_are_seldom_told_apart():
    assert evidence_sequences.watched_a_a(evidence_sequences.EXPERIMENTS, 200).holds
    assert evidence_sequences.split_alarms(evidence_sequences.SRM_RUNS).holds
    assert evidence_sequences.split_found(evidence_sequences.PLANTED_RUNS).holds


@pytest.mark.soak
def test_a_canary_that_breaks_is_sent_back_before_it_hurts_many():
    assert all(one.holds is not False for one in evidence_canary.run(quick=False))
