"""Heads: what is read off a vector of the signals, by one matrix product for all of one vector.

A *softmax* head gives one chance a class. A *binary* head gives the chance of the second of its two
classes. An *ood* head says how surely a vector lies outside of all that the head has seen: the
squared Mahalanobis distance to the nearest known mean under one covariance (Lee et al. 2018,
arXiv:1807.03888), turned into a chance. Temperatures are folded into the matrices, so calibration
costs nothing when serving.

A head with a parent is read only where the parent, a binary head, finds what it looks for: whether
a text is unsafe comes first, in which way only where it is.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
HeadKind = Literal["softmax", "binary", "ood"]
KINDS: tuple[HeadKind, ...] = get_args(HeadKind)
MAX_HEADS = 64
MAX_CLASSES = 256
MAX_DIMENSION = 65_536

Values = dict[str, float | str]


class HeadError(ValueError):
    """A head's numbers do not fit each other, or the vectors that it is read off."""


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """One head.

    Attributes:
        name: what its values are called: ``<name>`` the class, ``<name>.<class>`` its chance; an
            ood head's is ``ood.<name>``.
        classes: C names; a binary head has two, and looks for the second.
        feature: name of the vector that it is read off, of d numbers.
        weights: ``(C, d)``; binary ``(1, d)``; ood ``(m, d)``, a row for each known mean.
        bias: as many as ``weights`` has rows.
        kind: softmax, binary or ood.
        temperature: what logits are divided by, above 0.
        threshold: chance from which a binary head says that it is so.
        parent: a binary head, without whose finding this one is not read.
        spread: ood only, ``(r, d)``: what whitens a vector.
    """

    name: str
    classes: tuple[str, ...]
    feature: str
    weights: Floats
    bias: Floats
    kind: HeadKind = "softmax"
    temperature: float = 1.0
    threshold: float = 0.5
    parent: str | None = None
    spread: Floats | None = None

    def __post_init__(self) -> None:
        """Refuse shapes that do not fit, and numbers that are none."""
        if self.kind not in KINDS or not self.name or not self.feature:
            raise HeadError(
                f"head {self.name!r} of {self.feature!r}: kind {self.kind!r} must be of {KINDS},"
                " and name and feature not empty"
            )
        if not 2 <= len(self.classes) <= MAX_CLASSES or len(set(self.classes)) < len(self.classes):
            raise HeadError(f"head {self.name!r}: give 2 to {MAX_CLASSES} classes, each once")
        if self.kind != "softmax" and len(self.classes) != 2:
            raise HeadError(
                f"head {self.name!r}: a {self.kind} head has 2 classes, not {len(self.classes)}"
            )
        if not 0 < self.temperature < np.inf or not 0 < self.threshold < 1:
            raise HeadError(
                f"head {self.name!r}: temperature {self.temperature} must be above 0, threshold"
                f" {self.threshold} between 0 and 1"
            )
        self._check_matrices()

    def _check_matrices(self) -> None:
        w, b = self.weights, self.bias
        rows = {"softmax": len(self.classes), "binary": 1}.get(self.kind, max(1, len(w)))
        if w.ndim != 2 or len(w) != rows or b.shape != (rows,) or w.shape[1] > MAX_DIMENSION:
            raise HeadError(
                f"head {self.name!r}: weights {w.shape} and bias {b.shape} are not those of a"
                f" {self.kind} head of {len(self.classes)} classes"
            )
        if (self.spread is not None) != (self.kind == "ood"):
            raise HeadError(f"head {self.name!r}: an ood head, and no other, has a spread")
        if self.spread is not None and self.spread.shape[1:] != w.shape[1:]:
            raise HeadError(
                f"head {self.name!r}: spread {self.spread.shape} is not (r, {w.shape[1]})"
            )
        tensors = [w, b] if self.spread is None else [w, b, self.spread]
        if not all(np.isfinite(one).all() for one in tensors):
            raise HeadError(f"head {self.name!r} holds NaN or infinity: train it again")

    @property
    def dimension(self) -> int:
        """The d numbers that it takes."""
        return int(self.weights.shape[1])


