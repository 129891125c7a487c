"""The portable form of a policy that looks up what the arms earned in similar contexts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from learners.calibration import Curve
from learners.errors import CalibrationError, SpecError
from learners.exploration import Exploration
from learners.scorers.base import Floats, Scorer, Tensors, check_arms, check_finite, matched

ROWS_AT_ONCE = 64
"""Each row meets every point, so long logs are scored in pieces that fit a cache."""
TILT = 1e-3
"""How much the uncalibrated estimate adds: what is worth the same keeps its order."""

_BLUR = 1e-3
"""Neighbours as near as this to the farthest one count too, so that rounding parts no equals."""


@dataclass(frozen=True, slots=True, eq=False)
class Neighbours(Scorer):
    """For each arm the mean of its most similar points, shrunk to what is known without them.

    The similarity s is the cosine over some of the columns. Of an arm's points those count that are
    more similar than its ``nearest + 1``-th, and than 0: with the weight ``(s - t) / (1 - t)``, t
    being the greater of both, so that the estimate moves smoothly (Epanechnikov's kernel with the
    bandwidth of the nearest points). With W and S the weights' sum and that of the weighted
    residuals of an arm, its estimate is::

        mean + common + (S - W · common) / (W + prior)    common = ΣS / (ΣW + prior)

    An arm without points near is so worth its mean, and what all arms do here. The sums are over G
    groups of points, one for each arm that was learnt; ``blend`` makes arms of them.

    Attributes:
        arms: K names.
        points: unit vectors, zeros where a group has fewer than Q, shape ``(G, Q, c)``.
        residual: each point's reward less its group's mean, shape ``(G, Q)``.
        weight: each point's, shape ``(G, Q)``.
        means: each group's, shape ``(G,)``.
        blend: each arm's share of the groups, shape ``(K, G)``.
        columns: of the contexts that are compared, shape ``(c,)``.
        width: columns d of the contexts.
        nearest: points of an arm that count.
        prior: points that the mean counts for.
        curve: what an estimate is worth, if it was calibrated.
    """

    arms: tuple[str, ...]
    exploration: Exploration
    points: NDArray[np.float32]
    residual: Floats
    weight: Floats
    means: Floats
    blend: Floats
    columns: NDArray[np.int64]
    width: int
    nearest: int
    prior: float
    curve: Curve | None = None
    _flat: Floats = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Refuse shapes that do not fit and numbers that are not finite."""
        check_arms(self.arms)
        if self.points.ndim != 3 or 0 in self.points.shape:
            raise SpecError(f"points {self.points.shape}: give (groups, points, columns)")
        groups, most, wide = self.points.shape
        shapes = {
            "residual": (groups, most),
            "weight": (groups, most),
            "means": (groups,),
            "blend": (len(self.arms), groups),
            "columns": (wide,),
        }
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                raise SpecError(f"{name} {getattr(self, name).shape} is not {shape}")
        floats = ("points", "residual", "weight", "means", "blend")
        check_finite(**{name: getattr(self, name) for name in floats})
        if (self.weight < 0).any():
            raise SpecError("a point's weight is below 0")
        whole = np.issubdtype(self.columns.dtype, np.integer)
        if not (whole and ((self.columns >= 0) & (self.columns < self.width)).all()):
            raise SpecError(f"columns {self.columns.tolist()} are not among {self.width}")
        if self.nearest < 1 or not 0 < self.prior < np.inf:
            raise SpecError(f"nearest {self.nearest}, prior {self.prior}: give both above 0")
        # Wide once, not for each request; the bundle holds them narrow.
        flat = self.points.reshape(groups * most, wide).astype(np.float64)
        if (np.einsum("pc,pc->p", flat, flat) > 1.0 + _BLUR).any():
            raise SpecError("a point is longer than 1: give unit vectors")
        object.__setattr__(self, "_flat", flat)

    @property
    def kind(self) -> str:
        """The form's name in a bundle."""
        return "neighbours"

    @property
    def dimension(self) -> int:
        """Columns of the contexts."""
        return self.width

    def scores(self, x: Floats, mix: Floats | None = None) -> Floats:  # noqa: ARG002 -- no parts
        """The calibrated estimates ``(n, K)``, equals in the order of the uncalibrated."""
        raw = self.estimates(x)
        if self.curve is not None:
            raw = self.curve.values(raw) + TILT * raw
        found: Floats = raw @ self.blend.T
        return found

    def chances(self, x: Floats) -> tuple[Floats, Floats]:
        """What each arm is worth, calibrated, and its lower bound; each ``(n, K)``.

        Raises:
            SpecError: The policy was not calibrated.
        """
        if self.curve is None:
            raise SpecError("these neighbours are not calibrated: train on a longer log")
        raw = self.estimates(x)
        return self.curve.values(raw) @ self.blend.T, self.curve.lows(raw) @ self.blend.T

    def estimates(self, x: Floats) -> Floats:
        """The groups' uncalibrated estimates, ``(n, G)``."""
        groups, most, _ = self.points.shape
        found = np.empty((len(x), groups))
        for start in range(0, len(x), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            asked = unit(x[rows][:, self.columns])
            similar = (asked @ self._flat.T).reshape(len(asked), groups, most)
            found[rows] = self._estimate(similar)
        return found

    def _estimate(self, similar: Floats) -> Floats:
        """Estimates ``(n, G)`` from similarities ``(n, G, Q)``."""
        place = similar.shape[2] - 1 - self.nearest
        farthest: Floats | float = 0.0
        if place >= 0:
            kth = np.partition(similar, place, axis=2)[:, :, place, None]
            farthest = np.maximum(kth, 0.0)
        weight = np.maximum(similar - (farthest - _BLUR), 0.0)
        weight *= self.weight
        weight /= 1.0 - farthest + _BLUR
        mass = weight.sum(axis=2)
        earned = np.einsum("ngq,gq->ng", weight, self.residual)
        total = mass.sum(axis=1, keepdims=True) + self.prior
        common = earned.sum(axis=1, keepdims=True) / total
        found: Floats = self.means + common + (earned - mass * common) / (mass + self.prior)
        return found

    def tensors(self) -> dict[str, NDArray[Any]]:
        """What a bundle stores as safetensors."""
        found: dict[str, NDArray[Any]] = {
            name: np.ascontiguousarray(getattr(self, name), dtype=np.float64)
            for name in ("residual", "weight", "means", "blend")
        }
        found["points"] = np.ascontiguousarray(self.points, dtype=np.float32)
        found["columns"] = np.ascontiguousarray(self.columns, dtype=np.int64)
        if self.curve is not None:
            found["curve"] = np.stack([self.curve.raw, self.curve.value, self.curve.low])
        return found

    def form(self) -> dict[str, Any]:
        """The plain numbers."""
        return {"width": self.width, "nearest": self.nearest, "prior": self.prior}

    @classmethod
    def read(cls, row: Mapping[str, Any], tensors: Tensors) -> Self:
        """The scorer that was written."""
        curve = None
        if "curve" in tensors:
            table = tensors["curve"]
            if table.ndim != 2 or len(table) != 3:
                raise SpecError(f"curve {table.shape}: give 3 rows")
            try:
                curve = Curve(*table)
            except CalibrationError as error:
                raise SpecError(str(error)) from error
        names = ("points", "residual", "weight", "means", "blend", "columns")
        return cls(
            arms=tuple(row["arms"]),
            exploration=Exploration.from_json(row["exploration"]),
            width=int(row["width"]),
            nearest=int(row["nearest"]),
            prior=float(row["prior"]),
            curve=curve,
            **{name: tensors[name] for name in names},
        )

    def over(self, arms: Sequence[str]) -> Self:
        """The scorer over these arms; points of those that left go on telling what all arms do."""
        if tuple(arms) == self.arms:
            return self
        return replace(self, arms=tuple(arms), blend=matched(self.arms, arms, self.blend))

    def explored(self, exploration: Exploration) -> Self:
        """The same points, spread in another way."""
        return replace(self, exploration=exploration)


def unit(x: Floats) -> Floats:
    """Rows of length 1; zeros stay zeros."""
    length = np.sqrt(np.einsum("nc,nc->n", x, x))[:, None]
    return np.asarray(x / np.where(length > 0, length, 1.0), dtype=np.float64)
