"""A long text → an even sample of its sentences, at most 512 tokens, word for word, in their order.

What reads the result is whatever would otherwise cut the text off: domain, complexity and the
embedding. Patterns of attacks and personal data read the full text. A domain is read off a mean
over words, and an even sample tells a mean best: sentences chosen for being central or rare
(TextRank, TF-IDF) come from few places of the text, and domains are read worse from them. The first
three and last two sentences are kept besides, and a reserve goes to sentences that look like an
attack on the model: an even sample mostly misses them.

Time grows with the length alone: no two sentences are ever compared.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kernels.segments import Segments, split
from kernels.signals import suspicion

Values = NDArray[np.float64]

BUDGET = 512
RESERVE = 128
MAX_CHARS = 1_048_576
"""Characters that are read: of a longer text the first and the last half of them."""
FIRST = 3
LAST = 2
PART = 16
"""Tokens that a sentence from all over the text may take, more in a short text; then its start."""
LEAST = 4
"""Tokens that are worth another start of a sentence."""
POINTS = 2_048
"""Places of the text that are tried: of the sentences there most find none in the budget."""
WORTH_KEEPING = 0.1
"""The suspicion below which a sentence gets nothing from the reserve."""

LONGEST_PART = 24
"""Tokens that one sentence may take of the reserve; of a longer one the start is kept."""

KEY_WORDS = 12
STARTS = 8
START = 12
"""Tokens of each start of a sentence that :func:`telling` gives."""

_SLOT_BITS = 15
_GOLDEN = (5**0.5 - 1) / 2
_LOGS = np.array([math.log1p(count) for count in range(1024)])
"""Of how often a word comes, one by one: numpy's own differ in their last bits by processor."""


@dataclass(frozen=True, slots=True)
class Compressed:
    """The text that is left, and what became of it.

    ``kept`` are the numbers of the sentences that are left, of ``sentences``; ``tokens`` and
    ``tokens_before`` are estimates (:func:`kernels.segments.estimate_tokens`); ``reserved`` are
    those of ``kept`` that the reserve has kept.
    """

    text: str
    kept: tuple[int, ...]
    reserved: tuple[int, ...]
    sentences: int
    tokens: int
    tokens_before: int


def compress(text: str, *, budget: int = BUDGET, reserve: int = RESERVE) -> Compressed:
    """Keep at most ``budget`` estimated tokens, of which ``reserve`` for suspicious sentences.

    A text within the budget comes back as it is. What the reserve does not need goes to the
    others.

    Raises:
        ValueError: ``budget`` is below 16, or ``reserve`` is not between 0 and ``budget``.
    """
    if budget < 16 or not 0 <= reserve <= budget:
        raise ValueError(
            f"budget is {budget} and reserve {reserve}; give at least 16, and 0 to the budget"
        )
    part = _bounded(text)
    return compress_segments(split(part), part, budget=budget, reserve=reserve)


