"""Bundles that bring challengers, splits and shadows, for an edge that is ready."""

from typing import Any

import numpy as np

from learners.bundle import Bundle
from learners.exploration import Exploration
from learners.features import Schema
from learners.lineup import Challenger, Dispatch, Lineup, Split, Unit, Variant
from learners.scorers.linear import Linear
from tests.edge.doubles import ARMS, eventually, make_bundle, replaced
from tests.edge.ready import SOFT, Ready

ODD = Schema.from_json([{"name": "code", "kind": "vector", "size": 3}])
"""Which no request's signals fit."""


def challenger(version: int, schema: Schema, arm: str = "large", floor: float = 0.2) -> Challenger:
    """One that always prefers the same arm."""
    weights = np.zeros((len(ARMS), schema.dimension))
    weights[ARMS.index(arm), 0] = 1.0
    return Challenger(version, "x", schema, Linear(ARMS, weights, Exploration("greedy", floor)))


def halves(unit: Unit, version: int | None = 7) -> Split:
    """Half of the units to a version, half to the champion."""
    return Split("prices", "salt", unit, (Variant("new", 0.5, version), Variant("old", 0.5)))


def staged(
    *,
    endpoint: str = "",
    serial: int = 2,
    split: Split | None = None,
    shadows: tuple[int, ...] = (),
    dispatch: Dispatch | None = None,
    odd: tuple[int, ...] = (),
    **changes: Any,
) -> Bundle:
    """A bundle with the challengers 7, 8 and 9; those that are ``odd`` can read no request."""
    bundle = make_bundle(endpoint=endpoint, serial=serial, exploration=SOFT, **changes)
    brought = tuple(
        challenger(version, ODD if version in odd else bundle.schema) for version in (7, 8, 9)
    )
    splits = (split,) if split is not None else ()
    return replaced(bundle, lineup=Lineup(brought, splits, shadows, dispatch))


async def stage(at: Ready, **given: Any) -> Bundle:
    """Publish such a bundle, and wait until the edge serves it."""
    bundle = staged(endpoint=at.pool.url, **given)
    at.plane.publish(bundle)
    await eventually(lambda: at.plane.statuses[-1]["active"].get("chat") == bundle.serial)
    return bundle
