import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learners import catalogue, probes
from learners.contract import Reading, Spec
from learners.errors import SpecError
from learners.features import Schema
from learners.interactions import Interactions, digest
from learners.priors import MAX_ROWS, TAKES_NONE, Floats, Prior, as_interactions, expected

ARMS = ("a", "b", "c", "d", "e", "new")
SCHEMA = Schema.from_json(
    [
        {"name": "domain", "kind": "category", "values": ["code", "law"]},
        {"name": "n", "kind": "number"},
    ]
)
MEANS = (0.1, 0.2, 0.3, 0.4, 0.5)
LINE = {"a": 100.0, "b": 200.0, "c": 300.0, "d": 400.0, "e": 500.0, "new": 900.0}
READING = Reading(("score", "cost_usd"), (1.0, -2.0), 0.5)


def log_of(
    n: int, means: tuple[float, ...], seed: int = 0, arms: tuple[str, ...] = ARMS
) -> Interactions:
    """n rows of an even choice among the arms that have a mean; rewards 0 or 1."""
    random = np.random.default_rng(seed)
    action = np.arange(n) % len(means)
    x = SCHEMA.encode_all(
        [
            {"domain": "code" if side else "law", "n": float(z)}
            for side, z in zip(random.random(n) < 0.5, random.normal(size=n), strict=True)
        ]
    )
    return Interactions(
        arms=arms,
        x=x,
        eligible=np.ones((n, len(arms)), bool),
        action=action,
        propensity=np.full(n, 1 / len(means)),
        reward=(random.random(n) < np.array(means)[action]).astype(float),
        weight=np.ones(n),
        at=np.arange(n, dtype=float) + 5.0,
    )