def compress_segments(
    segments: Segments,
    text: str,
    *,
    budget: int = BUDGET,
    reserve: int = RESERVE,
    suspicions: Values | None = None,
) -> Compressed:
    """:func:`compress` for a ``text`` whose ``segments`` are at hand.

    ``suspicions`` are those of the sentences, where they are at hand too.
    """
    before = int(segments.tokens.sum())
    if before <= budget:
        everything = tuple(range(len(segments)))
        return Compressed(text, everything, (), len(segments), before, before)
    chosen = _Chosen(segments, budget)
    ends = sorted({*range(min(FIRST, len(segments))), *_last(len(segments))})
    for index in ends:
        chosen.add(index, (budget - reserve) // len(ends))
    scores = suspicion.score(segments) if suspicions is None else suspicions
    reserved = _reserve(chosen, scores, reserve)
    level = _level(segments, budget)
    for index in _evenly(segments):
        if budget - chosen.tokens < LEAST:
            break
        chosen.add(index, level)
    kept = tuple(sorted(chosen.pieces))
    text = "".join(chosen.pieces[index] for index in kept).rstrip()
    return Compressed(text, kept, reserved, len(segments), chosen.tokens, before)


class _Chosen:
    """The sentences that are kept so far."""

    def __init__(self, segments: Segments, budget: int) -> None:
        self.segments = segments
        self.pieces: dict[int, str] = {}
        self.tokens = 0
        self._costs = segments.tokens
        self._budget = budget

    def add(self, index: int, limit: int) -> bool:
        """Keep a sentence, or as much of its start as ``limit`` tokens hold."""
        limit = min(limit, self._budget - self.tokens)
        if index in self.pieces or limit <= 0:
            return False
        start, end = int(self.segments.starts[index]), int(self.segments.ends[index])
        raw, cost = self.segments.slice(start, end), int(self._costs[index])
        piece = raw.strip()
        if cost > limit:
            until, fitting = self.segments.start_of(index, limit)
            piece = self.segments.slice(start, until).strip()
            piece, cost = (piece, fitting) if fitting else _shorten(raw.strip(), cost, limit)
        if not piece:
            return False
        self.pieces[index] = piece + ("\n" if raw.endswith("\n") else " ")
        self.tokens += cost
        return True


def _shorten(piece: str, cost: int, limit: int) -> tuple[str, int]:
    """As much of a long word's start as ``limit`` tokens hold, about, and what that costs."""
    while piece and cost > limit:
        piece = piece[: min(len(piece) - 1, len(piece) * limit // cost)].rstrip()
        cost = int(split(piece).tokens.sum())
    return piece, cost


def _reserve(chosen: _Chosen, scores: Values, reserve: int) -> tuple[int, ...]:
    """Keep the most suspicious sentences; the numbers of those that were not kept already."""
    until = chosen.tokens + reserve
    kept = []
    for index in np.argsort(-scores, kind="stable")[:reserve].tolist():
        if scores[index] < WORTH_KEEPING or chosen.tokens >= until:
            break
        if chosen.add(index, min(LONGEST_PART, until - chosen.tokens)):
            kept.append(index)
    return tuple(kept)


def telling(segments: Segments) -> str:
    """About 100 tokens of a text for an encoder that reads no more: key words, then sentences.

    :data:`KEY_WORDS` words, of which longer and more frequent ones come first, and the starts of
    the last sentence, which often is the question, of the first one and of six between. A text's
    first 64 tokens tell its subject far less surely: they are of one place. The empty text gives
    the empty string.
    """
    count = len(segments)
    between = [index for index in _evenly(segments) if 0 < index < count - 1][: STARTS - 2]
    found = [" ".join(_key_words(segments))]
    ends = dict.fromkeys([count - 1, 0]) if count else {}
    for index in [*ends, *sorted(between)]:
        until, _ = segments.start_of(index, START)
        found.append(segments.slice(int(segments.starts[index]), until).strip())
    return ". ".join(one for one in found if one)


def _key_words(segments: Segments) -> list[str]:
    """The words that count most by length and frequency, in lower case, each once.

    Of words that count alike the first in the text comes first, so that all processors agree.
    """
    slots = (segments.words >> np.uint64(64 - _SLOT_BITS)).astype(np.intp)
    often = np.bincount(slots, minlength=1 << _SLOT_BITS)
    worth = np.zeros(1 << _SLOT_BITS)
    worth[slots] = _lengths(segments)
    worth *= _LOGS[np.minimum(often, len(_LOGS) - 1)]
    place = np.zeros(1 << _SLOT_BITS, np.intp)
    place[slots[::-1]] = np.arange(len(slots))[::-1]
    some = np.flatnonzero(worth)
    best = some[np.lexsort((place[some], -worth[some]))][:KEY_WORDS]
    found = place[best].tolist()
    starts, ends = segments.word_starts, segments.word_ends
    return [segments.slice(int(starts[one]), int(ends[one])).lower() for one in found]


def _lengths(segments: Segments) -> Values:
    """0 to 1 by each word's length ``(w,)``: short words are of every subject, and so are numbers.

    A Chinese, Japanese or Korean character is a word, so its length says nothing.
    """
    first = np.frombuffer(segments.data, np.uint8)[segments.word_starts]
    found: Values = np.clip((segments.word_ends - segments.word_starts - 3) / 6.0, 0.0, 1.0)
    found[(first >= 0xE3) & (first <= 0xED)] = 0.5
    found[first - 48 < 10] = 0.0
    return found


def _level(segments: Segments, budget: int) -> int:
    """How many tokens of every sentence the budget holds: :data:`PART` at least."""
    tokens = segments.tokens[segments.tokens > 0]
    if int(np.minimum(tokens, PART).sum()) >= budget:
        return PART
    # Fewer than ``budget`` sentences are left: each takes a token at least.
    levels = np.arange(PART, int(tokens.max()) + 1)
    return int(levels[np.minimum(tokens[:, None], levels).sum(axis=0) <= budget][-1])


def _evenly(segments: Segments) -> list[int]:
    """Sentences from all over the text, whatever their number: no two have the same words.

    The points k / golden ratio, modulo 1, leave no wide gap after any number of them, and no
    pattern that comes again and again in the text falls in step with them (Weyl 1916).
    """
    count = len(segments)
    if not count:
        return []
    points = np.arange(POINTS) * _GOLDEN % 1.0
    visited = np.minimum(points * count, count - 1).astype(np.intp)
    bounds = np.searchsorted(segments.owner, np.arange(count + 1))
    sums = np.concatenate((np.zeros(1, np.uint64), np.cumsum(segments.words)))
    said = sums[bounds[1:]] - sums[bounds[:-1]]
    _, first = np.unique(said[visited], return_index=True)
    found: list[int] = visited[np.sort(first)].tolist()
    return found


def _last(count: int) -> range:
    return range(max(0, count - LAST), count)


def _bounded(text: str) -> str:
    half = MAX_CHARS // 2
    return text if len(text) <= MAX_CHARS else f"{text[:half]}\n{text[-half:]}"
