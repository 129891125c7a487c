"""Interactions by column: what learners and estimators compute on."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from learners.errors import InteractionError
from learners.features import Schema, canonical_json
from learners.records import MAX_ABS_REWARD, Interaction
from learners.rewards import RewardFunction

_ROUNDING = 1e-9
MAX_ABS_COLUMN = 1e6
"""Schemas clip at 10; this bounds what comes by another way, so that squares stay finite."""


@dataclass(frozen=True, slots=True, eq=False)
class Interactions:
    """n interactions over K arms, encoded by one schema of d columns.

    Attributes:
        arms: K names; the order of ``eligible``'s columns.
        x: encoded contexts, shape ``(n, d)``.
        eligible: shape ``(n, K)``.
        action: index into ``arms``, shape ``(n,)``.
        propensity: served probability of the action in (0, 1], shape ``(n,)``.
        reward: shape ``(n,)``.
        weight: shape ``(n,)``, at least 0.
        at: when each decision was made, seconds since 1970, shape ``(n,)``; zeros if not given.
        parts: the reward's terms before their weights, shape ``(n, m)``: for a learner that
            predicts them apart. If not given, the reward itself is the one part.
        episode: which rows belong to one episode, shape ``(n,)``; -1 for none, as if not given.
        source: who graded each row, as a number, shape ``(n,)``; -1 for nobody in particular, as
            if not given.
    """

    arms: tuple[str, ...]
    x: NDArray[np.float64]
    eligible: NDArray[np.bool_]
    action: NDArray[np.int64]
    propensity: NDArray[np.float64]
    reward: NDArray[np.float64]
    weight: NDArray[np.float64]
    at: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    parts: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 0)))
    episode: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    source: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    def __post_init__(self) -> None:
        """Fill in what was not given; refuse what would poison a learner, naming the first row."""
        self._fill_in()
        if self.x.ndim != 2:
            raise InteractionError(f"x has shape {self.x.shape}: give (interactions, columns)")
        n, k = len(self.x), len(self.arms)
        if self.eligible.shape != (n, k):
            raise InteractionError(f"eligible {self.eligible.shape} is not {(n, k)}")
        if self.parts.ndim != 2:
            raise InteractionError(f"parts has shape {self.parts.shape}: give (interactions, m)")
        checks = {
            "x": (np.abs(self.x) <= MAX_ABS_COLUMN).all(axis=1),
            "action": (self.action >= 0) & (self.action < k),
            "propensity": (self.propensity > 0) & (self.propensity <= 1),
            "reward": np.abs(self.reward) <= MAX_ABS_REWARD,
            "weight": (self.weight >= 0) & (self.weight <= MAX_ABS_REWARD),
            "at": np.isfinite(self.at),
            "parts": (np.abs(self.parts) <= MAX_ABS_REWARD).all(axis=1),
            "episode": self.episode >= -1,
            "source": self.source >= -1,
        }
        for name, good in checks.items():
            if good.shape != (n,):
                raise InteractionError(f"{name} has shape {good.shape}, x has {n} rows")
            if not good.all():
                row = int(np.argmin(good))
                raise InteractionError(
                    f"row {row}: {name}={getattr(self, name)[row]} is not finite or out of range"
                )
        if n and not self.eligible[np.arange(n), self.action].all():
            raise InteractionError("an action is not among its eligible arms")

    def _fill_in(self) -> None:
        n = len(self.x)
        if not n:
            return
        for name, usual in (
            ("at", np.zeros(n)),
            ("parts", np.asarray(self.reward).reshape(-1, 1)),
            ("episode", np.full(n, -1, dtype=np.int64)),
            ("source", np.full(n, -1, dtype=np.int64)),
        ):
            if not getattr(self, name).size:
                object.__setattr__(self, name, usual)

    def __len__(self) -> int:
        """How many interactions."""
        return len(self.action)

    def rows(self, index: slice | NDArray[np.int64] | NDArray[np.bool_]) -> "Interactions":
        """The interactions at the given rows."""
        columns = {name: getattr(self, name)[index] for name in COLUMNS}
        return Interactions(arms=self.arms, **columns)


COLUMNS = (
    "x",
    "eligible",
    "action",
    "propensity",
    "reward",
    "weight",
    "at",
    "parts",
    "episode",
    "source",
)
"""The arrays, each with a row an interaction."""


def joined(pieces: Sequence[Interactions]) -> Interactions:
    """Pieces of one log, at least one, in their order.

    Raises:
        InteractionError: They do not fit together.
    """
    if any(piece.arms != pieces[0].arms for piece in pieces):
        raise InteractionError("the pieces are over other arms: encode them for the same ones")
    filled = [piece for piece in pieces if len(piece)] or [pieces[0]]
    try:
        columns = {
            name: np.concatenate([getattr(piece, name) for piece in filled]) for name in COLUMNS
        }
    except ValueError as error:
        raise InteractionError(f"the pieces do not fit together: {error}") from error
    return Interactions(arms=pieces[0].arms, **columns)


def encode(
    rows: Sequence[Interaction],
    schema: Schema,
    arms: tuple[str, ...],
    reward: RewardFunction | None = None,
) -> Interactions:
    """Turn records into columns; interactions whose action is not among ``arms`` are left out.

    With ``reward``, which is what they were rewarded by, its parts become columns too.

    An arm that has been retired since is no longer a choice, so what it earned teaches nothing
    about the arms that remain; other retired arms are dropped from ``eligible``.
    """
    return arrange(rows, schema.encode_all([row.context for row in rows]), arms, reward)


def arrange(
    rows: Sequence[Interaction],
    x: NDArray[np.float64],
    arms: tuple[str, ...],
    reward: RewardFunction | None = None,
) -> Interactions:
    """As :func:`encode`, of rows whose contexts are encoded already: ``x`` ``(n, d)``."""
    index = {arm: i for i, arm in enumerate(arms)}
    there = np.fromiter((row.action in index for row in rows), dtype=np.bool_, count=len(rows))
    kept = list(rows)
    if not there.all():
        kept, x = [row for row in rows if row.action in index], x[there]
    return Interactions(
        arms=arms,
        x=x,
        eligible=_eligible(kept, index),
        action=np.array([index[row.action] for row in kept], dtype=np.int64),
        propensity=np.array([row.propensity for row in kept], dtype=np.float64),
        reward=np.array([row.reward for row in kept], dtype=np.float64),
        weight=np.array([row.weight for row in kept], dtype=np.float64),
        at=np.array([row.at.timestamp() for row in kept], dtype=np.float64),
        parts=_parts(kept, reward),
        episode=_numbered([row.episode_id for row in kept]),
        source=_numbered([row.source for row in kept]),
    )


def clusters_of(rows: Sequence[Interaction]) -> NDArray[np.int64] | None:
    """Which rows are not independent of each other: those that share a session or an episode.

    Returns:
        Equal numbers for rows that belong together, also by way of others; -1 for a row alone,
        shape ``(n,)``. None where all are alone.
    """
    columns = [
        _numbered([row.session_id for row in rows]),
        _numbered([row.episode_id for row in rows]),
    ]
    if all((column < 0).all() for column in columns):
        return None
    found = np.where((columns[0] < 0) & (columns[1] < 0), -1, np.arange(len(rows)))
    before = np.empty(0, dtype=np.int64)
    while not np.array_equal(found, before):
        before = found.copy()
        for column in columns:
            there = column >= 0
            first = np.full(int(column.max()) + 1, len(rows), dtype=np.int64)
            np.minimum.at(first, column[there], found[there])
            least = first[column[there]]
            # A number is that of a row, whose own is lowered too: long chains end in few rounds.
            np.minimum.at(found, found[there], least)
            found[there] = np.minimum(found[there], least)
        some = found >= 0
        found[some] = found[found[some]]
    return found


def _eligible(rows: Sequence[Interaction], index: Mapping[str, int]) -> NDArray[np.bool_]:
    """Shape ``(n, K)``; few sets of arms stand in many rows, so each is looked up once."""
    numbers: dict[tuple[str, ...], int] = {}
    found = [numbers.setdefault(tuple(row.eligible), len(numbers)) for row in rows]
    masks = np.zeros((len(numbers), len(index)), dtype=np.bool_)
    for mask, eligible in zip(masks, numbers, strict=True):
        mask[[index[arm] for arm in eligible if arm in index]] = True
    return masks[np.array(found, dtype=np.int64)]


def _numbered(names: Sequence[str | None]) -> NDArray[np.int64]:
    """Names as numbers in the order of their first appearance; None as -1."""
    numbers: dict[str, int] = {}
    return np.array(
        [-1 if name is None else numbers.setdefault(name, len(numbers)) for name in names],
        dtype=np.int64,
    )


def _parts(rows: Sequence[Interaction], reward: RewardFunction | None) -> NDArray[np.float64]:
    """The rewards' parts; the rewards themselves where any row's parts cannot be told."""
    whole = np.array([row.reward for row in rows], dtype=np.float64)[:, None]
    if reward is None or not rows:
        return whole
    with np.errstate(all="ignore"):  # what is not finite is looked for below
        parts = _each_part(rows, reward)
        found = whole if parts is None else _adding_up(parts, whole[:, 0], rows, reward)
    return found if (np.abs(found) <= MAX_ABS_REWARD).all() else whole


def _each_part(rows: Sequence[Interaction], reward: RewardFunction) -> NDArray[np.float64] | None:
    """Shape ``(n, m)``; None where any row's parts cannot be told."""
    columns = {
        name: np.array([row.values.get(name, np.nan) for row in rows], dtype=np.float64)
        for name in reward.metrics
    }
    parts = reward.part_columns(columns)
    missing = np.any([np.isnan(column) for column in columns.values()], axis=0)
    for place in np.flatnonzero(missing).tolist():  # what stands in depends on the whole row
        own = reward.parts(rows[place].values)
        if any(part is None for part in own):
            return None
        parts[place] = own
    return parts


