"""What every learner promises, run on each of them."""

import json
from bisect import bisect_right
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import safetensors.numpy
from scipy import stats

from learners import catalogue
from learners.contract import Learner, Params, Spec
from learners.errors import InteractionError, SnapshotError, SpecError
from learners.exploration import KINDS, draw, unit_interval
from learners.interactions import Interactions, joined
from learners.records import MAX_ABS_REWARD
from learners.scorers import base

ARMS = 5
T0 = 1.7e9
"""Seconds since 1970 of a log's first decision."""
FALSE_ALARM = 1e-6
"""Of one chi-square test; the seed is fixed, so what passes once passes always."""


@pytest.fixture(name="name", params=catalogue.NAMES)
def _name(request) -> str:
    return str(request.param)


@pytest.fixture(name="learner")
def _learner(name) -> Learner:
    return catalogue.load(name)


@pytest.fixture(name="spec_of")
def _spec_of(schema):
    def make(k: int = ARMS, params: Params | None = None, seed: int = 0) -> Spec:
        return Spec(schema, tuple(f"arm-{i}" for i in range(k)), params or {}, seed)

    return make


@pytest.fixture(name="trained")
def _trained(learner, spec_of, log_of):
    return learner.learn(learner.init(spec_of()), log_of(300, ARMS))


def everything(log: Interactions) -> np.ndarray:
    return np.ones(log.eligible.shape, dtype=np.bool_)


def test_the_same_log_gives_the_same_bytes(learner, spec_of, log_of):
    first, second = (
        learner.snapshot(learner.learn(learner.init(spec_of()), log_of(200, ARMS)))
        for _ in range(2)
    )
    assert first == second


def test_a_restored_snapshot_has_the_same_future(learner, trained, spec_of, log_of):
    restored = learner.restore(spec_of(), learner.snapshot(trained))
    assert learner.snapshot(restored) == learner.snapshot(trained)
    futures = [learner.learn(state, log_of(150, ARMS, seed=1)) for state in (trained, restored)]
    assert learner.snapshot(futures[0]) == learner.snapshot(futures[1])
    x = log_of(50, ARMS, seed=2).x
    assert np.array_equal(*(learner.freeze(state).scores(x) for state in futures))


def test_learning_in_pieces_equals_learning_at_once(learner, spec_of, log_of):
    if "batch" not in learner.PROMISES:
        pytest.skip(f"{learner.__name__} does not promise it")
    log = log_of(120, ARMS)
    whole = learner.learn(learner.init(spec_of()), log)
    state = learner.init(spec_of())
    for start, stop in ((0, 1), (1, 40), (40, 40), (40, 120)):
        state = learner.learn(state, log.rows(slice(start, stop)))
    first, second = learner.freeze(whole), learner.freeze(state)
    assert np.allclose(first.scores(log.x), second.scores(log.x), rtol=0, atol=1e-8)
    assert first.exploration.gamma == pytest.approx(second.exploration.gamma)


def test_any_order_of_the_log_gives_the_same_policy(learner, spec_of, log_of):
    if "order" not in learner.PROMISES:
        pytest.skip(f"{learner.__name__} does not promise it")
    log = log_of(150, ARMS)
    shuffled = log.rows(np.random.default_rng(7).permutation(150))
    late = learner.learn(
        learner.learn(learner.init(spec_of()), shuffled.rows(slice(0, 70))),
        shuffled.rows(slice(70, 150)),
    )
    in_time = learner.learn(learner.init(spec_of()), log)
    first, second = (learner.freeze(state).scores(log.x) for state in (in_time, late))
    assert np.allclose(first, second, rtol=0, atol=1e-8)


def test_late_feedback_learnt_in_the_logs_order_gives_the_bytes_of_feedback_in_time(
    learner, spec_of, log_of
):
    # Who does not promise `order` is given the log as it is read: each row in its own place,
    # whenever its feedback came. Whoever trained on what had arrived by then stays as it was.
    log = replace(log_of(150, ARMS), at=T0 + 60.0 * np.arange(150))
    in_time = learner.learn(learner.init(spec_of()), log)
    arrived = np.random.default_rng(7).permutation(150)
    first = log.rows(np.sort(arrived[:70]))
    meanwhile = learner.learn(learner.init(spec_of()), first)
    before = learner.snapshot(meanwhile)
    whole = joined([first, log.rows(arrived[70:])])
    sorted_again = whole.rows(np.argsort(whole.at, kind="stable"))
    again = learner.learn(learner.init(spec_of()), sorted_again)
    assert learner.snapshot(again) == learner.snapshot(in_time)
    assert learner.snapshot(meanwhile) == before


