from dataclasses import replace

import numpy as np
import pytest

from learners import cards, shared_linucb
from learners.contract import Spec
from learners.errors import SpecError
from learners.features import Feature, Schema
from learners.records import Card

MATHS = Card(5.0, 20.0, 128_000, ("maths",))
CHAT = Card(1.0, 2.0, 8_000, ("chat",))
CARDS = (MATHS, replace(MATHS, usd_per_mtok_in=6.0), CHAT, replace(CHAT, usd_per_mtok_out=1.0))
ARMS = len(CARDS)


def spec_of(schema, log, params=None) -> Spec:
    return Spec(schema, log.arms, params or {}, cards=CARDS)


def tagged(log_of, n: int, seed: int = 0):
    """A log in which the arms tagged ``maths`` are the better."""
    log = log_of(n, ARMS, seed=seed)
    noise = np.random.default_rng(seed).normal(size=n) / 10
    return replace(log, reward=np.where(log.action < 2, 0.8, 0.3) + noise)


def everything(n: int, k: int) -> np.ndarray:
    return np.ones((n, k), dtype=np.bool_)


def dense(log, card, own: float, ridge: float, constant: float):
    """The regression over z ⊗ c and one column an arm, written out: its inverse and weights."""
    features = np.einsum("np,nc->npc", log.x, card[log.action]).reshape(len(log), -1)
    features = np.hstack([features, np.eye(ARMS)[log.action]])
    wide = log.x.shape[1] * card.shape[1]
    penalty = np.full(wide + ARMS, ridge)
    penalty[: card.shape[1]] = constant
    penalty[wide:] = own
    inverse = np.linalg.inv(features.T @ features + np.diag(penalty))
    return inverse, inverse @ features.T @ (log.reward - log.reward.mean())


def test_the_scorer_is_the_regression_over_context_and_card_exactly(schema, log_of, contexts_of):
    log, x = log_of(150, ARMS), contexts_of(30, 4)
    params = {"ridge": 3.0, "ridge_constant": 2.0, "ridge_own": 5.0, "alpha": 0.7}
    state = shared_linucb.learn(shared_linucb.init(spec_of(schema, log, params)), log)
    scorer = shared_linucb.freeze(state)
    card = np.column_stack([np.ones(ARMS), cards.columns(CARDS, CARDS)])
    inverse, weights = dense(log, card, own=5.0, ridge=3.0, constant=2.0)
    for arm in range(ARMS):
        told = np.einsum("np,c->npc", x, card[arm]).reshape(len(x), -1)
        told = np.hstack([told, np.tile(np.eye(ARMS)[arm], (len(x), 1))])
        expected = log.reward.mean() + told @ weights
        assert np.allclose(x @ scorer.weights[arm], expected, atol=1e-9)
        bonus = 0.7 * log.reward.std() * np.sqrt(np.einsum("nd,de,ne->n", told, inverse, told))
        found = scorer.scores(x)[:, arm] - x @ scorer.weights[arm]
        assert np.allclose(found, bonus, atol=1e-9)


def test_a_new_arm_with_a_good_arms_card_gets_a_fair_share_at_once(schema, log_of):
    log = tagged(log_of, 400)
    spec = spec_of(schema, log)
    state = shared_linucb.learn(shared_linucb.init(spec), log)
    wider = Spec(schema, (*log.arms, "good", "bad"), cards=(*CARDS, MATHS, CHAT))
    scorer = shared_linucb.freeze(shared_linucb.rearm(state, wider))
    spread = scorer.distribution(log.x, everything(400, ARMS + 2)).mean(axis=0)
    assert spread[ARMS] >= 1 / (ARMS + 2)
    assert spread[ARMS + 1] < 0.05
    known = scorer.greedy().scores(log.x).mean(axis=0)
    assert known[ARMS] == pytest.approx(0.8, abs=0.1)
    assert known[ARMS + 1] == pytest.approx(0.3, abs=0.1)


def test_what_arms_taught_of_their_cards_stays_when_they_leave(schema, log_of):
    log = tagged(log_of, 400)
    spec = spec_of(schema, log)
    state = shared_linucb.learn(shared_linucb.init(spec), log)
    pool = Spec(schema, ("good", "bad"), cards=(MATHS, CHAT))
    rearmed = shared_linucb.rearm(state, pool)
    assert len(rearmed.gone) == ARMS
    again = shared_linucb.restore(pool, shared_linucb.snapshot(rearmed))
    assert again.gone == rearmed.gone
    scores = shared_linucb.freeze(again).greedy().scores(log.x).mean(axis=0)
    assert scores[0] - scores[1] > 0.35


