"""Episodes against a small decision process whose every trajectory can be listed."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from learners import ope
from learners.episodes import Steps
from learners.errors import EstimateError
from learners.interactions import Interactions

Floats = NDArray[np.float64]
K, STATES, DISCOUNT = 2, 3, 0.9
START = np.array([0.5, 0.5, 0.0])
NEXT = np.array(
    # By state and action: the chance of each state next; what is missing ends the episode.
    [
        [[0.0, 0.5, 0.25], [0.25, 0.0, 0.0]],
        [[0.25, 0.25, 0.5], [0.0, 0.0, 0.75]],
        [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]],
    ]
)
REWARD = np.array([[1.0, 0.2], [-0.5, 0.7], [0.4, 2.0]])
SERVED = np.array([[0.5, 0.5], [0.75, 0.25], [0.25, 0.75]])
JUDGED = np.array([[0.9, 0.1], [0.25, 0.75], [0.0, 1.0]])
LONGEST = 3


@dataclass(frozen=True)
class Path:
    """One trajectory: states, actions, and its chance under the policy that served."""

    states: tuple[int, ...]
    actions: tuple[int, ...]
    chance: float


def paths() -> list[Path]:
    """All trajectories of at most three steps (the third is always the last)."""
    found: list[Path] = []
    going = [Path((state,), (), float(START[state])) for state in (0, 1)]
    while going:
        path = going.pop()
        here = path.states[-1]
        for action in range(K):
            acts, chance = (*path.actions, action), path.chance * float(SERVED[here, action])
            onward = NEXT[here, action] * (len(acts) < LONGEST)
            going += [
                Path((*path.states, after), acts, chance * float(onward[after]))
                for after in np.flatnonzero(onward).tolist()
            ]
            if onward.sum() < 1:
                found.append(Path(path.states, acts, chance * float(1 - onward.sum())))
    return found


def truth() -> float:
    """The judged policy's value, by going through the process backwards."""
    value = np.zeros(STATES)
    for _ in range(LONGEST):
        value = (JUDGED * (REWARD + DISCOUNT * NEXT @ value)).sum(axis=1)
    return float(START @ value)


def steps_of(chosen: list[Path]) -> Steps:
    """A log of these trajectories, one after another."""
    state = np.array([s for path in chosen for s in path.states])
    action = np.array([a for path in chosen for a in path.actions])
    step = np.concatenate([np.arange(len(path.states)) for path in chosen])
    last = np.append(step[1:] == 0, [True])
    reward = REWARD[state, action]
    to_go = reward.copy()
    for row in range(len(step) - 2, -1, -1):
        to_go[row] += 0.0 if last[row] else DISCOUNT * to_go[row + 1]
    n = len(step)
    x = np.column_stack([np.ones(n), np.eye(STATES)[state], step == 1, step == 2])
    log = Interactions(
        ("a", "b"), x, np.ones((n, K), np.bool_), action, SERVED[state, action], reward, np.ones(n),
        episode=np.cumsum(step == 0) - 1,
    )  # fmt: skip
    return Steps(log, step, last, reward, to_go)


def judged(steps: Steps) -> Floats:
    """The judged policy on each step."""
    return np.asarray(JUDGED[steps.log.x[:, 1 : 1 + STATES].argmax(axis=1)])


def guess(steps: Steps) -> Floats:
    """Values of some wrong model."""
    state = steps.log.x[:, 1 : 1 + STATES].argmax(axis=1)
    return np.asarray(np.array([[0.5, 1.0], [3.0, -1.0], [0.2, 0.1]])[state])


def test_the_trajectories_are_all_there_are():
    assert sum(path.chance for path in paths()) == pytest.approx(1.0)
    assert {len(path.states) for path in paths()} == {1, 2, 3}


@pytest.mark.parametrize("estimator", ["pdis", "dr"])
def test_plain_estimators_are_right_on_average_over_all_trajectories(estimator):
    mean = 0.0
    for path in paths():
        steps = steps_of([path])
        one = ope.evaluate_episodes(
            steps, judged(steps), estimator, discount=DISCOUNT, values=guess(steps)
        )
        mean += path.chance * one.value
    assert mean == pytest.approx(truth(), abs=1e-12)


