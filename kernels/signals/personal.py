"""Which kinds of personal data a text seems to hold, and how often: patterns, no model.

datafog-core finds what has a strict form (addresses of mail, cards, telephones, keys). This module
adds what it lacks: account numbers with a checksum (IBAN), numbers, names and dates that stand
after a word such as ``phone`` or ``born``, street addresses, and two capitalised words in
the middle of a sentence. It reads the whole text, whatever its length: some 40 ms for a million
characters of prose. Patterns see forms, not meanings: the counts are inputs of a learnt head.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import datafog_core
import numpy as np
from numpy.typing import NDArray

from kernels.blocks import blocks
from kernels.segments import Ints, Segments, hash_words, split
from kernels.signals.lexicon import lookup

CERTAINTY = {
    "email": 0.95,
    "card": 0.95,
    "iban": 0.98,
    "identity": 0.9,
    "phone": 0.9,
    "ip": 0.8,
    "secret": 0.7,
    "account": 0.7,
    "birth": 0.9,
    "address": 0.8,
    "name": 0.8,
    "postcode": 0.6,
    "person": 0.4,
    "proper": 0.2,
    "date": 0.1,
}
"""How far one finding of each kind speaks for personal data, set by hand; the kinds' names."""
BLOCK_CHARS = 262_144
"""A longer text is read in blocks, so its arrays stay small."""
MAX_CUES = 512
"""Words such as ``phone`` after which a block is looked at, of each kind: more are sampled."""

_SCAN = 16_384
_OVERLAP = 256
REACH = 64
LONG_WORD = 16
_MANY_COLONS = 512
_TELLING = bytes(byte in b"0123456789@:" for byte in range(256))
# datafog-core's search for an IPv6 address takes the square of such a run's length.
_COLONS = re.compile(r"(?:[0-9A-Fa-f]{0,4}+:){10,}+")
_FOUND = {
    "EMAIL": "email",
    "PHONE": "phone",
    "SSN": "identity",
    "CREDIT_CARD": "card",
    "IP_ADDRESS": "ip",
    "DATE": "date",
    "ZIP_CODE": "postcode",
    "NPI": "identity",
    "US_ROUTING_NUMBER": "account",
    "API_KEY": "secret",
    "BEARER_TOKEN": "secret",
    "CREDENTIAL_URI": "secret",
    "JWT": "secret",
    "PRIVATE_KEY": "secret",
}
CUES = {
    "name": "name names named called mr mrs ms miss mx dr prof herr frau monsieur mme señor señora",
    "birth": "born birth birthday dob birthdate geboren née",
    "identity": "passport licence license ssn insurance nhs nino tax taxpayer id identity permit",
    "phone": """phone tel telephone telefon mobile cell fax whatsapp sms call calling number contact
        reach ring answering registered handy téléphone teléfono""",
    "card": "card cards visa mastercard amex",
    "postcode": "zip zipcode postcode postal plz",
    "opener": """what why how when where who whom whose which can could would should will shall may
        might is are was were am do does did has have had the a an in on at of for from to by with
        if as and but or so not no yes please this that these those there here it he she we they you
        i my your his her our their its tell give show find get let write explain describe create
        make help also then after before although while since because hi hello hey dear thanks
        answer question example note some any all each every one two three new""",
    "everyday": """i english german french spanish italian chinese japanese russian american british
        european january february march april may june july august september october november
        december monday tuesday wednesday thursday friday saturday sunday ok pdf url api usd atm
        internet god earth""",
    "street": """st street road rd avenue ave lane boulevard blvd court square plaza terrace drive
        crescent close apt apartment suite flat unit straße strasse platz weg allee gasse""",
}
AFTER = {
    "name": re.compile(r"\W{0,3}(?:is|was|to|are)?\W{0,4}[^\W\d_a-z][^\W\d_]*[^\W\d_A-Z]"),
    "birth": re.compile(r"[^\n]{0,24}?\d{1,4}[ ./-](?:\d{1,2}|[A-Za-z]{3,9})[ ./-]\d{1,4}"),
    "identity": re.compile(r"[^.!?\n\d]{0,24}?[A-Z]{0,3}\d[\dA-Z -]{4,18}"),
    "phone": re.compile(r"[^.!?\n\d]{0,24}?\+?\(?\d(?:[ ()./-]{0,2}\d){6,14}(?![\d.])"),
    "card": re.compile(r"[^.!?\n\d]{0,24}?\d(?:[ -]?\d){11,18}"),
    "postcode": re.compile(r"[^.!?\n\d]{0,16}?[A-Z]{0,2}\d[\dA-Z -]{3,7}"),
}
_IBAN = re.compile(rb"[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?![A-Za-z0-9])")
_KINDS = tuple(CUES)
_LOOKUP = lookup({kind: hash_words(words.split()) for kind, words in CUES.items()})
_STREET = np.uint32(1 << _KINDS.index("street"))
_DIGIT = re.compile(rb"\d")
_COMMON = np.uint32(1 << _KINDS.index("opener") | 1 << _KINDS.index("everyday"))
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Personal:
    """Kinds and how often each was found; :attr:`score` sums them up."""

    counts: dict[str, int] = field(default_factory=dict)

    @property
    def score(self) -> float:
        """Between 0 and 1: as if each kind spoke for itself. A second finding adds a little."""
        doubt = 1.0
        for kind, count in self.counts.items():
            doubt *= (1.0 - CERTAINTY[kind]) ** (1.0 + 0.25 * math.log(count))
        return 1.0 - doubt


