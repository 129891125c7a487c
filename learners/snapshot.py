"""A learner's state as bytes: the same state gives the same bytes, altered bytes are refused.

Layout, all integers big-endian::

    b"PMSNAP01" | SHA-256 of the rest | u32 header length | header | tensors

The header is canonical JSON: whose state it is, and its plain numbers. The tensors are
safetensors. The digest guards against damage; it is no signature, so a snapshot from elsewhere
is not to be trusted.
"""

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from learners.contract import Params, Spec
from learners.errors import SnapshotError
from learners.features import canonical_json

MAGIC = b"PMSNAP01"
_HEAD = len(MAGIC) + hashlib.sha256().digest_size
_LENGTH = struct.Struct(">I")

Tensors = Mapping[str, NDArray[Any]]


def owner(learner: str, spec: Spec, params: Params) -> str:
    """SHA-256 that names a learner with its spec; ``params`` are the resolved ones."""
    return hashlib.sha256(
        canonical_json(
            {
                "learner": learner,
                "schema": spec.schema.as_json(),
                "arms": list(spec.arms),
                "params": dict(params),
                "seed": spec.seed,
                "cards": [asdict(card) for card in spec.cards],
                "revisions": list(spec.revisions),
                "reading": asdict(spec.reading),
            }
        )
    ).hexdigest()


def pack(owned_by: str, numbers: Mapping[str, Any], tensors: Tensors) -> bytes:
    """The bytes of a state; ``owned_by`` comes from :func:`owner`."""
    header = canonical_json({"owner": owned_by, "numbers": dict(numbers)})
    arrays = {name: np.ascontiguousarray(tensors[name]) for name in sorted(tensors)}
    body = _LENGTH.pack(len(header)) + header + safetensors.numpy.save(arrays)
    return MAGIC + hashlib.sha256(body).digest() + body


def unpack(owned_by: str, data: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """The numbers and tensors that :func:`pack` wrote.

    Raises:
        SnapshotError: The bytes are damaged, or are the state of another learner or spec.
    """
    if not data.startswith(MAGIC):
        raise SnapshotError("this is not a snapshot: it does not begin with PMSNAP01")
    body = data[_HEAD:]
    if hashlib.sha256(body).digest() != data[len(MAGIC) : _HEAD]:
        raise SnapshotError("the snapshot is damaged: learn again from the log")
    (length,) = _LENGTH.unpack_from(body)
    start = _LENGTH.size + length
    try:
        header = json.loads(body[_LENGTH.size : start])
        tensors = safetensors.numpy.load(body[start:])
    except (ValueError, safetensors.SafetensorError) as error:
        raise SnapshotError(f"the snapshot cannot be read: {error}") from error
    if header["owner"] != owned_by:
        raise SnapshotError(
            "the snapshot belongs to another learner, schema, set of arms, parameters or seed: "
            "learn again from the log"
        )
    return header["numbers"], tensors