def test_feedback_learnt_as_it_comes_in_any_order_harms_no_state(learner, spec_of, log_of):
    # Not the same state without `order`, but one that keeps all else that is promised, though
    # rows come hours late, before and after those of the same minute.
    log = replace(log_of(400, 2), at=T0 + 60.0 * np.arange(400))
    clear = replace(log, reward=np.where(log.action == 1, 0.8, 0.2), parts=np.empty((0, 0)))
    in_time = learner.learn(learner.init(spec_of(2)), clear)
    arrived = np.random.default_rng(3).permutation(400)
    state = learner.init(spec_of(2))
    for start, stop in ((0, 1), (1, 150), (150, 400)):
        state = learner.learn(state, clear.rows(arrived[start:stop]))
    scorer = learner.freeze(state)
    assert np.isfinite(scorer.scores(log.x)).all()
    spread = scorer.distribution(log.x, log.eligible)
    assert np.allclose(spread.sum(axis=1), 1.0, atol=1e-12)
    assert (spread[~log.eligible] == 0).all()
    least = scorer.exploration.floor / log.eligible.sum(axis=1, keepdims=True)
    assert ((spread >= least - 1e-15) | ~log.eligible).all()
    if "blind" not in learner.PROMISES:
        assert scorer.distribution(log.x, everything(log))[:, 1].mean() > 0.8
    assert len(learner.snapshot(state)) < 1.5 * len(learner.snapshot(in_time)) + 4096
    restored = learner.restore(spec_of(2), learner.snapshot(state))
    assert learner.snapshot(restored) == learner.snapshot(state)


def test_a_state_does_not_grow_with_the_log(learner, spec_of, log_of):
    # A sample is to be full by then: what is asked is that it grows no more.
    params = {"points": 500} if "points" in learner.PARAMS else {}
    state = learner.learn(learner.init(spec_of(params=params)), log_of(1_500, ARMS))
    before = len(learner.snapshot(state))
    for seed in range(1, 4):
        state = learner.learn(state, log_of(1_500, ARMS, seed=seed))
    # What is bounded may fill up to its bound, but four times the log is not four times the state.
    assert len(learner.snapshot(state)) < 1.5 * before + 4096


def test_an_arm_joins_and_one_leaves_without_learning_again(learner, trained, spec_of, log_of):
    x = log_of(200, ARMS, seed=8).x
    before = learner.freeze(trained).scores(x)
    arms = ("arm-3", "new", "arm-0", "arm-1", "arm-4")
    state = learner.rearm(trained, replace(spec_of(), arms=arms))
    scorer = learner.freeze(state)
    assert scorer.arms == arms
    after = scorer.scores(x)
    kept = [(3, 0), (0, 2), (1, 3), (4, 4)]
    # The arms that stayed rank as before: what one learns of them all may shift with the pool.
    for old, new in kept:
        assert np.ptp(before[:, old]) < 1e-9 or (
            np.corrcoef(before[:, old], after[:, new])[0, 1] > 0.9
        )
    more = replace(log_of(100, ARMS, seed=9), arms=arms)
    again = learner.freeze(learner.learn(state, more)).distribution(x, np.ones((200, 5), bool))
    assert np.allclose(again.sum(axis=1), 1.0)
    assert learner.snapshot(
        learner.restore(replace(spec_of(), arms=arms), learner.snapshot(state))
    ) == learner.snapshot(state)


def test_an_arm_whose_model_changed_starts_anew(learner, spec_of, log_of):
    if "blind" in learner.PROMISES:
        pytest.skip(f"{learner.__name__} prefers no arm")
    log = log_of(400, 2)
    spec = replace(spec_of(2), revisions=("first", "first"))
    clear = replace(log, reward=np.where(log.action == 1, 0.8, 0.2))
    state = learner.learn(learner.init(spec), clear)
    assert learner.freeze(state).scores(log.x)[:, 1].mean() > 0.6
    revised = learner.rearm(state, replace(spec, revisions=("first", "second")))
    assert learner.freeze(revised).scores(log.x)[:, 1].mean() < 0.6


def test_only_arms_may_change_in_a_rearmed_state(learner, trained, spec_of):
    with pytest.raises(SpecError, match="only arms may change"):
        learner.rearm(trained, spec_of(seed=4))


def test_learning_leaves_the_given_state_as_it_was(learner, trained, log_of):
    before = learner.snapshot(trained)
    x = log_of(50, ARMS, seed=3).x
    scores = learner.freeze(trained).scores(x).copy()
    learner.learn(trained, log_of(100, ARMS, seed=2))
    assert learner.snapshot(trained) == before
    assert np.array_equal(learner.freeze(trained).scores(x), scores)


