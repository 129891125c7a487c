"""What a head's version has learnt from, so that the next one learns on: kept beside the version.

The next version goes on from there with the labels that came since. It begins anew where there is
nothing to go on from, while labels are few, where it has learnt half as many more since it last
began (its penalty was chosen for those), and where a label that was learnt was changed, taken back
or weighs otherwise now: nothing that was learnt is ever unlearnt. Labels older than what is looked
for are forgotten slowly, as others come in their place.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

import numpy as np
import safetensors.numpy

from controlplane.head_labels import Floats, Told
from controlplane.heads_config import HeadConfig
from learners.head_fitting import HeadState
from learners.head_training import Held, Learnt
from learners.heads import HeadKind

ANEW_BELOW = 500
"""Labels that train: fewer are learnt anew each time, which takes no longer."""
ANEW_AT = 0.5
"""Labels learnt since the head began, as a part of those with which it did."""
_ALIKE = 1e-9


@dataclass(frozen=True, slots=True, eq=False)
class Memory:
    """What was learnt, and from which labels (class and weight) of which decisions.

    ``since`` is how many labels it has learnt since it began.
    """

    learnt: Learnt
    rows: Mapping[UUID, tuple[int, float]]
    since: int = 0


def fresh(memory: Memory, older: Sequence[Told], weight: Floats, first: UUID) -> list[int] | None:
    """Which rows it has not learnt yet, by their places; None where it has to begin anew.

    Args:
        memory: of the version before.
        older: the labels that shall train, oldest first.
        weight: theirs, shape ``(n,)``.
        first: the oldest decision whose label was looked for: those before it are not missed.
    """
    if len(older) < ANEW_BELOW:
        return None
    there = {one.decision_id for one in older}
    if any(one >= first and one not in there for one in memory.rows):
        return None
    found = []
    for at, (one, now) in enumerate(zip(older, weight.tolist(), strict=True)):
        before = memory.rows.get(one.decision_id)
        if before is None:
            found.append(at)
        elif before[0] != one.vote.label or not math.isclose(before[1], now, rel_tol=_ALIKE):
            return None
    return None if memory.since + len(found) >= ANEW_AT * memory.learnt.begun else found


def remember(learnt: Learnt, older: Sequence[Told], weight: Floats, since: int = 0) -> Memory:
    """What a version that has learnt from all of these keeps, ``since`` of them after it began."""
    pairs = zip(older, weight.tolist(), strict=True)
    return Memory(learnt, {one.decision_id: (one.vote.label, now) for one, now in pairs}, since)


def dump(memory: Memory) -> bytes:
    """As bytes, the same for the same memory."""
    learnt, held = memory.learnt, memory.learnt.held
    ids = b"".join(one.bytes for one in memory.rows)
    tensors = {
        "counts": learnt.state.counts,
        "held.labels": held.labels,
        "held.logits": held.logits.astype(np.float32),
        "held.weight": held.weight,
        "ids": np.frombuffer(ids, dtype=np.uint8),
        "labels": np.array([label for label, _ in memory.rows.values()], dtype=np.int64),
        "numbers": np.array([learnt.l2, learnt.unit, learnt.seen, learnt.begun, memory.since]),
        "precision": learnt.state.precision,
        "theta": learnt.state.theta,
        "weight": np.array([weight for _, weight in memory.rows.values()]),
    }
    return safetensors.numpy.save({n: np.ascontiguousarray(one) for n, one in tensors.items()})


def load(data: bytes, head: HeadConfig) -> Memory:
    """What :func:`dump` wrote, of a head that is declared as it was then."""
    kind: HeadKind = head.kind
    found = safetensors.numpy.load(data)
    l2, unit, seen, begun, *since = found["numbers"].tolist()
    state = HeadState(kind, head.names, found["theta"], found["precision"], found["counts"])
    held = Held(found["held.logits"].astype(np.float64), found["held.labels"], found["held.weight"])
    ids = found["ids"].tobytes()
    rows = zip(found["labels"].tolist(), found["weight"].tolist(), strict=True)
    known = {UUID(bytes=ids[16 * at : 16 * at + 16]): row for at, row in enumerate(rows)}
    # Without the number it is of a version from before it was kept.
    learnt_since = int(since[0]) if since else max(0, len(known) - int(begun))
    return Memory(Learnt(state, l2, unit, seen, int(begun), held), known, learnt_since)
