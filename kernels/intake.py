"""A chat request while it arrives: its text is read as the bytes come, not when all are there.

:class:`Intake` walks over a JSON body in the parts in which the network brings it. What the first
bytes can tell (the model asked for, the language) is known then, and the reading of personal data
and suspicious sentences, which must see every character, is done block by block meanwhile, so
that little is left to do after the last byte.

It looks and never judges: bytes are not kept, nothing is refused, and whatever it cannot follow
ends its reading with :attr:`Intake.broken`. Whether a body is valid JSON is for the parser that
gets the whole of it.

What it reads is the text of :func:`kernels.signals.text.guarded_texts`. Nothing may be hidden from
it that a parser finds later, so it gives up where a key or a role is written with an escape or one
of a message's role and the messages comes twice, and has no answer where only the whole body tells
which texts count.
"""

import re
from dataclasses import dataclass, field

import msgspec

from kernels.blocks import last_end
from kernels.segments import split
from kernels.signals import language, personal, suspicion
from kernels.signals.language import Language
from kernels.signals.personal import Personal
from kernels.signals.suspicion import Suspicion
from kernels.signals.text import GUARDED_ROLES

BLOCK_CHARS = 16_384
"""Text is read when so much of it has come."""
OPENING_CHARS = 2_048
"""How much is kept of the start of what the user says."""
MAX_MARKS = 8_192
"""Brackets, commas, colons and strings that are followed: a body of more is read when whole."""
MAX_DEPTH = 32

_MARK = re.compile(rb'["{}\[\],:]')
# Possessive, so that nothing is passed over twice, whatever it holds.
_UP_TO_BRACKET = re.compile(rb'(?:[^"{}\[\]]++|"[^"\\]*+(?:\\.[^"\\]*+)*+")*+', re.DOTALL)
_INSIDE = re.compile(rb'[^"\\]*+(?:\\(?:u[0-9A-Fa-f]{4}|[^u])[^"\\]*+)*+')
_HALF = re.compile(rb"\\u[dD][89abAB][0-9A-Fa-f]{2}\Z")
_MAX_NAME = 256
_NO_ROLE, _USER = b"", b"user"
_GUARDED = (_NO_ROLE, *(role.encode() for role in GUARDED_ROLES))
_MESSAGE = (b"{", b"[", b"{")
_PART = (*_MESSAGE, b"[", b"{")
_ONCE = {(b"{",): b"messages", _MESSAGE: b"role"}


@dataclass(frozen=True, slots=True)
class Early:
    """What the text that has come so far tells; ``chars`` is how much of it there was.

    Language and ``opening`` are of what the user says first, all else of every text that is read.
    """

    model: str | None
    chars: int
    opening: str
    language: Language
    personal: Personal
    suspicion: Suspicion


@dataclass(slots=True)
class _Text:
    """The decoded text so far: what is read of it, and what is still to be."""

    pieces: list[str] = field(default_factory=list)
    waiting: int = 0
    chars: int = 0
    opening: str = ""
    personal: list[Personal] = field(default_factory=list)
    suspicion: list[Suspicion] = field(default_factory=list)

    def add(self, text: str, *, opens: bool) -> None:
        self.pieces.append(text)
        self.waiting += len(text)
        self.chars += len(text)
        if opens and len(self.opening) < OPENING_CHARS:
            self.opening += text[: OPENING_CHARS - len(self.opening)]
        if self.waiting >= BLOCK_CHARS:
            self.read(whole=False)

    def read(self, *, whole: bool) -> None:
        """Read what waits, up to the last end of a line, sentence or word unless ``whole``."""
        text = "".join(self.pieces)
        end = len(text) if whole else last_end(text)
        self.pieces = [text[end:]]
        self.waiting = len(text) - end
        if end:
            segments = split(text[:end])
            self.personal.append(personal.read(text[:end], segments))
            self.suspicion.append(suspicion.read(text[:end], segments))


