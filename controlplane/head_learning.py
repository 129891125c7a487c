"""One training of a head: older labels train, newer ones judge. Pure: it is given what was read."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from uuid import UUID

import numpy as np
import structlog

from controlplane import head_gate, head_labels, head_memory, served_heads
from controlplane.candidates import FAILURES
from controlplane.gates import Verdict
from controlplane.head_gate import HeadEvidence
from controlplane.head_labels import Floats, Read, Sway, Told, Vectors
from controlplane.head_memory import Memory
from controlplane.heads_config import HeadConfig
from learners.head_bank import single
from learners.head_training import Labelled, begin, compare, follow, frequencies, train
from learners.heads import HeadModel
from storage.heads import StoredHead

MOST_JUDGED = 2_000
"""Labels that judge, at most: with more, a head would know less of what is newest."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Ground:
    """What a training stands on, as it was when the work began.

    Attributes:
        policy_id: whose head it is.
        head: as it is declared.
        newest: the version that was trained last, under any declaration.
        serving: the version that serves, of this declaration.
        look: how often ``serving`` has been challenged, this time included.
        bound: the part of a class's labels that one source may hold.
    """

    policy_id: UUID
    head: HeadConfig
    newest: StoredHead | None
    serving: StoredHead | None
    look: int
    bound: float = 1.0

    @property
    def number(self) -> int:
        """Of the newest version; 0 where there is none."""
        return self.newest.number if self.newest else 0


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Labelled decisions with their weights, oldest first, and who holds most of a class."""

    told: tuple[Told, ...]
    weight: Floats
    most: Sway | None

    def of(self, places: Sequence[int]) -> "Part":
        """Some of them."""
        return Part(tuple(self.told[at] for at in places), self.weight[list(places)], self.most)

    def without(self, missing: set[UUID]) -> "Part":
        """Those whose decisions are not missing."""
        return self.of([at for at, one in enumerate(self.told) if one.decision_id not in missing])

    def rows(self, found: Vectors, size: int) -> Labelled:
        """With their vectors."""
        return head_labels.rows(self.told, self.weight, found, size)


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """What trains and what judges.

    Attributes:
        older: the labels that the version stands on.
        newer: those that judge it.
        fresh: of the older ones those that are learnt now, where it learns on.
        memory: from which it does; None where it begins anew.
        labels: how many were read.
        read_to: the newest decision of those.
    """

    older: Part
    newer: Part
    fresh: Part
    memory: Memory | None
    labels: int
    read_to: UUID

    @property
    def ids(self) -> list[UUID]:
        """The decisions of which vectors are needed."""
        learnt = self.older if self.memory is None else self.fresh
        return [one.decision_id for part in (learnt, self.newer) for one in part.told]

    def without(self, missing: set[UUID]) -> "Plan":
        """The same, where some decisions turn out to have no vector."""
        if not missing:
            return self
        older, newer, fresh = (
            part.without(missing) for part in (self.older, self.newer, self.fresh)
        )
        return replace(self, older=older, newer=newer, fresh=fresh)


@dataclass(frozen=True, slots=True)
class Attempt:
    """What came of a training; ``memory`` is what the next one may learn on from."""

    model: HeadModel | None
    verdict: Verdict
    evidence: HeadEvidence
    plan: Plan
    memory: Memory | None = None


def plan(ground: Ground, labels: Read, learnt: bytes | None = None) -> Plan:
    """Part labels into what trains and what judges, and find what is known already.

    Args:
        ground: what the training stands on.
        labels: all that it reads, at least one.
        learnt: what the newest version keeps to learn on from.
    """
    head, told, n = ground.head, labels.told, len(labels.told)
    cut = max(round(n * (1 - head.share)), n - MOST_JUDGED)
    first = cut
    if ground.serving is not None:
        # What has trained the serving version does not judge.
        to = ground.serving.trained_to
        first = max(cut, next((at for at, one in enumerate(told) if one.decision_id > to), n))
    older, newer = (_weighed(ground, part) for part in (told[:cut], told[first:]))
    memory = _memory(ground, learnt)
    known, fresh = None, older
    if memory is not None:
        places = head_memory.fresh(memory, older.told, older.weight, labels.since)
        known, fresh = (None, older) if places is None else (memory, older.of(places))
    return Plan(older, newer, fresh, known, n, told[-1].decision_id)


def learn(ground: Ground, made: Plan, found: Vectors) -> Attempt:
    """Train on the older part of the labels, and judge on the newer one.

    A training that fails is an attempt too: it is shown, and not tried again on the same labels.
    """
    head, serving = ground.head, ground.serving
    evidence = HeadEvidence(
        trained=head_gate.counts(head_labels.labels(made.older.told), head),
        judged=head_gate.counts(head_labels.labels(made.newer.told), head),
        compared=None,
        serving=serving.number if serving else None,
        look=ground.look,
        continued=ground.number if made.memory is not None else None,
        sways=tuple(part.most for part in (made.older, made.newer) if part.most is not None),
        bound=ground.bound,
    )
    checks = head_gate.ready(evidence, head)
    if not all(check.passed for check in checks):
        return Attempt(None, head_gate.judge(evidence, head), evidence, made)
    try:
        model, memory = _trained(ground, made, found)
        compared = compare(
            model,
            served_heads.load(serving) if serving else None,
            made.newer.rows(found, head.size),
            frequencies(_labels_of(made.older), head.kind, len(model.classes)),
            level=head_gate.level_of(head, ground.look),
        )
    except FAILURES as error:
        why = str(error) or repr(error)
        log.warning("head.not_trained", head=head.name, policy=str(ground.policy_id), detail=why)
        failed = Verdict(False, f"not served: training failed: {why}", tuple(checks))
        return Attempt(None, failed, evidence, made)
    evidence = replace(evidence, compared=compared)
    return Attempt(model, head_gate.judge(evidence, head), evidence, made, memory)


def _trained(ground: Ground, made: Plan, found: Vectors) -> tuple[HeadModel, Memory | None]:
    """The head in single precision, as edges compute it and so as it is judged."""
    head = ground.head
    if head.kind == "ood":
        rows = made.older.rows(found, head.size)
        return single(
            train(rows, kind=head.kind, classes=head.names, threshold=head.threshold)
        ), None
    rows = made.fresh.rows(found, head.size)
    if made.memory is None:
        learnt, since = begin(rows, kind=head.kind, classes=head.names), 0
    else:
        learnt = follow(made.memory.learnt, rows, most=head.max_labels)
        since = made.memory.since + len(rows)
    memory = head_memory.remember(learnt, made.older.told, made.older.weight, since)
    return single(learnt.model(head.threshold)), memory


def _weighed(ground: Ground, told: Sequence[Told]) -> Part:
    weighed = head_labels.weighed(told, ground.head, ground.bound)
    return Part(tuple(told), weighed.weight, weighed.most)


def _labels_of(part: Part) -> Labelled:
    """Labels and weights without vectors."""
    n = len(part.told)
    return Labelled(
        np.zeros((n, 0)), head_labels.labels(part.told), part.weight, np.full(n, -1, np.int64)
    )


def _memory(ground: Ground, learnt: bytes | None) -> Memory | None:
    if learnt is None or not served_heads.stands(ground.newest, ground.head):
        return None
    return head_memory.load(learnt, ground.head)
