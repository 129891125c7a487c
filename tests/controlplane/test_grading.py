"""Trust, correction and cap on records, and what they do to what is released."""

import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from controlplane.config import SourcesConfig
from controlplane.grading import Graded, Grader
from feedback.metrics import Metric
from learners.features import Schema
from learners.interactions import encode
from learners.records import MAX_ABS_REWARD, Interaction
from learners.rewards import RewardFunction, Term

T0 = datetime(2026, 1, 1, tzinfo=UTC)
METRICS = {
    "score": Metric("score", range=(0.0, 1.0)),
    "safe": Metric("safe", type="boolean", aggregation="min"),
}
REWARD = RewardFunction((Term("score"), Term("cost_usd", weight=-0.5, default=0.0)))
WORTH = {"good": 0.6, "gamed": 0.1}


def row(
    said: Mapping[str, Mapping[str, float]], action: str = "good", *, n: int = 0, **values: float
) -> Interaction:
    """A decision with what was said, joined as ``feedback.join`` does it."""
    together = {name: METRICS[name].aggregate(list(by.values())) for name, by in said.items()}
    found = {"cost_usd": 0.2, **together, **values}
    reward = REWARD.evaluate(found)
    return Interaction(
        decision_id=str(n),
        at=T0 + timedelta(seconds=n),
        context={},
        eligible=("gamed", "good"),
        action=action,
        propensity=0.5,
        reward=reward if reward is not None else 0.0,
        position=n + 1,
        values=found,
        said=said,
    )


def graded(
    rows: list[Interaction], newer: list[Interaction] | None = None, **sources: Any
) -> Graded:
    return Grader(SourcesConfig(**sources), REWARD, METRICS).graded(rows, newer or [])


