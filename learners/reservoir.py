"""A bounded sample of an agent's steps, for learners that must see them more than once.

The step's own content, hashed with the seed, decides whether it stays: those of the smallest hashes
do. So the sample is uniform, and the same whatever the batches and their order.
"""

from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from learners.contract import Spec, kept
from learners.episodes import Steps

_PRIME = np.uint64(0x9E3779B97F4A7C15)
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


@dataclass(frozen=True, slots=True, eq=False)
class Transitions:
    """r steps that another step followed, by their key.

    Attributes:
        key: the hash, shape ``(r,)``.
        x: the step's context, shape ``(r, d)``; single precision, as it is most of a state.
        following: the next step's context, shape ``(r, d)``.
        eligible: the next step's eligible arms, shape ``(r, K)``.
        action: shape ``(r,)``.
        reward: what the step itself earned, shape ``(r,)``.
        weight: shape ``(r,)``.
    """

    key: NDArray[np.uint64]
    x: NDArray[np.float32]
    following: NDArray[np.float32]
    eligible: NDArray[np.bool_]
    action: NDArray[np.int64]
    reward: NDArray[np.float64]
    weight: NDArray[np.float64]

    def __len__(self) -> int:
        """How many steps."""
        return len(self.key)

    @classmethod
    def empty(cls, spec: Spec) -> Self:
        """No steps yet."""
        d = spec.schema.dimension
        return cls(
            key=np.zeros(0, np.uint64),
            x=np.zeros((0, d), np.float32),
            following=np.zeros((0, d), np.float32),
            eligible=np.zeros((0, len(spec.arms)), np.bool_),
            action=np.zeros(0, np.int64),
            reward=np.zeros(0),
            weight=np.zeros(0),
        )

    def with_steps(self, steps: Steps, seed: int, capacity: int) -> Self:
        """The sample with these steps too; of those without weight or a next step none."""
        log = steps.log
        rows = np.flatnonzero(~steps.last & (log.weight > 0))
        key = hashed(seed, log.x, log.action, log.at, steps.reward)[rows]
        # Most of a long log is left out: only what may stay is copied.
        least = np.argsort(key, kind="stable")[:capacity]
        rows, key = rows[least], key[least]
        joined = {
            "key": key,
            "x": log.x[rows].astype(np.float32),
            "following": log.x[rows + 1].astype(np.float32),
            "eligible": log.eligible[rows + 1],
            "action": log.action[rows],
            "reward": steps.reward[rows],
            "weight": log.weight[rows],
        }
        both = {k: np.concatenate([getattr(self, k), v]) for k, v in joined.items()}
        order = np.argsort(both["key"], kind="stable")[:capacity]
        return replace(self, **{name: each[order] for name, each in both.items()})

    def over(self, old: Spec, new: Spec) -> Self:
        """The sample for other arms: without the steps of those that left or changed."""
        before, after = kept(old, new)
        place = np.full(len(old.arms), -1)
        place[before] = after
        eligible = np.zeros((len(self), len(new.arms)), np.bool_)
        eligible[:, after] = self.eligible[:, before]
        # A next step that has no arm left says nothing of what is still to come.
        stays = (place[self.action] >= 0) & eligible.any(axis=1)
        columns: dict[str, Any] = {f.name: getattr(self, f.name)[stays] for f in fields(self)}
        return replace(
            self, **{**columns, "eligible": eligible[stays], "action": place[columns["action"]]}
        )

    def tensors(self) -> dict[str, NDArray[Any]]:
        """The arrays by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def hashed(seed: int, *columns: NDArray[Any]) -> NDArray[np.uint64]:
    """A number for each row that only its content and the seed decide, shape ``(n,)``.

    Steele, Lea & Flood 2014 (SplitMix64), over the numbers' bits.
    """
    found = np.full(len(columns[0]), seed % 2**64, dtype=np.uint64) * _MIX[0] + _PRIME
    for each in columns:
        wide = np.asarray(each, dtype=np.float64).reshape(len(found), -1) + 0.0  # -0.0 is 0.0
        for column in np.ascontiguousarray(wide.T):
            found = (found ^ column.view(np.uint64)) + _PRIME
            found = (found ^ (found >> np.uint64(30))) * _MIX[0]
            found = (found ^ (found >> np.uint64(27))) * _MIX[1]
            found ^= found >> np.uint64(31)
    return found