def on_the_line(n: int) -> Interactions:
    """Each arm's mean is exactly on a line in its rating, each reward .1 above or below it."""
    log = log_of(n, MEANS)
    away = np.where(np.arange(n) // len(MEANS) % 2 == 0, 0.1, -0.1)
    reward = np.array(MEANS)[log.action] + away
    told: Interactions = replace(log, reward=reward, parts=np.empty((0, 0)))
    return told


def spec_of(arms: tuple[str, ...] = ARMS) -> Spec:
    return Spec(SCHEMA, arms)


def test_an_arm_is_expected_on_the_line_of_the_others_ratings_and_rewards() -> None:
    found = expected(Prior(LINE, 20.0), on_the_line(1_000))
    assert found.mean[:5] == pytest.approx(MEANS)
    assert found.mean[5] == pytest.approx(0.9)
    assert found.count.tolist() == [20.0] * 6
    assert found.variance == pytest.approx(0.01, rel=0.01)


def test_an_expectation_is_worth_what_the_others_are_off_the_line() -> None:
    straight = on_the_line(100_000)
    off = np.array([0.1, -0.1, 0.1, -0.1, 0.1])
    crooked = replace(
        straight, reward=straight.reward + off[straight.action], parts=np.empty((0, 0))
    )
    near = expected(Prior(LINE, 1_000.0), straight).count
    far = expected(Prior(LINE, 1_000.0), crooked).count
    assert near.min() > 500
    # A reward's variance of .01 over an untold one of about .01: one interaction or so.
    assert 0.0 < far.max() < 2.0


def test_little_log_lets_ratings_be_worth_little() -> None:
    counts = [expected(Prior(LINE, 1_000.0), on_the_line(n)).count[:5].mean() for n in (20, 200)]
    assert 0.0 < counts[0] < 20.0 < counts[1] < 200.0


def test_an_arms_own_rewards_say_nothing_of_its_own_expectation() -> None:
    log = on_the_line(1_000)
    lucky = replace(log, reward=log.reward + 0.3 * (log.action == 2), parts=np.empty((0, 0)))
    before, after = (expected(Prior(LINE), each) for each in (log, lucky))
    assert after.mean[2] == pytest.approx(before.mean[2])
    assert after.count[2] == pytest.approx(before.count[2])
    assert after.mean[5] != pytest.approx(before.mean[5])


@given(scale=st.floats(1e-3, 1e3), shift=st.floats(-1e3, 1e3))
def test_the_unit_of_ratings_does_not_matter(scale: float, shift: float) -> None:
    log = log_of(200, MEANS)
    moved = {arm: scale * rating / 100 + shift for arm, rating in LINE.items()}
    plain, other = (expected(Prior(one), log) for one in (LINE, moved))
    assert other.mean == pytest.approx(plain.mean, abs=1e-6)
    assert other.count == pytest.approx(plain.count, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(
    "ratings",
    [
        {arm: -rating for arm, rating in LINE.items()},
        dict.fromkeys(LINE, 7.0),
        {"p": 1.0, "q": 2.0, "r": 3.0, "s": 4.0},
        {"a": 100.0, "b": 200.0, "c": 300.0, "new": 900.0, "gone": 5.0},
    ],
    ids=["reversed", "all alike", "of other arms", "too few others have rewards"],
)
def test_ratings_that_say_nothing_give_no_row(ratings: dict[str, float]) -> None:
    log = on_the_line(1_000)
    if "gone" in ratings:  # of a, b and c each sees two others
        log = log.rows(log.action < 3)
        ratings = {arm: rating for arm, rating in ratings.items() if arm != "new"}
    rows = as_interactions(Prior(ratings), spec_of(), log)
    assert len(rows) == 0
    learner = catalogue.load("linucb")
    spec = spec_of()
    plain = learner.learn(learner.init(spec), log)
    after = learner.learn(learner.learn(learner.init(spec), rows), log)
    assert learner.snapshot(after) == learner.snapshot(plain)


@pytest.mark.parametrize("log", [log_of(0, MEANS), replace(log_of(50, MEANS), weight=np.zeros(50))])
def test_a_log_that_teaches_nothing_gives_no_row(log: Interactions) -> None:
    assert len(as_interactions(Prior(LINE), spec_of(), log)) == 0


def test_rewards_that_never_vary_give_no_row() -> None:
    log = replace(on_the_line(100), reward=np.ones(100), parts=np.empty((0, 0)))
    assert len(as_interactions(Prior(LINE), spec_of(), log)) == 0


def test_the_rows_have_each_arms_expectation_and_count() -> None:
    log = log_of(2_000, MEANS)
    told = expected(Prior(LINE, 7.5), log)
    rows = as_interactions(Prior(LINE, 7.5), spec_of(), log)
    weight = np.bincount(rows.action, rows.weight, 6)
    assert weight == pytest.approx(told.count)
    earned = np.bincount(rows.action, rows.weight * rows.reward, 6) / weight
    assert earned == pytest.approx(np.clip(told.mean, 0, 1))
    assert rows.reward.min() >= 0.0
    assert rows.reward.max() <= 1.0
    assert (rows.at == 5.0).all()
    deviation = np.sqrt(
        np.bincount(rows.action, rows.reward**2) / np.bincount(rows.action) - earned**2
    )
    assert deviation[4] == pytest.approx(math.sqrt(told.variance), rel=0.2)


def test_rows_tell_of_the_arm_and_of_no_context() -> None:
    rows = as_interactions(Prior(LINE), spec_of(), log_of(500, MEANS))
    assert (rows.x == SCHEMA.encode_all([{}])).all()
    assert (rows.action[::2] == rows.action[1::2]).all()
    assert (rows.reward[::2] >= rows.reward[1::2]).all()


def test_no_rows_of_several_arms_are_taken_for_one_request() -> None:
    rows = as_interactions(Prior(LINE), spec_of(), log_of(500, MEANS))
    assert len(rows) > 60
    assert len(probes.find(rows)) == 0


def test_a_row_has_its_arms_usual_cost_and_its_parts_add_up() -> None:
    log = log_of(1_000, MEANS)
    cost = (log.action + 1) / 100
    log = replace(log, parts=np.column_stack([log.reward, cost]))
    log = replace(log, reward=log.parts @ [1.0, -2.0] + 0.5)
    spec = Spec(SCHEMA, ARMS, reading=READING)
    rows = as_interactions(Prior(LINE), spec, log)
    assert rows.parts @ [1.0, -2.0] + 0.5 == pytest.approx(rows.reward)
    served = rows.action < 5
    assert rows.parts[served, 1] == pytest.approx((rows.action[served] + 1) / 100)
    assert rows.parts[~served, 1] == pytest.approx(0.03)


def test_ratings_of_quality_hold_where_better_arms_cost_more_than_they_are_worth() -> None:
    log = on_the_line(1_000)
    cost = (log.action + 1) / 10  # twice .1 an arm, where an arm is .1 better than the one before
    log = replace(log, parts=np.column_stack([log.reward, cost]))
    log = replace(log, reward=log.parts @ [1.0, -2.0] + 0.5)
    assert not expected(Prior(LINE), log).count.any()
    rows = as_interactions(Prior(LINE), Spec(SCHEMA, ARMS, reading=READING), log)
    score = np.bincount(rows.action, rows.parts[:, 0], 6) / np.bincount(rows.action)
    assert score[:5] == pytest.approx(MEANS)
    assert rows.parts[rows.action == 4, 1] == pytest.approx(0.5)


def costly(log: Interactions, cost: Floats, reading: Reading) -> Interactions:
    """The log with a cost beside its reward, which stands where the reading has its score."""
    columns = {"score": log.reward, "cost_usd": cost}
    parts = np.column_stack([columns[name] for name in reading.names])
    told: Interactions = replace(log, parts=parts)
    return replace(told, reward=parts @ np.array(reading.mix) + reading.offset)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("score", [0, 1])
def test_ratings_speak_of_the_grade_however_far_costs_vary(seed: int, score: int) -> None:
    names, mix = ("score", "cost_usd"), (1.0, -0.2)
    reading = Reading(names[::-1], mix[::-1]) if score else Reading(names, mix)
    cost = np.random.default_rng(seed).lognormal(0.0, 2.0, 2_000) * 2
    log = costly(log_of(2_000, MEANS, seed), cost, reading)
    assert (0.2 * cost).std() > 3 * log.parts[:, score].std()
    spec = Spec(SCHEMA, ARMS, reading=reading)
    right = as_interactions(Prior(LINE), spec, log)
    assert right.weight.sum() > 20
    found = np.bincount(right.action, right.weight * right.parts[:, score], 6)
    assert (np.diff((found / np.bincount(right.action, right.weight, 6))[:5]) > 0).all()
    backwards = {arm: -rating for arm, rating in LINE.items()}
    assert not len(as_interactions(Prior(backwards), spec, log))


def test_where_every_part_lowers_the_reward_ratings_speak_of_what_varies_most() -> None:
    log = on_the_line(1_000)
    parts = np.column_stack([(log.action + 1) / 100, 1.0 - log.reward])
    log = replace(log, parts=parts, reward=-parts.sum(axis=1))
    reading = Reading(("cost_usd", "errors"), (-1.0, -1.0))
    rows = as_interactions(Prior(LINE), Spec(SCHEMA, ARMS, reading=reading), log)
    errors = np.bincount(rows.action, rows.parts[:, 1], 6) / np.bincount(rows.action)
    assert errors[:5] == pytest.approx(1.0 - np.array(MEANS))


def test_what_weighs_nothing_does_not_say_what_ratings_speak_of() -> None:
    log = on_the_line(1_000)
    second = np.where(np.arange(1_000) % 10 == 7, 1e3, 0.0)
    parts = np.column_stack([second, log.reward])
    log = replace(log, parts=parts, reward=parts.sum(axis=1), weight=(second == 0).astype(float))
    spec = Spec(SCHEMA, ARMS, reading=Reading(("bonus", "score"), (1.0, 1.0)))
    rows = as_interactions(Prior(LINE), spec, log)
    assert len(rows)
    assert not rows.parts[:, 0].any()
    assert rows.parts[:, 1].std() > 0


def test_rewards_that_their_parts_do_not_make_up_are_taken_whole() -> None:
    log = log_of(1_000, MEANS)
    rows = as_interactions(Prior(LINE), Spec(SCHEMA, ARMS, reading=Reading(("a",), (2.0,))), log)
    assert rows.reward.max() <= 1.0
    assert (rows.parts[:, 0] == rows.reward).all()


def test_a_prior_of_many_arms_has_few_rows() -> None:
    arms = tuple(f"arm-{i:03}" for i in range(400))
    log = log_of(4_000, tuple(np.linspace(0.1, 0.9, 400)), arms=arms)
    prior = Prior({arm: float(i) for i, arm in enumerate(arms)}, 1_000.0)
    rows = as_interactions(prior, spec_of(arms), log)
    assert 400 < len(rows) <= MAX_ROWS
    assert rows.weight.sum() == pytest.approx(expected(prior, log).count.sum())


def test_the_same_log_gives_the_same_rows() -> None:
    one, two = (as_interactions(Prior(LINE), spec_of(), log_of(300, MEANS)) for _ in range(2))
    assert digest(one) == digest(two)


@given(
    ratings=st.lists(st.floats(-1e9, 1e9), min_size=6, max_size=6),
    count=st.floats(0.0, 1_000.0, exclude_min=True),
    n=st.integers(0, 60),
)
def test_whatever_the_ratings_no_arm_gets_more_than_the_count(
    ratings: list[float], count: float, n: int
) -> None:
    prior = Prior(dict(zip(ARMS, ratings, strict=True)), count)
    rows = as_interactions(prior, spec_of(), log_of(n, MEANS, seed=n))
    assert np.bincount(rows.action, rows.weight, 6).max() <= count * (1 + 1e-9)


@pytest.mark.parametrize("name", sorted(set(catalogue.NAMES) - TAKES_NONE))
def test_an_arm_that_never_served_is_chosen_by_its_rating_until_its_rewards_overrule(
    name: str,
) -> None:
    learner, spec = catalogue.load(name), spec_of()

    def share(log: Interactions, prior: Prior | None) -> float:
        state = learner.init(spec)
        if prior is not None:
            state = learner.learn(state, as_interactions(prior, spec, log))
        scorer = learner.freeze(learner.learn(state, log)).greedy()
        return float(scorer.distribution(log.x, log.eligible)[:, 5].mean())

    unheard = log_of(600, MEANS)
    heard = log_of(3_000, (*MEANS, 0.05))
    without, rated, overruled = (
        share(unheard, None),
        share(unheard, Prior(LINE, 40.0)),
        share(heard, Prior(LINE, 40.0)),
    )
    print(name, without, rated, overruled)
    assert without < 0.1
    assert rated > 0.3  # river's learners go part of the way, all others choose it everywhere
    assert overruled < 0.1


@pytest.mark.parametrize(
    ("ratings", "count", "said"),
    [
        ({"a": 1.0, "b": 2.0, "c": 3.0}, 20.0, "ratings are of 3 arms: give 4 to 1,024, or none"),
        ({**LINE, "a": math.nan}, 20.0, "ratings of 'a' is nan"),
        ({**LINE, "a": True}, 20.0, "ratings of 'a' is True: give a number"),
        ({**LINE, "b": 1e10}, 20.0, "at most 1e\\+09 either way"),
        (LINE, 0.0, r"count is 0\.0: give more than 0, at most 1,000"),
        (LINE, math.nan, "count is nan"),
    ],
)
def test_a_prior_that_makes_no_sense_is_refused(
    ratings: dict[str, float], count: float, said: str
) -> None:
    with pytest.raises(SpecError, match=said):
        Prior(ratings, count)


def test_without_ratings_there_is_no_prior() -> None:
    assert not Prior()
    assert Prior(LINE)
