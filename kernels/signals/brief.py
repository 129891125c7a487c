"""Personal data and suspicion of a short text, word by word instead of by whole arrays.

An array operation costs about a microsecond however little it does, and the two readers take some
two hundred of them: for a short text that is nearly all of their time. What is found here is what
:mod:`kernels.signals.personal` and :mod:`kernels.signals.suspicion` find; a test holds them
together. A text that is not plain and short is left to them.
"""

import math
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

from kernels.segments import LONGEST, SHORTEST
from kernels.signals import personal, suspicion
from kernels.signals.lexicon import PAIRS, WORDS
from kernels.signals.personal import Personal
from kernels.signals.suspicion import Suspicion

MOST = 640
"""Characters of a short text: from about a thousand on arrays are faster."""

_WORD = re.compile(r"[A-Za-z0-9]+")
_STOP = re.compile(r"[.!?][\"')\]*]{0,2}(?=[ \t])")
_LINE = re.compile(r"\n(?![\r\n])")
_TELLING = re.compile(rf"[0-9@:]|[A-Za-z0-9]{{{personal.LONG_WORD}}}")
_LONG = re.compile(rf"[A-Za-z0-9]{{{suspicion.LONG_WORD}}}")


def _kinds_of(lists: Mapping[str, str], separator: str | None = None) -> dict[str, tuple[str, ...]]:
    """Word, or pair of words → its kinds."""
    found: dict[str, tuple[str, ...]] = {}
    for kind, listed in lists.items():
        for one in dict.fromkeys(" ".join(part.split()) for part in listed.split(separator)):
            found[one] = (*found.get(one, ()), kind)
    return found


_CUES = _kinds_of(personal.CUES)
_SUSPECT = _kinds_of(WORDS)
_SUSPECT_PAIRS = _kinds_of(PAIRS, ",")
_FIRST_OF_PAIR = frozenset(pair.split()[0] for pair in _SUSPECT_PAIRS)
_COMMON = frozenset(
    word for word, kinds in _CUES.items() if not {"opener", "everyday"}.isdisjoint(kinds)
)
_OTHER = {
    word: left
    for word, kinds in _CUES.items()
    if (left := tuple(kind for kind in kinds if kind not in {"opener", "everyday"}))
}


@dataclass(frozen=True, slots=True)
class _Words:
    """A text's words, with the number of each one's sentence; ``bounds`` are the sentences'."""

    text: str
    bounds: list[int]
    starts: list[int]
    ends: list[int]
    lower: list[str]
    owner: list[int]

    def __len__(self) -> int:
        return len(self.starts)

    def sentence_at(self, place: int) -> int:
        return bisect_right(self.bounds, place, 0, len(self.bounds) - 1) - 1

    def gap(self, index: int) -> int:
        """Characters to the next word."""
        return self.starts[index + 1] - self.ends[index] if index + 1 < len(self) else 99

    def after(self, index: int) -> str:
        return self.text[self.ends[index] : self.ends[index] + 1]

    def is_number(self, index: int) -> bool:
        return self.text[self.starts[index]] <= "9" and len(self.lower[index]) <= 5

    def is_capital(self, index: int) -> bool:
        return "A" <= self.text[self.starts[index]] <= "Z"


def read(text: str) -> tuple[Personal, Suspicion] | None:
    """What a short text of ASCII shows; None for any other, and for one with an endless line."""
    if not 0 < len(text) <= MOST or not text.isascii():
        return None
    bounds = _bounds(text)
    if max(end - start for start, end in pairwise(bounds)) > LONGEST:
        return None
    words = _words(text, bounds)
    return _personal(words), _suspicion(words)


def _words(text: str, bounds: list[int]) -> _Words:
    spans = [match.span() for match in _WORD.finditer(text)]
    owner, sentence = [], 0
    for start, _ in spans:
        while start >= bounds[sentence + 1]:
            sentence += 1
        owner.append(sentence)
    lower = _WORD.findall(text.lower())
    return _Words(text, bounds, [one for one, _ in spans], [one for _, one in spans], lower, owner)


def _bounds(text: str) -> list[int]:
    """The bounds of the sentences, as :func:`kernels.segments.split` cuts them."""
    lines = _spaced([match.end() for match in _LINE.finditer(text)]) if "\n" in text else set()
    cuts = {match.end() for match in _STOP.finditer(text)}
    before, bounds = 0, [0]
    for cut in sorted(cuts | lines):
        if cut < len(text) and (cut - before >= SHORTEST or cut in lines):
            bounds.append(cut)
        before = cut
    return [*bounds, len(text)]


def _spaced(lines: list[int]) -> set[int]:
    padded = [0, *lines, lines[-1] + SHORTEST] if lines else []
    around = zip(padded, padded[1:], padded[2:], strict=False)
    return {at for last, at, after in around if at - last >= SHORTEST or after - at >= SHORTEST}


