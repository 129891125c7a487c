"""What a log's diagnostics need to know of its decisions, beside what learners read of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from uuid import UUID

import msgspec
import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_decode = msgspec.json.Decoder().decode
_IMPORTED = -1
"""In place of a version's number, which is none of ours."""
MAX_WAITING = 100_000
"""Of the decisions that are not joined: more need not be counted to be too many."""

# As the log itself is read: by the index, with each decision looked up by its key.
_JOINED = """
COPY (
  SELECT d.version, d.mode = 'imported', extract(epoch FROM d.at)::float8,
         extract(epoch FROM i.joined_at)::float8, d.propensity
  FROM (
    SELECT decision_id, policy_id, joined_at FROM interactions
    WHERE policy_id = %(policy)s AND position > %(after)s AND position <= %(upto)s
      AND reward IS NOT NULL AND reward_version = %(reward_version)s
    ORDER BY position
  ) i CROSS JOIN LATERAL (
    SELECT version, mode, at, propensity FROM decisions
    WHERE decision_id = i.decision_id AND policy_id = i.policy_id OFFSET 0
  ) d
) TO STDOUT (FORMAT binary)
"""
_HEADER, _TRAILER = 19, 2
_WIDTHS = {"version": ">i8", "imported": "?", "at": ">f8", "joined_at": ">f8", "propensity": ">f8"}
_ROW = np.dtype(
    [
        ("fields", ">i2"),
        *(part for one in _WIDTHS.items() for part in ((f"{one[0]}_size", ">i4"), one)),
    ]
)
"""A row of such a copy: how many fields, then each one's size and value; none is ever null."""

_WAITING = sa.text("""
SELECT extract(epoch FROM p.due_at)::float8 AS due_at
FROM pending_joins p CROSS JOIN LATERAL (
  SELECT mode FROM decisions
  WHERE decision_id = p.decision_id AND policy_id = p.policy_id OFFSET 0
) d LEFT JOIN LATERAL (
  SELECT reward_version FROM interactions
  WHERE decision_id = p.decision_id AND policy_id = p.policy_id OFFSET 0
) i ON true
WHERE p.policy_id = :policy AND d.mode <> 'shadow'
  AND p.decision_id BETWEEN CAST(:first AS uuid) AND CAST(:last AS uuid)
  AND i.reward_version IS DISTINCT FROM :reward_version
LIMIT :limit
""")

_SERVED = sa.text("""
SELECT d.version, array_to_json(d.eligible)::text, array_to_json(d.distribution)::text, d.action
FROM (
  SELECT decision_id, policy_id FROM interactions
  WHERE policy_id = :policy AND position > :after AND position <= :upto
  ORDER BY position DESC LIMIT :limit
) i CROSS JOIN LATERAL (
  SELECT version, eligible, distribution, action, mode FROM decisions
  WHERE decision_id = i.decision_id AND policy_id = i.policy_id OFFSET 0
) d WHERE d.mode IN ('policy', 'retry')
""")

_RETRIES = sa.text("""
SELECT d.decision_id::text AS decision_id, d.retry_of::text AS retry_of
FROM (
  SELECT decision_id, policy_id FROM interactions
  WHERE policy_id = :policy AND position > :after AND position <= :upto
) i CROSS JOIN LATERAL (
  SELECT decision_id, retry_of, mode FROM decisions
  WHERE decision_id = i.decision_id AND policy_id = i.policy_id OFFSET 0
) d WHERE d.mode = 'retry' AND d.retry_of IS NOT NULL
""")

_EPISODES = sa.text("""
SELECT episode_id, count(*) AS decisions FROM decisions
WHERE project_id = :project AND episode_id = ANY(CAST(:episodes AS text[]))
  AND policy_id = :policy AND mode <> 'shadow'
GROUP BY episode_id
""")


@dataclass(frozen=True, slots=True, eq=False)
class LogFacts:
    """Of the n rewarded decisions of a range of a policy's log, and the m that still lack one.

    Attributes:
        version: who decided, shape ``(n,)``; ``imported`` of another system's.
        at: when it was decided, seconds since 1970, shape ``(n,)``.
        joined_at: when its reward was made, shape ``(n,)``.
        propensity: NaN where none was logged, shape ``(n,)``.
        due_at: of the decisions of that time that are not joined: when they are, shape ``(m,)``.
    """

    version: NDArray[np.str_]
    at: Floats
    joined_at: Floats
    propensity: Floats
    due_at: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Served:
    """What n decisions logged, over K arms.

    Attributes:
        version: who decided, shape ``(n,)``.
        arms: K names.
        distribution: the logged probabilities, 0 for arms not eligible, shape ``(n, K)``.
        action: index of the served arm, shape ``(n,)``.
    """

    version: NDArray[np.str_]
    arms: tuple[str, ...]
    distribution: Floats
    action: NDArray[np.int64]


