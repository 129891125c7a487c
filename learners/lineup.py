"""Who else a bundle brings beside its champion: challengers, and which of them decides or watches.

A *split* hands units (requests, sessions or users) to versions by a hash, so every edge and every
restart gives the same unit the same version. A *shadow* is asked about each request and decides
none. Assignment by hashed unit: Kohavi, Tang & Xu 2020, *Trustworthy Online Controlled
Experiments*, chapters 4 and 14.
"""

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from learners.errors import BundleError
from learners.exploration import unit_interval
from learners.features import Schema
from learners.records import Context
from learners.scorers import base
from learners.scorers.base import Scorer, Tensors

MAX_SHADOWS = 4
MAX_CHALLENGERS = 16
MAX_SPLITS = 16
MAX_VARIANTS = 8
MAX_IN_FLIGHT = 256
MAX_USD_PER_HOUR = 1e6
_TOLERANCE = 1e-9
_UNIT_DIGITS = 16

Unit = Literal["request", "session", "user"]
UNITS: tuple[Unit, ...] = get_args(Unit)


@dataclass(frozen=True, slots=True)
class Golden:
    """A context with the exact probabilities that every edge must reproduce."""

    context: Context
    eligible: tuple[str, ...]
    probabilities: tuple[float, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain form for a manifest."""
        return {
            "context": dict(self.context),
            "eligible": list(self.eligible),
            "probabilities": list(self.probabilities),
        }

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> "Golden":
        """The vector that :meth:`as_json` wrote."""
        return cls(row["context"], tuple(row["eligible"]), tuple(row["probabilities"]))


@dataclass(frozen=True)
class Challenger:
    """Another version, over the same arms in the same order as the champion."""

    version: int
    learner: str
    schema: Schema
    scorer: Scorer
    golden: tuple[Golden, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a scorer that does not fit its schema."""
        if self.scorer.dimension != self.schema.dimension:
            raise BundleError(
                f"version {self.version}: its scorer takes {self.scorer.dimension} columns, its "
                f"schema gives {self.schema.dimension}"
            )

    def as_json(self) -> dict[str, Any]:
        """What a manifest says of it, beside its tensors."""
        return {
            "version": self.version,
            "learner": self.learner,
            "features": self.schema.as_json(),
            "feature_schema_digest": self.schema.digest,
            "scorer": self.scorer.as_json(),
            "golden": [golden.as_json() for golden in self.golden],
        }

    @classmethod
    def from_json(cls, row: Mapping[str, Any], tensors: Tensors) -> "Challenger":
        """The challenger that :meth:`as_json` wrote; ``tensors`` are those of its scorer.

        Raises:
            BundleError: Its features are read otherwise than they were written.
        """
        schema = Schema.from_json(row["features"])
        if row["feature_schema_digest"] != schema.digest:
            raise BundleError(f"version {row['version']}: features are read otherwise than written")
        return cls(
            version=int(row["version"]),
            learner=row["learner"],
            schema=schema,
            scorer=base.load(row["scorer"], tensors),
            golden=tuple(map(Golden.from_json, row["golden"])),
        )


@dataclass(frozen=True, slots=True)
class Variant:
    """A part of a split: its share of the units, and the version that decides them.

    ``version`` None is whichever version is the champion.
    """

    name: str
    share: float
    version: int | None = None


@dataclass(frozen=True, slots=True)
class Assignment:
    """Where a unit belongs; ``unit`` is its hash, which tells nobody who it is."""

    split: str
    variant: str
    version: int | None
    unit: str


@dataclass(frozen=True, slots=True)
class Split:
    """Units handed to variants.

    Attributes:
        name: of the experiment, or ``canary``.
        salt: makes one split's assignment independent of every other's.
        unit: what is handed out. A request without a session is one of its own; one without a user
            belongs to no split by users.
        layer: splits of one layer hold disjoint parts ``[start, end)`` of the units, by a hash
            that only the layer's name decides.
        variants: shares that sum to 1. A variant that grows at the expense of those after it keeps
            its units.
    """

    name: str
    salt: str
    unit: Unit
    variants: tuple[Variant, ...]
    layer: str = ""
    start: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        """Refuse shares that are no parts of one, and parts of a layer that are none."""
        if self.unit not in UNITS:
            raise BundleError(f"split {self.name!r}: unit {self.unit!r} is none of {list(UNITS)}")
        shares = [variant.share for variant in self.variants]
        if not 1 <= len(shares) <= MAX_VARIANTS:
            raise BundleError(
                f"split {self.name!r} has {len(shares)} variants: 1 to {MAX_VARIANTS}"
            )
        if min(shares) < 0 or not abs(math.fsum(shares) - 1) <= _TOLERANCE:
            raise BundleError(f"split {self.name!r}: the shares {shares} do not sum to 1")
        if len({variant.name for variant in self.variants}) != len(shares):
            raise BundleError(f"split {self.name!r}: a variant's name comes twice")
        if not 0 <= self.start < self.end <= 1:
            raise BundleError(
                f"split {self.name!r} holds [{self.start}, {self.end}) of its layer: give a part "
                "of [0, 1)"
            )

    def assign(self, units: Mapping[str, str]) -> Assignment | None:
        """Where a request belongs, by its ``units`` (kind → id); None when it is not of this."""
        unit = units.get(self.unit)
        if unit is None:
            return None
        whole = self.start == 0.0 and self.end == 1.0
        if not whole and not self.start <= unit_interval("layer", self.layer, unit) < self.end:
            return None
        at, upto = unit_interval("split", self.salt, unit), 0.0
        for variant in self.variants:
            upto += variant.share
            if at < upto:
                break
        digest = hashlib.sha256(f"unit\x1f{self.salt}\x1f{unit}".encode()).hexdigest()
        return Assignment(self.name, variant.name, variant.version, digest[:_UNIT_DIGITS])

    def as_json(self) -> dict[str, Any]:
        """Plain form for a manifest."""
        return {
            "name": self.name,
            "salt": self.salt,
            "unit": self.unit,
            "layer": self.layer,
            "start": self.start,
            "end": self.end,
            "variants": [
                {"name": v.name, "share": v.share, "version": v.version} for v in self.variants
            ],
        }

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> "Split":
        """The split that :meth:`as_json` wrote."""
        return cls(
            name=row["name"],
            salt=row["salt"],
            unit=row["unit"],
            layer=row["layer"],
            start=float(row["start"]),
            end=float(row["end"]),
            variants=tuple(
                Variant(v["name"], float(v["share"]), v["version"]) for v in row["variants"]
            ),
        )


def free_part(
    taken: Iterable[tuple[float, float]], share: float, upto: float = 1.0
) -> tuple[float, float] | None:
    """The first part of a layer that is as large as ``share`` and touches none that is taken.

    Args:
        taken: parts ``[start, end)`` that other splits of the layer hold, disjoint.
        share: of all units, above 0.
        upto: where the layer's splits end; a holdout has what is behind.

    Returns:
        Its start and end; None where no gap is large enough.
    """
    start = 0.0
    for begun, ended in (*sorted(taken), (upto, 1.0)):
        if start + share <= min(begun, upto) + _TOLERANCE:
            return start, min(start + share, begun, upto)
        start = max(start, ended)
    return None


@dataclass(frozen=True)
class Dispatch:
    """Requests that an edge also sends to a shadow's arm, off the user's path.

    Attributes:
        share: of the requests, at most; 0 sends none.
        usd_per_hour: what they may cost in any hour, by the arms' cards, at each edge. 0 lets only
            arms be asked that cost nothing.
        max_in_flight: at once, at each edge; what comes while all are busy is not sent.
    """

    share: float = 0.0
    usd_per_hour: float = 0.0
    max_in_flight: int = 4

    def __post_init__(self) -> None:
        """Refuse what is no share, no budget and no bound."""
        for name, good in self.bounds().items():
            if not good:
                raise BundleError(f"dispatch.{name} is {getattr(self, name)}: out of range")

    def bounds(self) -> dict[str, bool]:
        """Whether each setting is within its range."""
        return {
            "share": 0 <= self.share <= 1,
            "usd_per_hour": 0 <= self.usd_per_hour <= MAX_USD_PER_HOUR,
            "max_in_flight": 1 <= self.max_in_flight <= MAX_IN_FLIGHT,
        }

    def as_json(self) -> dict[str, Any]:
        """Plain form for a manifest."""
        return {
            "share": self.share,
            "usd_per_hour": self.usd_per_hour,
            "max_in_flight": self.max_in_flight,
        }

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> "Dispatch":
        """What :meth:`as_json` wrote."""
        return cls(float(row["share"]), float(row["usd_per_hour"]), int(row["max_in_flight"]))


@dataclass(frozen=True)
class Lineup:
    """Everybody but the champion.

    Attributes:
        challengers: the versions that are brought.
        splits: the first that a request belongs to says which version decides it.
        shadows: versions, among the challengers, that are asked and do not decide.
        dispatch: how many requests are also sent to a shadow's arm; None: none.
    """

    challengers: tuple[Challenger, ...] = ()
    splits: tuple[Split, ...] = ()
    shadows: tuple[int, ...] = ()
    dispatch: Dispatch | None = None

    def __post_init__(self) -> None:
        """Refuse versions that are named and not brought, or brought twice, and too many."""
        known = [challenger.version for challenger in self.challengers]
        if len(set(known)) != len(known) or len(known) > MAX_CHALLENGERS:
            raise BundleError(f"challengers {known}: give each once, at most {MAX_CHALLENGERS}")
        if len(set(self.shadows)) != len(self.shadows) or len(self.shadows) > MAX_SHADOWS:
            raise BundleError(f"shadows {self.shadows}: give each once, at most {MAX_SHADOWS}")
        if len(self.splits) > MAX_SPLITS:
            raise BundleError(f"{len(self.splits)} splits: at most {MAX_SPLITS}")
        named = {variant.version for split in self.splits for variant in split.variants}
        missing = (named | set(self.shadows)) - {None} - set(known)
        if missing:
            raise BundleError(f"versions {sorted(map(str, missing))} are named and not brought")
        if self.dispatch is not None and not self.shadows:
            raise BundleError("requests are to be sent to a shadow's arm, and there is no shadow")

    @property
    def empty(self) -> bool:
        """Whether the champion is alone."""
        return not (self.challengers or self.splits or self.shadows)

    def assign(self, units: Mapping[str, str]) -> Assignment | None:
        """Where a request belongs; None when the champion decides it without any split."""
        for split in self.splits:
            found = split.assign(units)
            if found is not None:
                return found
        return None

    def as_json(self) -> dict[str, Any]:
        """What a manifest says, beside the tensors."""
        return {
            "challengers": [challenger.as_json() for challenger in self.challengers],
            "splits": [split.as_json() for split in self.splits],
            "shadows": list(self.shadows),
            # Left out where there is none: edges that do not know it take the rest.
            **({} if self.dispatch is None else {"dispatch": self.dispatch.as_json()}),
        }

    def tensors(self) -> dict[str, Any]:
        """The challengers' tensors, each name led by its version."""
        return {
            f"{one.version}/{name}": values
            for one in self.challengers
            for name, values in one.scorer.tensors().items()
        }

    @classmethod
    def from_json(cls, row: Mapping[str, Any], tensors: Tensors) -> "Lineup":
        """The line-up that :meth:`as_json` and :meth:`tensors` wrote."""
        return cls(
            challengers=tuple(
                Challenger.from_json(one, _of(tensors, int(one["version"])))
                for one in row["challengers"]
            ),
            splits=tuple(map(Split.from_json, row["splits"])),
            shadows=tuple(int(version) for version in row["shadows"]),
            dispatch=Dispatch.from_json(row["dispatch"]) if "dispatch" in row else None,
        )


def _of(tensors: Tensors, version: int) -> dict[str, Any]:
    lead = f"{version}/"
    return {
        name.removeprefix(lead): values for name, values in tensors.items() if name.startswith(lead)
    }


ALONE = Lineup()
"""Only the champion."""


def units_of(
    decision_id: str, session_id: str | None = None, user: str | None = None
) -> dict[str, str]:
    """A request's units by kind; without a session it is one of its own."""
    units = {"request": decision_id, "session": session_id or decision_id}
    return units if user is None else {**units, "user": user}
