"""A small world that learners learn in: three numbers and a domain, arms of linear worth."""

from collections.abc import Callable

import numpy as np
import pytest

from learners.features import Feature, Schema
from learners.interactions import Interactions

SCHEMA = Schema(
    (
        Feature("domain", "category", values=("code", "law", "maths")),
        Feature("chars", "number"),
        Feature("digits", "number"),
        Feature("terms", "vector", size=4),
    )
)


def arms_of(k: int) -> tuple[str, ...]:
    return tuple(f"arm-{i}" for i in range(k))


def contexts(n: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    rows = [
        {
            "domain": random.choice(["code", "law", "maths"]).item(),
            "chars": float(random.normal()),
            "digits": float(random.normal()),
            "terms": (random.normal(size=4) / 2).tolist(),
        }
        for _ in range(n)
    ]
    return SCHEMA.encode_all(rows)


def worth(k: int) -> np.ndarray:
    """The true reward's weights ``(k, d)``, the same in every log."""
    return np.random.default_rng(99).normal(size=(k, SCHEMA.dimension)) / 4


def make_log(n: int, k: int, seed: int = 0) -> Interactions:
    """A log that a policy of uneven propensities served; a tenth of the arms is not eligible."""
    random = np.random.default_rng(seed)
    x = contexts(n, seed)
    eligible = random.random((n, k)) > 0.1
    eligible[np.arange(n), random.integers(k, size=n)] = True
    share = np.where(eligible, random.random((n, k)) + 0.05, 0.0)
    share /= share.sum(axis=1, keepdims=True)
    action = np.array([random.choice(k, p=row) for row in share])
    rows = np.arange(n)
    reward = 0.5 + (x * worth(k)[action]).sum(axis=1) + random.normal(size=n) / 10
    return Interactions(
        arms=arms_of(k),
        x=x,
        eligible=eligible,
        action=action,
        propensity=share[rows, action],
        reward=reward,
        weight=np.ones(n),
    )


@pytest.fixture(name="schema", scope="session")
def _schema() -> Schema:
    return SCHEMA


@pytest.fixture(name="log_of", scope="session")
def _log_of() -> Callable[..., Interactions]:
    return make_log


@pytest.fixture(name="contexts_of", scope="session")
def _contexts_of() -> Callable[[int, int], np.ndarray]:
    return contexts
