"""Labels as the log holds them → rows that a head learns from, in the order of time.

What labels say is read first, and vectors only of the rows that are needed: a vector is hundreds of
times as long as a label. Labels of which a head can make nothing are counted with what would mend
them.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from controlplane.config import PolicyConfig, SourcesConfig
from controlplane.heads_config import HeadConfig
from learners.grades import Grades, sums
from learners.head_bank import vector_of
from learners.head_training import UNKNOWN, Labelled
from learners.influence import cap
from storage import heads, policies
from storage.heads import EarnedRow, SaidRow, Span

MAX_WEIGHT = 100.0
"""Of a row by its propensity: a rarer choice counts no more than this."""
CLASS, VECTOR, TRUST, TIE = "class", "vector", "trust", "tie"
"""Why a label teaches nothing."""
NOBODY = ""
"""Who labels in the place of all trusted sources, and of what was measured: it is not capped."""
MOST_STRANGE = 8
"""Categories that are none of the head's, by name."""

Floats = NDArray[np.float64]
Vectors = Mapping[UUID, Floats]


@dataclass(frozen=True, slots=True)
class Vote:
    """What the sources of a decision say together.

    Attributes:
        label: index of the class; :data:`~learners.head_training.UNKNOWN` for an ood head.
        shares: who said so, and what each word weighs.
    """

    label: int
    shares: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class Told:
    """A labelled decision; ``unit`` is the session or episode that it belongs to."""

    decision_id: UUID
    vote: Vote
    unit: str | None


@dataclass(frozen=True, slots=True)
class Read:
    """The labels that a training reads.

    Attributes:
        told: oldest first.
        since: the oldest decision whose label was looked for. Those before it were cut off by
            ``max_labels`` or the window; ``NONE`` where nothing was.
    """

    told: tuple[Told, ...]
    since: UUID = heads.NONE


@dataclass(frozen=True, slots=True)
class Tally:
    """What labels are worth to a head: how many teach, how many do not and why."""

    usable: int = 0
    unfit: Mapping[str, int] = field(default_factory=dict)
    strange: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sway:
    """The largest part that one source holds of the weight of a class's labels."""

    label: str
    source: str
    share: float


@dataclass(frozen=True, slots=True, eq=False)
class Weighed:
    """What labelled decisions weigh, shape ``(n,)``, and who holds most of a class."""

    weight: Floats
    most: Sway | None


def tally(
    connection: sa.Connection,
    policy_id: UUID,
    config: PolicyConfig,
    head: HeadConfig,
    *,
    after: UUID,
) -> Tally:
    """Count the labels of decisions after one, by what a head can make of them.

    Labels that do not fit take none of the room that ``max_labels`` gives those that train.
    """
    usable, seen, unfit, strange = 0, 0, Counter[str](), Counter[str]()
    span = Span(head.feature, head.size, head.max_labels, after=after, fitting=False)
    for row, vote in _labelled(connection, policy_id, config, head, span):
        seen += 1
        if isinstance(vote, str):
            unfit[vote] += 1
            if vote == CLASS and isinstance(row, SaidRow):
                strange.update(str(value) for value in row.said.values())
        elif row.size != head.size:
            unfit[VECTOR] += 1
        else:
            usable += 1
    if seen == span.limit:
        fitting = _labelled(connection, policy_id, config, head, replace(span, fitting=True))
        usable = sum(isinstance(vote, Vote) for _, vote in fitting)
    named = dict(sorted(strange.most_common(MOST_STRANGE)))
    return Tally(usable, dict(sorted(unfit.items())), named)


def read(
    connection: sa.Connection, policy_id: UUID, config: PolicyConfig, head: HeadConfig
) -> Read:
    """A head's newest labels, oldest first, of decisions that have its vector."""
    span = Span(head.feature, head.size, head.max_labels)
    found, oldest, seen = [], heads.NONE, 0
    for row, vote in _labelled(connection, policy_id, config, head, span):
        oldest, seen = row.decision_id, seen + 1
        if isinstance(vote, Vote):
            found.append(Told(row.decision_id, vote, row.session_id or row.episode_id))
    since = oldest if seen == span.limit else _window_start(connection, policy_id, head, span)
    return Read(tuple(found[::-1]), since)


def vectors(
    connection: sa.Connection, policy_id: UUID, head: HeadConfig, ids: Sequence[UUID]
) -> dict[UUID, Floats]:
    """The vectors of decisions, in single precision; without those that hold no numbers."""
    found = {}
    for one, told in heads.vectors(connection, policy_id, head.feature, ids):
        vector = vector_of({head.feature: told}, head.feature, head.size)
        if vector is not None:
            found[one] = vector.astype(np.float32).astype(np.float64)
    return found


def voted(said: Mapping[str, Any], head: HeadConfig, sources: SourcesConfig) -> Vote | str:
    """The class that the sources name, the heaviest by their trust; or why there is none.

    Trusted sources speak as nobody in particular. Together the words weigh at most 1.
    """
    named, votes = 0, dict[int, dict[str, float]]()
    for source, value in sorted(said.items()):
        label, trust = _class_of(value, head), sources.trust_of(source)
        named += label is not None
        if label is not None and trust > 0:
            votes.setdefault(label, {})[source] = trust
    if not votes:
        return TRUST if named else CLASS
    ranked = sorted((-sum(by.values()), label) for label, by in votes.items())
    if len(ranked) > 1 and ranked[0][0] == ranked[1][0]:
        return TIE
    total, label = -ranked[0][0], ranked[0][1]
    return Vote(label, _shares(votes[label], min(1.0, total) / total, sources))


