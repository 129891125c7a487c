import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from controlplane.config import from_json
from controlplane.linter import Counts, Lint, Subject, lint
from feedback.metrics import Metric
from learners.exploration import Exploration
from learners.records import Arm, Card
from learners.rewards import RewardFunction, RewardGate, Term
from learners.scorers.linear import Linear

FEATURES = [
    {"name": "domain", "kind": "category", "values": ["maths", "prose"]},
    {"name": "code", "kind": "flag"},
]
SMALL = Arm("small", "s", "http://127.0.0.1:1/v1", Card(0.1, 0.4, 8_000))
LARGE = Arm("large", "l", "http://127.0.0.1:2/v1", Card(2.0, 8.0, 128_000))
GOOD = Metric("good", type="boolean", wait_s=60.0)
SCORE = Metric("score", range=(0.0, 1.0))
REWARD = RewardFunction((Term("good"), Term("cost_usd", weight=-1.0, scale=0.01)))
WELL = Counts(
    1_000,
    {"small": 1_000, "large": 900},
    {"good": 800, "cost_usd": 990, "error": 1_000, "latency_s": 990},
    {"judge": 800},
)


def scorer_of(*weights: list[float], floor: float = 0.1) -> Linear:
    """Over the columns constant, maths, prose, code."""
    return Linear(("small", "large"), np.array(weights), Exploration("greedy", floor))


APART = scorer_of([0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0])


def subject(config: dict[str, Any] | None = None, **fields: Any) -> Subject:
    """A policy that is all right, but for what is given."""
    given: dict[str, Any] = {
        "arms": (SMALL, LARGE),
        "reward": REWARD,
        "metrics": {"good": GOOD, "score": SCORE},
        "scorer": APART,
        "counts": WELL,
    }
    row = {"features": FEATURES, "learners": [{"name": "linucb"}], "floor": 0.1}
    return Subject(config=from_json({**row, **(config or {})}), **{**given, **fields})


def told(found: Lint) -> set[tuple[str, str, str]]:
    return {(one.code, one.severity, one.field) for one in found.findings}


def test_a_policy_that_is_all_right_has_no_findings():
    assert told(lint(subject())) == set()
    assert lint(subject()).as_json() == {"errors": 0, "warnings": 0, "findings": []}


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        ({"fallback_arm": "huge"}, ("role-without-arm", "error", "fallback_arm")),
        (
            {"release": {"harm": {"feature": "mood"}}},
            ("segment-without-feature", "error", "release.harm.feature"),
        ),
        (
            {"release": {"guardrails": [{"metric": "harm"}]}},
            ("guardrail-without-metric", "error", "release.guardrails.harm"),
        ),
        (
            {"release": {"guardrails": [{"metric": "score"}]}},
            ("guardrail-without-data", "warning", "release.guardrails.score"),
        ),
        (
            {
                "release": {
                    "guardrails": [
                        {"metric": "latency_s"}, {"metric": "latency_s", "kind": "p95"},
                    ]
                }
            },
            ("guardrails-overlap", "warning", "release.guardrails.latency_s p95"),
        ),
        (
            {"release": {"guardrails": [{"metric": "error", "kind": "rate", "margin": 0.3}]}},
            ("caps-intersect", "warning", "release.guardrails.error"),
        ),
        (
            {"sources": {"trusted": ["human"]}},
            ("source-without-data", "warning", "sources.trusted"),
        ),
        (
            {"learners": [{"name": "linucb", "params": {"floor": 0.01}}]},
            ("exploration-below-floor", "warning", "learners.0.params.floor"),
        ),
        (
            {"learners": [{"name": "linucb", "params": {"nonsense": 1}}]},
            ("learner-cannot-be-made", "error", "learners.0"),
        ),
        ({"floor": 0.2}, ("exploration-below-floor", "error", "floor")),
    ],
)  # fmt: skip
def test_what_a_configuration_gets_wrong_is_found_alone(
    config: dict[str, Any], wanted: tuple[str, str, str]
):
    assert told(lint(subject(config))) == {wanted}


