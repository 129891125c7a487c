from dataclasses import replace
from statistics import median
from time import perf_counter

import numpy as np
import pytest

from learners.calibration import Curve
from learners.errors import SpecError
from learners.exploration import Exploration
from learners.scorers.base import load
from learners.scorers.neighbours import TILT, Neighbours, unit

K, MOST, WIDE = 3, 40, 5
CURVE = Curve(np.array([-1.0, 1.0]), np.array([0.1, 0.7]), np.array([0.0, 0.5]))


def make(curve: Curve | None = None, nearest: int = 8) -> Neighbours:
    random = np.random.default_rng(0)
    points = unit(random.normal(size=(K * MOST, WIDE))).reshape(K, MOST, WIDE).astype(np.float32)
    points[2, 10:] = 0.0
    weight = random.random((K, MOST)) + 0.5
    weight[2, 10:] = 0.0
    return Neighbours(
        arms=("a", "b", "c"),
        exploration=Exploration("squarecb", 0.1, 5.0),
        points=points,
        residual=random.normal(size=(K, MOST)),
        weight=weight,
        means=np.array([0.2, 0.5, 0.4]),
        blend=np.eye(K),
        columns=np.array([1, 2, 3, 5, 6]),
        width=7,
        nearest=nearest,
        prior=2.0,
        curve=curve,
    )


def contexts(n: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(n, 7))


def by_hand(scorer: Neighbours, x: np.ndarray) -> np.ndarray:
    """The class' formula, point by point."""
    asked = x[scorer.columns] / np.linalg.norm(x[scorer.columns])
    mass, earned = np.zeros(K), np.zeros(K)
    for g in range(K):
        similar = [float(asked @ point) for point in scorer.points[g].astype(float)]
        ranked = sorted(similar, reverse=True)
        least = max(ranked[scorer.nearest], 0.0) if len(ranked) > scorer.nearest else 0.0
        for i, s in enumerate(similar):
            w = scorer.weight[g, i] * max(s - least + 1e-3, 0.0) / (1.0 - least + 1e-3)
            mass[g] += w
            earned[g] += w * scorer.residual[g, i]
    common = earned.sum() / (mass.sum() + scorer.prior)
    own = (earned - mass * common) / (mass + scorer.prior)
    return np.asarray(scorer.means + common + own)


@pytest.mark.parametrize("nearest", [1, 8, 39, 500])
def test_the_estimates_are_the_formula(nearest):
    scorer, x = make(nearest=nearest), contexts(100)
    wanted = np.array([by_hand(scorer, row) for row in x])
    assert np.allclose(scorer.scores(x), wanted, atol=1e-12)
    one_by_one = np.concatenate([scorer.scores(x[i : i + 1]) for i in range(100)])
    assert np.allclose(scorer.scores(x), one_by_one, atol=1e-12)


def test_a_context_that_says_nothing_gets_the_means():
    assert make().scores(np.zeros((1, 7)))[0] == pytest.approx([0.2, 0.5, 0.4], abs=0.02)


def test_equal_points_all_count_however_many_there_are():
    one = make(nearest=3)
    points = np.zeros((K, MOST, WIDE), np.float32)
    points[..., 0] = 1.0
    same = replace(one, points=points, weight=np.ones((K, MOST)))
    x = np.zeros((1, 7))
    x[0, 1] = 3.0
    mass, earned = np.full(K, MOST), same.residual.sum(axis=1)
    common = earned.sum() / (mass.sum() + 2.0)
    wanted = same.means + common + (earned - mass * common) / (mass + 2.0)
    assert same.scores(x)[0] == pytest.approx(wanted)


@pytest.mark.parametrize("curve", [None, CURVE])
def test_a_written_scorer_is_read_back_as_it_was(curve):
    scorer, x = make(curve), contexts(300)
    again = load(scorer.as_json(), scorer.tensors())
    assert isinstance(again, Neighbours)
    assert np.array_equal(again.scores(x), scorer.scores(x))
    assert again.exploration == scorer.exploration
    assert set(again.tensors()) == set(scorer.tensors())
    assert again.dimension == 7


