"""Who stands beside a policy's champion in its bundle: canary, shadows, experiments' variants."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from learners.lineup import MAX_SHADOWS, Split, Variant
from storage import releases, versions

SHADOWS = ("shadow", "shadow-2", "shadow-3", "shadow-4")
"""The aliases whose versions watch."""
CANARY, SHADOW, EXPERIMENT = "canary", "shadow", "experiment"
CONTROL = "control"
_TOLERANCE = 1e-9

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Cast:
    """Versions by number: what a bundle is to bring beside its champion."""

    splits: tuple[Split, ...] = ()
    shadows: tuple[int, ...] = ()

    @property
    def versions(self) -> tuple[int, ...]:
        """Every version that is named, in order."""
        named = {v.version for split in self.splits for v in split.variants if v.version}
        return tuple(sorted({*named, *self.shadows}))


NOBODY = Cast()


def cast_of(connection: sa.Connection, policy_id: UUID, champion: int) -> Cast:
    """What stands in the tables for this policy now.

    Experiments hold their parts of the traffic; the canary is drawn from what they leave.
    """
    splits = [_experiment(row.spec) for row in _experiments(connection, policy_id)]
    shadows = list(watching(connection, policy_id).values())
    release = releases.running_release(connection, policy_id)
    if release is not None:
        stage = release.plan["stages"][release.stage]
        share = float(stage["share"])
        if share == 0.0:
            shadows.insert(0, release.version)
        elif share < 1.0:
            unit = release.plan["unit"]
            splits.append(canary(release.number, release.version, share, unit))
    return Cast(
        tuple(_without(split, champion) for split in splits),
        _distinct(shadows, champion)[:MAX_SHADOWS],
    )


def crowd(connection: sa.Connection, policy_id: UUID, further: Sequence[Split] = ()) -> str | None:
    """The experiment that leaves a canary no request, as its layer is full; None: there is room.

    ``further`` are splits that are to come.
    """
    full: dict[str, float] = {}
    for split in (
        *(_experiment(row.spec) for row in _experiments(connection, policy_id)),
        *further,
    ):
        if split.unit != "user":  # a request without a user is in no such split
            full[split.layer] = full.get(split.layer, 0.0) + split.end - split.start
            if full[split.layer] >= 1.0 - _TOLERANCE:
                return split.name
    return None


def roles(connection: sa.Connection, policy_id: UUID) -> dict[int, str]:
    """What versions do now beside the champion: ``canary``, ``experiment`` or ``shadow``.

    A version may be retired, or a candidate that waits, and still watch by an alias or decide for
    an experiment's units. Of several roles the one that decides for more by itself is named.
    """
    found = dict.fromkeys(watching(connection, policy_id).values(), SHADOW)
    for row in _experiments(connection, policy_id):
        for variant in _experiment(row.spec).variants:
            if variant.version is not None:
                found[variant.version] = EXPERIMENT
    release = releases.running_release(connection, policy_id)
    if release is not None:
        share = float(release.plan["stages"][release.stage]["share"])
        if 0.0 < share < 1.0:
            found[release.version] = CANARY
        elif share == 0.0:
            found.setdefault(release.version, SHADOW)
    return found


def as_they_stand(rows: Sequence[Json], now: Mapping[int, str]) -> list[Json]:
    """Versions as they are listed: by what they do now, whatever became of them before."""
    return [
        row
        if row["state"] == "champion"
        else {**row, "state": now.get(row["number"], row["state"])}
        for row in rows
    ]


def canary(number: int, version: int, share: float, unit: str) -> Split:
    """A release's split: its share of the units decides by the new version.

    The salt is the release's, so a unit that is in at 1 % is in at 5 %.
    """
    return Split(
        name=CANARY,
        salt=f"{CANARY}:{number}",
        unit=unit,  # type: ignore[arg-type]  # checked by the split
        variants=(Variant(CANARY, share, version), Variant(CONTROL, 1.0 - share)),
    )


def watching(connection: sa.Connection, policy_id: UUID) -> dict[str, int]:
    """The versions that watch by an alias, in the aliases' order."""
    found = versions.list_aliases(connection, policy_id)
    return {alias: found[alias] for alias in SHADOWS if alias in found}


def _experiments(connection: sa.Connection, policy_id: UUID) -> Sequence[releases.StoredExperiment]:
    return releases.list_experiments(connection, policy_id, running=True)


def _experiment(spec: releases.Json) -> Split:
    return Split.from_json(spec["split"])


def _without(split: Split, champion: int) -> Split:
    """The split with the champion named as such, as it is no challenger of itself."""
    variants = tuple(
        Variant(v.name, v.share, None if v.version == champion else v.version)
        for v in split.variants
    )
    return replace(split, variants=variants)


def _distinct(numbers: Sequence[int], champion: int) -> tuple[int, ...]:
    return tuple(number for number in dict.fromkeys(numbers) if number != champion)