@pytest.mark.parametrize("estimator", ope.EPISODE_ESTIMATORS)
def test_a_log_that_holds_each_trajectory_as_often_as_its_chance_gives_the_truth(estimator):
    all_of = paths()
    unit = 1 / 2048  # every chance is a whole multiple of it
    counts = [round(path.chance / unit) for path in all_of]
    assert max(abs(c * unit - p.chance) for c, p in zip(counts, all_of, strict=True)) < 1e-9
    steps = steps_of([p for c, p in zip(counts, all_of, strict=True) for _ in range(c)])
    one = ope.evaluate_episodes(
        steps, judged(steps), estimator, discount=DISCOUNT, values=guess(steps)
    )
    assert len(one.influence) == sum(counts) == 2048
    assert one.value == pytest.approx(truth(), abs=1e-9)
    assert one.influence.mean() == pytest.approx(one.value)
    assert ope.mean_weight(one).value == pytest.approx(1.0)


def draw(count: int, seed: int) -> Steps:
    all_of = paths()
    chance = np.array([path.chance for path in all_of])
    picked = np.random.default_rng(seed).choice(len(all_of), size=count, p=chance / chance.sum())
    return steps_of([all_of[i] for i in picked.tolist()])


def test_intervals_by_episode_cover_and_weighting_doubly_is_the_most_exact():
    errors: dict[str, list[float]] = {name: [] for name in ope.EPISODE_ESTIMATORS}
    covered = dict.fromkeys(ope.EPISODE_ESTIMATORS, 0)
    runs = 150
    for seed in range(runs):
        steps = draw(300, seed)
        policy = judged(steps)
        values = ope.value_model(steps, policy, discount=DISCOUNT)
        for name in ope.EPISODE_ESTIMATORS:
            one = ope.evaluate_episodes(steps, policy, name, discount=DISCOUNT, values=values)
            interval = ope.estimate(one)
            assert interval.n == 300
            errors[name].append((one.value - truth()) ** 2)
            covered[name] += interval.low <= truth() <= interval.high
    # Of 150 at 95 %, fewer than 127 come once in 100,000 such tests.
    assert min(covered.values()) >= 127, covered
    error = {name: math.sqrt(np.mean(found)) for name, found in errors.items()}
    assert error["wdr"] < 0.8 * error["pdis"]
    assert error["dr"] < error["pdis"]
    assert error["wpdis"] < error["pdis"]


def test_the_value_model_finds_the_values_and_never_sees_its_episode():
    steps = draw(4_000, 1)
    policy = judged(steps)
    model = ope.value_model(steps, policy, discount=DISCOUNT)
    value = np.zeros((LONGEST + 1, STATES, K))
    for step in range(LONGEST - 1, -1, -1):
        value[step] = REWARD
        if step + 1 < LONGEST:
            value[step] += DISCOUNT * NEXT @ (JUDGED * value[step + 1]).sum(axis=1)
    state = steps.log.x[:, 1 : 1 + STATES].argmax(axis=1)
    exact = value[steps.step, state]
    rows = np.arange(len(state))
    error = (model - exact)[rows, steps.log.action]
    assert np.sqrt(np.mean(error**2)) < 0.25 * exact[rows, steps.log.action].std()
    moved = Steps(steps.log, steps.step, steps.last, steps.reward.copy(), steps.to_go.copy())
    moved.reward[0] += 1_000.0
    after = ope.value_model(moved, policy, discount=DISCOUNT)
    assert np.array_equal(after[steps.log.episode == 0], model[steps.log.episode == 0])


def test_episodes_of_one_step_are_single_decisions():
    steps = steps_of([path for path in paths() if len(path.states) == 1] * 5)
    policy = judged(steps)
    pairs: tuple[tuple[ope.EpisodeEstimator, ope.Estimator], ...]
    pairs = (("pdis", "ips"), ("wpdis", "snips"), ("dr", "dr"))
    model = guess(steps)
    for several, single in pairs:
        one = ope.evaluate_episodes(steps, policy, several, values=model)
        other = ope.evaluate(steps.log, policy, single, predicted=model)
        assert one.value == pytest.approx(other.value)
        assert np.allclose(one.influence, other.influence)
        assert np.allclose(one.weights, other.weights)


def test_what_cannot_be_evaluated_is_refused():
    steps = draw(20, 0)
    policy = judged(steps)
    with pytest.raises(EstimateError, match="discount"):
        ope.evaluate_episodes(steps, policy, discount=1.5)
    with pytest.raises(EstimateError, match="clusters"):
        ope.evaluate_episodes(steps, policy, clusters=np.zeros(3, np.int64))
    with pytest.raises(EstimateError, match="values"):
        ope.evaluate_episodes(steps, policy, values=np.zeros((3, K)))
    never = np.zeros(policy.shape)
    never[np.arange(len(never)), 1 - steps.log.action] = 1.0
    with pytest.raises(EstimateError, match="no overlap"):
        ope.evaluate_episodes(steps, never, "wdr")
