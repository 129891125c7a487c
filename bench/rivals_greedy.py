"""A rival: the plain ε-greedy bandit (Sutton & Barto 2018, section 2.4), which sees no context.

With probability ε an arm drawn evenly, else the one of the best mean reward so far, the first of
equals. An arm that has not been tried is the best.
"""

import numpy as np
from numpy.typing import NDArray

from controlplane.replay_loop import Course

EPSILON = 0.1


def make(course: Course, seed: int) -> "EpsilonGreedy":
    """The bandit over a table's arms."""
    return EpsilonGreedy(len(course.arms), seed)


class EpsilonGreedy:
    """Sample means and a coin."""

    def __init__(self, arms: int, seed: int) -> None:
        """Nothing tried yet."""
        self._count = np.zeros(arms)
        self._mean = np.full(arms, np.inf)
        self._random = np.random.default_rng(seed)

    def choose(self, row: int) -> int:  # noqa: ARG002 -- it sees no context
        """The arm for the next request."""
        if self._random.random() < EPSILON:
            return int(self._random.integers(len(self._mean)))
        return int(self._mean.argmax())

    def update(self, row: int, arm: int, reward: float) -> None:  # noqa: ARG002
        """What the arm earned."""
        self._count[arm] += 1
        if self._count[arm] == 1:
            self._mean[arm] = reward
        else:
            self._mean[arm] += (reward - self._mean[arm]) / self._count[arm]

    def choices(
        self,
        x: NDArray[np.float64],
        domains: NDArray[np.int64],  # noqa: ARG002 -- it sees no context
    ) -> NDArray[np.int64]:
        """The arm of the best mean, for every request."""
        return np.full(len(x), self._mean.argmax(), dtype=np.int64)
