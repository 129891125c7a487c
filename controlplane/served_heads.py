"""The heads that a policy's bundle brings: versions that serve, as the policy declares them now."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

import safetensors.numpy
import sqlalchemy as sa

from controlplane.config import PolicyConfig
from controlplane.heads_config import HeadConfig
from learners.features import canonical_json
from learners.head_bank import NO_HEADS, HeadGuard, Heads, ServedHead, golden, single
from learners.heads import HeadModel
from storage import heads
from storage.heads import StoredHead


def dump(model: HeadModel) -> tuple[dict[str, Any], bytes, str]:
    """The head's form, its tensors, and the digest of both."""
    form, tensors = model.as_json(), safetensors.numpy.save(dict(sorted(model.tensors().items())))
    return form, tensors, hashlib.sha256(canonical_json(form) + tensors).hexdigest()


def load(stored: StoredHead) -> HeadModel:
    """The head of a stored version, in single precision as edges compute it."""
    return single(HeadModel.from_json(stored.model, safetensors.numpy.load(stored.tensors)))


def stands(stored: StoredHead | None, head: HeadConfig) -> bool:
    """Whether a version is one of this head as it is declared now."""
    return stored is not None and stored.declaration == head.identity


def of_policy(connection: sa.Connection, policy_id: UUID, config: PolicyConfig) -> Heads:
    """What a policy's bundle says of heads."""
    if not config.heads:
        return NO_HEADS
    return section(config, heads.serving_heads(connection, policy_id))


def section(config: PolicyConfig, serving: Sequence[StoredHead]) -> Heads:
    """The same of versions that serve; those of another declaration than today's are left out."""
    found = {one.name: one for one in serving}
    declared = sorted(config.heads, key=lambda head: head.parent is not None)
    served: dict[str, ServedHead] = {}
    for head in declared:
        one = found.get(head.name)
        asked = head.parent is None or head.parent in served
        if asked and one is not None and stands(one, head):
            served[head.name] = _served(one, head)
    logged = dict.fromkeys((head.feature, head.size) for head in config.heads)
    guards = tuple(HeadGuard(one.head, one.at_least, one.tag) for one in config.guards)
    return Heads(tuple(served.values()), tuple(logged), guards)


def _served(stored: StoredHead, head: HeadConfig) -> ServedHead:
    model = replace(load(stored), threshold=head.threshold)
    return ServedHead(
        head.name, stored.number, head.feature, model, head.parent, golden=golden(model)
    )
