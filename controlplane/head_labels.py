"""Labels as the log holds them → rows that a head learns from, in the order of time."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from controlplane.config import PolicyConfig, SourcesConfig
from controlplane.heads_config import HeadConfig
from learners.head_bank import vector_of
from learners.head_training import UNKNOWN, Labelled
from storage import heads, policies
from storage.heads import NONE, Span

MAX_WEIGHT = 100.0
"""Of a row by its propensity: a rarer choice counts no more than this."""

Label = tuple[int, float]


@dataclass(frozen=True, slots=True, eq=False)
class HeadLog:
    """A head's labelled decisions, oldest first."""

    ids: tuple[UUID, ...]
    rows: Labelled


def count(
    connection: sa.Connection, policy_id: UUID, head: HeadConfig, *, after: UUID, limit: int
) -> int:
    """How many decisions after one are labelled, ``limit`` at most."""
    span = Span(head.feature, limit, after=after)
    if head.metric is not None:
        return heads.count_said(connection, policy_id, span, metric=head.metric)
    arm, reward_version = _weak(connection, policy_id, head)
    return heads.count_earned(connection, policy_id, span, arm=arm, reward_version=reward_version)


def read(
    connection: sa.Connection, policy_id: UUID, config: PolicyConfig, head: HeadConfig
) -> HeadLog:
    """A head's newest labels, with the vectors that it reads."""
    return _gathered(head, _labelled(connection, policy_id, config, head))


def usable(
    connection: sa.Connection,
    policy_id: UUID,
    config: PolicyConfig,
    head: HeadConfig,
    *,
    after: UUID,
) -> int:
    """How many of those that :func:`count` counts say a class of the head's, and have its vector.

    Others say another category, are of sources without trust or at odds, or hold a vector of
    another length.
    """
    rows = _labelled(connection, policy_id, config, head, after=after)
    return sum(vector_of({"": row.vector}, "", head.size) is not None for row, _ in rows)


def _labelled(
    connection: sa.Connection,
    policy_id: UUID,
    config: PolicyConfig,
    head: HeadConfig,
    *,
    after: UUID = NONE,
) -> Iterator[tuple[Any, Label]]:
    """Rows of the log that have a label, with it; newest first."""
    span = Span(head.feature, head.max_labels, after=after)
    if head.metric is not None:
        for said in heads.said(connection, policy_id, span, metric=head.metric):
            label = voted(said.said, head, config.sources)
            if label is not None:
                yield said, label
        return
    arm, reward_version = _weak(connection, policy_id, head)
    rows = heads.earned(connection, policy_id, span, arm=arm, reward_version=reward_version)
    for earned in rows:
        yield earned, sufficed(earned.reward, earned.propensity, head)


def voted(
    said: Mapping[str, Any], head: HeadConfig, sources: SourcesConfig
) -> tuple[int, float] | None:
    """The class that the sources name, each with its trust; None where they do not agree on one.

    Returns:
        Index of the class and the weight of its sources, at most 1.
    """
    votes: dict[int, float] = {}
    for source, value in said.items():
        label, trust = _class_of(value, head), sources.trust_of(source)
        if label is not None and trust > 0:
            votes[label] = votes.get(label, 0.0) + trust
    ranked = sorted(votes.items(), key=lambda pair: -pair[1])
    if not ranked or (len(ranked) > 1 and ranked[0][1] == ranked[1][1]):
        return None
    return ranked[0][0], min(1.0, ranked[0][1])


def sufficed(reward: float, propensity: float, head: HeadConfig) -> Label:
    """Whether the weak arm's reward is high enough, and how many requests the row stands for.

    Only requests that the arm served are labelled, so each is weighed by the inverse of the
    probability with which it was.
    """
    weak = head.weak_suffices
    enough = weak is not None and reward >= weak.at_least
    return int(enough), min(MAX_WEIGHT, 1.0 / propensity)


def _class_of(value: Any, head: HeadConfig) -> int | None:
    if isinstance(value, bool):
        return int(value)
    if value in head.names:
        return head.names.index(value)
    return UNKNOWN if head.kind == "ood" else None


def _weak(connection: sa.Connection, policy_id: UUID, head: HeadConfig) -> tuple[str, int]:
    """The weak arm, and the version of the reward in force."""
    if head.weak_suffices is None:
        raise ValueError(head.name)  # a head has one label or the other
    reward = policies.newest_reward(connection, policy_id)
    return head.weak_suffices.arm, reward[0] if reward else 0


def _gathered(head: HeadConfig, labelled: Iterator[tuple[Any, Label]]) -> HeadLog:
    ids: list[UUID] = []
    vectors: list[NDArray[np.float32]] = []
    labels: list[Label] = []
    units: list[str | None] = []
    for row, label in labelled:
        vector = vector_of({head.feature: row.vector}, head.feature, head.size)
        if vector is None:
            continue
        ids.append(row.decision_id)
        vectors.append(vector.astype(np.float32))
        labels.append(label)
        units.append(row.session_id or row.episode_id)
    x = np.array(vectors[::-1], dtype=np.float64).reshape(len(ids), head.size)
    told = labels[::-1]
    return HeadLog(
        tuple(ids[::-1]),
        Labelled(
            x,
            np.array([label for label, _ in told], dtype=np.int64),
            np.array([weight for _, weight in told], dtype=np.float64),
            _numbered(units[::-1]),
        ),
    )


def _numbered(units: Sequence[str | None]) -> NDArray[np.int64]:
    """A number for each session or episode; −1 for a row that belongs to none."""
    place = {unit: at for at, unit in enumerate(dict.fromkeys(u for u in units if u is not None))}
    return np.array([-1 if u is None else place[u] for u in units], dtype=np.int64)
