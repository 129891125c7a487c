"""The portable form of a policy that has a regression tree an arm."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from learners.errors import SpecError
from learners.exploration import Exploration
from learners.scorers.base import Floats, Scorer, Tensors, check_arms, check_finite

ROWS_AT_ONCE = 4_096
MAX_DEPTH = 64

Whole = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Trees(Scorer):
    """Scores an arm by the leaf of its tree that a context falls into.

    Node i sends a context to ``left[i]`` where ``x[feature[i]] <= threshold[i]``, else to
    ``right[i]``. Both are greater than i, or both are i itself, which makes it a leaf.

    Attributes:
        arms: K names.
        columns: d, of the contexts.
        roots: each arm's first node, shape ``(K,)``.
        feature, threshold, left, right: of each of the N nodes, shape ``(N,)``.
        value: the mean reward of the node, shape ``(N,)``.
        depth: steps from a root to the farthest leaf.
    """

    arms: tuple[str, ...]
    columns: int
    roots: Whole
    feature: Whole
    threshold: Floats
    left: Whole
    right: Whole
    value: Floats
    exploration: Exploration
    depth: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        """Refuse nodes that lead nowhere or in circles, and numbers that are not finite."""
        check_arms(self.arms)
        n = len(self.value)
        nodes = (self.feature, self.threshold, self.left, self.right, self.value)
        if any(each.shape != (n,) for each in nodes):
            raise SpecError(f"nodes of shapes {[each.shape for each in nodes]}: give one length")
        if self.roots.shape != (len(self.arms),):
            raise SpecError(f"roots {self.roots.shape} do not fit {len(self.arms)} arms")
        check_finite(threshold=self.threshold, value=self.value)
        self._check_range("roots", self.roots, n)
        self._check_range("left", self.left, n)
        self._check_range("right", self.right, n)
        self._check_range("feature", self.feature, self.columns)
        here = np.arange(n)
        leaf = (self.left == here) & (self.right == here)
        if not (leaf | ((self.left > here) & (self.right > here))).all():
            raise SpecError("a node leads back: give children after their parents")
        object.__setattr__(self, "depth", self._measured())

    @staticmethod
    def _check_range(name: str, values: Whole, size: int) -> None:
        if not np.issubdtype(values.dtype, np.integer):
            raise SpecError(f"{name} is of {values.dtype}: give whole numbers")
        if len(values) and not (int(values.min()) >= 0 and int(values.max()) < size):
            raise SpecError(f"{name} lies outside 0 to {size - 1}")

    def _measured(self) -> int:
        level = [0] * len(self.value)
        for i, children in enumerate(zip(self.left.tolist(), self.right.tolist(), strict=True)):
            for child in children:
                if child != i:
                    level[child] = max(level[child], level[i] + 1)
        depth = max(level, default=0)
        if depth > MAX_DEPTH:
            raise SpecError(f"a tree is {depth} deep: at most {MAX_DEPTH} are allowed")
        return depth

    @property
    def kind(self) -> str:
        """The form's name in a bundle."""
        return "trees"

    @property
    def dimension(self) -> int:
        """Columns of the contexts."""
        return self.columns

    def scores(self, x: Floats, mix: Floats | None = None) -> Floats:  # noqa: ARG002 -- no parts
        """The leaves' values ``(n, K)``."""
        found = np.zeros((len(x), len(self.arms)))
        for start in range(0, len(x), ROWS_AT_ONCE):
            piece = x[start : start + ROWS_AT_ONCE]
            row = np.arange(len(piece))[:, None]
            node: Whole = np.broadcast_to(self.roots, (len(piece), len(self.arms)))
            for _ in range(self.depth):
                goes_left = piece[row, self.feature[node]] <= self.threshold[node]
                node = np.where(goes_left, self.left[node], self.right[node])
            found[start : start + ROWS_AT_ONCE] = self.value[node]
        return found

    def tensors(self) -> dict[str, NDArray[Any]]:
        """What a bundle stores as safetensors."""
        whole = ("roots", "feature", "left", "right")
        found: dict[str, NDArray[Any]] = {
            name: np.ascontiguousarray(getattr(self, name), dtype=np.int64) for name in whole
        }
        for name in ("threshold", "value"):
            found[name] = np.ascontiguousarray(getattr(self, name), dtype=np.float64)
        return found

    def form(self) -> dict[str, Any]:
        """The contexts' columns."""
        return {"columns": self.columns}

    @classmethod
    def read(cls, row: Mapping[str, Any], tensors: Tensors) -> Self:
        """The scorer that was written."""
        names = ("roots", "feature", "threshold", "left", "right", "value")
        return cls(
            arms=tuple(row["arms"]),
            columns=int(row["columns"]),
            exploration=Exploration.from_json(row["exploration"]),
            **{name: tensors[name] for name in names},
        )

    def over(self, arms: Sequence[str]) -> Self:
        """The scorer over these arms; a new one is a leaf of the known ones' mean value."""
        if tuple(arms) == self.arms:
            return self
        index = dict(zip(self.arms, self.roots.tolist(), strict=True))
        kept = [index[arm] for arm in arms if arm in index]
        usual = float(self.value[kept].mean()) if kept else 0.0
        leaf = len(self.value)
        return replace(
            self,
            arms=tuple(arms),
            roots=np.array([index.get(arm, leaf) for arm in arms], dtype=np.int64),
            feature=np.append(self.feature, 0),
            threshold=np.append(self.threshold, 0.0),
            left=np.append(self.left, leaf),
            right=np.append(self.right, leaf),
            value=np.append(self.value, usual),
        )

    def explored(self, exploration: Exploration) -> Self:
        """The same trees, spread in another way."""
        return replace(self, exploration=exploration)
