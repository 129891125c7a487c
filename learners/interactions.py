"""Interactions by column: what learners and estimators compute on."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from learners.errors import InteractionError
from learners.features import Schema, canonical_json
from learners.records import MAX_ABS_REWARD, Interaction

MAX_ABS_COLUMN = 1e6
"""Schemas clip at 10; this bounds what comes by another way, so that squares stay finite."""


@dataclass(frozen=True, slots=True, eq=False)
class Interactions:
    """n interactions over K arms, encoded by one schema of d columns.

    Attributes:
        arms: K names; the order of ``eligible``'s columns.
        x: encoded contexts, shape ``(n, d)``.
        eligible: shape ``(n, K)``.
        action: index into ``arms``, shape ``(n,)``.
        propensity: served probability of the action in (0, 1], shape ``(n,)``.
        reward: shape ``(n,)``.
        weight: shape ``(n,)``, at least 0.
    """

    arms: tuple[str, ...]
    x: NDArray[np.float64]
    eligible: NDArray[np.bool_]
    action: NDArray[np.int64]
    propensity: NDArray[np.float64]
    reward: NDArray[np.float64]
    weight: NDArray[np.float64]

    def __post_init__(self) -> None:
        """Refuse what would poison a learner, naming the first bad row."""
        if self.x.ndim != 2:
            raise InteractionError(f"x has shape {self.x.shape}: give (interactions, columns)")
        n, k = len(self.x), len(self.arms)
        if self.eligible.shape != (n, k):
            raise InteractionError(f"eligible {self.eligible.shape} is not {(n, k)}")
        checks = {
            "x": (np.abs(self.x) <= MAX_ABS_COLUMN).all(axis=1),
            "action": (self.action >= 0) & (self.action < k),
            "propensity": (self.propensity > 0) & (self.propensity <= 1),
            "reward": np.abs(self.reward) <= MAX_ABS_REWARD,
            "weight": (self.weight >= 0) & (self.weight <= MAX_ABS_REWARD),
        }
        for name, good in checks.items():
            if good.shape != (n,):
                raise InteractionError(f"{name} has shape {good.shape}, x has {n} rows")
            if not good.all():
                row = int(np.argmin(good))
                raise InteractionError(
                    f"row {row}: {name}={getattr(self, name)[row]} is not finite or out of range"
                )
        if n and not self.eligible[np.arange(n), self.action].all():
            raise InteractionError("an action is not among its eligible arms")

    def __len__(self) -> int:
        """How many interactions."""
        return len(self.action)

    def rows(self, index: slice | NDArray[np.int64] | NDArray[np.bool_]) -> "Interactions":
        """The interactions at the given rows."""
        return Interactions(
            self.arms,
            self.x[index],
            self.eligible[index],
            self.action[index],
            self.propensity[index],
            self.reward[index],
            self.weight[index],
        )


def encode(rows: Sequence[Interaction], schema: Schema, arms: tuple[str, ...]) -> Interactions:
    """Turn records into columns; interactions whose action is not among ``arms`` are left out.

    An arm that has been retired since is no longer a choice, so what it earned teaches nothing
    about the arms that remain; other retired arms are dropped from ``eligible``.
    """
    index = {arm: i for i, arm in enumerate(arms)}
    kept = [row for row in rows if row.action in index]
    eligible = np.zeros((len(kept), len(arms)), dtype=np.bool_)
    for mask, row in zip(eligible, kept, strict=True):
        mask[[index[arm] for arm in row.eligible if arm in index]] = True
    return Interactions(
        arms=arms,
        x=schema.encode_all([row.context for row in kept]),
        eligible=eligible,
        action=np.array([index[row.action] for row in kept], dtype=np.int64),
        propensity=np.array([row.propensity for row in kept], dtype=np.float64),
        reward=np.array([row.reward for row in kept], dtype=np.float64),
        weight=np.array([row.weight for row in kept], dtype=np.float64),
    )


def digest(log: Interactions) -> str:
    """SHA-256 over all that a learner reads: the same digest, the same training.

    Decision ids are no part of it, nor is what the schema leaves out of a context.
    """
    sha = hashlib.sha256()
    sha.update(canonical_json({"arms": list(log.arms), "x": list(log.x.shape)}))
    for name in ("x", "eligible", "action", "propensity", "reward", "weight"):
        column: NDArray[np.generic] = getattr(log, name)
        # One byte order and layout, so that every machine and every slice of a log agree.
        plain = np.ascontiguousarray(column, dtype=column.dtype.newbyteorder("<"))
        sha.update(plain.reshape(-1).view(np.uint8).data)
    return sha.hexdigest()
