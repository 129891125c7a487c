"""Text → token ids, for the static table and the encoder alike."""

from collections.abc import Sequence
from pathlib import Path

MAX_TOKENS = 512
"""Tokens of a text that are read at most, with the two that frame it."""
CHARS_PER_TOKEN = 8
"""Characters are cut before tokenising, at this many for each token: English has about 4.5."""


class Tokens:
    """MiniLM's WordPiece tokeniser.

    Raises:
        ImportError: tokenizers is not installed: it comes with the extra ``models``.
        ValueError: The file is no tokeniser, or has no frame of [CLS] and [SEP].
    """

    def __init__(self, path: Path) -> None:
        try:
            import tokenizers  # noqa: PLC0415 — a default install does without
        except ImportError as error:
            raise ImportError(
                "token ids need tokenizers: pip install 'pointsman[models]'"
            ) from error
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises plain Exception
            raise ValueError(f"{path} is no tokeniser: {error}") from error
        # The file asks for padding to 128, which costs an encoder most of its time.
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        frame = self._tokenizer.encode("").ids
        if len(frame) != 2:
            raise ValueError(f"{path} frames a text by {frame}, not by two tokens")
        self.first, self.last = frame

    def ids(self, text: str, limit: int = MAX_TOKENS) -> list[int]:
        """The first tokens of a text, without the frame, ``limit`` − 2 of them at most."""
        part = text[: limit * CHARS_PER_TOKEN]
        try:
            found: list[int] = self._tokenizer.encode(part, add_special_tokens=False).ids
        except (TypeError, UnicodeEncodeError):  # JSON may hold lone surrogates
            whole = part.encode("utf-8", "replace").decode("utf-8")
            found = self._tokenizer.encode(whole, add_special_tokens=False).ids
        return found[: limit - 2]

    def framed(self, ids: Sequence[int], limit: int) -> list[int]:
        """The ids between those that open and close a text, ``limit`` of them in all at most."""
        return [self.first, *ids[: limit - 2], self.last]
