"""Text → sentences and hashed words, in a few passes over its bytes.

Everything here is whole-array arithmetic on the UTF-8 bytes: no loop over characters, words or
sentences, so 128,000 characters take a few milliseconds and the time grows with the length alone,
whatever the text is. Offsets are bytes of :attr:`Segments.data` and never cut a character.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Codes = NDArray[np.uint64]

LONGEST = 320
"""Bytes of the longest sentence: what has no full stop is cut there, before a word if it can be."""
SHORTEST = 12
"""Bytes below which a piece is no sentence: ``Dr.`` and ``3.`` stay with what surrounds them."""

_BLOCK = 65_536
_MASK = 2**64 - 1
_LOWER = bytes(range(256)).lower()


def _table(members: bytes) -> bytes:
    """For ``bytes.translate``, which is five times as fast as numpy's own look-up."""
    return bytes(byte in members for byte in range(256))


_WORDS = b"abcdefghijklmnopqrstuvwxyz0123456789" + bytes(range(128, 256))
_SPACES = b" \t\r\n"
_WORD = _table(_WORDS)
_MARK = bytes(not mark for mark in _table(_WORDS + _WORDS.upper() + _SPACES))
_STOP = _table(b".!?")
_CLOSING = np.frombuffer(_table(b"\"')]*"), np.bool_)
_SPACE = np.frombuffer(_table(_SPACES), np.bool_)
_LINE = np.frombuffer(_table(b"\r\n"), np.bool_)
# The wide full stop, exclamation and question mark, as bytes.
_WIDE_STOPS = ((0xE3, 0x80, 0x82), (0xEF, 0xBC, 0x81), (0xEF, 0xBC, 0x9F))


def _constants(count: int, seed: int) -> Codes:
    """Fixed odd numbers that look random: splitmix64 (Steele et al. 2014)."""
    found, state = [], seed
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) & _MASK
        mixed = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
        mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EB & _MASK
        found.append((mixed ^ (mixed >> 31)) | 1)
    return np.array(found, np.uint64)


def _powers(base: int) -> Codes:
    return np.cumprod(np.full(_BLOCK, base, np.uint64), dtype=np.uint64)


_BYTE = _constants(256, 1)
_BASE = 0x9FB21C651E98DF25
_POWERS = _powers(_BASE)
_INVERSES = _powers(pow(_BASE, -1, 2**64))
_PAIR = np.uint64(0xD6E8FEB86659FD93)
_MIX = np.uint64(0xFF51AFD7ED558CCD)
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Segments:
    """A text's sentences ``(n,)`` and words ``(w,)``, as byte offsets into ``data``.

    ``starts`` and ``ends`` bound the sentences, which cover the text without overlap.
    No word is in two of them.
    ``word_starts`` and ``word_ends`` bound its words (runs of letters and digits; a Chinese,
    Japanese or Korean character is a word), ``words`` are their 64-bit hashes without regard to
    the case of ASCII letters, and ``owner`` is each word's sentence.
    """

    data: bytes
    starts: Ints
    ends: Ints
    word_starts: Ints
    word_ends: Ints
    words: Codes
    owner: Ints

    def __len__(self) -> int:
        """The number of sentences."""
        return len(self.starts)

    def sentence(self, index: int) -> str:
        """One sentence as it stands in the text, without the space around it."""
        return self.slice(int(self.starts[index]), int(self.ends[index])).strip()

    def slice(self, start: int, end: int) -> str:
        """The text between two offsets."""
        return self.data[start:end].decode("utf-8", "surrogatepass")

    @cached_property
    def pairs(self) -> Codes:
        """The hash of each word with the one after it ``(w - 1,)``, as :func:`hash_pairs` gives."""
        return _paired(self.words)

    @cached_property
    def tokens(self) -> Ints:
        """Estimated tokens of each sentence ``(n,)``: see :func:`estimate_tokens`."""
        inside = np.bincount(self.owner, self._pieces, len(self)).astype(np.int64)
        bounds = np.append(self.starts, len(self.data))
        found: Ints = inside + np.diff(np.searchsorted(self._marks, bounds))
        return found

    def start_of(self, index: int, limit: int) -> tuple[int, int]:
        """The offset up to which ``limit`` tokens hold a sentence's first words, and their tokens.

        Where not even one word fits this is the sentence's own start, and 0.
        """
        low, high = np.searchsorted(self.owner, (index, index + 1))
        begin, ends = int(self.starts[index]), self.word_ends[low:high]
        marks = np.searchsorted(self._marks, ends) - np.searchsorted(self._marks, begin)
        costs = np.cumsum(self._pieces[low:high]) + marks
        fit = int(np.searchsorted(costs, limit, side="right"))
        return (int(ends[fit - 1]), int(costs[fit - 1])) if fit else (begin, 0)

    @cached_property
    def _pieces(self) -> Ints:
        """Estimated tokens of each word ``(w,)``."""
        digits = np.frombuffer(self.data, np.uint8)[self.word_starts] - 48 < 10
        found: Ints = 1 + (self.word_ends - self.word_starts - 1) // np.where(digits, 3, 7)
        return found

    @cached_property
    def _marks(self) -> Ints:
        """Where the bytes are that are neither word nor space."""
        return np.flatnonzero(np.frombuffer(self.data.translate(_MARK), np.bool_))


