"""Which variant of an experiment serves a unit: by hash, so sticky on every edge without a store.

A **unit** is a user, a session or a request, as text. Its place in [0, 1) is a hash of a salt and
the unit; the salts differ, so places in two layers or experiments tell nothing of each other.

* A **layer** owns :data:`BUCKETS` buckets; its experiments own disjoint runs of them, so a unit is
  in at most one experiment of a layer. An experiment that is added takes free buckets and moves
  nobody.
* Within an experiment a second hash picks the variant by its share. Of two variants the last one
  may grow (1, 5, 25 %): whom it has it keeps.
* A **holdout** is a share of units that no experiment touches.
* In **A/A mode** all variants serve what the first one serves: what differs is the noise.

Only ``hashlib``: an edge calls this for each request.
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import accumulate, pairwise
from math import fsum
from struct import Struct
from typing import Any, NamedTuple

from learners.errors import SpecError

BUCKETS = 10_000
MOST_VARIANTS = 32
MOST_EXPERIMENTS = 64
_ROUNDING = 1e-9
_FIRST_EIGHT = Struct(">Q24x").unpack
_STEP = 2.0**-53


class Assignment(NamedTuple):
    """What a unit got: the variant it counts for, and what serves it."""

    experiment: str
    variant: str
    serves: str


@dataclass(frozen=True, slots=True)
class Variant:
    """One side of an experiment; ``serves`` names what serves its units (a version, an alias)."""

    name: str
    share: float
    serves: str

    def __post_init__(self) -> None:
        """Refuse a share of nothing."""
        if not self.name or not 0.0 < self.share <= 1.0:
            raise SpecError(
                f"variant {self.name!r} has share {self.share}: give above 0, at most 1"
            )


@dataclass(frozen=True, slots=True)
class Experiment:
    """Variants with their shares of some buckets of a layer.

    Attributes:
        name: unique within the layer.
        salt: of the split; another one draws the units anew.
        variants: two or more whose shares sum to 1; the first is the control.
        first: bucket at which the experiment's begin.
        buckets: how many it owns.
        same: A/A mode: all variants serve what the control does.
    """

    name: str
    salt: str
    variants: tuple[Variant, ...]
    first: int = 0
    buckets: int = BUCKETS
    same: bool = False
    _salt: bytes = field(init=False, repr=False, compare=False)
    _ends: tuple[float, ...] = field(init=False, repr=False, compare=False)
    _given: tuple[Assignment, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse what splits nobody, or not all."""
        names = [each.name for each in self.variants]
        if not 2 <= len(names) <= MOST_VARIANTS or len(set(names)) < len(names):
            raise SpecError(
                f"{self.name}: variants {names}: give 2 to {MOST_VARIANTS} that have own names"
            )
        total = fsum(each.share for each in self.variants)
        if abs(total - 1.0) > _ROUNDING:
            raise SpecError(f"{self.name}: the shares sum to {total}, not to 1")
        if self.first < 0 or self.buckets < 1 or self.first + self.buckets > BUCKETS:
            raise SpecError(
                f"{self.name}: buckets {self.first} to {self.first + self.buckets} leave "
                f"0 to {BUCKETS}"
            )
        control = self.variants[0].serves
        given = tuple(
            Assignment(self.name, each.name, control if self.same else each.serves)
            for each in self.variants
        )
        ends = accumulate(each.share for each in self.variants[:-1])
        object.__setattr__(self, "_salt", _bytes(self.salt))
        object.__setattr__(self, "_ends", tuple(ends))
        object.__setattr__(self, "_given", given)

    def assign(self, unit: str) -> Assignment:
        """The unit's variant, whether or not the layer gives this experiment the unit."""
        return self.of_bytes(_bytes(unit))

    def of_bytes(self, unit: bytes) -> Assignment:
        """As :meth:`assign`, of a unit that is encoded already."""
        return self._given[bisect_right(self._ends, _place(self._salt, unit))]

    def as_json(self) -> dict[str, Any]:
        """Plain form for a bundle."""
        return {
            "name": self.name,
            "salt": self.salt,
            "variants": [
                {"name": each.name, "share": each.share, "serves": each.serves}
                for each in self.variants
            ],
            "first": self.first,
            "buckets": self.buckets,
            "same": self.same,
        }

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> "Experiment":
        """The experiment that :meth:`as_json` wrote."""
        variants = tuple(
            Variant(each["name"], float(each["share"]), each["serves"]) for each in row["variants"]
        )
        return cls(
            row["name"],
            row["salt"],
            variants,
            int(row.get("first", 0)),
            int(row.get("buckets", BUCKETS)),
            bool(row.get("same", False)),
        )


