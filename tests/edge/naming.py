"""Bundles whose policies name features beside the text signals."""

from typing import Any

import numpy as np

from learners.bundle import Bundle
from learners.features import Schema
from learners.lineup import Golden
from learners.scorers.linear import Linear
from tests.edge.doubles import ARMS, make_bundle, replaced

LANGUAGE = {"name": "language", "kind": "category", "values": ["de", "en", "fr"]}
MAIL = {"name": "personal.email", "kind": "flag"}


def naming(*rows: dict[str, Any], **more: Any) -> Bundle:
    """:func:`make_bundle`, with these rows in its schema too."""
    made = make_bundle(**more)
    schema = Schema.from_json([*made.schema.as_json(), *rows])
    weights = np.random.default_rng(2).normal(size=(len(ARMS), schema.dimension))
    bundle = replaced(made, schema=schema, scorer=Linear(ARMS, weights, made.scorer.exploration))
    chances = tuple(bundle.distribution({}, ARMS).tolist())
    return replaced(bundle, golden=(Golden({}, ARMS, chances),))