def read(text: str, segments: Segments | None = None) -> Personal:
    """The personal data that a whole text seems to hold, however long it is.

    ``segments`` are those of the whole text, where they are at hand.
    """
    counts: Counter[str] = Counter()
    known = segments if len(text) <= BLOCK_CHARS else None
    for block in blocks(text, BLOCK_CHARS):
        part = known or split(block)
        add_scanned(_telling(part), counts)
        _add_own(part, counts)
    return Personal({kind: count for kind, count in counts.items() if count})


def together(found: Iterable[Personal]) -> Personal:
    """What was found in the parts of a text, as one."""
    counts: Counter[str] = Counter()
    for one in found:
        counts.update(one.counts)
    return Personal(dict(counts))


def add_scanned(text: str, counts: Counter[str]) -> None:
    """What datafog-core finds; a finding belongs to the part in which it begins."""
    for at in range(0, len(text), _SCAN):
        part = text[at : at + _SCAN + _OVERLAP]
        if part.count(":") > _MANY_COLONS:
            part = _COLONS.sub(" ", part)
        for found in datafog_core.scan(part):
            if found.codepoint_range.start < _SCAN:
                counts[_FOUND.get(found.entity_type, "identity")] += 1


def _telling(segments: Segments) -> str:
    """The sentences that could hold what datafog-core finds: all of it has a digit or a mark.

    Lone surrogates, which it refuses, become question marks.
    """
    marks = np.flatnonzero(np.frombuffer(segments.data.translate(_TELLING), np.bool_))
    long = segments.word_starts[segments.word_ends - segments.word_starts >= LONG_WORD]
    at = np.searchsorted(segments.starts, np.concatenate((marks, long)), side="right") - 1
    told = np.zeros(len(segments) + 2, np.bool_)
    told[at + 1] = True
    # Neighbours stay together, as they stand in the text.
    turns = np.flatnonzero(told[1:] != told[:-1])
    bounds = np.append(segments.starts, len(segments.data))[turns].tolist()
    runs = zip(bounds[::2], bounds[1::2], strict=True)
    data = b"\n".join(segments.data[start:end] for start, end in runs)
    return data.decode("utf-8", "replace")


def _add_own(segments: Segments, counts: Counter[str]) -> None:
    if not len(segments.words):
        return
    shapes = _Shapes(segments)
    numbers = shapes.has_numbers
    cues = _LOOKUP.find(segments.words)
    met = int(np.bitwise_or.reduce(cues))
    for place, kind in enumerate(_KINDS):
        if kind in AFTER and met >> place & 1 and (numbers or kind == "name"):
            at = np.flatnonzero(cues >> np.uint32(place) & 1)
            counts[kind] = max(counts[kind], _count_after(segments, at, AFTER[kind]))
    if numbers:
        streets = np.flatnonzero(cues & _STREET)
        counts["address"] += shapes.numbered(streets) + shapes.house_numbers()
        counts["card"] = max(counts["card"], shapes.cards())
        add_ibans(segments.data, shapes.iban_starts().tolist(), counts)
    common = cues & _COMMON > 0
    counts["person"] += shapes.people(common)
    counts["proper"] += shapes.proper(common)