@pytest.mark.parametrize(
    ("terms", "gates", "wanted"),
    [
        ([Term("liked")], [], ("reward-without-metric", "error", "reward.liked")),
        ([Term("score")], [], ("reward-term-without-data", "error", "reward.score")),
        ([Term("score", default=0.5)], [], ("reward-term-without-data", "warning", "reward.score")),
        ([Term("good", cap_low=1.0)], [], ("caps-leave-nothing", "error", "reward.good")),
        ([Term("good")], [("good", 2.0)], ("gate-always-decides", "error", "reward.gates.0")),
        ([Term("good")], [("good", 0.0)], ("gate-never-decides", "warning", "reward.gates.0")),
        (
            [Term("good")],
            [("latency_s", 3.0), ("latency_s", 2.0)],
            ("gates-overlap", "warning", "reward.gates.1"),
        ),
        (
            [Term("good")],
            [("score", 0.5)],
            ("reward-term-without-data", "error", "reward.score"),
        ),
    ],
)
def test_what_a_reward_gets_wrong_is_found_alone(
    terms: list[Term], gates: list[tuple[str, float]], wanted: tuple[str, str, str]
):
    made = RewardFunction(tuple(terms), gates=tuple(RewardGate(m, a, -1.0) for m, a in gates))
    counts = replace(WELL, values={**WELL.values, "liked": 900})
    assert told(lint(subject(reward=made, counts=counts))) == {wanted}


def test_gates_whose_bounds_rise_are_tiers_and_no_overlap():
    gates = (RewardGate("latency_s", 2.0, -1.0), RewardGate("latency_s", 3.0, -0.5))
    assert not told(lint(subject(reward=RewardFunction((Term("good"),), gates=gates))))


def test_a_comment_has_no_number_for_a_reward():
    note = Metric("note", type="comment")
    counts = replace(WELL, values={"note": 900})
    found = lint(
        subject(reward=RewardFunction((Term("note"),)), metrics={"note": note}, counts=counts,
                config={"release": {"stages": []}})
    )  # fmt: skip
    assert told(found) == {("reward-of-comments", "error", "reward.note")}


def test_an_arm_that_exploration_alone_serves_is_a_warning_and_one_that_nothing_serves_an_error():
    never = scorer_of([1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0])
    assert told(lint(subject(scorer=never))) == {
        ("arm-by-exploration-only", "warning", "arms.large")
    }
    starved = scorer_of([1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0], floor=0.0)
    assert told(lint(subject(scorer=starved))) == {
        ("arm-never-chosen", "error", "arms.large"),
        ("exploration-below-floor", "error", "floor"),
    }


def test_recent_contexts_count_beside_those_of_the_schema():
    rare = scorer_of([1.0, 0.0, 0.0, 0.0], [-3.0, 2.0, 2.0, 0.0])
    assert ("arm-by-exploration-only", "warning", "arms.large") in told(lint(subject(scorer=rare)))
    odd = scorer_of([0.5, 1.0, 1.0, 0.0], [1.0, 0.0, 0.0, 0.0])  # large where no domain is known
    assert ("arm-by-exploration-only", "warning", "arms.large") in told(lint(subject(scorer=odd)))
    assert not told(lint(subject(scorer=odd, contexts=[{"domain": "poetry"}])))


def test_a_version_of_other_arms_is_an_error_and_none_at_all_says_nothing():
    strange = subject(scorer=APART.over(["small", "huge"]))
    assert told(lint(strange)) == {("version-of-other-arms", "error", "arms")}
    assert not told(lint(subject(scorer=None)))


def test_an_arm_without_a_card_is_an_error_only_where_prices_matter():
    arms = (SMALL, replace(LARGE, card=Card()))
    assert told(lint(subject(arms=arms))) == {("arm-without-card", "error", "arms.large.card")}
    unpriced = RewardFunction((Term("good"),))
    assert told(lint(subject(arms=arms, reward=unpriced))) == {
        ("arm-without-card", "warning", "arms.large.card")
    }
    free = (SMALL, replace(LARGE, card=Card(context_tokens=4_000)))
    assert told(lint(subject(arms=free))) == {("arm-costs-nothing", "warning", "arms.large.card")}