def judged_world(n: int, rate: float, seed: int = 0) -> list[Interaction]:
    """A judge that takes the gamed arm for excellent, and reviewers of a part of the decisions."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        arm = ("gamed", "good")[int(rng.integers(2))]
        said = {"judge": float(rng.random() < (0.9 if arm == "gamed" else WORTH[arm]))}
        if rng.random() < rate:
            said["reviewers"] = float(rng.random() < WORTH[arm])
        rows.append(row({"score": said}, arm, n=i))
    return rows


def mean_of(rows: list[Interaction], arm: str) -> float:
    found = [one for one in rows if one.action == arm]
    weights = [one.weight for one in found]
    return float(np.average([one.reward for one in found], weights=weights))


def test_by_default_the_log_stands_as_it_was_joined():
    rows = judged_world(20, 0.5)
    found = graded(rows, rows[:5])
    assert found.training == rows
    assert found.newer == rows[:5]
    assert graded(rows, trust={"*": 1.0}).training == rows


def test_a_decision_of_two_sources_teaches_as_two_rows_that_share_one_weight():
    found = graded([row({"score": {"a": 1.0, "b": 0.0}})], trust={"a": 0.9, "b": 0.3}).training
    assert [(one.source, one.reward, round(one.weight, 9)) for one in found] == [
        ("a", 0.9, 0.675),
        ("b", -0.1, 0.225),
    ]


def test_a_decision_of_two_sources_judges_as_one_row_with_their_weighted_mean():
    one = row({"score": {"a": 1.0, "b": 0.0}})
    [found] = graded([], [one], trust={"a": 0.9, "b": 0.3}).newer
    assert found.reward == pytest.approx(0.75 - 0.1)
    assert (found.weight, found.source) == (1.0, None)


def test_a_source_without_trust_is_not_heard():
    rows = [
        row({"score": {"a": 1.0, "b": 0.0}}, n=0),
        row({"score": {"b": 0.0}}, n=1),
        row({"score": {"a": 0.5}}, n=2),
        row({}, n=3, score=0.25),
    ]
    found = graded(rows, rows, trust={"b": 0.0})
    assert [(one.decision_id, one.source) for one in found.training] == [
        ("0", "a"), ("2", "a"), ("3", None),
    ]  # fmt: skip
    assert [one.reward for one in found.newer] == pytest.approx([0.9, 0.4, 0.15])


def test_those_that_are_not_named_have_the_trust_of_the_star():
    rows = [row({"score": {name: 1.0}}, n=i) for i, name in enumerate(("a", "b", "c"))]
    found = graded(rows, trust={"a": 1.0, "b": 0.5, "*": 0.1})
    assert [one.weight for one in found.training] == [1.0, 0.5, 0.1]


def test_a_least_value_is_of_all_that_are_trusted_at_all():
    reward = RewardFunction((Term("safe"),))
    one = row({"safe": {"a": 1.0, "b": 0.0, "c": 1.0}}, score=0.0)
    grader = Grader(SourcesConfig(trust={"a": 0.5}), reward, METRICS)
    assert [found.reward for found in grader.graded([one], []).training] == [0.0] * 3
    grader = Grader(SourcesConfig(trust={"b": 0.0}), reward, METRICS)
    assert [found.reward for found in grader.graded([one], []).training] == [1.0] * 2


def test_sources_of_different_metrics_complete_each_other():
    reward = RewardFunction((Term("score"), Term("safe")))
    one = row({"score": {"judge": 0.5}, "safe": {"user": 1.0}})
    grader = Grader(SourcesConfig(trust={"judge": 0.5}), reward, METRICS)
    found = grader.graded([one], []).training
    assert [(one.source, one.reward) for one in found] == [("judge", 1.5), ("user", 1.5)]


def test_a_gamed_arm_is_worth_what_the_reviewers_say_in_both_parts_of_the_log():
    rows = judged_world(8_000, 0.05)
    found = graded(rows[:4_000], rows[4_000:], trusted=("reviewers",))
    for part in (found.training, found.newer):
        for arm, worth in WORTH.items():
            # 100 reviews an arm of a variance of at most .25: 4 s.e., 1 false alarm in 4,000.
            assert mean_of(part, arm) == pytest.approx(worth - 0.1, abs=0.2)
        assert mean_of(part, "good") > mean_of(part, "gamed")
    assert found.bias["judge"]["gamed"] < -0.6
    assert abs(found.bias["judge"]["good"]) < 0.2
    assert len(found.training) == len(found.newer) == 4_000


def test_a_reviewers_word_stands_in_place_of_the_judges_and_weighs_in_full():
    rows = judged_world(2_000, 0.1)
    found = graded(rows, trust={"judge": 0.25}, trusted=("reviewers",)).training
    reviewed = {one.decision_id: one for one in rows if len(one.said["score"]) == 2}
    for one in found:
        if one.decision_id in reviewed:
            said = reviewed[one.decision_id].said["score"]
            assert one.reward == pytest.approx(said["reviewers"] - 0.1)
            assert (one.weight, one.source) == (1.0, None)
        else:
            assert one.weight < 0.25
            assert one.source == "judge"


def test_a_newer_part_that_nobody_trusted_has_looked_into_judges_nothing():
    rows = judged_world(1_000, 0.1)
    found = graded(rows[:500], judged_world(500, 0.0), trusted=("reviewers",))
    assert len(found.training) == 500
    assert found.newer == []
    unheard = graded(rows[:500], judged_world(500, 0.0), trust={"judge": 0.5})
    assert len(unheard.newer) == 500


def test_a_decision_that_only_reviewers_spoke_of_stands():
    rows = [row({"score": {"reviewers": 0.5}})]
    found = graded(rows, rows, trusted=("reviewers",))
    assert [one.reward for one in (*found.training, *found.newer)] == [0.4, 0.4]
    assert found.training[0].source is None


def test_the_loudest_source_holds_no_more_than_its_share():
    rows = [row({"score": {"loud": 1.0}}, n=i) for i in range(30)]
    rows += [row({"score": {name: 0.0}}, n=100 + i) for i, name in enumerate(("b", "c"))]
    found = graded(rows, rows, max_influence=0.5)
    loud = sum(one.weight for one in found.training if one.source == "loud")
    assert loud == pytest.approx(2.0)
    assert mean_of(found.training, "good") == pytest.approx(0.5 - 0.1)
    assert [one.reward for one in found.newer] == [one.reward for one in rows]


def test_what_is_corrected_stands_in_the_part_that_sources_spoke_of():
    rows = judged_world(1_000, 0.1)
    found = graded(rows, trusted=("reviewers",)).training
    log = encode(found, Schema(()), ("gamed", "good"), REWARD)
    assert log.parts @ REWARD.mix == pytest.approx(log.reward)
    assert (log.parts[:, 1] == 0.2).all()
    assert set(log.source.tolist()) == {-1, 0}


def test_what_no_source_spoke_of_has_no_parts_of_its_own_once_it_is_corrected():
    one = row({}, score=0.5)
    moved = [Interaction(**{**_fields(one), "reward": 0.0}), one]
    log = encode(moved, Schema(()), ("gamed", "good"), REWARD)
    assert log.parts.tolist() == [[0.0], [one.reward]]


def test_rewards_that_no_learner_could_eat_are_left_out():
    reward = RewardFunction((Term("score", weight=1e9),))
    one = row({"score": {"a": 1.0, "b": 1e-9}})
    grader = Grader(SourcesConfig(trust={"a": 0.5}), reward, METRICS)
    assert [found.reward for found in grader.graded([one], []).training] == [1.0]


def test_what_a_seldom_trusted_outlier_is_rectified_to_can_still_be_judged_on():
    said = {"score": {"judge": 1.0, "reviewers": 0.0}}
    outlier = row(said, "gamed", n=500, cost_usd=1.9e6)
    newer = [*judged_world(400, 0.05, seed=1), outlier]
    found = graded(judged_world(400, 0.1), newer, trusted=("reviewers",)).newer
    assert len(found) == len(newer)
    assert found[-1].reward == -MAX_ABS_REWARD
    assert all(abs(one.reward) < 100 for one in found[:-1])


def test_nothing_is_graded_where_there_is_no_row():
    assert graded([], [], trusted=("reviewers",)) == Graded([], [])
    assert math.isclose(graded([row({}, score=1.0)], max_influence=0.5).training[0].reward, 0.9)


def _fields(one: Interaction) -> dict[str, Any]:
    return {name: getattr(one, name) for name in one.__slots__}