@dataclass(frozen=True, slots=True)
class Layer:
    """Experiments of which a unit is in one at most.

    Attributes:
        salt: of the buckets.
        experiments: their buckets are disjoint.
        holdout: share of units that are in none of them.
        holdout_salt: the same in several layers keeps the same units out of all.
    """

    salt: str
    experiments: tuple[Experiment, ...] = ()
    holdout: float = 0.0
    holdout_salt: str = "holdout"
    _salt: bytes = field(init=False, repr=False, compare=False)
    _holdout_salt: bytes = field(init=False, repr=False, compare=False)
    _starts: tuple[int, ...] = field(init=False, repr=False, compare=False)
    _order: tuple[Experiment, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse experiments that share a bucket or a name, and a holdout of all."""
        if len(self.experiments) > MOST_EXPERIMENTS:
            raise SpecError(f"{len(self.experiments)} experiments: give at most {MOST_EXPERIMENTS}")
        if not 0.0 <= self.holdout < 1.0:
            raise SpecError(f"holdout {self.holdout} is outside [0, 1)")
        order = tuple(sorted(self.experiments, key=lambda each: each.first))
        for one, other in pairwise(order):
            if one.first + one.buckets > other.first:
                raise SpecError(f"{one.name} and {other.name} share bucket {other.first}")
        if len({each.name for each in order}) < len(order):
            raise SpecError(f"two experiments have one name: {[each.name for each in order]}")
        if self.salt in {self.holdout_salt, *(each.salt for each in order)}:
            raise SpecError(f"salt {self.salt!r} is used twice: who is in would decide the variant")
        object.__setattr__(self, "_salt", _bytes(self.salt))
        object.__setattr__(self, "_holdout_salt", _bytes(self.holdout_salt))
        object.__setattr__(self, "_order", order)
        object.__setattr__(self, "_starts", tuple(each.first for each in order))

    def assign(self, unit: str) -> Assignment | None:
        """The unit's variant in this layer; None where no experiment has it."""
        if not self._order:
            return None
        key = _bytes(unit)
        if self.holdout and _place(self._holdout_salt, key) < self.holdout:
            return None
        bucket = int(_place(self._salt, key) * BUCKETS)
        found = bisect_right(self._starts, bucket) - 1
        if found < 0:
            return None
        experiment = self._order[found]
        if bucket >= experiment.first + experiment.buckets:
            return None
        return experiment.of_bytes(key)

    def free(self, buckets: int) -> int:
        """The first bucket of the first free run of so many.

        Raises:
            SpecError: There is no such run.
        """
        end = 0
        for each in (*self._order, None):
            start = BUCKETS if each is None else each.first
            if start - end >= buckets:
                return end
            if each is not None:
                end = each.first + each.buckets
        raise SpecError(f"no {buckets} free buckets in a row: end an experiment of this layer")

    def as_json(self) -> dict[str, Any]:
        """Plain form for a bundle."""
        return {
            "salt": self.salt,
            "experiments": [each.as_json() for each in self.experiments],
            "holdout": self.holdout,
            "holdout_salt": self.holdout_salt,
        }

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> "Layer":
        """The layer that :meth:`as_json` wrote."""
        return cls(
            row["salt"],
            tuple(Experiment.from_json(each) for each in row.get("experiments", ())),
            float(row.get("holdout", 0.0)),
            row.get("holdout_salt", "holdout"),
        )


def assign_all(layers: Iterable[Layer], unit: str) -> list[Assignment]:
    """The unit's variants, one a layer at most."""
    found = (layer.assign(unit) for layer in layers)
    return [each for each in found if each is not None]


def place(salt: str, unit: str) -> float:
    """A number in [0, 1) that only salt and unit decide, evenly over units."""
    return _place(_bytes(salt), _bytes(unit))


def _bytes(text: str) -> bytes:
    """Any text, also a lone surrogate that JSON let through; ended, so that no two texts run on."""
    return text.encode("utf-8", "surrogatepass") + b"\x1f"


def _place(salt: bytes, unit: bytes) -> float:
    # 53 bits are what a float holds: with more the quotient could round up to 1.
    return float(_FIRST_EIGHT(sha256(salt + unit).digest())[0] >> 11) * _STEP
