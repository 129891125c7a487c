"""Context → vector: a declared schema, so that edge and learner see the same numbers."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from learners.columns import plain_numbers, plain_vectors
from learners.errors import ContextError, SpecError
from learners.records import Context

Kind = Literal["number", "flag", "category", "vector"]
MAX_DIMENSION = 4096
_CLIP = 10.0


def canonical_json(value: object) -> bytes:
    """JSON with sorted keys and no spaces: equal values give equal bytes."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


@dataclass(frozen=True, slots=True)
class Feature:
    """One declared field of a context.

    A number becomes ``(value - mean) / scale`` clipped to ±10; a flag 0 or 1; a category one column
    for each of ``values`` (an unknown value: all zero); a vector ``size`` columns, each clipped to
    ±10. What a context lacks becomes zeros.
    """

    name: str
    kind: Kind
    values: tuple[str, ...] = ()
    size: int = 1
    mean: float = 0.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        """Refuse a feature that cannot be encoded."""
        if self.kind not in {"number", "flag", "category", "vector"}:
            raise SpecError(
                f"feature {self.name!r}: kind {self.kind!r} is none of number, flag, "
                "category, vector"
            )
        if self.kind == "category" and len(set(self.values)) != len(self.values):
            raise SpecError(f"feature {self.name!r}: values {list(self.values)} repeat")
        if self.kind == "vector" and not 1 <= self.size <= MAX_DIMENSION:
            raise SpecError(f"feature {self.name!r}: size {self.size} is not 1 to {MAX_DIMENSION}")
        if not (math.isfinite(self.mean) and math.isfinite(self.scale) and self.scale > 0):
            raise SpecError(
                f"feature {self.name!r}: mean {self.mean} and scale {self.scale} must be "
                "finite, and scale above 0"
            )

    @property
    def width(self) -> int:
        """How many columns the feature takes."""
        if self.kind == "category":
            return len(self.values)
        return self.size if self.kind == "vector" else 1


@dataclass(frozen=True)
class Schema:
    """The features of a policy, in order; column 0 is always the constant 1."""

    features: tuple[Feature, ...]

    def __post_init__(self) -> None:
        """Refuse repeated names and a dimension past the limit."""
        names = [feature.name for feature in self.features]
        if len(set(names)) != len(names):
            raise SpecError(f"feature names repeat: {names}")
        if self.dimension > MAX_DIMENSION:
            raise SpecError(f"{self.dimension} columns: at most {MAX_DIMENSION} are allowed")

    @cached_property
    def dimension(self) -> int:
        """Columns of an encoded context, the constant included."""
        return 1 + sum(feature.width for feature in self.features)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the schema's canonical JSON."""
        return hashlib.sha256(canonical_json(self.as_json())).hexdigest()

    @cached_property
    def _columns(self) -> dict[str, dict[str, int]]:
        found: dict[str, dict[str, int]] = {}
        at = 1
        for feature in self.features:
            found[feature.name] = {value: at + i for i, value in enumerate(feature.values)}
            at += feature.width
        return found

    def encode(self, context: Context) -> NDArray[np.float64]:
        """Encode one context.

        Returns:
            Array of shape ``(dimension,)``.

        Raises:
            ContextError: A field has the wrong type, is not finite, or a vector the wrong length.
        """
        x = np.zeros(self.dimension)
        self._fill(x, context)
        return x

    def encode_all(self, contexts: Sequence[Context]) -> NDArray[np.float64]:
        """Encode many contexts into an array of shape ``(n, dimension)``."""
        x = np.zeros((len(contexts), self.dimension))
        x[:, 0] = 1.0
        at = 1
        for feature in self.features:
            values = [context.get(feature.name) for context in contexts]
            if not self._fill_column(x[:, at : at + feature.width], feature, values):
                # Something odd is among them: it is taken, or refused, as one by one.
                return np.array([self.encode(context) for context in contexts])
            at += feature.width
        return x

    def _fill_column(
        self, block: NDArray[np.float64], feature: Feature, values: Sequence[object]
    ) -> bool:
        """Fill in a feature of many contexts; False where a value is no plain one of its kind."""
        if feature.kind == "category":
            columns = self._columns[feature.name]
            first = min(columns.values(), default=0)
            found = [-1 if v is None else columns.get(str(v), -1) for v in values]
            places = np.array(found, dtype=np.int64)
            rows = np.flatnonzero(places >= 0)
            block[rows, places[rows] - first] = 1.0
            return True
        if feature.kind == "vector":
            vectors = plain_vectors(values, feature.size)
            if vectors is not None:
                block[vectors[0]] = np.clip(vectors[1], -_CLIP, _CLIP)
            return vectors is not None
        numbers = plain_numbers(values)
        if numbers is None:
            return False
        if feature.kind == "flag":
            shown = (numbers != 0).astype(np.float64)
        else:
            with np.errstate(over="ignore"):  # what overflows is clipped
                shown = np.clip((numbers - feature.mean) / feature.scale, -_CLIP, _CLIP)
        block[:, 0] = np.where(np.isnan(numbers), 0.0, shown)
        return True

    def _fill(self, x: NDArray[np.float64], context: Context) -> None:
        x[0] = 1.0
        at = 1
        for feature in self.features:
            value = context.get(feature.name)
            if value is not None:
                if feature.kind == "category":
                    column = self._columns[feature.name].get(str(value))
                    if column is not None:
                        x[column] = 1.0
                elif feature.kind == "vector":
                    x[at : at + feature.size] = _vector(feature, value)
                else:
                    x[at] = _number(feature, value)
            at += feature.width

    def as_json(self) -> list[dict[str, Any]]:
        """Plain form for a bundle, a table or a digest."""
        return [
            {
                "name": feature.name,
                "kind": feature.kind,
                "values": list(feature.values),
                "size": feature.size,
                "mean": feature.mean,
                "scale": feature.scale,
            }
            for feature in self.features
        ]

    @classmethod
    def from_json(cls, rows: Sequence[Mapping[str, Any]]) -> "Schema":
        """The schema that :meth:`as_json` wrote."""
        try:
            return cls(
                tuple(
                    Feature(
                        name=str(row["name"]),
                        kind=cast("Kind", row["kind"]),
                        values=tuple(str(v) for v in row.get("values", ())),
                        size=int(row.get("size", 1)),
                        mean=float(row.get("mean", 0.0)),
                        scale=float(row.get("scale", 1.0)),
                    )
                    for row in rows
                )
            )
        except SpecError:
            raise
        except KeyError as error:
            raise SpecError(f"a feature lacks {error}: give name and kind") from error
        except (AttributeError, OverflowError, TypeError, ValueError) as error:
            raise SpecError(f"a feature cannot be read: {error}") from error


def _number(feature: Feature, value: object) -> float:
    if not isinstance(value, (int, float)) or not _is_finite(value):
        raise ContextError(f"context.{feature.name} is {value!r:.80}: give a finite {feature.kind}")
    if feature.kind == "flag":
        return 1.0 if value else 0.0
    return min(_CLIP, max(-_CLIP, (value - feature.mean) / feature.scale))


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number that no float can hold
        return False


def _vector(feature: Feature, value: object) -> NDArray[np.float64]:
    try:
        vector = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise ContextError(
            f"context.{feature.name} is not a list of numbers: give {feature.size} of them"
        ) from error
    if vector.shape != (feature.size,) or not np.isfinite(vector).all():
        raise ContextError(
            f"context.{feature.name} has shape {vector.shape}: give {feature.size} finite numbers"
        )
    return np.clip(vector, -_CLIP, _CLIP)
