"""The heads of a bundle: which serve, what they read, what they must reproduce, what they guard."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from learners.errors import HeadError
from learners.features import MAX_DIMENSION
from learners.heads import HeadModel, Tensors

MAX_HEADS = 16
MAX_GUARDS = 8
MAX_LOGGED = 8
MAX_TAG = 128
LEAD = "heads/"
"""How the names of the heads' tensors begin."""
HEAD_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")

_LARGEST = float(np.finfo(np.float32).max)

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class HeadGolden:
    """A vector with the chances that every edge must reproduce."""

    vector: tuple[float, ...]
    chances: tuple[float, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain form for a manifest."""
        return {"vector": list(self.vector), "chances": list(self.chances)}


@dataclass(frozen=True)
class ServedHead:
    """A version of a head, as an edge applies it.

    Attributes:
        name: what its answers stand under in a context: the likeliest class under ``name``, each
            class's chance under ``name.class``.
        version: of the head.
        feature: the vector of the context that it reads.
        model: the matrices.
        parent: the head of which the second class must be said before this one is asked.
        golden: what it must reproduce.
    """

    name: str
    version: int
    feature: str
    model: HeadModel
    parent: str | None = None
    golden: tuple[HeadGolden, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a name that could not stand in a context."""
        if not HEAD_NAME.fullmatch(self.name):
            raise HeadError(
                f"head {self.name!r}: give 1 to 64 small letters, digits and _, a letter first"
            )

    def gap(self) -> float:
        """Largest difference to what is to be reproduced; infinite where it does not fit."""
        if not self.golden:
            return math.inf
        try:
            vectors = np.array([one.vector for one in self.golden], dtype=np.float64)
            wanted = np.array([one.chances for one in self.golden], dtype=np.float64)
            return float(np.abs(self.model.probabilities(vectors) - wanted).max())
        except ValueError:  # other lengths or classes
            return math.inf

    def as_json(self) -> dict[str, Any]:
        """What a manifest says of it, beside its tensors."""
        return {
            "name": self.name,
            "version": self.version,
            "feature": self.feature,
            "parent": self.parent,
            "model": self.model.as_json(),
            "golden": [one.as_json() for one in self.golden],
        }

    @classmethod
    def from_json(cls, row: Mapping[str, Any], tensors: Tensors) -> "ServedHead":
        """The head that :meth:`as_json` wrote; ``tensors`` are those of its model."""
        return cls(
            name=row["name"],
            version=int(row["version"]),
            feature=row["feature"],
            model=HeadModel.from_json(row["model"], tensors),
            parent=row["parent"],
            golden=tuple(
                HeadGolden(tuple(one["vector"]), tuple(one["chances"])) for one in row["golden"]
            ),
        )


@dataclass(frozen=True, slots=True)
class HeadGuard:
    """Where a head is sure enough of its second class, only some arms may serve.

    Attributes:
        head: a binary or ood head.
        at_least: chance of its second class from which on the guard holds.
        tag: what an arm's card must carry.
    """

    head: str
    at_least: float
    tag: str

    def __post_init__(self) -> None:
        """Refuse what is no chance and no tag."""
        if not 0 < self.at_least <= 1:
            raise HeadError(f"guard of {self.head!r}: at_least is {self.at_least}: give 0 to 1")
        if not 1 <= len(self.tag) <= MAX_TAG:
            raise HeadError(
                f"guard of {self.head!r}: tag {self.tag!r}: give 1 to {MAX_TAG} characters"
            )

    def as_json(self) -> dict[str, Any]:
        """Plain form for a manifest."""
        return {"head": self.head, "at_least": self.at_least, "tag": self.tag}


@dataclass(frozen=True)
class Heads:
    """All that a bundle says of heads.

    Attributes:
        served: those that are applied, parents before their children.
        logged: vectors of the context, by name with their lengths, that a decision's log holds
            where the edge can compute them, since heads learn from them.
        guards: what holds arms back.
    """

    served: tuple[ServedHead, ...] = ()
    logged: tuple[tuple[str, int], ...] = ()
    guards: tuple[HeadGuard, ...] = ()

    def __post_init__(self) -> None:
        """Refuse heads that come twice, too many, and parents that do not come first."""
        names = [one.name for one in self.served]
        if len(set(names)) != len(names) or len(names) > MAX_HEADS:
            raise HeadError(f"heads {names}: give each once, at most {MAX_HEADS}")
        if len(self.logged) > MAX_LOGGED or len(self.guards) > MAX_GUARDS:
            raise HeadError(
                f"{len(self.logged)} logged vectors and {len(self.guards)} guards: at most "
                f"{MAX_LOGGED} and {MAX_GUARDS}"
            )
        bad = [size for _, size in self.logged if not 1 <= size <= MAX_DIMENSION]
        if bad:
            raise HeadError(f"a logged vector of {bad[0]} numbers: give 1 to {MAX_DIMENSION}")
        for at, one in enumerate(self.served):
            roots = [head.name for head in self.served[:at] if head.parent is None]
            self._check_parent(one, roots)

    def _check_parent(self, child: ServedHead, before: list[str]) -> None:
        name = child.parent
        if name is None:
            return
        asked = name in before and self.by_name[name].model.kind == "binary"
        if not asked or child.model.kind == "ood":
            raise HeadError(
                f"head {child.name!r} has parent {name!r}: that must come first and be a binary "
                "head without a parent, and an ood head has none"
            )

    @property
    def by_name(self) -> dict[str, ServedHead]:
        """The heads by name."""
        return {one.name: one for one in self.served}

    @property
    def empty(self) -> bool:
        """Whether there is nothing to say."""
        return not (self.served or self.logged or self.guards)

    def worst(self) -> tuple[str, float]:
        """The head that is furthest from its golden vectors, and how far; 0 without heads."""
        gaps = [(one.name, one.gap()) for one in self.served]
        return max(gaps, key=lambda pair: pair[1]) if gaps else ("", 0.0)

    def as_json(self) -> dict[str, Any]:
        """What a manifest says, beside the tensors."""
        return {
            "served": [one.as_json() for one in self.served],
            "logged": [{"name": name, "size": size} for name, size in self.logged],
            "guards": [guard.as_json() for guard in self.guards],
        }

    def tensors(self) -> dict[str, NDArray[Any]]:
        """The matrices in single precision, each name led by its head's."""
        return {
            f"{LEAD}{one.name}/{name}": np.ascontiguousarray(values, dtype=np.float32)
            for one in self.served
            for name, values in one.model.tensors().items()
        }

    @classmethod
    def from_json(cls, row: Mapping[str, Any], tensors: Tensors) -> "Heads":
        """What :meth:`as_json` and :meth:`tensors` wrote.

        Raises:
            HeadError: Something is missing or does not fit.
        """
        return cls(
            served=tuple(
                ServedHead.from_json(one, _of(tensors, str(one["name"]))) for one in row["served"]
            ),
            logged=tuple((str(one["name"]), int(one["size"])) for one in row["logged"]),
            guards=tuple(
                HeadGuard(str(one["head"]), float(one["at_least"]), str(one["tag"]))
                for one in row["guards"]
            ),
        )


NO_HEADS = Heads()


def single(model: HeadModel) -> HeadModel:
    """The head with its matrices as single precision holds them: what every edge computes with.

    Raises:
        HeadError: A number is beyond single precision.
    """
    with np.errstate(over="ignore"):
        rounded = {
            name: values.astype(np.float32).astype(np.float64)
            for name, values in model.tensors().items()
        }
    return HeadModel.from_json(model.as_json(), rounded)


def golden(model: HeadModel, count: int = 2) -> tuple[HeadGolden, ...]:
    """Vectors of length 1 that the head's width alone decides, with what it makes of them."""
    vectors = np.random.default_rng(0).normal(size=(count, model.dimension))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    chances = model.probabilities(vectors)
    return tuple(
        HeadGolden(tuple(vector), tuple(chance))
        for vector, chance in zip(vectors.tolist(), chances.tolist(), strict=True)
    )


def vector_of(context: Mapping[str, Any], feature: str, size: int) -> Floats | None:
    """The context's vector of that name and length; None where there is none that fits.

    Numbers beyond single precision do not fit: heads are computed in it.
    """
    try:
        found = np.asarray(context.get(feature), dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        return None
    return found if found.shape == (size,) and (np.abs(found) <= _LARGEST).all() else None


def _of(tensors: Tensors, name: str) -> dict[str, NDArray[Any]]:
    lead = f"{LEAD}{name}/"
    return {
        key.removeprefix(lead): values for key, values in tensors.items() if key.startswith(lead)
    }
