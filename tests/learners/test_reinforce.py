from dataclasses import replace

import numpy as np
import pytest

from learners import reinforce
from learners.contract import Spec
from learners.episodes import unroll
from learners.errors import SpecError
from learners.exploration import Exploration, probabilities
from learners.features import Feature, Schema
from learners.interactions import Interactions

EMPTY = Schema(())


def bandit(n: int, served: float, seed: int = 0, worth=(0.3, 0.7)) -> Interactions:
    """Two arms, one context, rewards 0 or 1; arm 1 served with the probability ``served``."""
    random = np.random.default_rng(seed)
    action = (random.random(n) < served).astype(np.int64)
    return Interactions(
        arms=("a", "b"),
        x=np.ones((n, 1)),
        eligible=np.ones((n, 2), bool),
        action=action,
        propensity=np.where(action == 1, served, 1 - served),
        reward=(random.random(n) < np.array(worth)[action]).astype(float),
        weight=np.ones(n),
    )


def learnt(log: Interactions, schema: Schema = EMPTY, **params):
    return reinforce.learn(reinforce.init(Spec(schema, log.arms, params)), log)


def served(state, x=None) -> np.ndarray:
    x = np.ones((1, 1)) if x is None else x
    return reinforce.freeze(state).distribution(x, np.ones((len(x), len(state.spec.arms)), bool))


def test_it_reaches_the_entropy_regularised_optimum():
    # At the temperature τ the best policy is softmax(worth / (σ τ)).
    log = bandit(20_000, 0.5)
    state = learnt(log, temperature=0.5, ridge=0.0, floor=0.0)
    (found,) = served(state)
    means = [log.reward[log.action == arm].mean() for arm in (0, 1)]
    best = np.exp(np.array(means) / (0.5 * log.reward.std()))
    assert found == pytest.approx(best / best.sum(), abs=0.01)


def test_the_log_of_an_uneven_policy_teaches_the_same():
    # The importance weights undo that arm 1 served nine times of ten.
    even, uneven = (
        learnt(bandit(40_000, share, seed=3), temperature=0.5, floor=0.0) for share in (0.5, 0.9)
    )
    assert served(uneven) == pytest.approx(served(even), abs=0.03)


def test_what_is_exported_is_the_policy_itself(schema, log_of):
    log = log_of(300, 4)
    state = learnt(log, schema, floor=0.1)
    scorer = reinforce.freeze(state)
    logits = log.x @ state.weights.T
    policy = probabilities(logits, log.eligible, Exploration("softmax", floor=0.1))
    assert scorer.exploration.kind == "softmax"
    assert scorer.distribution(log.x, log.eligible) == pytest.approx(policy, abs=1e-12)


def test_exported_scores_are_in_units_of_reward():
    for unit in (1.0, 100.0):
        log = bandit(10_000, 0.5)
        log = replace(log, reward=log.reward * unit, parts=log.parts * unit)
        (scores,) = reinforce.freeze(learnt(log)).scores(np.ones((1, 1)))
        assert scores == pytest.approx([0.3 * unit, 0.7 * unit], abs=0.03 * unit)


def test_a_baseline_leaves_out_the_steps_own_return():
    log = bandit(5, 0.5)
    log = replace(log, reward=np.array([1.0, 2.0, 3.0, 4.0, 10.0]))
    state = reinforce.init(Spec(EMPTY, log.arms))
    steps = unroll(log, state.spec)
    chunk = reinforce._Chunk.of(state, steps, slice(0, 5))
    found = reinforce._advantage(np.ones(5), state, chunk)
    others = [(20 - r) / 4 for r in log.reward]
    assert found == pytest.approx(log.reward - others)


def test_episodes_are_compared_with_those_of_their_domain_at_the_same_step():
    schema = Schema((Feature("domain", "category", values=("code", "law")),))
    x = schema.encode_all(
        [{"domain": name} for name in ("code", "code", "law", "law", "code", "code")]
    )
    log = replace(
        bandit(6, 0.5),
        x=x,
        episode=np.array([0, 0, 1, 1, 2, 2]),
        at=np.arange(6.0),
        reward=np.array([0.0, 1.0, 0.0, 5.0, 0.0, 3.0]),
    )
    state = reinforce.init(Spec(schema, log.arms))
    chunk = reinforce._Chunk.of(state, unroll(log, state.spec), slice(0, 6))
    assert len(np.unique(chunk.group)) == 4
    found = reinforce._advantage(np.ones(6), state, chunk)
    # Code: 1 and 3 against each other. Law has nothing to be compared with.
    assert found == pytest.approx([-2, -2, 0, 0, 2, 2])


def test_chunks_cut_no_episode():
    n = 3 * reinforce.CHUNK
    log = replace(bandit(n, 0.5), episode=np.arange(n) // 7, at=np.arange(float(n)))
    steps = unroll(log, Spec(EMPTY, log.arms))
    rows = list(reinforce._whole_episodes(steps))
    assert [each.start for each in rows] == [0, *(each.stop for each in rows[:-1])]
    assert rows[-1].stop == n
    assert all(steps.last[each.stop - 1] for each in rows)
    assert len(rows) == 3


def test_a_few_interactions_move_a_policy_of_many_only_a_little():
    state = learnt(bandit(5_000, 0.5))
    against = bandit(50, 0.5, seed=5, worth=(1.0, 0.0))
    before, after = served(state), served(reinforce.learn(state, against))
    fresh = served(learnt(against))
    assert before[0, 1] > 0.8
    assert after[0, 1] > 0.7
    assert fresh[0, 1] < 0.2


def test_what_makes_no_sense_is_refused():
    for params, message in (
        ({"discount": -0.1}, "discount"),
        ({"clip": 0.5}, "clip"),
        ({"steps": 0}, "steps"),
        ({"max_turns": 3}, "needs the number 'turn'"),
        ({"terminal": "solved"}, "no part of the reward"),
    ):
        with pytest.raises(SpecError, match=message):
            reinforce.init(Spec(EMPTY, ("a", "b"), params))
