"""How much each sentence looks like an attempt to turn a model against its instructions.

A sentence's score is a sum over the kinds of words it holds (:mod:`kernels.signals.lexicon`) and
over marks that prose does not have: tags of chat templates, invisible characters, long opaque
words. The weights are set by hand, in half steps: the score picks sentences for
closer looks, and is one input among many of the heads that learn from feedback. It is no verdict.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kernels.blocks import blocks
from kernels.segments import Segments, split
from kernels.signals.lexicon import PAIRS, WORDS, pair_lookup, word_lookup

Scores = NDArray[np.float64]

SUSPICIOUS = 0.5
"""From this score on a sentence is counted as suspicious."""
BLOCK_CHARS = 262_144
"""A longer text is read in blocks, so its arrays stay small."""

WEIGHTS = {
    "drop": 2.0,
    "rules": 1.5,
    "prior": 0.5,
    "role": 1.5,
    "model": 2.5,
    "free": 1.0,
    "refuse": 0.5,
    "taboo": 1.5,
    "you": 2.0,
    "must": 1.0,
    "tell": 1.5,
    "secret": 1.0,
    "harm": 1.0,
    "how": 0.0,
    "turn": 1.0,
    "open": 1.5,
    "machine": 2.5,
}
AGAIN = 0.5
"""What the second word of a kind adds, as a share of the first."""
TOGETHER = ((("drop", "rules"), 1.5), (("secret", "tell"), 1.0), (("harm", "how"), 1.5))
"""Kinds that mean more in one sentence."""
PER_WORD = 0.04
"""What each word takes off, up to :data:`MAX_WORDS`: a long sentence holds words of all kinds."""
MAX_WORDS = 60
MARK = 4.0
BIAS = 4.0
"""About one sentence in 250 of ordinary long prompts comes to more than this."""
LONG_WORD = 64
MARKS = re.compile(
    rb"<\|[a-z_]{2,20}\|>|\[/?INST\]|<</?SYS>>|\xe2\x80[\x8b-\x8f\xaa-\xae]|\xe2\x81[\xa0-\xa4]"
    rb"|\xf3\xa0[\x80\x81]"
)
_WORDS = word_lookup()
_PAIRS = pair_lookup()
_KINDS = tuple(WORDS) + tuple(PAIRS)
_BITS = np.uint32(1) << np.arange(len(_KINDS), dtype=np.uint32)
_WEIGHT = np.array([WEIGHTS[kind] for kind in _KINDS])


@dataclass(frozen=True, slots=True)
class Suspicion:
    """What a whole text shows: its highest score, and how many sentences are suspicious."""

    score: float
    sentences: int


def read(text: str, segments: Segments | None = None) -> Suspicion:
    """Score a whole text, however long; 0 for the empty one.

    ``segments`` are those of the whole text, where they are at hand.
    """
    known = segments if len(text) <= BLOCK_CHARS else None
    return together(of(score(known or split(part))) for part in blocks(text, BLOCK_CHARS))


def of(scores: Scores) -> Suspicion:
    """What sentences with these scores show together."""
    highest = float(scores.max()) if len(scores) else 0.0
    return Suspicion(highest, int((scores >= SUSPICIOUS).sum()))


def together(found: Iterable[Suspicion]) -> Suspicion:
    """What the parts of a text show, as one."""
    parts = list(found)
    return Suspicion(
        max((one.score for one in parts), default=0.0), sum(one.sentences for one in parts)
    )


def score(segments: Segments) -> Scores:
    """The score of each sentence ``(n,)``, between 0 and 1."""
    count = len(segments)
    seen = _count_kinds(segments)
    total = (seen > 0) @ _WEIGHT + AGAIN * ((seen > 1) @ _WEIGHT) - BIAS
    for (one, other), weight in TOGETHER:
        total += weight * ((seen[:, _KINDS.index(one)] > 0) & (seen[:, _KINDS.index(other)] > 0))
    words = np.bincount(segments.owner, minlength=count)
    total -= PER_WORD * np.minimum(words, MAX_WORDS)
    total += MARK * _marked(segments)
    found: Scores = 1.0 / (1.0 + np.exp(-total))
    return found


def _count_kinds(segments: Segments) -> NDArray[np.int64]:
    """How many words, or pairs of words, of each kind every sentence holds ``(n, kinds)``."""
    words = _WORDS.find(segments.words)
    pairs = _PAIRS.find(segments.pairs)
    at, next_at = np.flatnonzero(words), np.flatnonzero(pairs)
    bits = np.concatenate((words[at], pairs[next_at] << np.uint32(len(WORDS))))
    owner = np.concatenate((segments.owner[at], segments.owner[next_at]))
    rows, kinds = np.nonzero(bits[:, None] & _BITS)
    cells = np.bincount(owner[rows] * len(_KINDS) + kinds, minlength=len(segments) * len(_KINDS))
    return cells.reshape(len(segments), len(_KINDS))


def _marked(segments: Segments) -> NDArray[np.bool_]:
    """Which sentences hold what prose does not."""
    marked = np.zeros(len(segments), np.bool_)
    tags = [match.start() for match in MARKS.finditer(segments.data)]
    if tags:
        marked[np.searchsorted(segments.starts, tags, side="right") - 1] = True
    marked[segments.owner[segments.word_ends - segments.word_starts >= LONG_WORD]] = True
    return marked
