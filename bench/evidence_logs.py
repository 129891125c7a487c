"""Logs drawn from real tables: rows at random, arms by any policy, and every value exactly known.

A row is drawn with replacement, so a table is a whole population and its means are the truth.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench import tables
from controlplane.replay_baselines import Side
from learners.interactions import Interactions

TABLES = ("llmrouter9", "mmlu_pro", "bfcl", "routellm2", "llmdrift")

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """m rows over K arms, encoded by d columns.

    Attributes:
        name: of the table.
        x: shape ``(m, d)``, the first column is the intercept.
        scores: of every arm, from 0 to 1, shape ``(m, K)``.
    """

    name: str
    x: Floats
    scores: Floats

    def __len__(self) -> int:
        """Rows."""
        return len(self.scores)

    @property
    def arms(self) -> int:
        """How many."""
        return int(self.scores.shape[1])

    def value(self, policy: Floats) -> float:
        """What a policy ``(m, K)`` earns a request."""
        return float((policy * self.scores).sum(axis=1).mean())

    def best(self) -> Floats:
        """The best fixed arm as a policy ``(m, K)``."""
        return np.tile(np.eye(self.arms)[self.scores.mean(axis=0).argmax()], (len(self), 1))

    def drawn(
        self, random: np.random.Generator, logged: Floats, n: int
    ) -> tuple[Ints, Interactions]:
        """A log of n requests that a policy ``(m, K)`` served, and which rows they are."""
        rows = random.integers(len(self), size=n)
        return rows, self.served(random, logged, rows)

    def served(self, random: np.random.Generator, logged: Floats, rows: Ints) -> Interactions:
        """A log of these rows, ``(n,)``, served by a policy ``(m, K)``."""
        n = len(rows)
        shares = logged[rows]
        action = (shares.cumsum(axis=1) < random.random((n, 1))).sum(axis=1)
        action = np.minimum(action, self.arms - 1)
        return Interactions(
            arms=tuple(f"arm{number}" for number in range(self.arms)),
            x=self.x[rows],
            eligible=np.ones((n, self.arms), dtype=np.bool_),
            action=action,
            propensity=shares[np.arange(n), action],
            reward=self.scores[rows, action],
            weight=np.ones(n),
        )


def explored(policy: Floats, share: float) -> Floats:
    """A policy that gives each arm an even part of ``share``."""
    return np.asarray((1.0 - share) * policy + share / policy.shape[1])


def side_of(place: Path, name: str) -> Side:
    """All rows of a table, encoded."""
    return tables.Whole.of(place, name).course.train


def source_of(name: str, side: Side, rows: Ints | None = None) -> Source:
    """Some rows of a side, or all, in its whole encoding."""
    index = np.arange(len(side.x)) if rows is None else rows
    return Source(name, side.x[index], side.scores[index])


def by_domain(name: str, side: Side) -> Source:
    """All rows of a side, encoded by nothing but their domain: quick to fit."""
    m = len(side.x)
    domains = ("",) * m if side.domains is None else side.domains
    columns = np.unique(np.array(domains), return_inverse=True)[1]
    x = np.column_stack([np.ones(m), np.eye(columns.max() + 1)[columns]])
    return Source(name, x, side.scores)
