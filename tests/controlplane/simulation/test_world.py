"""The synthetic world: pure, calibrated, and told apart by the signals of its prompts."""

import hashlib
import json
import subprocess
import sys
from dataclasses import dataclass, replace

import numpy as np
import pytest
from numpy.typing import NDArray

from controlplane.simulation.contract import Drift, Moment, WorldError
from controlplane.simulation.grading import quality_mark, quality_of, reward_of
from controlplane.simulation.prompts import domain_of, key_of, with_key
from controlplane.simulation.world import SimulatedArm, World, default_world
from kernels.signals import text as signals
from learners.features import Schema

QUERIES = 4_000
LOGS = 1_500
SCHEMA = Schema.from_json(signals.SIGNAL_SCHEMA)
ARM = SimulatedArm("a", {"code": 0.5}, 1.0, 1.0, 0.1, 100.0)


@dataclass(frozen=True, slots=True)
class Sample:
    """Queries of a world: features, domain and every arm's reward."""

    x: NDArray[np.float64]
    domain: NDArray[np.int64]
    rewards: NDArray[np.float64]


def sample(world: World, count: int, seed: int) -> Sample:
    queries = list(world.prompts(count, np.random.default_rng(seed)))
    rewards = [
        [reward_of(world.answer(query.key, arm, query.prompt)) for arm in world.arm_names]
        for query in queries
    ]
    return Sample(
        SCHEMA.encode_all([signals.read(query.prompt) for query in queries]),
        np.array([world.domains.index(query.domain) for query in queries]),
        np.array(rewards),
    )


def ridge_choices(log: Sample, x_new: NDArray[np.float64], seed: int) -> NDArray[np.int64]:
    """What a ridge per arm chooses, when one arm's reward, drawn evenly, was seen per query."""
    n, k = log.rewards.shape
    served = np.random.default_rng(seed).integers(k, size=n)
    predicted = []
    for arm in range(k):
        x, y = log.x[served == arm], log.rewards[served == arm, arm]
        predicted.append(x_new @ np.linalg.solve(x.T @ x + np.eye(x.shape[1]), x.T @ y))
    chosen: NDArray[np.int64] = np.stack(predicted, axis=1).argmax(axis=1)
    return chosen


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_router_that_knows_the_domain_clearly_beats_the_best_fixed_arm(seed):
    world = default_world(seed)
    found = sample(world, QUERIES, seed)
    by_domain = np.array(
        [found.rewards[found.domain == d].mean(axis=0) for d in range(len(world.domains))]
    )
    fixed = found.rewards.mean(axis=0)
    print(dict(zip(world.arm_names, fixed.round(3).tolist(), strict=True)))
    print(f"best per domain {by_domain.max(axis=1).round(3).tolist()}")
    per_domain = by_domain.max(axis=1).mean()
    print(f"per domain {per_domain:.3f} best fixed {fixed.max():.3f} random {fixed.mean():.3f}")
    assert per_domain >= fixed.max() + 0.12
    assert fixed.max() >= fixed.mean() + 0.08


def test_every_arm_is_the_best_choice_in_one_domain():
    world = default_world()
    found = sample(world, QUERIES, 7)
    best = {
        int(found.rewards[found.domain == d].mean(axis=0).argmax())
        for d in range(len(world.domains))
    }
    assert len(best) == len(world.arm_names)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_ridge_on_signals_gains_most_of_the_gap_from_1500_uniform_logs(seed):
    world = default_world(seed)
    test = sample(world, QUERIES, 1_000 + seed)
    chosen = ridge_choices(sample(world, LOGS, 2_000 + seed), test.x, seed)
    reached = float(test.rewards[np.arange(QUERIES), chosen].mean())
    fixed = float(test.rewards.mean(axis=0).max())
    per_domain = float(
        np.mean([test.rewards[test.domain == d].mean(axis=0).max() for d in range(5)])
    )
    share = (reached - fixed) / (per_domain - fixed)
    print(f"ridge {reached:.3f} best fixed {fixed:.3f} per domain {per_domain:.3f} gap {share:.0%}")
    assert share >= 0.75


def test_every_prompt_reveals_its_domain():
    queries = list(default_world().prompts(2_000, np.random.default_rng(3)))
    assert all(domain_of(query.prompt) == query.domain for query in queries)
    assert len({query.key for query in queries}) > 1_990


def test_the_same_seed_query_and_arm_give_the_same_answer_in_another_process():
    code = (
        "import json, dataclasses, numpy as np\n"
        "from controlplane.simulation.world import default_world\n"
        "w = default_world(5)\n"
        "qs = list(w.prompts(20, np.random.default_rng(5)))\n"
        "print(json.dumps([dataclasses.asdict(w.answer(q.key, a, q.prompt))"
        " for q in qs for a in w.arm_names]))"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=60)
        for _ in range(2)
    ]
    assert runs[0].stdout == runs[1].stdout
    assert len(json.loads(runs[0].stdout)) == 100


def test_another_seed_gives_other_luck_and_the_same_means():
    query = next(default_world().prompts(1, np.random.default_rng(0)))
    answers = {default_world(seed).answer(query.key, "large", query.prompt) for seed in range(20)}
    assert len(answers) == 20
    means = [sample(default_world(seed), 1_000, 0).rewards.mean() for seed in (0, 1)]
    assert means[0] == pytest.approx(means[1], abs=0.02)