def facts(
    connection: sa.Connection,
    policy_id: UUID,
    *,
    positions: tuple[int, int],
    ids: tuple[str, str] | None,
    reward_version: int,
) -> LogFacts:
    """The facts of the positions in (after, upto].

    Args:
        connection: to the database.
        policy_id: whose log.
        positions: after, upto.
        ids: the first and the last decision between which none should lack a reward; None where
            there are none.
        reward_version: by which they are judged.
    """
    given: dict[str, Any] = {"policy": policy_id, "reward_version": reward_version}
    rows = _joined(connection, {**given, "after": positions[0], "upto": positions[1]})
    waiting: Sequence[float] = []
    if ids is not None:
        span = {"first": ids[0], "last": ids[1], "limit": MAX_WAITING}
        waiting = connection.scalars(_WAITING, {**given, **span}).all()
    at, joined_at, propensity = (
        rows[name].astype(np.float64) for name in ("at", "joined_at", "propensity")
    )
    numbers = np.where(rows["imported"], _IMPORTED, rows["version"])
    distinct, place = np.unique(numbers, return_inverse=True)
    return LogFacts(
        version=np.array([_who(number) for number in distinct.tolist()], dtype=np.str_)[place],
        at=at,
        joined_at=joined_at,
        propensity=propensity,
        due_at=np.array(waiting, dtype=np.float64),
    )


def _joined(connection: sa.Connection, given: dict[str, Any]) -> NDArray[np.void]:
    """The rows as the server sends them: to adapt each value for itself takes most of the time."""
    driver = connection.connection.driver_connection
    if driver is None:
        raise RuntimeError("the connection is closed")
    with driver.cursor() as cursor, cursor.copy(_JOINED, given) as parts:
        sent = b"".join(parts)
    return np.frombuffer(sent[_HEADER:-_TRAILER], dtype=_ROW)


def served(
    connection: sa.Connection, policy_id: UUID, *, positions: tuple[int, int], limit: int
) -> Served:
    """What the newest decisions at the positions in (after, upto] logged; at most ``limit``."""
    rows = connection.execute(
        _SERVED,
        {"policy": policy_id, "after": positions[0], "upto": positions[1], "limit": limit},
    ).all()
    # Few sets of arms stand in many rows; to adapt each array for itself takes most of the time.
    sets = {text: _decode(text) for text in {row[1] for row in rows}}
    arms = tuple(sorted({arm for names in sets.values() for arm in names}))
    place = {arm: i for i, arm in enumerate(arms)}
    distribution = np.zeros((len(rows), len(arms)))
    together: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        together.setdefault(row[1], []).append(number)
    for text, numbers in together.items():
        given = np.array([_decode(rows[number][2]) for number in numbers], dtype=np.float64)
        distribution[np.ix_(numbers, [place[arm] for arm in sets[text]])] = given
    return Served(
        version=np.array([_who(row[0]) for row in rows], dtype=np.str_),
        arms=arms,
        distribution=distribution,
        action=np.array([place[row[3]] for row in rows], dtype=np.int64),
    )


def retries(
    connection: sa.Connection, policy_id: UUID, *, positions: tuple[int, int]
) -> dict[str, str]:
    """Of each decision at the positions in (after, upto] that tried again: after which one."""
    given = {"policy": policy_id, "after": positions[0], "upto": positions[1]}
    return {row.decision_id: row.retry_of for row in connection.execute(_RETRIES, given)}


def episode_sizes(
    connection: sa.Connection, project_id: UUID, policy_id: UUID, episodes: Sequence[str]
) -> dict[str, int]:
    """How many decisions of the policy each of these episodes has, judged or not."""
    given = {"project": project_id, "policy": policy_id, "episodes": list(episodes)}
    return {row.episode_id: row.decisions for row in connection.execute(_EPISODES, given)}


@lru_cache(1_024)
def _who(version: int) -> str:
    return "imported" if version == _IMPORTED else f"version {version}"
