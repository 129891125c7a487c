"""A scorer as rows of the versions table, and back."""

import hashlib
from typing import Any

import safetensors.numpy

from learners.features import Schema, canonical_json
from learners.scorers import base
from learners.scorers.base import Scorer
from storage.versions import StoredVersion


def dump(scorer: Scorer) -> tuple[dict[str, Any], bytes, str]:
    """The scorer's form, its tensors, and the digest of both."""
    form, tensors = scorer.as_json(), safetensors.numpy.save(scorer.tensors())
    return form, tensors, hashlib.sha256(canonical_json(form) + tensors).hexdigest()


def load(version: StoredVersion) -> Scorer:
    """The scorer of a stored version."""
    return base.load(version.scorer, safetensors.numpy.load(version.tensors))


def schema_of(version: StoredVersion) -> Schema:
    """The features that the version was trained on."""
    return Schema.from_json(version.config["features"])