def sufficed(row: EarnedRow, head: HeadConfig, sources: SourcesConfig) -> Vote:
    """Whether the weak arm's reward is high enough, and how many requests the row stands for.

    Only requests that the arm served are labelled, so each is weighed by the inverse of the
    probability with which it was. Who spoke of it shares that weight.
    """
    weak = head.weak_suffices
    enough = weak is not None and row.reward >= weak.at_least
    weight = min(MAX_WEIGHT, 1.0 / row.propensity)
    speakers = sorted({name for by_source in (row.said or {}).values() for name in by_source})
    by = dict.fromkeys(speakers or [NOBODY], 1.0)
    return Vote(int(enough), _shares(by, weight / len(by), sources))


def weighed(told: Sequence[Told], head: HeadConfig, bound: float) -> Weighed:
    """What each row weighs where no source may hold more than a part of a class's labels.

    It is the cap of :mod:`learners.influence`, with classes for arms. Where fewer sources speak of
    a class than the bound asks for no weights keep to it: ``most`` says who holds too much.
    """
    names = [*head.names, "unknown"] if head.kind == "ood" else list(head.names)
    speakers = sorted({name for one in told for name, _ in one.vote.shares} - {NOBODY})
    place = {name: at for at, name in enumerate(speakers)} | {NOBODY: -1}
    parts = [
        (row, one.vote.label % len(names), place[name], weight)
        for row, one in enumerate(told)
        for name, weight in one.vote.shares
    ]
    columns = list(zip(*parts, strict=True)) or [()] * 4
    row, label, source = (np.array(column, dtype=np.int64) for column in columns[:3])
    weight = np.array(columns[3], dtype=np.float64)
    nothing = np.zeros(len(row))
    grades = Grades((len(names), len(speakers)), label, source, nothing, weight, nothing * np.nan)
    left = cap(grades, bound).weight
    held = grades.totals(left, np.ones(len(row), dtype=np.bool_))
    every = sums(label, left, len(names))
    most = None
    if held.size:
        share = held / np.where(every > 0, every, 1.0)[:, None]
        at, who = np.unravel_index(int(share.argmax()), share.shape)
        most = Sway(names[at], speakers[who], float(share[at, who]))
    return Weighed(sums(row, left, len(told)), most)


def rows(told: Sequence[Told], weight: Floats, found: Vectors, size: int) -> Labelled:
    """Rows that a head learns from, of decisions whose vectors were found."""
    return Labelled(
        np.array([found[one.decision_id] for one in told]).reshape(len(told), size),
        labels(told),
        weight,
        _numbered([one.unit for one in told]),
    )


def labels(told: Sequence[Told]) -> NDArray[np.int64]:
    """What they say, shape ``(n,)``."""
    return np.array([one.vote.label for one in told], dtype=np.int64)


def remedies(head: HeadConfig, found: Tally) -> dict[str, str]:
    """What mends the labels that teach nothing, by why they do not."""
    strange = ", ".join(f"{name!r} ({n})" for name, n in found.strange.items())
    said = {
        CLASS: f"they name none of the classes {list(head.names)[:8]}, but {strange}: add what "
        "is meant to `classes`, or label with these",
        VECTOR: f"their decisions hold no {head.feature!r} of {head.size} numbers: check `size`, "
        "and send it in the context, or give the edges the models that make it",
        TRUST: "only sources of trust 0 gave them: raise theirs in `sources.trust`",
        TIE: "sources of equal trust are at odds: trust one of them more in `sources.trust`",
    }
    return {why: said[why] for why in found.unfit}


def _shares(
    by: Mapping[str, float], scale: float, sources: SourcesConfig
) -> tuple[tuple[str, float], ...]:
    return tuple(
        (NOBODY if name in sources.trusted else name, trust * scale) for name, trust in by.items()
    )


def _labelled(
    connection: sa.Connection, policy_id: UUID, config: PolicyConfig, head: HeadConfig, span: Span
) -> Iterator[tuple[SaidRow | EarnedRow, Vote | str]]:
    """Rows of the log that have a label, with what it says; newest first."""
    if head.metric is not None:
        for said in heads.said(connection, policy_id, span, metric=head.metric):
            yield said, voted(said.said, head, config.sources)
        return
    if head.weak_suffices is None:
        raise ValueError(head.name)  # a head has one label or the other
    arm, reward = head.weak_suffices.arm, policies.newest_reward(connection, policy_id)
    version = reward[0] if reward else 0
    for earned in heads.earned(connection, policy_id, span, arm=arm, reward_version=version):
        yield earned, sufficed(earned, head, config.sources)


def _window_start(connection: sa.Connection, policy_id: UUID, head: HeadConfig, span: Span) -> UUID:
    """The oldest decision whose label is looked up; ``NONE`` where that is every one."""
    if head.weak_suffices is None:
        found = heads.oldest_said(connection, policy_id, span)
    else:
        found = heads.oldest_earned(connection, policy_id, span, arm=head.weak_suffices.arm)
    return found or heads.NONE


def _class_of(value: Any, head: HeadConfig) -> int | None:
    if isinstance(value, bool):
        return int(value)
    if value in head.names:
        return head.names.index(value)
    return UNKNOWN if head.kind == "ood" else None


def _numbered(units: Sequence[str | None]) -> NDArray[np.int64]:
    """A number for each session or episode; −1 for a row that belongs to none."""
    place = {unit: at for at, unit in enumerate(dict.fromkeys(u for u in units if u is not None))}
    return np.array([-1 if u is None else place[u] for u in units], dtype=np.int64)