def test_arms_that_no_request_reaches_are_found():
    counts = replace(WELL, eligible={"small": 1_000})
    assert told(lint(subject(counts=counts))) == {("arm-never-eligible", "warning", "arms.large")}
    arms = (SMALL, replace(LARGE, endpoint=""))
    assert told(lint(subject(arms=arms))) == {
        ("arm-without-endpoint", "warning", "arms.large.endpoint")
    }


def test_a_pool_of_none_of_one_or_of_twins_is_found():
    assert ("no-arms", "error", "pool") in told(lint(subject(arms=(), scorer=None)))
    alone = subject(arms=(SMALL,), scorer=None)
    assert told(lint(alone)) == {("one-arm", "warning", "pool")}
    twins = (SMALL, replace(SMALL, name="large"))
    assert told(lint(subject(arms=twins))) == {("arms-alike", "warning", "arms.large")}


def test_roles_that_reach_no_model_are_found():
    ends = {"learners": [{"name": "linucb"}, {"name": "always_large"}]}
    alike = (SMALL, replace(SMALL, name="large", model="other"))
    assert told(lint(subject(ends, arms=alike))) == {("roles-alike", "warning", "learners.1")}
    asked = {"shadow_dispatch": {"share": 0.1}}
    lone = (SMALL, replace(LARGE, endpoint=""))
    assert ("role-without-arm", "warning", "shadow_dispatch") in told(
        lint(subject(asked, arms=lone))
    )


def guarded(tags: str, *carried: str) -> set[Any]:
    """What is found of guards with these tags, a head each, over arms that carry some of them."""
    heads = [
        {"name": f"of_{tag}", "metric": "good", "kind": "binary", "classes": ["n", "y"], "size": 8}
        for tag in tags
    ]
    guards = [{"head": f"of_{tag}", "at_least": 0.9, "tag": tag} for tag in tags]
    arms = [
        Arm(name, name, "http://127.0.0.1:1/v1", Card(1.0, 1.0, 8_000, tags=tuple(name)))
        for name in carried
    ]
    given = {"heads": heads, "guards": guards}
    return told(lint(subject(given, arms=arms, scorer=None, counts=Counts())))


def test_guards_that_leave_no_arm_are_found():
    crossing = {("guards-cross", "warning", "guards")}
    assert guarded("s", "s", "x") == set()
    assert guarded("s", "x", "y") == {("guard-without-arm", "error", "guards")}
    assert guarded("st", "st", "x") == set()
    assert guarded("st", "s", "t") == crossing
    assert guarded("stu", "st", "su", "tu") == crossing  # each two have an arm, all three none


def test_too_thin_an_exploration_is_found():
    many = [Arm(f"arm{i}", f"m{i}", "http://127.0.0.1:1/v1", Card(1.0, 1.0)) for i in range(20)]
    found = lint(subject({"floor": 0.01}, arms=many, scorer=None, counts=Counts()))
    assert told(found) == {("exploration-thin", "warning", "floor")}


def test_few_decisions_prove_nothing_missing():
    assert not told(lint(subject(counts=Counts(10))))


def test_without_a_reward_nothing_is_learnt():
    assert told(lint(subject(reward=None))) == {("no-reward", "warning", "reward")}


def test_findings_are_plain_errors_first_and_each_has_a_remedy():
    found = lint(subject({"floor": 0.2, "fallback_arm": "x", "sources": {"trusted": ["y"]}}))
    plain = json.loads(json.dumps(found.as_json()))
    severities = [one["severity"] for one in plain["findings"]]
    assert severities == ["error", "error", "warning"]
    assert (plain["errors"], plain["warnings"]) == (2, 1)
    for one in plain["findings"]:
        assert list(one) == ["code", "severity", "field", "sentence", "remedy"]
        assert all(one.values())
