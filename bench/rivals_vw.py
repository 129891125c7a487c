"""A rival: Vowpal Wabbit's contextual bandit as a user finds it, ``--cb_explore_adf --squarecb``.

All is left at VW's defaults: multi-task regression, its learning rate, its γ, its constant. It
draws from its own probabilities and learns with them; rewards come as they are, as costs. Each
arm has features of its own, by direct index, so nothing is hashed. A probe's arms are learnt as if
drawn evenly, as VW knows no probe.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from vowpal_wabbit_next import CBLabel, Example, Workspace

from controlplane.replay_loop import Course

Floats = NDArray[np.float64]

FLAGS = ("--cb_explore_adf", "--squarecb", "--quiet")
MAX_INDEX = 2**18
"""VW's default size; beyond it indices would collide without a word."""


def make(course: Course, seed: int) -> "SquareCB":
    """The bandit over a table."""
    return SquareCB(course.train.x, len(course.arms), seed)


class SquareCB:
    """A workspace, told of requests by their rows."""

    def __init__(self, x: Floats, arms: int, seed: int) -> None:
        """Nothing learnt yet."""
        assert arms * x.shape[1] <= MAX_INDEX
        self._x, self._arms = x, arms
        self._random = np.random.default_rng(seed)
        self._workspace = Workspace(list(FLAGS))
        self._drawn: tuple[int, int, float] = (-1, -1, 1.0 / arms)

    def choose(self, row: int) -> int:
        """The arm that it draws for the request of that row."""
        spread = self._spread(self._x[row])
        arm = int(self._random.choice(self._arms, p=spread))
        self._drawn = (row, arm, float(spread[arm]))
        return arm

    def update(self, row: int, arm: int, reward: float) -> None:
        """What the arm earned there."""
        drawn = self._drawn[:2] == (row, arm)
        probability = self._drawn[2] if drawn else 1.0 / self._arms
        examples = self._examples(self._x[row])
        examples[arm].set_label(CBLabel(label=(-reward, probability)))
        self._workspace.learn_one(examples)

    def choices(self, x: Floats, domains: NDArray[np.int64]) -> NDArray[np.int64]:  # noqa: ARG002
        """The arms that it finds best, which are those it draws most often."""
        return np.array([self._spread(row).argmax() for row in x], dtype=np.int64)

    def _spread(self, row: Floats) -> Floats:
        spread = np.zeros(self._arms)
        predicted: Any = self._workspace.predict_one(self._examples(row))
        for arm, probability in predicted:
            spread[arm] = probability
        spread /= spread.sum()
        return spread

    def _examples(self, row: Floats) -> list[Example]:
        places = np.flatnonzero(row)
        values: Any = row[places].astype(np.float32)
        found = []
        for arm in range(self._arms):
            example = Example()
            indices: Any = (arm * len(row) + places).astype(np.uint64)
            example["a"].push_many_features(indices, values)
            example.set_label(CBLabel())
            found.append(example)
        return found