def _count_after(segments: Segments, at: Ints, pattern: re.Pattern[str]) -> int:
    if len(at) > MAX_CUES:
        at = at[np.linspace(0, len(at) - 1, MAX_CUES).astype(np.intp)]
    data, count = segments.data, 0
    for end in segments.word_ends[at].tolist():
        count += pattern.match(data[end : end + REACH].decode("utf-8", "ignore")) is not None
    return count


def add_ibans(data: bytes, starts: list[int], counts: Counter[str]) -> None:
    """Those of the form whose checksum is wrong count as accounts of another kind."""
    end = 0
    for start in starts:
        found = _IBAN.match(data, start) if start >= end else None
        if found is not None:
            end = found.end()
            counts["iban" if _is_iban(found.group().decode()) else "account"] += 1


class _Shapes:
    """Flags of words by their form: capitalised, number, and what stands around them."""

    def __init__(self, segments: Segments) -> None:
        raw = np.frombuffer(segments.data + b"    ", np.uint8)
        starts, ends = segments.word_starts, segments.word_ends
        self._lengths = ends - starts
        self._first, second = raw[starts], raw[starts + 1]
        self._owner = segments.owner
        self._next = raw[ends]
        self._starts = starts
        self._near = np.append(starts[1:] - ends[:-1], 99)
        digit = self._first - np.uint8(48) < 10
        self._iban = (raw[starts + 2] - np.uint8(48) < 10) & (second - np.uint8(65) < 26)
        self.has_numbers = _DIGIT.search(segments.data) is not None
        self._number = digit & (self._lengths <= 5)
        self._long_number = digit & (self._lengths >= 13) & (self._lengths <= 19)
        upper = (self._first - np.uint8(65) < 26) | (self._first >= 0xC3)
        self._capital = upper
        self._title = upper & ((second - np.uint8(97) < 26) | (second >= 0x80))

    def numbered(self, at: Ints) -> int:
        """How many of the words ``at`` follow a number by up to four words, or precede one."""
        if not len(at):
            return 0
        found = np.zeros(len(at), np.bool_)
        for back in range(1, 5):
            before = np.maximum(at - back, 0)
            same = (at >= back) & (self._owner[before] == self._owner[at])
            found |= same & self._number[before]
        after = np.minimum(at + 1, len(self._owner) - 1)
        found |= (self._near[at] <= 2) & self._number[after]
        return int(found.sum())

    def house_numbers(self) -> int:
        """How many numbers stand between a capitalised word and a comma: «Ringvej 7, Lund»."""
        found = self._number[1:-1] & self._title[:-2] & self._capital[2:]
        found &= (self._near[:-2] <= 2) & (self._near[1:-1] <= 4) & (self._next[1:-1] == ord(","))
        return int(found.sum())

    def iban_starts(self) -> Ints:
        """Where words begin that begin as an IBAN does: two capitals and a digit."""
        return self._starts[self._iban & (self._first - np.uint8(65) < 26)]

    def cards(self) -> int:
        """How many whole numbers are as long as a card's and begin like one."""
        found = self._long_number & (self._first >= ord("3")) & (self._first <= ord("6"))
        return int(found.sum())

    def people(self, common: Flags) -> int:
        """How many pairs of capitalised words with one space between hold no ``common`` one."""
        title = self._title & ~common
        found = title[:-1] & title[1:] & (self._near[:-1] == 1) & (self._next[:-1] == ord(" "))
        return int(found.sum())

    def proper(self, common: Flags) -> int:
        """How many capitalised words are not ``common``, nor the first of their sentence."""
        first = np.append(True, self._owner[1:] != self._owner[:-1])
        return int((self._title & ~first & ~common).sum())


def _is_iban(text: str) -> bool:
    """ISO 13616: with the first four characters last, the number leaves 1 modulo 97."""
    code = text.replace(" ", "")
    if not 15 <= len(code) <= 34:
        return False
    moved = code[4:] + code[:4]
    return int("".join(str(int(char, 36)) for char in moved)) % 97 == 1
