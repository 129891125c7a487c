"""Text → token ids, for the static table and the encoder alike.

Most prompts are plain ASCII and made of words that the vocabulary holds whole. For such text BERT's
rule (Devlin et al. 2018, arXiv:1810.04805) comes down to one regular expression and a look-up for
each word, which takes a fifth of the library's time; the library is asked for every other word, and
for every other text. A test holds the two together.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kernels.signals.encoder import ends

MAX_TOKENS = 512
"""Tokens of a text that are read at most, with the two that frame it."""
CHARS_PER_TOKEN = 8
"""Characters are cut before tokenising, at this many for each token: English has about 4.5."""
MOST_ASKED = 8
"""Words of a text that the library is asked for one by one: with more it gets the whole text."""
MOST_KEPT = 8_192
"""Words of several pieces that are kept."""
LONGEST_KEPT = 100
"""Their characters: WordPiece takes a longer word for unknown."""

_UNUSUAL = re.compile(r"[^\t\n\r -~]")
_WORD = re.compile(r"[a-z0-9]+|[^\sa-z0-9]")


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
        added = self._tokenizer.get_added_tokens_decoder().values()
        self._marks = tuple(one.content for one in added)
        self._is_bert = _is_bert(self._tokenizer)
        self._whole = _whole_words(self._tokenizer.get_vocab(with_added_tokens=False))
        self._pieces: dict[str, list[int]] = {}

    def ids(self, text: str, limit: int = MAX_TOKENS) -> list[int]:
        """The first tokens of a text, without the frame, ``limit`` − 2 of them at most."""
        part = text[: limit * CHARS_PER_TOKEN]
        found = self._look_up(part)
        if found is None:
            found = self._ask(part)
        return found[: limit - 2]

    def framed(self, ids: Sequence[int], limit: int) -> list[int]:
        """The ids between those that open and close a text, ``limit`` in all: of more, the ends."""
        return [self.first, *ends(ids, limit - 2), self.last]

    def _look_up(self, text: str) -> list[int] | None:
        """The ids of a plain text word by word; None for any other."""
        if not self._is_bert or _UNUSUAL.search(text) or any(mark in text for mark in self._marks):
            return None
        found: list[int] = []
        asked = 0
        for word in _WORD.findall(text.lower()):
            whole = self._whole.get(word)
            if whole is not None:
                found.append(whole)
                continue
            pieces = self._pieces.get(word)
            if pieces is None:
                asked += 1
                if asked > MOST_ASKED:
                    return None
                pieces = self._ask(word)
                if len(self._pieces) < MOST_KEPT and len(word) <= LONGEST_KEPT:
                    self._pieces[word] = pieces
            found.extend(pieces)
        return found

    def _ask(self, text: str) -> list[int]:
        """The ids by the library."""
        try:
            found: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        except (TypeError, UnicodeEncodeError):  # JSON may hold lone surrogates
            whole = text.encode("utf-8", "replace").decode("utf-8")
            found = self._tokenizer.encode(whole, add_special_tokens=False).ids
        return found


def _whole_words(vocabulary: Mapping[str, int]) -> dict[str, int]:
    """The plain words that are one token; what begins with ## is the rest of one."""
    return {word: number for word, number in vocabulary.items() if _WORD.fullmatch(word)}


def _is_bert(tokenizer: Any) -> bool:
    """Whether a tokeniser splits lower-cased words at spaces and marks, and words by WordPiece."""
    normalizer = tokenizer.normalizer
    kinds = [type(one).__name__ for one in (normalizer, tokenizer.pre_tokenizer, tokenizer.model)]
    return kinds == ["BertNormalizer", "BertPreTokenizer", "WordPiece"] and normalizer.lowercase
