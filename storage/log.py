"""A policy's log as learners read it: streamed by COPY, since adapting each value is slow."""

import re
from collections.abc import Callable, Generator, Mapping
from datetime import datetime
from functools import lru_cache
from itertools import islice
from uuid import UUID

import msgspec
import sqlalchemy as sa

from learners.records import Context, Interaction

BATCH = 500
"""Rows at a time: while they are worked on the server goes on, as far as its socket takes."""

# The order is that of the index and each decision is looked up by its key, so the first rows come
# at once, and nothing as wide as a context is ever sorted or hashed.
_COPY = """
COPY (
  SELECT i.decision_id, d.at, d.context, array_to_json(d.eligible), d.action, d.propensity,
         i.reward, i.position, i."values", to_json(d.episode_id), i.said, to_json(d.session_id)
  FROM (
    SELECT position, decision_id, policy_id, reward, "values", said FROM interactions
    WHERE policy_id = %(policy)s AND position > %(after)s AND position <= %(upto)s
      AND reward IS NOT NULL
      AND (%(reward_version)s::bigint IS NULL OR reward_version = %(reward_version)s::bigint)
    ORDER BY position LIMIT %(limit)s
  ) i CROSS JOIN LATERAL (
    SELECT at, context, eligible, action, propensity, episode_id, session_id FROM decisions
    WHERE decision_id = i.decision_id AND policy_id = i.policy_id
      AND propensity <= 1  -- imported rows without one hold NaN: nobody may learn or judge by them
    OFFSET 0
  ) d ORDER BY i.position
) TO STDOUT (NULL '')
"""

_ESCAPED = re.compile(rb"\\(.)", re.DOTALL)
_ESCAPES = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}
_SEEN = 1_024

_decode = msgspec.json.Decoder().decode


def stream(
    connection: sa.Connection,
    policy_id: UUID,
    *,
    after: int,
    upto: int,
    limit: int,
    reward_version: int | None = None,
    kept: Callable[[Context], Context] = lambda context: context,
) -> Generator[tuple[list[Interaction], list[Context]], None, None]:
    """Rewarded interactions at positions in (after, upto], in order; of one reward, if given.

    They come :data:`BATCH` at a time, with their contexts, of which a row itself holds what is to
    be ``kept``. The connection is busy until the last one.
    """
    driver = connection.connection.driver_connection
    if driver is None:
        raise RuntimeError("the connection is closed")
    given = {
        "policy": policy_id,
        "after": after,
        "upto": upto,
        "limit": limit,
        "reward_version": reward_version,
    }
    with driver.cursor() as cursor, cursor.copy(_COPY, given) as lines:
        while batch := list(islice(lines, BATCH)):
            contexts: list[Context] = []
            yield [_row(bytes(line), contexts, kept) for line in batch], contexts


def _row(line: bytes, contexts: list[Context], kept: Callable[[Context], Context]) -> Interaction:
    """The row; its whole context is added to the contexts."""
    fields = line[:-1].split(b"\t")
    if b"\\" in line:
        fields = [_ESCAPED.sub(_escaped, field) for field in fields]
    decision, at, context, eligible, action, served, reward, position, values = fields[:9]
    episode, said, session = fields[9:]
    source, told = _said(said)
    whole = _decode(context)
    contexts.append(whole)
    return Interaction(
        decision_id=decision.decode(),
        at=datetime.fromisoformat(at.decode()),
        context=kept(whole),
        eligible=_names(eligible),
        action=_name(action),
        propensity=float(served),
        reward=float(reward),
        position=int(position),
        values=_decode(values),
        episode_id=_unit(episode),
        session_id=_unit(session),
        source=source,
        said=told,
    )


def _escaped(found: re.Match[bytes]) -> bytes:
    return _ESCAPES.get(found[1], found[1])


# The same names and grades come again and again: one object stands for all of them.
@lru_cache(_SEEN)
def _names(field: bytes) -> tuple[str, ...]:
    return tuple(_decode(field))


@lru_cache(_SEEN)
def _name(field: bytes) -> str:
    return field.decode()


@lru_cache(_SEEN)
def _unit(field: bytes) -> str | None:
    found: str | None = _decode(field) if field else None
    return found


@lru_cache(_SEEN)
def _said(field: bytes) -> tuple[str | None, Mapping[str, Mapping[str, float]]]:
    """The one source that spoke, if one did, and what each said of each metric."""
    said: Mapping[str, Mapping[str, float]] = _decode(field) if field else {}
    names = {name for by_source in said.values() for name in by_source}
    return names.pop() if len(names) == 1 else None, said