def split(text: str) -> Segments:
    """Cut a text into sentences and words.

    A sentence ends after ``.``, ``!`` or ``?`` before a space, after a line, or after their wide
    forms; a piece shorter than :data:`SHORTEST` stays with the one after it and one longer than
    :data:`LONGEST` is cut. The empty text has no sentence.
    """
    data = text.encode("utf-8", "surrogatepass")
    lower = data.translate(_LOWER)
    raw = np.frombuffer(lower, np.uint8)
    plain = len(data) == len(text)
    edges = np.zeros(len(raw) + 2, np.bool_)
    edges[1:-1] = np.frombuffer(lower.translate(_WORD), np.bool_)
    starts, ends = _find_words(raw, edges, plain=plain)
    stops = np.flatnonzero(np.frombuffer(lower.translate(_STOP), np.bool_)) + 1
    bounds = _find_bounds(raw, stops, plain=plain)
    if len(bounds) > 1 and int(np.diff(bounds).max()) > LONGEST:
        bounds = _cut_long(bounds, raw, starts)
        starts, ends = _cut_words(starts, ends, bounds[1:-1], edges)
    owner = np.repeat(np.arange(len(bounds) - 1), np.diff(np.searchsorted(starts, bounds)))
    words = _hash(raw, starts, ends)
    return Segments(data, bounds[:-1], bounds[1:], starts, ends, words, owner)


def estimate_tokens(text: str) -> int:
    """About how many tokens a WordPiece or BPE tokenizer makes of a text, without one.

    One for each 7 letters of a word or 3 digits of a number, begun ones counted, and one for each
    other mark. bench/kernels_text.py holds it against MiniLM's tokenizer.
    """
    return int(split(text).tokens.sum())


def hash_words(words: Iterable[str]) -> Codes:
    """The hashes of words, as :func:`split` gives them; each must be one word of its own."""
    return split(" ".join(words)).words


def hash_pairs(pairs: Iterable[str]) -> Codes:
    """The hashes of pairs such as ``"from now"``."""
    return np.array([_paired(hash_words(pair.split()))[0] for pair in pairs], np.uint64)


def _paired(words: Codes) -> Codes:
    return words[:-1] * _PAIR + words[1:]


def _find_words(raw: NDArray[np.uint8], edges: Flags, *, plain: bool) -> tuple[Ints, Ints]:
    """Where words begin and end; ``edges`` are which bytes are in a word, with one more around."""
    turns = np.flatnonzero(edges[1:] != edges[:-1])
    starts, ends = turns[::2], turns[1::2]
    if plain:
        return starts, ends
    # What is written without spaces, kana, Chinese and Hangul: each character is a word.
    wide = np.flatnonzero((raw >= 0xE3) & (raw <= 0xED))
    return _cut_words(starts, ends, wide, edges)


def _cut_words(starts: Ints, ends: Ints, at: Ints, edges: Flags) -> tuple[Ints, Ints]:
    """Words cut at those places that are inside one."""
    at = at[edges[at] & edges[at + 1]]
    at = at[np.searchsorted(starts, at) == np.searchsorted(starts, at, side="right")]
    # Two rising runs, which a stable sort merges.
    starts = np.sort(np.concatenate((starts, at)), kind="stable")
    return starts, np.sort(np.concatenate((ends, at)), kind="stable")


