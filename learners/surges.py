"""Whether a rate surges beyond another's, by evidence that may be looked at after every row.

Two streams of hits run beside each other: own and other. Allowed is an own rate of at most
``factor · other + margin``. Time is cut into blocks of own rows and the other's rows beside them.
In each a gambler bets on own hits, and against the other's, so that nothing is gained on average
while the rates are just allowed: with q₁ = factor · q₀ + margin, n₁ own rows and n₀ others the
capital is multiplied by ``Π (1 + λ(x − q₁)) · Π (1 − λ·factor·n₁/n₀·(y − q₀))``. Its expectation is
log-concave in the other's rate and highest, 1, at q₀: so no pair of allowed rates lets the capital
grow, and the pair may change from block to block, as in an outage of both. The bets λ and q₀ for a
suspected pair of rates are those of its nearest allowed pair in relative entropy (Turner, Ly &
Grünwald 2024, arXiv:2106.02693; linear effects: Turner & Grünwald 2023, arXiv:2203.09785). What is
suspected: a few sizes of the surge above the other's rate, which is read off earlier blocks with a
short and a long memory.

Nobody knows when a surge begins. So the capital is spread over all beginnings: half of it bets
from the first block on, the rest is laid out step by step; a sum of such capitals, of which shares
still wait in cash, is a fair game's too (without a limit of the error: Shin, Ramdas & Rinaldo 2024,
arXiv:2203.03532). It has a chance of at most α ever to reach 1/α (Ville), so the highest value so
far counts. No asymptotics: four failures in a dozen rows say something.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from learners.errors import EstimateError

Floats = NDArray[np.float64]

SIZES = (0.1, 0.3, 0.6)
"""Surges that are bet on: this part of the way from what is allowed to 1."""
MEMORIES = ((60.0, 0.01), (1_000.0, 0.1))
"""Rows of the other that its rate is read off, and what it is before any row."""
PRIOR_ROWS = 20.0
"""Rows that the latter counts for."""
YOUNG = 200.0
"""Blocks among which half of what is bet on later beginnings is laid out."""
_MOST = 0.9
"""Of what one row of the other could lose."""
_STEPS = 10
_CERTAIN, _TINY = 0.999, 1e-9


@dataclass(frozen=True, slots=True, eq=False)
class Trail:
    """n rows of one side, the oldest first.

    Attributes:
        hit: shape ``(n,)``; what is not known yet counts as no hit on the own side, and is left out
            on the other.
        at: when, in seconds, rising, ``(n,)``.
        worth: of a row where a unit's rows resemble each other, in (0, 1], see
            :func:`learners.rates.worth`.
    """

    hit: NDArray[np.bool_]
    at: Floats
    worth: float = 1.0

    def __post_init__(self) -> None:
        """Refuse shapes and weights that are none."""
        if self.hit.shape != self.at.shape or self.hit.ndim != 1:
            raise EstimateError(f"hits {self.hit.shape}, times {self.at.shape}: give the same")
        if not 0.0 < self.worth <= 1.0:
            raise EstimateError(f"a row's worth is {self.worth}: give more than 0, at most 1")


@dataclass(frozen=True, slots=True)
class Allowed:
    """An own rate of at most ``factor · other + margin``."""

    margin: float
    factor: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what allows nothing or is no number."""
        if not (0.0 <= self.margin < math.inf and 0.0 < self.factor < math.inf):
            raise EstimateError(f"allowed: factor {self.factor}, margin {self.margin}")

    def upto(self, other: Floats) -> Floats:
        """The highest own rates beside the other's."""
        found: Floats = self.factor * other + self.margin
        return found

    @property
    def highest(self) -> float:
        """The other's rate beyond which nearly any own rate is allowed; below 0: at any."""
        return (_CERTAIN - self.margin) / self.factor


@dataclass(frozen=True, slots=True)
class Surge:
    """What speaks for a surge.

    Attributes:
        log_e: logarithm of the highest evidence so far; an alarm at level 1 − α where it reaches
            ``-log(α)``.
        rows: own rows since the likeliest beginning, until that evidence.
        rate: own rate there; NaN without a row.
        other_rows: the other's rows beside them.
        other_rate: its rate there; NaN without a row.
    """

    log_e: float
    rows: int
    rate: float
    other_rows: int
    other_rate: float


NOTHING = Surge(0.0, 0, math.nan, 0, math.nan)


@dataclass(frozen=True, slots=True, eq=False)
class _Blocks:
    """Counts of b blocks, shape ``(b,)`` each; own rows are worth as much as ``worth`` says."""

    rows: Floats
    hits: Floats
    other_rows: Floats
    other_hits: Floats


def beside(own: Trail, other: Trail, allowed: Allowed, *, ratio: float) -> Surge:
    """A surge of the own rate over the other's at the same time.

    Args:
        own: whose rate is in doubt.
        other: the control.
        allowed: how much higher the own rate may be.
        ratio: rows of the other for an own one, as they are drawn: never by what comes of them.
    """
    blocks = _cut(own, other, ratio / 2.0)
    if not len(blocks.rows) or allowed.highest <= 0.0:
        return NOTHING
    reads = [_read_rates(blocks, memory, before) for memory, before in MEMORIES]
    gains = [
        _gains(blocks, rate, size, allowed, (own.worth, other.worth))
        for rate in reads
        for size in SIZES
    ]
    return _spread(np.stack(gains, axis=1), blocks)


