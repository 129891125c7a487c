from dataclasses import replace

import numpy as np
import pytest

from learners import neighbours
from learners.calibration import calibration_error
from learners.contract import Spec
from learners.errors import SpecError
from learners.features import Feature, Schema
from learners.interactions import Interactions

SCHEMA = Schema((Feature("chars", "number"), Feature("terms", "vector", size=6)))
ARMS = ("left", "right")


def spec_of(**params: float | str) -> Spec:
    return Spec(SCHEMA, ARMS, params)


def chance_of(x: np.ndarray) -> np.ndarray:
    """Which arm succeeds turns with the angle in the plane of the first two terms: no line."""
    angle = np.arctan2(x[:, 3], x[:, 2])
    left = 0.5 + 0.4 * np.sin(2 * angle)
    return np.stack([left, 1 - left], axis=1)


def log_of(n: int, seed: int = 0) -> Interactions:
    random = np.random.default_rng(seed)
    x = np.ones((n, 8))
    x[:, 1] = 20 * random.normal(size=n)
    x[:, 2:] = random.normal(size=(n, 6)) * [1, 1, 0.1, 0.1, 0.1, 0.1]
    action = random.integers(2, size=n)
    won = random.random(n) < chance_of(x)[np.arange(n), action]
    return Interactions(
        arms=ARMS,
        x=x,
        eligible=np.ones((n, 2), bool),
        action=action,
        propensity=np.full(n, 0.5),
        reward=won.astype(float),
        weight=np.ones(n),
        at=1e9 + seed * 1e6 + np.arange(n, dtype=float),
    )


def value_of(state: neighbours.State) -> float:
    """The chance of success of the greedy choice; the best is 0.755 and either arm 0.5."""
    x = log_of(2_000, seed=99).x
    spread = neighbours.freeze(state).greedy().distribution(x, np.ones((len(x), 2), bool))
    return float((spread * chance_of(x)).sum(axis=1).mean())


def test_it_finds_what_no_line_can_in_the_feature_that_is_compared():
    learnt = [
        neighbours.learn(neighbours.init(spec_of(feature=feature)), log_of(4_000))
        for feature in ("terms", "chars")
    ]
    values = [value_of(state) for state in learnt]
    print(values)
    assert values[0] > 0.72
    assert values[1] < 0.6


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_its_scores_are_chances_of_success(method):
    log, newer = log_of(6_000), log_of(6_000, seed=1)
    rows = np.arange(len(newer)), newer.action
    specs = [
        spec_of(feature="terms", nearest=3, prior=0.1, calibration=each)
        for each in ("none", method)
    ]
    plain, calibrated = (
        neighbours.freeze(neighbours.learn(neighbours.init(spec), log)) for spec in specs
    )
    before = calibration_error(plain.scores(newer.x)[rows], newer.reward)
    value, low = calibrated.chances(newer.x)
    after = calibration_error(value[rows], newer.reward)
    print(method, before, after)
    assert before > 0.1  # three neighbours promise too much
    assert after < 0.06
    assert (low <= value + 1e-12).all()


def test_each_arm_keeps_as_many_points_whatever_the_pieces_and_the_order():
    log = log_of(3_000)
    log = replace(log, action=(np.arange(3_000) % 20 == 0).astype(np.int64))
    whole = neighbours.learn(neighbours.init(spec_of(points=200)), log)
    assert np.bincount(whole.points.arm).tolist() == [100, 100]
    state = neighbours.init(spec_of(points=200))
    for part in np.array_split(np.random.default_rng(5).permutation(3_000), 7):
        state = neighbours.learn(state, log.rows(part))
    for name, column in whole.points.columns().items():
        assert np.array_equal(column, getattr(state.points, name)), name


def test_the_sample_is_even_over_time():
    """The mean place of 1,000 of 20,000 rows has a standard error of 180: 5 of them, 1 in 10^6."""
    state = neighbours.learn(neighbours.init(spec_of(points=1_000)), log_of(20_000))
    place = state.points.at - 1e9
    assert place.mean() == pytest.approx(9_999.5, abs=900)


def test_another_seed_keeps_others():
    log = log_of(2_000)
    kept = [
        set(neighbours.learn(neighbours.init(replace(spec_of(points=100), seed=s)), log).points.at)
        for s in (0, 1)
    ]
    assert len(kept[0] & kept[1]) < 30  # 5 are expected


def test_with_a_half_life_the_newer_stay():
    spec = spec_of(points=1_000, half_life_s=2_000.0)
    state = neighbours.learn(neighbours.init(spec), log_of(20_000))
    age = 1e9 + 20_000 - state.points.at
    # While few rows are kept, an age's share is proportional to 2^(-age / half-life).
    assert np.median(age) == pytest.approx(2_000, rel=0.35)


def test_after_a_change_the_newer_rows_win_where_there_is_a_half_life():
    old, new = log_of(4_000), log_of(4_000, seed=1)
    swapped = replace(old, action=1 - old.action)  # as if the arms had changed places since
    for half_life, wins in ((0.0, False), (20_000.0, True)):
        state = neighbours.init(spec_of(feature="terms", half_life_s=half_life, points=2_000))
        for log in (swapped, new):
            state = neighbours.learn(state, log)
        assert (value_of(state) > 0.68) is wins


def test_what_is_near_nothing_is_worth_the_arms_mean():
    log = log_of(1_000)
    log = replace(log, reward=np.where(log.action == 0, 0.9, 0.1))
    scorer = neighbours.freeze(neighbours.learn(neighbours.init(spec_of(feature="terms")), log))
    (means,) = scorer.scores(np.zeros((1, 8)))
    assert means[0] > 0.8
    assert means[1] < 0.2


def test_when_the_pool_grows_each_arm_keeps_its_share_of_the_points():
    state = neighbours.learn(neighbours.init(spec_of(points=400)), log_of(2_000))
    pool = Spec(SCHEMA, ("new", "right", "left", "other"), {"points": 400})
    grown = neighbours.rearm(state, pool)
    assert np.bincount(grown.points.arm, minlength=4).tolist() == [0, 100, 100, 0]
    least = np.sort(state.points.key[state.points.arm == 0])[:100]
    assert np.array_equal(grown.points.key[grown.points.arm == 2], least)


def test_features_are_found_by_name():
    assert neighbours.columns_of(SCHEMA, "terms").tolist() == [2, 3, 4, 5, 6, 7]
    assert neighbours.columns_of(SCHEMA, "terms, chars").tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert neighbours.columns_of(SCHEMA, "").tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert neighbours.columns_of(Schema(()), "").tolist() == [0]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"feature": "mood"}, "'mood' is not there"),
        ({"calibration": "magic"}, "calibration is 'magic'"),
        ({"points": 10_000_000}, "give at most"),
        ({"points": 0}, "points"),
        ({"nearest": 0}, "nearest"),
        ({"prior": 0.0}, "prior"),
        ({"half_life_s": -1.0}, "half_life_s"),
    ],
)
def test_a_parameter_out_of_range_is_refused(params, message):
    with pytest.raises(SpecError, match=message):
        neighbours.init(spec_of(**params))