def _hash(raw: NDArray[np.uint8], starts: Ints, ends: Ints) -> Codes:
    """A polynomial of each word's bytes, as the difference of two prefix sums (Karp, Rabin 1987).

    All arithmetic is modulo 2**64, where the base is odd and so has an inverse: that of the
    word's place makes its hash the same everywhere.
    """
    found = np.empty(len(starts), np.uint64)
    sums = np.zeros(_BLOCK + 1, np.uint64)
    at = 0
    while at < len(starts):
        base = int(starts[at])
        until = int(np.searchsorted(ends, base + _BLOCK, side="right"))
        block = raw[base : base + _BLOCK]
        np.cumsum(_BYTE[block] * _POWERS[: len(block)], out=sums[1 : len(block) + 1])
        low, high = starts[at:until] - base, ends[at:until] - base
        found[at:until] = (sums[high] - sums[low]) * _INVERSES[low]
        at = until
    return (found ^ (found >> np.uint64(32))) * _MIX


def _find_bounds(raw: NDArray[np.uint8], stops: Ints, *, plain: bool) -> Ints:
    """The bounds of sentences, from 0 to the end; ``stops`` are the places after their marks."""
    padded = np.append(raw, np.full(3, 32, np.uint8))
    for _ in range(2):  # quotes and brackets that close belong to the sentence
        stops = stops + _CLOSING[padded[stops]]
    # Before a line's end it is the line that ends the sentence, and of empty lines the last.
    stops = stops[_SPACE[padded[stops]] & ~_LINE[padded[stops]]]
    if not plain:
        stops = np.concatenate([stops, *(_find_wide(raw, stop) for stop in _WIDE_STOPS)])
    # Short pieces before a stop must not take a line's end with them, so lines are dealt with
    # apart: a list's many short items then end where their line does.
    lines = np.flatnonzero(raw == 10) + 1
    lines = _spaced(lines[~_LINE[padded[lines]]])
    cuts = np.unique(np.concatenate((lines, stops)))
    cuts = cuts[(np.diff(cuts, prepend=0) >= SHORTEST) | np.isin(cuts, lines, assume_unique=True)]
    cuts = cuts[(cuts > 0) & (cuts < len(raw))]
    return np.concatenate(([0], cuts, [len(raw)])) if len(raw) else np.zeros(1, np.int64)


def _spaced(lines: Ints) -> Ints:
    """Those lines' ends that have a line of some length before or after them."""
    long = np.diff(lines, prepend=0, append=lines[-1:] + SHORTEST) >= SHORTEST
    return lines[long[:-1] | long[1:]] if len(lines) else lines


def _find_wide(raw: NDArray[np.uint8], stop: tuple[int, int, int]) -> Ints:
    at = np.flatnonzero(raw[:-2] == stop[0]) if len(raw) > 2 else np.zeros(0, np.int64)
    found: Ints = at[(raw[at + 1] == stop[1]) & (raw[at + 2] == stop[2])] + 3
    return found


def _cut_long(bounds: Ints, raw: NDArray[np.uint8], word_starts: Ints) -> Ints:
    lengths = np.diff(bounds)
    long = np.flatnonzero(lengths > LONGEST)
    parts = -(-lengths[long] // LONGEST)
    ends = np.cumsum(parts)
    place = np.arange(ends[-1]) - np.repeat(ends - parts, parts)
    step = np.repeat(lengths[long] // parts, parts)
    wanted = (np.repeat(bounds[long], parts) + place * step)[place > 0]
    # Before the word that begins next, if one begins soon; else between two characters.
    after = np.searchsorted(word_starts, wanted)
    near = word_starts[np.minimum(after, len(word_starts) - 1)] if len(word_starts) else wanted
    wanted = np.where((near >= wanted) & (near - wanted < LONGEST // 8), near, wanted)
    for _ in range(3):
        wanted = wanted + ((raw[np.minimum(wanted, len(raw) - 1)] & 0xC0) == 0x80)
    return np.unique(np.concatenate((bounds, np.minimum(wanted, len(raw)))))