def test_a_prompt_of_no_known_domain_meets_the_mean_of_the_skills():
    world = default_world()
    scores = [world.answer(f"key-{i}", "coder", "zzz qqq").score for i in range(2_000)]
    assert np.mean(scores) == pytest.approx(np.mean(list(world.arms[3].skill.values())), abs=0.02)


def test_max_tokens_cuts_the_answer_and_its_price():
    query = next(default_world().prompts(1, np.random.default_rng(0)))
    whole = default_world().answer(query.key, "large", query.prompt)
    cut = default_world().answer(query.key, "large", query.prompt, max_tokens=3)
    assert (cut.output_tokens, cut.cut, whole.cut) == (3, True, False)
    assert cut.cost_usd < whole.cost_usd
    assert cut.latency_s < whole.latency_s


def test_failures_come_at_the_rate_of_the_arm_and_cost_nothing():
    world = World(("code",), (replace(ARM, failure_rate=0.2),))
    answers = [world.answer(f"key-{i}", "a", "a Python function") for i in range(4_000)]
    failed = [answer for answer in answers if answer.failed]
    assert len(failed) / len(answers) == pytest.approx(0.2, abs=0.03)
    assert {answer.status for answer in failed} == {429, 500, 503}
    assert all(answer.score == answer.cost_usd == answer.output_tokens == 0 for answer in failed)


def test_a_drift_changes_an_arm_from_its_request_on_and_no_other_arm():
    drift = Drift("a", at_request=10, skill_shift={"code": -0.4}, latency_factor=3.0)
    world = World(("code", "law"), (_two("a"), _two("b")), (drift,))
    code, law = "a Python function", "the plaintiff and the statute"
    for arm, prompt in (("b", code), ("a", law)):
        early, late = (world.answer("k", arm, prompt, t=Moment(n)) for n in (9, 10))
        assert early.score == late.score
    early, late = (world.answer("k", "a", code, t=Moment(n)) for n in (9, 10))
    assert late.score == pytest.approx(early.score - 0.4)
    assert late.latency_s == pytest.approx(3 * early.latency_s)


def test_a_later_drift_wins_and_what_it_leaves_out_stays():
    drifts = (
        Drift("a", at_s=1.0, skill_shift={"code": -0.2}, failure_rate=1.0),
        Drift("a", at_s=2.0, skill_shift={"*": 0.1}),
        Drift("a", at_s=3.0, failure_rate=0.0),
    )
    world = World(("code",), (ARM,), drifts)
    answers = [
        world.answer("k", "a", "a Python function", t=Moment(elapsed_s=s)) for s in (0, 1, 2, 3)
    ]
    assert [answer.failed for answer in answers] == [False, True, True, False]
    assert answers[3].score == pytest.approx(answers[0].score + 0.1)


def test_a_world_refuses_what_does_not_fit_and_says_what_to_do():
    with pytest.raises(WorldError, match=r"no skill for .*law.*add them"):
        World(("code", "law"), (ARM,))
    with pytest.raises(WorldError, match="name each arm once"):
        World(("code",), (ARM, ARM))
    with pytest.raises(WorldError, match="no arm 'b'"):
        World(("code",), (ARM,), (Drift("b", at_s=0.0),))
    with pytest.raises(WorldError, match=r"no domain .*law"):
        World(("code",), (ARM,), (Drift("a", at_s=0.0, skill_shift={"law": 0.1}),))
    with pytest.raises(WorldError, match="at_request or at_s"):
        Drift("a")
    with pytest.raises(WorldError, match="failure_rate is nan"):
        replace(ARM, failure_rate=float("nan"))
    with pytest.raises(WorldError, match="no arm 'gone'"):
        default_world().answer("k", "gone", "text")


def test_only_keeps_the_named_arms_and_their_drifts():
    drifts = (Drift("small", at_s=1.0), Drift("large", at_s=1.0))
    world = default_world(0, drifts).only(("large", "coder"))
    assert world.arm_names == ("large", "coder")
    assert world.drifts == drifts[1:]


@pytest.mark.parametrize("score", [0.0, 0.004, 0.5, 0.999, 1.0])
def test_the_quality_mark_can_be_read_again(score):
    assert quality_of(f"Some text. {quality_mark(score)}\n") == pytest.approx(score, abs=0.005)


@pytest.mark.parametrize(
    "text", ["", "no mark", "(simulated answer, quality 0.83) and more", "(quality 0.83)"]
)
def test_a_text_without_a_mark_at_its_end_has_no_quality(text):
    assert quality_of(text) is None


def test_the_key_is_the_last_line_or_a_hash_of_the_text():
    assert key_of(with_key("a question", "mmlu/7 b")) == "mmlu/7 b"
    assert key_of("[query 1]\nbut then more") == key_of("[query 1]\nbut then more")
    hashed = hashlib.sha256(b"a question").hexdigest()
    assert hashed.startswith(key_of("a question"))


def _two(name: str) -> SimulatedArm:
    return SimulatedArm(name, {"code": 0.6, "law": 0.6}, 1.0, 1.0, 0.1, 100.0)
