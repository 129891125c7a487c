"""The time that each learner takes to learn and to freeze, beside a bare ridge in numpy."""

import sys
from collections.abc import Mapping
from functools import partial

import numpy as np
from numpy.typing import NDArray

from bench.measure import Measure, Work, main, seconds_each
from controlplane.threads import one_thread
from learners import catalogue
from learners.contract import Spec
from learners.features import Feature, Schema
from learners.interactions import Interactions

ARMS = 9
COLUMNS = 86
BATCH = 500
FREEZE_S = 0.05
"""What a freeze may take."""
SCHEMA = Schema((Feature("terms", "vector", size=COLUMNS - 1),))


def run(quick: bool) -> list[Measure]:  # noqa: FBT001 — the one switch of every benchmark
    """All measures."""
    return times(rounds=3 if quick else 15)


def times(*, rounds: int) -> list[Measure]:
    """Learning a batch and freezing after it, for each learner and for bare numpy."""
    log = a_log()
    gram = np.zeros((ARMS, COLUMNS, COLUMNS))
    moment = np.zeros((ARMS, COLUMNS))
    regular = gram + np.eye(COLUMNS)
    works: list[Work] = [
        partial(update_ridge, gram, moment, log),
        partial(np.linalg.solve, regular, moment[..., None]),
    ]
    for name in catalogue.NAMES:
        learner = catalogue.load(name)
        empty = learner.init(Spec(SCHEMA, log.arms))
        trained = learner.learn(empty, log)
        works.append(partial(learner.learn, empty, log))
        works.append(partial(learner.freeze, trained))
    with one_thread():  # as the workers train
        learn_s, freeze_s, *rest = seconds_each(works, rounds=rounds, calls=2)
    found = []
    for i, name in enumerate(catalogue.NAMES):
        found.append(beside("learn an interaction", name, rest[2 * i] / BATCH, learn_s / BATCH))
        found.append(beside("freeze", name, rest[2 * i + 1], freeze_s))
    freezes = dict(zip(catalogue.NAMES, rest[1::2], strict=True))
    return [*found, slow(freezes)]


def slow(freeze_s: Mapping[str, float]) -> Measure:
    """How many learners take too long to freeze, and which."""
    found = [name for name, seconds in freeze_s.items() if seconds > FREEZE_S]
    named = ", ".join(found) or "none"
    return Measure(
        measure=f"learners that freeze in more than {1e3 * FREEZE_S:g} ms ({named})",
        value=len(found),
        unit="learners",
        reference=f"all: {len(freeze_s)}",
        ratio=round(len(found) / len(freeze_s), 3),
        goal="0",
        holds=not found,
    )


def a_log() -> Interactions:
    """Random interactions of the size that the tables have."""
    random = np.random.default_rng(0)
    x = np.column_stack([np.ones(BATCH), random.normal(size=(BATCH, COLUMNS - 1)) / 8])
    return Interactions(
        arms=tuple(f"arm-{i}" for i in range(ARMS)),
        x=x,
        eligible=np.ones((BATCH, ARMS), dtype=np.bool_),
        action=random.integers(ARMS, size=BATCH),
        propensity=np.full(BATCH, 1 / ARMS),
        reward=random.random(BATCH),
        weight=np.ones(BATCH),
    )


def update_ridge(gram: NDArray[np.float64], moment: NDArray[np.float64], log: Interactions) -> None:
    """The least that a ridge regression an arm must do with a batch."""
    for arm in range(ARMS):
        x = log.x[log.action == arm]
        gram[arm] += x.T @ x
        moment[arm] += x.T @ log.reward[log.action == arm]


def beside(what: str, name: str, value_s: float, reference_s: float) -> Measure:
    """A time in µs beside bare numpy's."""
    return Measure(
        measure=f"{what}: {name} ({ARMS} arms, {COLUMNS} columns)",
        value=round(value_s * 1e6, 2),
        unit="µs",
        reference=f"bare numpy ridge: {reference_s * 1e6:.3g} µs",
        ratio=round(value_s / reference_s, 2),
    )


if __name__ == "__main__":
    sys.exit(main(run))