def test_probabilities_keep_the_floor_and_leave_out_what_is_not_eligible(learner, trained, log_of):
    log = log_of(400, ARMS, seed=3)
    scorer = learner.freeze(trained)
    spread = scorer.distribution(log.x, log.eligible)
    assert np.allclose(spread.sum(axis=1), 1.0, atol=1e-12)
    assert (spread[~log.eligible] == 0).all()
    least = scorer.exploration.floor / log.eligible.sum(axis=1, keepdims=True)
    assert scorer.exploration.floor > 0
    assert ((spread >= least - 1e-15) | ~log.eligible).all()


def test_before_any_learning_every_arm_is_as_likely(learner, spec_of, log_of):
    log = log_of(50, ARMS)
    spread = learner.freeze(learner.init(spec_of())).distribution(log.x, everything(log))
    assert np.allclose(spread, 1 / ARMS, atol=1e-12)


@pytest.mark.parametrize("k", [1, 2, 200])
def test_it_works_with_few_and_many_arms(learner, spec_of, log_of, k):
    log = log_of(120, k)
    state = learner.learn(learner.init(spec_of(k)), log)
    spread = learner.freeze(state).distribution(log.x, log.eligible)
    assert spread.shape == (120, k)
    assert np.allclose(spread.sum(axis=1), 1.0, atol=1e-9)
    assert (spread >= 0).all()


@pytest.mark.parametrize("k", [1, 2, 200])
def test_with_few_and_many_arms_its_choice_is_among_the_good_half_unless_it_is_blind(
    learner, spec_of, log_of, k
):
    if "blind" in learner.PROMISES:
        pytest.skip(f"{learner.__name__} prefers no arm")
    log = log_of(max(60, 5 * k), k)
    good = np.arange(k) % 2 == 0
    # One context for all: four or five rows an arm tell nothing of what contexts are worth.
    clear = replace(
        log,
        x=np.repeat(log.x[:1], len(log), axis=0),
        reward=np.where(good[log.action], 0.8, 0.2),
        parts=np.empty((0, 0)),
    )
    scorer = learner.freeze(learner.learn(learner.init(spec_of(k)), clear))
    x, all_eligible = log.x[:1], np.ones((1, k), dtype=np.bool_)
    assert scorer.greedy().distribution(x, all_eligible)[:, good].sum() == pytest.approx(1.0)
    # Exploration spreads the rest, and never to the bad half's gain.
    assert scorer.distribution(x, all_eligible)[:, good].sum() > 0.7


def test_it_finds_the_better_of_two_arms_unless_it_is_blind(learner, spec_of, log_of):
    log = log_of(400, 2)
    clear = replace(log, reward=np.where(log.action == 1, 0.8, 0.2))
    scorer = learner.freeze(learner.learn(learner.init(spec_of(2)), clear))
    spread = scorer.distribution(log.x, everything(log))
    if "blind" in learner.PROMISES:
        assert np.allclose(spread, 0.5, atol=1e-12)
    else:
        assert spread[:, 1].mean() > 0.8


@pytest.mark.parametrize("unit", [1000.0, 1e-3])
def test_a_reward_in_another_unit_is_explored_alike(learner, spec_of, log_of, unit):
    log = log_of(200, ARMS)
    other = replace(log, reward=log.reward * unit + 7.0 * unit)
    first, second = (
        learner.freeze(learner.learn(learner.init(spec_of()), each)).distribution(
            log.x, everything(log)
        )
        for each in (log, other)
    )
    assert np.abs(first - second).mean() < 1e-4


def test_what_has_no_weight_teaches_nothing(learner, trained, log_of):
    log = log_of(50, ARMS, seed=4)
    after = learner.learn(trained, replace(log, weight=np.zeros(50), reward=log.reward + 9))
    first, second = (learner.freeze(state).scores(log.x) for state in (trained, after))
    assert np.allclose(first, second, rtol=0, atol=1e-12)


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf, 2 * MAX_ABS_REWARD])
def test_a_poisoned_reward_is_refused(log_of, poison):
    log = log_of(20, ARMS)
    reward = log.reward.copy()
    reward[7] = poison
    with pytest.raises(InteractionError, match="row 7: reward="):
        replace(log, reward=reward)


@pytest.mark.parametrize("poison", [np.nan, np.inf, 1e300])
def test_a_poisoned_column_is_refused(log_of, poison):
    log = log_of(20, ARMS)
    x = log.x.copy()
    x[3, 2] = poison
    with pytest.raises(InteractionError, match="row 3: x="):
        replace(log, x=x)


