import math
from typing import Any

import pytest

from controlplane import config
from controlplane.config import (
    BASELINE,
    MAX_LEARNERS,
    LearnerConfig,
    PolicyConfig,
    QualityConfig,
    check_learners,
)
from controlplane.errors import InvalidError
from kernels.signals.text import SIGNAL_SCHEMA
from learners import catalogue


def test_a_configuration_survives_its_table() -> None:
    wanted = PolicyConfig(
        learners=(LearnerConfig("vw", {"floor": 0.2}),), floor=0.3, auto_promote=True, seed=7
    )
    assert config.from_json(config.as_json(wanted)) == wanted


def test_nothing_given_means_the_defaults() -> None:
    assert config.from_json({}) == PolicyConfig()
    assert [feature.name for feature in PolicyConfig().schema.features] == [
        row["name"] for row in SIGNAL_SCHEMA
    ]


def test_the_best_fixed_arm_is_always_a_candidate_and_once() -> None:
    assert [one.name for one in PolicyConfig().candidates][-1] == BASELINE
    explicit = PolicyConfig(learners=(LearnerConfig(BASELINE, {"prior": 2.0}),))
    assert explicit.candidates == (LearnerConfig(BASELINE, {"prior": 2.0}),)


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ({"sources": {"trust": {"a": 1.5}}}, "sources.trust"),
        ({"sources": {"trust": {"a": float("nan")}}}, "sources.trust"),
        ({"sources": {"max_influence": 0.0}}, "sources.max_influence"),
        ({"sources": {"trusted": [str(n) for n in range(1_001)]}}, "sources"),
        ({"sources": {"trustd": ["a"]}}, "sources.trustd"),
        ({"shadow_dispatch": {"share": 1.5}}, "shadow_dispatch.share"),
        ({"shadow_dispatch": {"usd_per_hour": -1}}, "shadow_dispatch.usd_per_hour"),
        ({"shadow_dispatch": {"max_in_flight": 0}}, "shadow_dispatch.max_in_flight"),
        ({"floor": 0}, "floor"),
        ({"floor": 1.1}, "floor"),
        ({"floor": "much"}, "floor"),
        ({"learners": []}, "learners"),
        ({"learners": [{"name": "oracle"}]}, "learners"),
        ({"learners": [{"name": "vw"}] * 2}, "learners"),
        ({"learners": [{"name": "vw", "alpha": 1}]}, "learners.0.alpha"),
        ({"learners": [{"name": "vw", "quality": {"trust": 1}}]}, "learners.0.quality.trust"),
        ({"learners": [{"name": "vw", "quality": {"unsourced": 2}}]}, "learners.0.quality"),
        ({"prior": {"ratings": {"a": 1, "b": 2, "c": 3}}}, "prior.ratings"),
        ({"prior": {"ratings": {"a": "good"}}}, "prior.ratings.a"),
        ({"prior": {"count": 0}}, "prior.count"),
        ({"prior": {"rating": {}}}, "prior.rating"),
        (
            {
                "prior": {"ratings": {"a": 1, "b": 2, "c": 3, "d": 4}},
                "learners": [{"name": "fqi"}, {"name": "best_fixed"}],
            },
            "prior.ratings",
        ),
        ({"max_interactions": 10}, "max_interactions"),
        ({"features": [{"kind": "flag"}]}, "features"),
        ({"features": [{"name": "x", "kind": "flag"}] * 2}, "features"),
        ({"gate": {"share": 0.95}}, "gate.share"),
        ({"gate": {"growth": 1.0}}, "gate.growth"),
        ({"gate": {"alpha": 0}}, "gate.alpha"),
        ({"gate": {"margin": float("nan")}}, "gate.margin"),
        ({"gate": {"min_interactions": 1}}, "gate.min_interactions"),
        ({"gate": {"min_judged": 1}}, "gate.min_judged"),
        ({"gate": {"min_effective_n": 0}}, "gate.min_effective_n"),
        ({"gate": {"max_unjudged": 1.5}}, "gate.max_unjudged"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_setting_that_cannot_be_is_named(row: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidError) as raised:
        config.from_json(row)
    assert raised.value.field == field
    assert field.rsplit(".", maxsplit=1)[-1] in str(raised.value)


@pytest.mark.parametrize("name", catalogue.NAMES)
def test_every_learner_of_the_catalogue_may_be_configured(name: str) -> None:
    made = PolicyConfig(learners=(LearnerConfig(name),))
    assert {one.name for one in made.candidates} == {name, BASELINE}


def test_a_policy_has_no_more_learners_than_a_round_may_train() -> None:
    names = (catalogue.NAMES * MAX_LEARNERS)[: MAX_LEARNERS + 1]
    with pytest.raises(InvalidError, match=f"give 1 to {MAX_LEARNERS}"):
        config.from_json({"learners": [{"name": name} for name in names]})


def test_a_learners_quality_gate_survives_its_table() -> None:
    gate = QualityConfig(min_weight=0.2, unsourced=0.5, low=0.4, high=0.6, undecided=0.0)
    wanted = PolicyConfig(learners=(LearnerConfig("linucb", quality=gate),))
    assert config.from_json(config.as_json(wanted)) == wanted


@pytest.mark.parametrize(
    "params",
    [
        ("linucb", {"alpha": math.inf}),
        ("lints", {"members": math.inf}),
        ("reinforce", {"steps": 1e9}),
    ],
)
def test_a_parameter_beyond_all_bounds_is_refused(params: tuple[str, dict[str, float]]) -> None:
    config = PolicyConfig(learners=(LearnerConfig(*params),))
    with pytest.raises(InvalidError, match=params[0]):
        check_learners(config, ["a", "b"])


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"gate": {"share": 0.95}}, "gate.share is 0.95: give 0.1 to 0.9"),
        ({"gate": {"alpha": 0}}, "gate.alpha is 0.0: give more than 0, at most 0.5"),
        ({"gate": {"min_judged": 1}}, "gate.min_judged is 1: give 2 or more"),
        ({"gate": {"margin": math.inf}}, "gate.margin is inf: give a finite number"),
        ({"release": {"min_decisions": 0}}, "release.min_decisions is 0: give 1 to 10,000"),
        ({"release": {"margin": math.inf}}, "release.margin is inf: give 0 or more"),
        ({"release": {"harm": {"segments": 65}}}, "release.harm.segments is 65: give 0 to 64"),
        ({"release": {"stages": [n / 20 for n in range(21)]}}, "stages: 21: give at most 12"),
        ({"monitors": {"hold_s": -1}}, "monitors.hold_s is -1.0: give 0 to 7,776,000"),
        ({"monitors": {"reward": {"window": 3}}}, "is 3: give 30 to 1,000,000"),
        ({"prior": {"count": 0}}, "prior.count is 0.0: give more than 0, at most 1,000"),
        (
            {"prior": {"ratings": {"a": 1, "b": 2, "c": 3}}},
            "prior.ratings are of 3 arms: give 4 to 1,024, or none",
        ),
        (
            {"prior": {"ratings": {"a": 1, "b": 2, "c": 3, "d": 1e10}}},
            "prior.ratings of 'd' is 10000000000.0: give a number of at most",
        ),
        (
            {"prior": {"ratings": {"a": 1, "b": 2, "c": 3, "d": True}}},
            "prior.ratings of 'd' is True: give a number",
        ),
        ({"revise": {"every_s": 1}}, "revise.every_s is 1.0: give 60 to 7,776,000"),
    ],
)
def test_a_setting_out_of_range_is_told_the_range(row: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidError) as refused:
        config.from_json(row)
    assert said in str(refused.value)