def _adding_up(
    parts: NDArray[np.float64],
    whole: NDArray[np.float64],
    rows: Sequence[Interaction],
    reward: RewardFunction,
) -> NDArray[np.float64]:
    """The parts with what a reward was corrected by in those that sources spoke of.

    ``(n, 1)``, the rewards themselves, where no part can take it.
    """
    rest = whole - parts @ reward.mix - reward.offset
    if (np.abs(rest) <= _ROUNDING * (1 + np.abs(whole))).all():
        return parts
    spoken = {name for row in rows for name in row.said}
    mix = reward.mix * [name in spoken for name in reward.part_names]
    if not mix.any():
        return whole[:, None]
    return np.asarray(parts + rest[:, None] * mix / (mix @ mix))


def digest(log: Interactions) -> str:
    """SHA-256 over all that a learner reads: the same digest, the same training.

    Decision ids are no part of it, nor is what the schema leaves out of a context.
    """
    sha = hashlib.sha256()
    sha.update(canonical_json({"arms": list(log.arms), "x": list(log.x.shape)}))
    for name in COLUMNS:
        column: NDArray[np.generic] = getattr(log, name)
        # One byte order and layout, so that every machine and every slice of a log agree.
        plain = np.ascontiguousarray(column, dtype=column.dtype.newbyteorder("<"))
        sha.update(plain.reshape(-1).view(np.uint8).data)
    return sha.hexdigest()