def test_no_more_than_some_arms_that_left_are_remembered(schema, log_of):
    state = shared_linucb.init(spec_of(schema, log_of(1, ARMS)))
    for round_ in range(2 * shared_linucb.MAX_GONE // ARMS):
        arms = tuple(f"{round_}-{i}" for i in range(ARMS))
        state = shared_linucb.rearm(state, Spec(schema, arms, cards=CARDS))
        state = shared_linucb.learn(state, replace(tagged(log_of, 60, seed=round_), arms=arms))
    assert len(state.gone) == shared_linucb.MAX_GONE
    assert len(state.sums.statistics.gram) == ARMS + shared_linucb.MAX_GONE


def test_an_arm_that_is_better_than_its_card_says_is_found(schema, log_of):
    log = log_of(400, 2)
    log = replace(log, reward=np.where(log.action == 1, 0.8, 0.2))
    state = shared_linucb.init(Spec(schema, log.arms, cards=(CHAT, CHAT)))
    scorer = shared_linucb.freeze(shared_linucb.learn(state, log))
    assert scorer.greedy().scores(log.x).mean(axis=0) == pytest.approx([0.2, 0.8], abs=0.05)


def test_before_any_reward_no_card_is_worth_more(schema, log_of):
    log = log_of(50, ARMS)
    scorer = shared_linucb.freeze(shared_linucb.init(spec_of(schema, log)))
    assert np.allclose(scorer.distribution(log.x, everything(50, ARMS)), 1 / ARMS, atol=1e-12)


def test_long_vectors_are_projected_and_the_scorer_takes_the_whole_context(log_of):
    wide = Schema(
        (Feature("domain", "category", values=("a", "b")), Feature("v", "vector", size=40))
    )
    random = np.random.default_rng(0)
    x = random.normal(size=(200, wide.dimension)) / 3
    x[:, 0] = 1.0
    log = replace(log_of(200, ARMS), x=x)
    state = shared_linucb.init(spec_of(wide, log, {"columns": 10}))
    state = shared_linucb.learn(state, log)
    assert state.sums.statistics.gram.shape == (ARMS, 10, 10)
    scorer = shared_linucb.freeze(state)
    assert scorer.weights.shape == (ARMS, wide.dimension)
    # What the projection does not see changes no score.
    unseen = np.linalg.svd(state.projection.T)[2][10:]
    assert np.allclose(scorer.scores(x), scorer.scores(x + random.normal(size=(200, 33)) @ unseen))


@pytest.mark.parametrize(
    ("size", "params", "message"),
    [
        (600, {"columns": 600}, "give fewer columns or card_columns"),
        (2000, {}, "use fewer columns"),
        (50, {"columns": 1}, "give at least 2"),
        (5, {"ridge_own": 0.0}, "ridge_own"),
    ],
)
def test_what_is_too_large_is_refused(size, params, message):
    schema = Schema((Feature("v", "vector", size=size),))
    with pytest.raises(SpecError, match=message):
        shared_linucb.init(Spec(schema, ("a", "b"), params))


def test_workers_states_merge_to_the_same_bytes_in_any_order(schema, log_of):
    base = shared_linucb.init(spec_of(schema, log_of(1, ARMS)))
    base = shared_linucb.learn(base, tagged(log_of, 50, seed=9))
    workers = [shared_linucb.learn(base, tagged(log_of, 70, seed=seed)) for seed in range(3)]
    found = shared_linucb.merge(base, workers)
    back = shared_linucb.merge(base, workers[::-1])
    assert shared_linucb.snapshot(back) == shared_linucb.snapshot(found)
    assert found.sums.moments.count == pytest.approx(260)


def test_states_from_which_other_arms_have_left_are_not_merged(schema, log_of):
    log = tagged(log_of, 50)
    spec = spec_of(schema, log)
    base = shared_linucb.learn(shared_linucb.init(spec), log)
    away = shared_linucb.rearm(base, replace(spec, arms=tuple("abcd")))
    with pytest.raises(SpecError, match="rearm after merging"):
        shared_linucb.merge(base, [shared_linucb.rearm(away, spec)])


def test_a_category_of_more_values_than_columns_is_projected_too(log_of):
    log = log_of(60, ARMS)
    many = Schema((Feature("domain", "category", values=tuple(map(str, range(66)))),))
    state = shared_linucb.init(Spec(many, log.arms))
    assert state.projection.shape == (67, 32)
    assert np.linalg.matrix_rank(state.projection) == 32
    assert state.projection[0].tolist() == [1.0] + [0.0] * 31


def test_columns_far_larger_than_a_schema_gives_leave_finite_scores(schema, log_of):
    log = log_of(80, 2)
    large = replace(log, x=log.x * 1e5)
    state = shared_linucb.init(Spec(schema, log.arms))
    for _ in range(2):
        state = shared_linucb.learn(state, large)
    assert np.isfinite(shared_linucb.freeze(state).scores(log.x)).all()