class HeadBank:
    """Heads that serve together: those of one vector share one matrix product.

    Raises:
        HeadError: Names repeat, a parent is not there or is no binary head without a parent, or
            heads of one feature take vectors of different lengths.
    """

    def __init__(self, heads: Sequence[Head] = ()) -> None:
        _check_family(heads)
        self.heads = tuple(heads)
        self._roots: dict[str, _Stack] = {}
        self._children: dict[str, list[tuple[str, _Stack]]] = {}
        self._distances: dict[str, list[_Distance]] = {}
        self.dimensions: dict[str, int] = {head.feature: head.dimension for head in heads}
        for feature in self.dimensions:
            mine = [head for head in heads if head.feature == feature]
            plain = [head for head in mine if head.kind != "ood" and head.parent is None]
            if plain:
                self._roots[feature] = _Stack(plain)
            self._distances[feature] = [_Distance(head) for head in mine if head.kind == "ood"]
        for head in heads:
            if head.parent is not None:
                self._children.setdefault(head.parent, []).append((head.feature, _Stack([head])))
        self._parents = {h.name: h for h in heads if h.name in self._children}

    def read(self, vectors: Mapping[str, Floats]) -> Values:
        """The values of all heads whose vector is there.

        Args:
            vectors: ``(d,)`` each, by feature; of the length that :attr:`dimensions` says.

        Returns:
            ``<name>`` (the likeliest class, or the binary head's answer at its threshold),
            ``<name>.<class>`` for each chance, and ``ood.<name>`` for the ood heads.
        """
        found: Values = {}
        for feature, vector in vectors.items():
            if feature in self._roots:
                self._roots[feature].read(vector, found)
            for distance in self._distances.get(feature, ()):
                found[distance.name] = distance.read(vector)
        for name, parent in self._parents.items():
            if found.get(name) == parent.classes[1]:
                for feature, stack in self._children[name]:
                    if feature in vectors:
                        stack.read(vectors[feature], found)
        return found


class _Stack:
    """Softmax and binary heads over one vector.

    After the product a head is a dozen numbers, for which plain floats are faster than arrays:
    each call of numpy costs as much as ten of them.
    """

    def __init__(self, heads: Sequence[Head]) -> None:
        scales = [np.float32(head.temperature) for head in heads]
        blocks = [h.weights.astype(np.float32) / t for h, t in zip(heads, scales, strict=True)]
        biases = [h.bias.astype(np.float32) / t for h, t in zip(heads, scales, strict=True)]
        self._weights = np.ascontiguousarray(np.concatenate(blocks))
        self._bias = np.concatenate(biases)
        ends = np.cumsum([len(block) for block in blocks]).tolist()
        self._slices = [
            (head, [f"{head.name}.{one}" for one in head.classes], end - len(block), end)
            for head, block, end in zip(heads, blocks, ends, strict=True)
        ]

    def read(self, vector: Floats, found: Values) -> None:
        z = self._weights @ vector
        z += self._bias
        logits = z.tolist()
        for head, names, start, end in self._slices:
            if head.kind == "binary":
                chance = _sigmoid(logits[start])
                found[head.name] = head.classes[chance >= head.threshold]
                found[names[0]], found[names[1]] = 1.0 - chance, chance
            else:
                part = logits[start:end]
                most = max(part)
                found[head.name] = head.classes[part.index(most)]
                raised = [math.exp(value - most) for value in part]
                total = sum(raised)
                for name, value in zip(names, raised, strict=True):
                    found[name] = value / total


class _Distance:
    """An ood head."""

    def __init__(self, head: Head) -> None:
        assert head.spread is not None  # noqa: S101 — for mypy: Head has checked it
        self.name = f"ood.{head.name}"
        self._known = len(head.weights)
        self._matrix = np.concatenate([head.weights, head.spread]).astype(np.float32)
        self._bias = head.bias.astype(np.float32)
        self._temperature = head.temperature

    def read(self, vector: Floats) -> float:
        rows = self._matrix @ vector
        white = rows[self._known :]
        logit = float(white @ white) + float((rows[: self._known] + self._bias).min())
        return _sigmoid(logit / self._temperature)


def _sigmoid(logit: float) -> float:
    return 0.5 * (1.0 + math.tanh(0.5 * logit))


def _check_family(heads: Sequence[Head]) -> None:
    names = [f"ood.{head.name}" if head.kind == "ood" else head.name for head in heads]
    if len(set(names)) < len(names) or len(names) > MAX_HEADS:
        raise HeadError(f"heads {names}: give each name once, and at most {MAX_HEADS}")
    roots = {head.name for head in heads if head.kind == "binary" and head.parent is None}
    for head in heads:
        if head.parent is not None and (head.parent not in roots or head.kind == "ood"):
            raise HeadError(
                f"head {head.name!r}: its parent {head.parent!r} must be a binary head without a"
                " parent of its own, and an ood head has none"
            )
        first = next(one for one in heads if one.feature == head.feature)
        if head.dimension != first.dimension:
            raise HeadError(
                f"head {head.name!r} takes {head.dimension} numbers and {first.name!r}"
                f" {first.dimension}, both of {head.feature!r}: train them on one vector"
            )
