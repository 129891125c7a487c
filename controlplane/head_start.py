"""What a head serves before anybody has labelled anything: its first version, of prototypes.

It needs no labels and no gate, as nothing serves that it could be worse than. What is learnt later
has to beat it. The prototypes come with the program, so the control plane needs no encoder.
"""

import hashlib
from collections.abc import Sequence
from datetime import datetime
from itertools import takewhile
from uuid import UUID

import numpy as np
import sqlalchemy as sa

from controlplane import head_entry, served_heads
from controlplane.heads_config import HeadConfig
from kernels.signals import prototypes
from learners.heads import HeadModel
from storage import heads, versions
from storage.heads import CANDIDATE, NONE, REFUSED, RETIRED, SERVING, StoredHead

MOST_LOOKED_AT = 1_000
"""Versions, the newest, among which prototypes are looked for."""


def begin(
    connection: sa.Connection, policy_id: UUID, declared: Sequence[HeadConfig], now: datetime
) -> bool:
    """Give the heads that start from prototypes a version, where they have none.

    While something holds heads, or the head does not publish itself, the version waits as any that
    has passed.

    Returns:
        Whether one begins to serve, so that the policy's bundle is another one.
    """
    served = False
    starting = [head for head in declared if head.start is not None]
    if starting:
        versions.lock_policy(connection, policy_id)
    for head in starting:
        if _stands(connection, policy_id, head):
            continue
        number = heads.next_number(connection, policy_id, head.name)
        held = head_entry.held(connection, policy_id, now)
        heads.add_head(connection, first(policy_id, head, number, now))
        if head.auto_publish and held is None:
            before = heads.serving_head(connection, policy_id, head.name)
            if before is not None:
                heads.set_state(connection, policy_id, head.name, [before.number], RETIRED)
            numbers = [number]
            heads.set_state(connection, policy_id, head.name, numbers, SERVING, served_at=now)
            served = True
    return served


def first(policy_id: UUID, head: HeadConfig, number: int, now: datetime) -> StoredHead:
    """A version of prototypes."""
    form, tensors, digest = served_heads.dump(model(head))
    made_of = prototypes.made_of()
    return StoredHead(
        policy_id=policy_id,
        name=head.name,
        number=number,
        state=CANDIDATE,
        declaration=head.identity,
        model=form,
        tensors=tensors,
        digest=digest,
        labels=0,
        trained_to=NONE,
        judged_to=NONE,
        data_digest=hashlib.sha256(made_of.encode()).hexdigest(),
        passed=True,
        summary=f"starts from prototypes: the means of a few phrases of each class ({made_of}); "
        "no label has taught it, and its chances are no frequencies",
        numbers={"serving": None, "start": head.start, "made_of": made_of},
        checks=[],
        created_at=now,
    )


def model(head: HeadConfig) -> HeadModel:
    """The head of prototypes, with its classes in the declared order."""
    places = [list(prototypes.FEEDBACK).index(name) for name in head.names]
    weights = prototypes.shipped()[places].astype(np.float64)
    return HeadModel("softmax", head.names, weights, np.zeros(len(places)))


def _stands(connection: sa.Connection, policy_id: UUID, head: HeadConfig) -> bool:
    """Whether a version serves, waits or was taken back, or it has had its prototypes already.

    A version that was refused is none to serve. The newest are looked at, as far as they are of
    today's declaration.
    """
    if served_heads.stands(heads.serving_head(connection, policy_id, head.name), head):
        return True
    listed = heads.list_heads(connection, policy_id, head.name, limit=MOST_LOOKED_AT)
    known = list(takewhile(lambda one: one["declaration"] == head.identity, listed))
    given = any(one["numbers"].get("start") == head.start for one in known)
    return given or (bool(known) and known[0]["state"] != REFUSED)
