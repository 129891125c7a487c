"""Arms' cards as columns, so that a learner can tell from its card what an arm may be worth."""

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from learners.records import Card

Floats = NDArray[np.float64]

_NUMBERS: tuple[Callable[[Card], float | None], ...] = (
    lambda card: card.usd_per_mtok_in,
    lambda card: card.usd_per_mtok_out,
    lambda card: card.context_tokens,
    lambda card: card.joules_per_token_in,
    lambda card: card.joules_per_token_out,
)

_LEAST_SPREAD = 1e-9
"""A column that varies less over the pool tells nothing."""


def columns(cards: Sequence[Card], pool: Sequence[Card]) -> Floats:
    """Cards as columns, in the coordinates of a pool.

    The logarithms of prices (plus 1), context length and energies, then 1 or 0 for each tag and
    capability that a card of the pool has. Each is standardised over the pool; what a card leaves
    out is taken to be as usual there, and what does not differ within the pool is 0. Together
    they are scaled so that the pool's mean square length is 1 (0 where all cards are alike):
    a longer card does not weigh more.

    Args:
        cards: to be told, n.
        pool: whose vocabulary and spread are used.

    Returns:
        Shape ``(n, c)``.
    """
    known, told = _plain(pool, pool), _plain(cards, pool)
    given = ~np.isnan(known)
    number = np.maximum(given.sum(axis=0), 1)
    mean = np.where(given, known, 0.0).sum(axis=0) / number
    apart = np.where(given, known - mean, 0.0)
    spread = np.sqrt(np.square(apart).sum(axis=0) / number)
    tells = spread > _LEAST_SPREAD
    scale = np.where(tells, spread, np.inf)
    length = math.sqrt(float(np.square(apart / scale).sum()) / max(len(pool), 1)) or 1.0
    return np.asarray(np.where(np.isnan(told), 0.0, told - mean) / scale / length)


def _plain(cards: Sequence[Card], pool: Sequence[Card]) -> Floats:
    """Cards as columns before any scale, shape ``(n, c)``; NaN where one does not say."""
    tags = sorted({tag for card in pool for tag in card.tags})
    capabilities = sorted({name for card in pool for name in card.capabilities})
    rows = [
        [_log(number(card)) for number in _NUMBERS]
        + [float(tag in card.tags) for tag in tags]
        + [float(name in card.capabilities) for name in capabilities]
        for card in cards
    ]
    return np.array(rows, dtype=np.float64).reshape(len(cards), -1)


def _log(value: float | None) -> float:
    return math.nan if value is None else math.log1p(value)