class Intake:
    """Reads one body; feed it all parts in their order, then ask for :meth:`finish`."""

    def __init__(self) -> None:
        """Nothing has come yet."""
        self.broken = False
        """Whether the body has a form that is not followed any further."""
        self.model: str | None = None
        """The model asked for, once its name has come."""
        self._rest = b""
        self._stack: list[bytes] = []
        self._keys: list[bytes] = [b""]
        self._at_key = False
        self._string: list[bytes] | None = None
        self._marks = 0
        self._role = _NO_ROLE
        self._users = 0
        self._told: set[bytes] = set()
        self._unsure = False
        self._others = False
        self._passed = False
        self._text = _Text()

    def feed(self, data: bytes) -> None:
        """Take the next part; it may end anywhere."""
        if self.broken:
            return
        buffer, at = self._rest + data, 0
        while at < len(buffer) and not self.broken:
            if self._string is not None:
                at, more = self._in_string(buffer, at)
                if not more:
                    break
                continue
            if self._passes():
                # Where tools or schemas are many, all but their brackets is no step of its own.
                passed = _UP_TO_BRACKET.match(buffer, at)
                at = passed.end() if passed is not None else at
                self._at_key = False
            mark = _MARK.search(buffer, at)
            if mark is None:
                at = len(buffer)
                break
            at = mark.end()
            self._step(mark.group())
        self._rest = buffer[at:]

    def finish(self) -> Early | None:
        """What the whole text tells, or None where that is not known from what was followed.

        It is not where the body has no end, where a text was taken for the user's and is not, or
        where no message is the user's, so that those which were passed over count.
        """
        if self.broken or self._stack or self._string is not None:
            return None
        if self._others if self._users else self._passed:
            return None
        self._text.read(whole=True)
        return self.so_far()

    def so_far(self) -> Early:
        """What the text tells that has been read so far."""
        text = self._text
        return Early(
            model=self.model,
            chars=text.chars,
            opening=text.opening,
            language=language.read(text.opening),
            personal=personal.together(text.personal),
            suspicion=suspicion.together(text.suspicion),
        )

    def _passes(self) -> bool:
        """Whether all that is here belongs to a value of which nothing is read."""
        return len(self._stack) > 1 and self._keys[1] != b"messages"

    def _step(self, mark: bytes) -> None:
        self._marks += 1
        if self._marks > MAX_MARKS:
            self.broken = True
        elif mark == b'"':
            self._string = []
        elif mark in b"{[":
            self._open(mark)
        elif mark in b"}]":
            self._close(mark)
        elif self._stack:
            self._at_key = mark == b"," and self._stack[-1] == b"{"

    def _open(self, mark: bytes) -> None:
        self._stack.append(mark)
        self._keys.append(b"")
        self._at_key = mark == b"{"
        if tuple(self._stack) == _MESSAGE and self._keys[1] == b"messages":
            self._role = _NO_ROLE
            self._told.discard(b"role")
            self._unsure = False
        self.broken = len(self._stack) > MAX_DEPTH

    def _close(self, mark: bytes) -> None:
        if tuple(self._stack) == _MESSAGE and self._keys[1] == b"messages":
            self._users += self._role == _USER
            self._others |= self._unsure and self._role != _USER
        if not self._stack or self._stack.pop() != (b"{" if mark == b"}" else b"["):
            self.broken = True
            return
        self._keys.pop()
        self._at_key = False

    def _in_string(self, buffer: bytes, at: int) -> tuple[int, bool]:
        """Go on in a string: where it stops, and whether there is more to be read there."""
        found = _INSIDE.match(buffer, at)
        end = found.end() if found is not None else at
        done = end < len(buffer) and buffer[end : end + 1] == b'"'
        if not done:
            end = _whole_chars(buffer, at, end)
        self._take(buffer[at:end], done=done)
        # A backslash with all of its escape here, and yet not passed over, is no JSON.
        self.broken |= not done and len(buffer) - end > 2 * len(b"\\u0000")
        return (end + 1, True) if done else (end, False)

    def _take(self, part: bytes, *, done: bool) -> None:
        texts = not self._at_key and self._is_text()
        held = self._string
        if texts:
            self._add_text(part)
        elif held is not None and sum(map(len, held)) <= _MAX_NAME:
            held.append(part[: _MAX_NAME + 1])
        if not done:
            return
        self._string = None
        if texts:
            self._add_text(b"\\n")
        elif held is not None:
            self._named(b"".join(held))

    def _named(self, value: bytes) -> None:
        """A short string has ended: a key, the model's name or a role."""
        if self._at_key:
            self._keys[-1] = value
            self._at_key = False
            self.broken |= b"\\" in value or self._comes_twice(value)
        elif tuple(self._stack) == (b"{",) and self._keys[1] == b"model":
            self.model = _decoded(value)
        elif tuple(self._stack) == _MESSAGE and self._keys[3] == b"role":
            self.broken |= b"\\" in value
            self._role = value

    def _comes_twice(self, key: bytes) -> bool:
        """Whether this is a second key of those that say whose texts count: a parser takes one."""
        if self._keys[1] != b"messages" or _ONCE.get(tuple(self._stack)) != key:
            return False
        twice = key in self._told
        self._told.add(key)
        return twice

    def _is_text(self) -> bool:
        """Whether a value here is text that is read: a message's content, or its part's text."""
        stack, keys = tuple(self._stack), self._keys
        if stack[:3] != _MESSAGE or keys[1] != b"messages" or keys[3] != b"content":
            return False
        if len(stack) not in (3, 4) and not (stack == _PART and keys[5] == b"text"):
            return False
        # Where no user speaks, a language is read off the others' text: it was no opening here.
        self._passed |= self._role not in (_NO_ROLE, _USER)
        return self._role in _GUARDED

    def _add_text(self, part: bytes) -> None:
        self._unsure |= self._role == _NO_ROLE
        text = _decoded(part)
        if text is None:
            self.broken = True
            return
        self._text.add(text, opens=self._role in (_NO_ROLE, _USER))


def _whole_chars(buffer: bytes, at: int, end: int) -> int:
    """An end that cuts no character of several bytes and no pair of escapes in two."""
    half = _HALF.search(buffer, max(at, end - 6), end)
    if half is not None:
        return half.start()
    for back in range(1, min(4, end - at) + 1):
        byte = buffer[end - back]
        if byte >= 0xC0:
            return end - back
        if byte < 0x80:
            break
    return end


def _decoded(part: bytes) -> str | None:
    try:
        return msgspec.json.decode(b'"%b"' % part, type=str)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