def test_the_largest_reward_that_is_let_in_leaves_finite_scores(learner, trained, log_of):
    log = log_of(30, ARMS)
    reward = log.reward.copy()
    reward[5] = MAX_ABS_REWARD
    scorer = learner.freeze(learner.learn(trained, replace(log, reward=reward)))
    assert np.isfinite(scorer.scores(log.x)).all()


def test_interactions_over_other_arms_are_refused(learner, trained, log_of):
    log = log_of(10, ARMS)
    with pytest.raises(InteractionError, match="arms"):
        learner.learn(trained, replace(log, arms=tuple(reversed(log.arms))))


def test_interactions_of_another_schema_are_refused(learner, trained, log_of):
    log = log_of(10, ARMS)
    with pytest.raises(InteractionError, match="columns"):
        learner.learn(trained, replace(log, x=log.x[:, :-1]))


def test_altered_bytes_are_refused(learner, trained, spec_of):
    data = learner.snapshot(trained)
    for place in (0, 12, 45, len(data) // 2, len(data) - 1):
        altered = bytearray(data)
        altered[place] ^= 1
        with pytest.raises(SnapshotError):
            learner.restore(spec_of(), bytes(altered))
    for damaged in (b"", data[:30], data[:-1], data + b"\0"):
        with pytest.raises(SnapshotError):
            learner.restore(spec_of(), damaged)


def test_a_snapshot_of_another_spec_is_refused(learner, trained, spec_of):
    data = learner.snapshot(trained)
    for other in (spec_of(ARMS + 1), spec_of(seed=1), spec_of(params={"floor": 0.2})):
        with pytest.raises(SnapshotError, match="another"):
            learner.restore(other, data)


def test_a_snapshot_of_another_learner_is_refused(name, trained, learner, spec_of):
    data = learner.snapshot(trained)
    for other in set(catalogue.NAMES) - {name}:
        with pytest.raises(SnapshotError, match="another"):
            catalogue.load(other).restore(spec_of(), data)


@pytest.mark.parametrize(
    "params",
    [
        {"no_such": 1},
        {"floor": 1.5},
        {"floor": "much"},
        {"gamma": -1.0},
        {"gamma_exponent": 2.0},
        {"exploration": "sideways"},
    ],
)
def test_a_parameter_that_does_not_fit_is_refused_at_once(learner, spec_of, params):
    with pytest.raises(SpecError):
        learner.init(spec_of(params=params))


@pytest.mark.parametrize("exploration", KINDS)
def test_logged_propensities_are_those_of_100_000_draws(learner, spec_of, log_of, exploration):
    # The scorer's distribution is what is logged; the draws are what is served.
    spec = spec_of(params={"exploration": exploration, "floor": 0.1})
    if exploration == "votes" and learner.PARAMS["exploration"] != "votes":
        with pytest.raises(SpecError, match="votes"):
            learner.init(spec)
        return
    state = learner.learn(learner.init(spec), log_of(300, ARMS))
    log = log_of(1, ARMS, seed=6)
    (logged,) = learner.freeze(state).distribution(log.x, everything(log))
    units = sorted_units()
    # No draw falls as u rises, so how many draws each arm gets is found by bisection.
    ends = [bisect_right(units, arm, key=lambda u: draw(logged, u)) for arm in range(ARMS)]
    assert ends[-1] == len(units)
    counts = np.diff(ends, prepend=0)
    assert stats.chisquare(counts, logged * len(units)).pvalue > FALSE_ALARM


@cache
def sorted_units() -> list[float]:
    return sorted(unit_interval("draw", str(i)) for i in range(100_000))


def test_a_scorer_read_back_by_an_edge_scores_1_000_contexts_as_the_learner_does(
    learner, trained, contexts_of
):
    x, all_eligible = contexts_of(1_000, 12), np.ones((1_000, ARMS), dtype=np.bool_)
    scorer = learner.freeze(trained)
    tensors = safetensors.numpy.load(safetensors.numpy.save(dict(scorer.tensors())))
    read = base.load(json.loads(json.dumps(scorer.as_json())), tensors)
    assert np.abs(read.scores(x) - scorer.scores(x)).max() < 1e-6
    served, logged = (each.distribution(x, all_eligible) for each in (read, scorer))
    assert np.abs(served - logged).max() < 1e-6


def test_the_catalogue_names_what_there_is():
    assert {"best_fixed", "linucb", "river", "vw"} <= set(catalogue.NAMES)
    with pytest.raises(SpecError, match=f"'oracle': there are {', '.join(catalogue.NAMES)}"):
        catalogue.load("oracle")
