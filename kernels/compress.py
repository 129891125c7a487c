"""A long text → its most telling sentences, at most 512 tokens, word for word and in their order.

What reads the result is whatever would otherwise cut the text off: domain, complexity and the
embedding. Safety and personal data read the full text. A sentence's value is a weighted sum of how
central it is (TextRank, Mihalcea and Tarau 2004, on words in common), where it stands, how rare
its words are (TF-IDF) and how far it is from the text's average. The first three and last two
sentences are kept, and a reserve goes to sentences that look like an attack on the model: they are
the least central of all, so nothing else would keep them.

Time grows with the length alone: the words in common are a sparse matrix of sentences and words,
and no two sentences are ever compared.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kernels.segments import Ints, Segments, split
from kernels.signals import suspicion

Values = NDArray[np.float64]

BUDGET = 512
RESERVE = 128
MAX_CHARS = 1_048_576
"""Characters that are read: of a longer text the first and the last half of them."""
FIRST = 3
LAST = 2
WEIGHTS = {"textrank": 0.20, "position": 0.40, "tfidf": 0.35, "novelty": 0.05}
WORTH_KEEPING = 0.1
"""The suspicion below which a sentence gets nothing from the reserve."""

LONGEST_PART = 48
"""Tokens that one sentence may take of the reserve; of a longer one the start is kept."""

_SLOT_BITS = 15
_ROUNDS = 5
_DAMPING = 0.85
_FEW_WORDS = 3


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
    spare = budget - chosen.tokens
    # A sentence is at least a token, so no more of them can find a place.
    for index in np.argsort(-_values(segments), kind="stable")[: len(ends) + 4 * spare].tolist():
        chosen.add(index, budget - chosen.tokens, whole=True)
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

    def add(self, index: int, limit: int, *, whole: bool = False) -> bool:
        """Keep a sentence, or as much of its start as ``limit`` tokens hold unless ``whole``."""
        cost = int(self._costs[index])
        limit = min(limit, self._budget - self.tokens)
        if index in self.pieces or limit <= 0 or (whole and cost > limit):
            return False
        raw = self.segments.slice(int(self.segments.starts[index]), int(self.segments.ends[index]))
        piece, cost = (raw.strip(), cost) if cost <= limit else _shorten(raw.strip(), cost, limit)
        if not piece:
            return False
        self.pieces[index] = piece + ("\n" if raw.endswith("\n") else " ")
        self.tokens += cost
        return True


def _shorten(piece: str, cost: int, limit: int) -> tuple[str, int]:
    """As much of the start as ``limit`` tokens hold, about, and what that costs."""
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


def _values(segments: Segments) -> Values:
    """The value of each sentence ``(n,)``."""
    count = len(segments)
    slots = (segments.words >> np.uint64(64 - _SLOT_BITS)).astype(np.intp)
    owner = segments.owner
    often = np.bincount(slots, minlength=1 << _SLOT_BITS)
    rarity = np.log((len(slots) + 1) / (often + 1.0))
    weights = rarity[slots]
    squares = np.bincount(owner, weights**2, count)
    matrix = _Matrix(owner, slots, weights / np.sqrt(np.maximum(squares, 1e-12))[owner], count)
    lengths = np.bincount(owner, minlength=count)
    parts = {
        "textrank": matrix.textrank(),
        "position": np.abs(np.linspace(-1.0, 1.0, count)),
        # A mean over the words, but of a sentence of few words less than that.
        "tfidf": np.bincount(owner, weights, count) / (lengths + _FEW_WORDS),
        "novelty": matrix.novelty(),
    }
    total = np.zeros(count)
    for name, values in parts.items():
        total += WEIGHTS[name] * _scaled(values)
    return total


@dataclass(frozen=True, slots=True)
class _Matrix:
    """Sentences × words, sparse, with rows of length about 1: a word's repeats stay apart."""

    owner: Ints
    slots: NDArray[np.intp]
    weights: Values
    count: int

    def columns(self, rows: Values) -> Values:
        """The transposed matrix times a value for each sentence."""
        weights = self.weights * rows[self.owner]
        return np.bincount(self.slots, weights, 1 << _SLOT_BITS).astype(np.float64, copy=False)

    def rows(self, columns: Values) -> Values:
        """The matrix times a value for each word."""
        weights = self.weights * columns[self.slots]
        return np.bincount(self.owner, weights, self.count).astype(np.float64, copy=False)

    def textrank(self) -> Values:
        """PageRank over sentences, an edge's weight being the words two have in common."""
        own = np.bincount(self.owner, self.weights**2, self.count)
        ones = np.ones(self.count)
        degree = np.maximum(self.rows(self.columns(ones)) - own, 1e-9)
        rank = ones
        for _ in range(_ROUNDS):
            given = rank / degree
            rank = 1.0 - _DAMPING + _DAMPING * (self.rows(self.columns(given)) - own * given)
        return rank

    def novelty(self) -> Values:
        """1 − cosine to the sum of all sentences."""
        centre = self.columns(np.ones(self.count))
        length = float(np.sqrt((centre**2).sum()))
        return 1.0 - self.rows(centre) / max(length, 1e-12)


def _scaled(values: Values) -> Values:
    low, high = float(values.min()), float(values.max())
    return (values - low) / (high - low) if high > low else np.zeros_like(values)


def _last(count: int) -> range:
    return range(max(0, count - LAST), count)


def _bounded(text: str) -> str:
    half = MAX_CHARS // 2
    return text if len(text) <= MAX_CHARS else f"{text[:half]}\n{text[-half:]}"
