"""The routers that a user would pick instead, passed over a table as our learners are.

A rival sees a request's encoded context and domain, and a reward in [0, 1] or not as it comes: what
it makes of it is its own affair.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from controlplane.replay_baselines import Choice, judge
from controlplane.replay_loop import Course

Floats = NDArray[np.float64]

_MAKERS = {
    "vLLM-SR routing_sampling": "bench.rivals_sampling:make",
    "GreenServ LinUCB": "bench.rivals_greenserv:make",
    "epsilon-greedy": "bench.rivals_greedy:make",
    "VW SquareCB at its defaults": "bench.rivals_vw:make",
}
NAMES = tuple(_MAKERS)


class Rival(Protocol):
    """A router that learns one request at a time."""

    def choose(self, row: int) -> int:
        """The arm for the request of that row of the training side."""

    def update(self, row: int, arm: int, reward: float) -> None:
        """What the arm earned there."""

    def choices(self, x: Floats, domains: NDArray[np.int64]) -> NDArray[np.int64]:
        """The arms that it would choose for new requests, without exploring."""


def make(name: str, course: Course, seed: int) -> Rival:
    """A rival before any learning."""
    module, _, maker = _MAKERS[name].partition(":")
    build = cast("Callable[[Course, int], Rival]", getattr(import_module(module), maker))
    return build(course, seed)


def replay(name: str, course: Course, *, probes: int, seed: int) -> float:
    """A rival's test reward after the probes and one pass, in the order that our learners meet."""
    rival = make(name, course, seed)
    train = course.train
    order = np.random.default_rng(seed).permutation(len(train.x))
    for i, row in enumerate(order.tolist()):
        arms = range(len(course.arms)) if i < probes else (rival.choose(row),)
        for arm in arms:
            rival.update(row, arm, float(train.rewards[row, arm]))
    test = course.test
    chosen = rival.choices(test.x, domain_codes(course, test.domains, len(test.x)))
    choice: Choice = np.eye(len(course.arms))[chosen]
    return judge(test, choice).test_reward


def domain_codes(course: Course, domains: tuple[str, ...] | None, n: int) -> NDArray[np.int64]:
    """The domains of n requests as numbers, unknown ones last; all 0 where there are none."""
    if domains is None:
        return np.zeros(n, dtype=np.int64)
    known = {name: i for i, name in enumerate(sorted(set(course.train.domains or ())))}
    return np.array([known.get(name, len(known)) for name in domains], dtype=np.int64)