def above(own: Trail, bound: float, allowed: Allowed) -> Surge:
    """A surge over what an other rate of at most ``bound`` allows.

    Args:
        own: whose rate is in doubt.
        bound: of the other rate; where it holds with a chance only, that adds to the error.
        allowed: how much higher the own rate may be.
    """
    n = len(own.hit)
    if not n or bound >= allowed.highest:
        return NOTHING
    hit, low = own.hit.astype(np.float64), max(allowed.factor * bound + allowed.margin, _TINY)
    gains = []
    for size in SIZES:
        high = low + size * (1.0 - low)
        win, lose = math.log(high / low), math.log((1.0 - high) / (1.0 - low))
        gains.append(own.worth * (hit * win + (1.0 - hit) * lose))
    blocks = _Blocks(np.ones(n), hit, np.zeros(n), np.zeros(n))
    return _spread(np.stack(gains, axis=1), blocks)


def _cut(own: Trail, other: Trail, fewest: float) -> _Blocks:
    """Blocks that end as soon as ``fewest`` of the other's rows are in them for each own one."""
    before = [*np.searchsorted(other.at, own.at, side="right").tolist(), len(other.at)]
    ends, upto, first = [0], [0], 0
    for row in range(len(own.at)):
        enough = upto[-1] + math.ceil(fewest * (row + 1 - first))
        if before[row + 1] >= enough:
            ends.append(row + 1)
            upto.append(max(before[row], enough))
            first = row + 1
    own_ends, other_ends = np.array(ends), np.array(upto)
    return _Blocks(
        np.diff(own_ends).astype(np.float64),
        np.diff(_running(own.hit)[own_ends]),
        np.diff(other_ends).astype(np.float64),
        np.diff(_running(other.hit)[other_ends]),
    )


def _running(hit: NDArray[np.bool_]) -> Floats:
    return np.concatenate([[0.0], hit.cumsum(dtype=np.float64)])


def _read_rates(blocks: _Blocks, memory: float, before: float) -> Floats:
    """The other's rate before each block, by the blocks before it, shape ``(b,)``."""
    rates, hits, rows = [], 0.0, 0.0
    fade = math.exp(-1.0 / memory)
    counts = zip(blocks.other_hits.tolist(), blocks.other_rows.tolist(), strict=True)
    for more_hits, more_rows in counts:
        rates.append((hits + before * PRIOR_ROWS) / (rows + PRIOR_ROWS))
        kept = fade**more_rows
        hits, rows = kept * hits + more_hits, kept * rows + more_rows
    return np.array(rates)


def _gains(
    blocks: _Blocks, rate: Floats, size: float, allowed: Allowed, worth: tuple[float, float]
) -> Floats:
    """Logarithms by which each block multiplies the capital that bets on a surge, ``(b,)``."""
    rate = np.minimum(rate, allowed.highest)
    standing = allowed.upto(rate)
    suspected = standing + size * (1.0 - standing)
    balance = blocks.other_rows * worth[1] / (blocks.rows * worth[0])
    near = _nearest(rate, suspected, balance, allowed)
    top = allowed.upto(near)
    most = _MOST * balance / (allowed.factor * (1.0 - near))
    bet = np.clip((suspected - top) / (top * (1.0 - top)), 0.0, most)
    against = allowed.factor * bet / balance
    misses, other_misses = blocks.rows - blocks.hits, blocks.other_rows - blocks.other_hits
    own = blocks.hits * np.log1p(bet * (1.0 - top)) + misses * np.log1p(-bet * top)
    other = blocks.other_hits * np.log1p(-against * (1.0 - near))
    other += other_misses * np.log1p(against * near)
    gained: Floats = worth[0] * own + worth[1] * other
    return gained


def _nearest(rate: Floats, suspected: Floats, balance: Floats, allowed: Allowed) -> Floats:
    """The other's rate in the allowed pair that is nearest to a suspected one, ``(b,)``.

    By halving; any value gives a fair bet, a near one the best.
    """
    low, high = rate, (suspected - allowed.margin) / allowed.factor
    for _ in range(_STEPS):
        middle = (low + high) / 2.0
        top = allowed.upto(middle)
        pull = allowed.factor * (suspected - top) / (top * (1.0 - top))
        beyond = balance * (middle - rate) / (middle * (1.0 - middle)) > pull
        low, high = np.where(beyond, low, middle), np.where(beyond, middle, high)
    near: Floats = (low + high) / 2.0
    return near


def _spread(gains: Floats, blocks: _Blocks) -> Surge:
    """The capital of all beginnings and bets together; ``gains`` of shape ``(b, bets)``."""
    count, bets = gains.shape
    start = np.arange(count, dtype=np.float64)
    laid = 0.5 * YOUNG / ((start + YOUNG) * (start + YOUNG + 1.0))
    laid[0] += 0.5
    grown = gains.cumsum(axis=0)
    begun = np.log(laid)[:, None] - (grown - gains)
    capital = np.logaddexp.accumulate(begun, axis=0) + grown
    cash = np.log(np.maximum(1.0 - laid.cumsum(), 1e-300))
    together = np.logaddexp.reduce(capital, axis=1) - math.log(bets)
    evidence = np.logaddexp(together, cash)
    at = int(evidence.argmax())
    if evidence[at] <= 0.0:
        return NOTHING
    best = int(capital[at].argmax())
    return _since(int(begun[: at + 1, best].argmax()), at + 1, float(evidence[at]), blocks)


def _since(first: int, end: int, log_e: float, blocks: _Blocks) -> Surge:
    rows, hits, other_rows, other_hits = (float(sum(each)) for each in _columns(blocks, first, end))
    return Surge(
        log_e,
        int(rows),
        hits / rows,
        int(other_rows),
        other_hits / other_rows if other_rows else math.nan,
    )


def _columns(blocks: _Blocks, first: int, end: int) -> Iterator[Floats]:
    for column in (blocks.rows, blocks.hits, blocks.other_rows, blocks.other_hits):
        yield column[first:end]
