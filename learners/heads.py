"""A head: a small matrix that reads classes off a vector of the context, and how sure it is.

Three kinds. A *softmax* head gives one chance a class. A *binary* head gives the chance of the
second of its two classes, by one row. An *ood* head says whether a vector lies far from all that
it has seen: the squared Mahalanobis distance to the nearest class's mean under one covariance
(Lee et al. 2018, arXiv:1807.03888), turned into a chance. Each is one matrix product.

Heads are trained in :mod:`learners.head_fitting` and measured in :mod:`learners.head_measures`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from learners.errors import HeadError
from learners.features import MAX_DIMENSION

HeadKind = Literal["softmax", "binary", "ood"]
KINDS: tuple[HeadKind, ...] = get_args(HeadKind)
MAX_CLASSES = 256
MAX_CLASS_NAME = 64
IN, OUT = "in", "out"
"""The classes of an ood head."""

Floats = NDArray[np.float64]
Tensors = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class HeadModel:
    """A trained head over vectors of d numbers.

    Attributes:
        kind: softmax, binary or ood.
        classes: their names, C of them; two for a binary head, the second being what it looks for;
            ``in`` and ``out`` for an ood head.
        weights: softmax ``(C, d)``; binary ``(1, d)``; ood ``(m, d)``, a row a known mean.
        bias: as many as ``weights`` has rows.
        temperature: what logits are divided by, above 0.
        threshold: chance of the second class from which a binary or ood head says that it is so.
        spread: ood only, ``(r, d)``: what whitens a vector; the squared length of the product is
            added to the smallest logit.
    """

    kind: HeadKind
    classes: tuple[str, ...]
    weights: Floats
    bias: Floats
    temperature: float = 1.0
    threshold: float = 0.5
    spread: Floats | None = None

    def __post_init__(self) -> None:
        """Refuse shapes that do not fit, and numbers that are none."""
        check_classes(self.kind, self.classes)
        self._check_shapes()
        for name, values in self.tensors().items():
            if not np.isfinite(values).all():
                raise HeadError(f"{name} holds NaN or infinity: train the head again")
        if not 0 < self.temperature < math.inf:
            raise HeadError(f"temperature is {self.temperature}: give a finite number above 0")
        if not 0 < self.threshold < 1:
            raise HeadError(f"threshold is {self.threshold}: give a chance between 0 and 1")

    def _check_shapes(self) -> None:
        w, b = self.weights, self.bias
        if w.ndim != 2 or not 1 <= w.shape[1] <= MAX_DIMENSION or b.shape != w.shape[:1]:
            raise HeadError(f"weights {w.shape} and bias {b.shape}: give (C, d) and (C,)")
        rows = {"softmax": len(self.classes), "binary": 1, "ood": max(1, len(w))}[self.kind]
        if len(w) != rows:
            raise HeadError(f"weights {w.shape}: a {self.kind} head of these classes has {rows}")
        if (self.spread is None) == (self.kind == "ood"):
            need = "needs" if self.kind == "ood" else "has no"
            raise HeadError(f"a {self.kind} head {need} spread")
        if self.spread is not None and self.spread.shape[1:] != w.shape[1:]:
            raise HeadError(f"spread {self.spread.shape}: give (r, {w.shape[1]})")

    @property
    def dimension(self) -> int:
        """The d numbers that it takes."""
        return int(self.weights.shape[1])

    def logits(self, x: Floats) -> Floats:
        """Log-odds before they become chances.

        Args:
            x: shape ``(n, d)``.

        Returns:
            Shape ``(n, C)`` for softmax, up to a number a row; ``(n,)`` of the second class for
            the others.

        Raises:
            HeadError: ``x`` has another width.
        """
        if x.ndim != 2 or x.shape[1] != self.dimension:
            raise HeadError(f"vectors of shape {x.shape}: give (n, {self.dimension})")
        found = x @ self.weights.T + self.bias
        if self.spread is not None:
            found = np.square(x @ self.spread.T).sum(axis=1) + found.min(axis=1)
        elif self.kind == "binary":
            found = found[:, 0]
        return np.asarray(found / self.temperature, dtype=np.float64)

    def probabilities(self, x: Floats) -> Floats:
        """Chances of the classes for ``x`` of shape ``(n, d)``: shape ``(n, C)``, rows sum to 1."""
        return chances(self.logits(x))

    def says(self, x: Floats) -> NDArray[np.int64]:
        """The class of each row as an index: the likeliest, or the second from its threshold on."""
        chance = self.probabilities(x)
        if self.kind == "softmax":
            return np.asarray(chance.argmax(axis=1), dtype=np.int64)
        return (chance[:, 1] >= self.threshold).astype(np.int64)

    def with_threshold(self, threshold: float) -> "HeadModel":
        """The same with another threshold."""
        return replace(self, threshold=threshold)

    def as_json(self) -> dict[str, Any]:
        """Plain form, beside :meth:`tensors`."""
        return {
            "kind": self.kind,
            "classes": list(self.classes),
            "temperature": self.temperature,
            "threshold": self.threshold,
        }

    def tensors(self) -> dict[str, Floats]:
        """The matrices by name."""
        found = {"weights": self.weights, "bias": self.bias}
        return found if self.spread is None else {**found, "spread": self.spread}

    @classmethod
    def from_json(cls, row: Mapping[str, Any], tensors: Tensors) -> "HeadModel":
        """The head that :meth:`as_json` and :meth:`tensors` wrote.

        Raises:
            HeadError: Something is missing or does not fit.
        """
        try:
            spread = tensors.get("spread")
            return cls(
                kind=cast("HeadKind", row["kind"]),
                classes=tuple(str(name) for name in row["classes"]),
                weights=np.asarray(tensors["weights"], dtype=np.float64),
                bias=np.asarray(tensors["bias"], dtype=np.float64),
                temperature=float(row["temperature"]),
                threshold=float(row["threshold"]),
                spread=None if spread is None else np.asarray(spread, dtype=np.float64),
            )
        except KeyError as error:
            raise HeadError(f"a head lacks {error}: train it again") from error


def chances(logits: Floats) -> Floats:
    """The chances that logits stand for: ``(n,)`` of a second class, or ``(n, C)``; ``(n, C)``."""
    if logits.ndim == 1:
        chance = 0.5 * (1.0 + np.tanh(logits / 2.0))
        return np.stack([1.0 - chance, chance], axis=1)
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    found: Floats = raised / raised.sum(axis=1, keepdims=True)
    return found


def check_classes(kind: str, classes: tuple[str, ...]) -> None:
    """Refuse classes that a head of this kind cannot have.

    Raises:
        HeadError: The kind is unknown; names repeat, are empty or long; or there are too few or
            too many.
    """
    if kind not in KINDS:
        raise HeadError(f"kind {kind!r} is none of {list(KINDS)}")
    if len(set(classes)) != len(classes) or not 2 <= len(classes) <= MAX_CLASSES:
        raise HeadError(f"classes {list(classes)[:8]}: give 2 to {MAX_CLASSES}, each once")
    if kind != "softmax" and len(classes) != 2:
        raise HeadError(f"a {kind} head has 2 classes, not {len(classes)}: use kind softmax")
    bad = [name for name in classes if not 1 <= len(name) <= MAX_CLASS_NAME]
    if bad:
        raise HeadError(f"class {bad[0]!r}: give 1 to {MAX_CLASS_NAME} characters")
