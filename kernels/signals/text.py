"""Prompt → signals, first tier: cheap numbers that need no model, the same on every machine.

The values are fields of a context; :data:`SIGNAL_SCHEMA` declares how they are encoded. A prompt
of 300 characters takes a small part of a millisecond, and a long one no more than some thousand
characters do: beyond :data:`HEAD` and :data:`TAIL` only its length is read.
"""

import math
import re
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

Signals = dict[str, float | list[float] | bool]

TERMS = 64
"""Length of the vector of hashed words."""
HEAD = 3000
"""How many characters are read from the start of a long text."""
TAIL = 1000
"""How many characters are read from its end, where a prompt often puts its question."""
MAX_MESSAGES = 256
"""How many messages of a chat are read: the newest."""
GUARDED_ROLES = ("user", "tool", "function")
"""Whose messages may hold what others than the operator and the model have written."""

SIGNAL_SCHEMA: list[dict[str, Any]] = [
    {"name": "chars", "kind": "number", "mean": 5.4, "scale": 1.0},
    {"name": "words", "kind": "number", "mean": 3.6, "scale": 0.9},
    {"name": "turns", "kind": "number", "mean": math.log(2.0), "scale": 0.7},
    {"name": "digits", "kind": "number", "mean": 0.03, "scale": 0.05},
    {"name": "maths", "kind": "number", "mean": 0.01, "scale": 0.03},
    {"name": "code", "kind": "flag"},
    {"name": "question", "kind": "flag"},
    {"name": "terms", "kind": "vector", "size": TERMS},
]
"""The rows of a feature schema, for a policy that uses these signals."""

_WORD = re.compile(r"[^\W\d_]{2,}")
# No run of spaces may cross a line's end: each line start would scan to the end of them all.
_CODE = re.compile(
    r"```|^[^\S\n]*(?:def |class |import |from \w+ import |#include|public |function |SELECT )|"
    r"\w\(\)|[;{]\s*\n|=>|</\w+>|\bself\.",
    re.MULTILINE,
)
_CODE_NEEDS = (
    *("```", "def ", "class ", "import ", "#include", "public ", "function ", "SELECT "),
    *("()", ";", "{", "=>", "</", "self."),
)
"""Each match of :data:`_CODE` holds one of these, which are found thirty times as fast."""
_DIGITS = "0123456789"
_MATHS = "+=<>^\\$%×÷±√∑∏∫∞≈≠≤≥π∂∈"
_QUESTION_MARKS = "?？؟"  # noqa: RUF001 -- the full-width mark is meant


def read(text: str) -> Signals:
    """The signals of one text.

    Returns:
        ``chars`` and ``words``: ``log(1 + count)``; ``digits`` and ``maths``: shares of the
        characters in [0, 1]; ``code`` and ``question``: flags; ``terms``: :data:`TERMS` numbers of
        Euclidean length 1, or all 0 for a text without words.
    """
    part = text if len(text) <= HEAD + TAIL else f"{text[:HEAD]}\n{text[-TAIL:]}"
    length = max(1, len(part))
    found = _WORD.findall(part.lower())
    # Words beyond the part that is read are taken to be as dense as within it.
    words = len(found) * max(1.0, len(text) / length)
    return {
        "chars": math.log1p(len(text)),
        "words": math.log1p(words),
        "digits": sum(map(part.count, _DIGITS)) / length,
        "maths": sum(map(part.count, _MATHS)) / length,
        "code": any(one in part for one in _CODE_NEEDS) and _CODE.search(part) is not None,
        "question": any(mark in part for mark in _QUESTION_MARKS),
        "terms": _hash_words(found),
    }


def read_messages(messages: Sequence[object]) -> Signals:
    """The signals of an OpenAI chat request's ``messages``.

    The text is what the user has said, from the oldest to the newest message (all roles where no
    message is a user's). Content may be a string or a list of parts, of which those with a
    ``text`` count. What has another form is passed over, never refused: a proxy leaves that to
    the model's own endpoint.

    Returns:
        What :func:`read` returns, and ``turns``: ``log(1 + number of user messages)``.
    """
    said, turns = user_turns(messages)
    signals = read("\n".join(said))
    signals["turns"] = math.log1p(turns)
    return signals


def user_turns(messages: Sequence[object]) -> tuple[list[str], int]:
    """The texts of a chat's user messages, oldest first, and how many messages these are.

    Texts are those of all roles, and the number is 0, where no message is a user's. A message of
    several text parts is one text.
    """
    recent = [m for m in messages[-MAX_MESSAGES:] if isinstance(m, Mapping)]
    said = [m for m in recent if m.get("role") == "user"]
    texts = ["\n".join(_texts(m.get("content"))) for m in said or recent]
    return [text for text in texts if text], len(said)


def guarded_texts(messages: Sequence[object]) -> list[str]:
    """The texts that must be read for attacks and personal data, oldest first.

    They are those of all messages whose role is one of :data:`GUARDED_ROLES`, however many there
    are, and of all roles where no message is a user's.
    """
    known = [m for m in messages if isinstance(m, Mapping)]
    roles = [m.get("role") for m in known]
    if "user" in roles:
        known = [m for m, role in zip(known, roles, strict=True) if role in GUARDED_ROLES]
    texts = ["\n".join(_texts(m.get("content"))) for m in known]
    return [text for text in texts if text]


def _texts(content: object) -> list[str]:
    if isinstance(content, str):
        return [content]
    if not isinstance(content, list):
        return []
    texts = [part.get("text") if isinstance(part, Mapping) else part for part in content]
    return [text for text in texts if isinstance(text, str)]


def _hash_words(words: list[str]) -> list[float]:
    """Signed feature hashing (Weinberger et al. 2009, arXiv:0902.2206), sublinear, length 1.

    CRC-32 is the same in every process, other than ``hash()``. Its lowest bits give the column,
    its highest bit the sign.
    """
    terms = [0.0] * TERMS
    for word, count in Counter(words).items():
        # JSON may hold lone surrogates, which plain UTF-8 refuses.
        code = zlib.crc32(word.encode("utf-8", "surrogatepass"))
        weight = 1.0 + math.log(count)
        terms[code % TERMS] += weight if code >> 31 else -weight
    norm = math.sqrt(sum(term * term for term in terms))
    return [term / norm for term in terms] if norm else terms