def test_calibrated_scores_keep_the_order_of_what_is_worth_the_same():
    flat = Curve(np.array([0.0]), np.array([0.6]), np.array([0.4]))
    x = contexts(200)
    raw, scores = make().scores(x), make(flat).scores(x)
    assert np.array_equal(raw.argsort(axis=1), scores.argsort(axis=1))
    assert np.allclose(scores, 0.6 + TILT * raw)
    value, low = make(CURVE).chances(x)
    assert np.allclose(value, CURVE.values(raw))
    assert np.allclose(low, CURVE.lows(raw))
    with pytest.raises(SpecError, match="not calibrated"):
        make().chances(x)


@pytest.mark.parametrize("curve", [None, CURVE])
def test_over_other_arms_the_known_keep_their_scores_and_a_new_one_is_average(curve):
    scorer, x = make(curve), contexts(50)
    before = scorer.scores(x)
    after = scorer.over(["c", "new", "a"])
    assert after.arms == ("c", "new", "a")
    found = after.scores(x)
    assert np.allclose(found[:, 0], before[:, 2], atol=1e-12)
    assert np.allclose(found[:, 2], before[:, 0], atol=1e-12)
    assert np.allclose(found[:, 1], before[:, [0, 2]].mean(axis=1), atol=1e-12)
    again = load(after.as_json(), after.tensors())
    assert np.array_equal(again.scores(x), found)
    assert np.allclose(scorer.over(["x", "y"]).scores(x), 0.0)
    assert scorer.over(scorer.arms) is scorer


def test_spreading_in_another_way_leaves_the_scores():
    scorer, x = make(), contexts(20)
    assert np.array_equal(scorer.greedy().scores(x), scorer.scores(x))
    assert scorer.floored(0.3).exploration.floor == 0.3


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("points", lambda v: v[:, :, :-1]),
        ("points", lambda v: v[0]),
        ("points", lambda v: np.full_like(v, np.nan)),
        ("points", lambda v: 1.5 * v),
        ("residual", lambda v: v[:-1]),
        ("residual", lambda v: np.full_like(v, np.inf)),
        ("weight", lambda v: -v),
        ("means", lambda v: v[:-1]),
        ("blend", lambda v: v[:, :-1]),
        ("columns", lambda v: v + 4),
        ("columns", lambda v: v - 2),
        ("columns", lambda v: v.astype(float)),
        ("curve", lambda v: v[:2]),
        ("curve", lambda v: v[:, ::-1]),
    ],
)
def test_foreign_numbers_that_do_not_fit_are_refused(name, change):
    scorer = make(CURVE)
    tensors = scorer.tensors()
    with pytest.raises(SpecError):
        load(scorer.as_json(), {**tensors, name: change(tensors[name])})


@pytest.mark.parametrize("change", [{"nearest": 0}, {"prior": 0.0}, {"prior": float("nan")}])
def test_foreign_settings_that_do_not_fit_are_refused(change):
    scorer = make()
    with pytest.raises(SpecError):
        load({**scorer.as_json(), **change}, scorer.tensors())


def test_what_is_missing_is_named():
    scorer = make()
    tensors = scorer.tensors()
    del tensors["means"]
    with pytest.raises(SpecError, match="'means' is missing"):
        load(scorer.as_json(), tensors)


def test_the_time_of_one_row_is_shown():
    """No assertion on time: `pytest -s` prints it."""
    random = np.random.default_rng(2)
    points = unit(random.normal(size=(4096, 87))).reshape(16, 256, 87).astype(np.float32)
    scorer = Neighbours(
        arms=tuple(f"arm-{i}" for i in range(16)),
        exploration=Exploration("greedy"),
        points=points,
        residual=random.normal(size=(16, 256)),
        weight=np.ones((16, 256)),
        means=np.zeros(16),
        blend=np.eye(16),
        columns=np.arange(1, 88),
        width=88,
        nearest=32,
        prior=4.0,
    )
    x = random.normal(size=(1, 88))
    times, found = [], scorer.scores(x)
    for _ in range(50):
        start = perf_counter()
        scorer.scores(x)
        times.append(perf_counter() - start)
    print(f"one row of 4,096 points × 87 columns: {median(times) * 1e6:.0f} µs")
    assert found.shape == (1, 16)