def _suspicion(words: _Words) -> Suspicion:
    sentences = len(words.bounds) - 1
    seen: list[Counter[str]] = [Counter() for _ in range(sentences)]
    for place, (word, owner) in enumerate(zip(words.lower, words.owner, strict=True)):
        if word in _SUSPECT:
            seen[owner].update(_SUSPECT[word])
        if word in _FIRST_OF_PAIR and place + 1 < len(words):
            seen[owner].update(_SUSPECT_PAIRS.get(f"{word} {words.lower[place + 1]}", ()))
    marked = {words.sentence_at(place) for place in _marks(words.text)}
    counts = Counter(words.owner)
    scores = [_score(kinds, counts[at], marked=at in marked) for at, kinds in enumerate(seen)]
    return Suspicion(max(scores), sum(score >= suspicion.SUSPICIOUS for score in scores))


def _marks(text: str) -> Iterator[int]:
    if "<" in text or "[" in text:
        yield from (match.start() for match in suspicion.MARKS.finditer(text.encode()))
    yield from (match.start() for match in _LONG.finditer(text))


def _score(kinds: Counter[str], words: int, *, marked: bool) -> float:
    total = -suspicion.BIAS
    for kind, count in kinds.items():
        weight = suspicion.WEIGHTS[kind]
        total += weight if count == 1 else weight * (1.0 + suspicion.AGAIN)
    for (one, other), weight in suspicion.TOGETHER:
        if one in kinds and other in kinds:
            total += weight
    total -= suspicion.PER_WORD * min(words, suspicion.MAX_WORDS)
    if marked:
        total += suspicion.MARK
    return 1.0 / (1.0 + math.exp(-total))


def _personal(words: _Words) -> Personal:
    counts: Counter[str] = Counter()
    telling = _telling(words)
    if telling:
        personal.add_scanned(telling, counts)
    numbers = [at for at, start in enumerate(words.starts) if words.text[start] <= "9"]
    has_numbers = bool(numbers) or any(map(words.text.__contains__, "0123456789"))
    _add_cued(words, counts, has_numbers=has_numbers)
    if has_numbers:
        counts["address"] += sum(_is_house_number(words, at) for at in numbers)
        whole = (words.lower[at] for at in numbers)
        cards = sum(13 <= len(one) <= 19 and "3" <= one[0] <= "6" for one in whole)
        counts["card"] = max(counts["card"], cards)
        personal.add_ibans(words.text.encode(), _iban_starts(words), counts)
    _add_capitals(words, counts)
    return Personal({kind: count for kind, count in counts.items() if count})


def _telling(words: _Words) -> str:
    told = sorted({words.sentence_at(match.start()) for match in _TELLING.finditer(words.text)})
    runs: list[list[int]] = []
    for at in told:
        if runs and runs[-1][1] == words.bounds[at]:
            runs[-1][1] = words.bounds[at + 1]
        else:
            runs.append([words.bounds[at], words.bounds[at + 1]])
    return "\n".join(words.text[start:end] for start, end in runs)


def _add_cued(words: _Words, counts: Counter[str], *, has_numbers: bool) -> None:
    """What stands after a word such as ``phone``, and numbers beside a word such as ``street``."""
    met: Counter[str] = Counter()
    for at, word in enumerate(words.lower):
        for kind in _OTHER.get(word, ()):
            if kind == "street":
                counts["address"] += has_numbers and _is_numbered(words, at)
            elif has_numbers or kind == "name":
                near = words.text[words.ends[at] : words.ends[at] + personal.REACH]
                met[kind] += personal.AFTER[kind].match(near) is not None
    for kind, count in met.items():
        counts[kind] = max(counts[kind], count)


def _is_numbered(words: _Words, at: int) -> bool:
    for before in range(max(0, at - 4), at):
        if words.owner[before] == words.owner[at] and words.is_number(before):
            return True
    return words.gap(at) <= 2 and words.is_number(at + 1)


def _is_house_number(words: _Words, at: int) -> bool:
    return (
        0 < at < len(words) - 1
        and words.is_number(at)
        and _is_title(words, at - 1)
        and words.is_capital(at + 1)
        and words.gap(at - 1) <= 2
        and words.gap(at) <= 4
        and words.after(at) == ","
    )


def _iban_starts(words: _Words) -> list[int]:
    text = words.text
    return [
        start
        for start in words.starts
        if "A" <= text[start] <= "Z"
        and "A" <= text[start + 1 : start + 2] <= "Z"
        and "0" <= text[start + 2 : start + 3] <= "9"
    ]


def _is_title(words: _Words, at: int) -> bool:
    start = words.starts[at]
    return words.is_capital(at) and "a" <= words.text[start + 1 : start + 2] <= "z"


def _add_capitals(words: _Words, counts: Counter[str]) -> None:
    """Capitalised words within sentences, and pairs of them, that are not common."""
    last = -2
    for at, word in enumerate(words.lower):
        if word in _COMMON or not _is_title(words, at):
            continue
        counts["proper"] += at > 0 and words.owner[at] == words.owner[at - 1]
        if last == at - 1 and words.gap(last) == 1 and words.after(last) == " ":
            counts["person"] += 1
        last = at
