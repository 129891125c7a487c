"""Token ids → embeddings: batches whose shapes the provider likes, of bounded size.

A provider that compiles for each shape (MIGraphX) gets a few shapes only: lengths padded to
:data:`BUCKETS`, one or ``batch`` texts, all compiled by :meth:`EncoderSession.warm_up` before the
first request. On other providers padding is lost work: a text runs at its own length, and texts
share a batch only when they are about as long. A graph without a mask takes no padding at all, so
its batches hold texts of one length.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from kernels.providers import Proven

Tokens = Sequence[int]

BUCKETS = (64, 128, 256, 512)
"""Lengths that compiled providers know."""
COMPILED = frozenset({"migraphx"})
"""Providers that compile anew for each shape."""
MAX_TEXTS = 65_536
"""How many texts one call takes."""
MAX_BATCH_TOKENS = 4_096
"""Tokens of one batch, padding included: what bounds its memory."""
WASTE = 0.125
"""Share of a batch that may be padding where shapes are free."""


class SessionError(ValueError):
    """The session cannot take what it was given; the message says what and why."""


@dataclass(frozen=True, slots=True)
class Warmed:
    """One shape that has run, and how long its first run took: compilation included."""

    texts: int
    tokens: int
    seconds: float


class EncoderSession:
    """An encoder that is ready to serve. Safe to share between threads.

    Args:
        proven: what ``providers.choose`` found, of a graph of ``graphs.builder``.
        most_tokens: a longer text is cut to this length; its last token, the end mark, stays.
        batch: how many texts a compiled provider takes at once, beside one.
        buckets: lengths that a compiled provider knows, shortest first.
        padding: the token id that fills up.

    Raises:
        SessionError: a number is out of range, the graph is none of ``graphs.builder``'s, it has
            fewer positions than ``most_tokens``, or it has no mask and the provider needs padding.
    """

    def __init__(
        self,
        proven: Proven,
        *,
        most_tokens: int = BUCKETS[-1],
        batch: int = 8,
        buckets: Sequence[int] = BUCKETS,
        padding: int = 0,
    ) -> None:
        if most_tokens < 2:
            raise SessionError(f"most_tokens is {most_tokens}: give 2 or more")
        if not 1 <= batch <= 256:
            raise SessionError(f"batch is {batch}: give 1 to 256")
        inputs = {one.name for one in proven.session.get_inputs()}
        if not {"input_ids"} <= inputs <= {"input_ids", "attention_mask"}:
            raise SessionError(f"the graph reads {sorted(inputs)}: build it with graphs.builder")
        facts = proven.session.get_modelmeta().custom_metadata_map
        positions = int(facts.get("positions", most_tokens))
        if most_tokens > positions:
            raise SessionError(f"most_tokens is {most_tokens}: the model has {positions} positions")
        self.proven = proven
        self.most_tokens = most_tokens
        self._session = proven.session
        self._masked = "attention_mask" in inputs
        self._compiled = proven.provider in COMPILED
        self._batch = batch
        self._padding = padding
        self._lengths = _lengths(buckets, most_tokens)
        if self._compiled and not self._masked:
            raise SessionError(f"{proven.provider} needs padding: build a graph with a mask")

    def encode(self, texts: Sequence[Tokens]) -> NDArray[np.float32]:
        """Embeddings (n, hidden), in the order of the texts, each of Euclidean length 1.

        Raises:
            SessionError: there are too many texts, none, or one without tokens.
        """
        if len(texts) == 1:
            return self._run([self._cut(texts[0])])
        if not 0 < len(texts) <= MAX_TEXTS:
            raise SessionError(f"{len(texts)} texts: give 1 to {MAX_TEXTS}")
        cut = [self._cut(text) for text in texts]
        order = sorted(range(len(cut)), key=lambda at: len(cut[at]))
        found: NDArray[np.float32] | None = None
        for group in self._groups(order, cut):
            part = self._run([cut[at] for at in group])
            if found is None:
                found = np.empty((len(cut), part.shape[1]), dtype=np.float32)
            found[group] = part
        assert found is not None  # noqa: S101 -- there is at least one text, so one group
        return found

    def warm_up(self) -> tuple[Warmed, ...]:
        """Run each shape once: compiles them all where the provider compiles.

        A server calls this before it listens, so that no request waits for a compiler.
        """
        sizes = (1, self._batch) if self._compiled and self._batch > 1 else (1,)
        return tuple(self._warm(size, length) for length in self._lengths for size in sizes)

    def _warm(self, texts: int, tokens: int) -> Warmed:
        started = perf_counter()
        self._run([[self._padding] * tokens] * texts)
        return Warmed(texts, tokens, perf_counter() - started)

    def _cut(self, text: Tokens) -> Tokens:
        if not text:
            raise SessionError("a text has no tokens: a tokeniser gives its start and end marks")
        if len(text) <= self.most_tokens:
            return text
        return [*text[: self.most_tokens - 1], text[-1]]

    def _groups(self, order: Sequence[int], texts: Sequence[Tokens]) -> Iterator[list[int]]:
        """Parts of ``order``, shortest texts first, each fit for one run."""
        group: list[int] = []
        held = 0
        for at in order:
            length = len(texts[at])
            if group and not self._fits(len(group) + 1, held + length, length, texts[group[0]]):
                yield group
                group, held = [], 0
            group.append(at)
            held += length
        yield group

    def _fits(self, texts: int, held: int, length: int, shortest: Tokens) -> bool:
        """Whether a batch may grow to so many texts, the newest and longest of this length."""
        if self._compiled:
            return texts <= self._batch and self._shape(length) == self._shape(len(shortest))
        if not self._masked and length != len(shortest):
            return False
        whole = texts * length
        return whole <= MAX_BATCH_TOKENS and whole - held <= WASTE * whole

    def _shape(self, length: int) -> int:
        """The length at which a text of this length runs."""
        if not self._compiled:
            return length
        return next(one for one in self._lengths if length <= one)

    def _run(self, texts: Sequence[Tokens]) -> NDArray[np.float32]:
        """One run for texts of at most ``most_tokens``."""
        length = self._shape(max(map(len, texts)))
        rows = len(texts) if not self._compiled or len(texts) == 1 else self._batch
        if rows == 1 and len(texts[0]) == length:
            ids = np.array(texts, dtype=np.int64)
            mask = np.ones_like(ids) if self._masked else None
        else:
            ids, mask = self._fill(texts, rows, length)
        feed = {"input_ids": ids} if mask is None else {"input_ids": ids, "attention_mask": mask}
        found: NDArray[np.float32] = self._session.run(["embedding"], feed)[0]
        return found[: len(texts)]

    def _fill(
        self, texts: Sequence[Tokens], rows: int, length: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64] | None]:
        ids = np.full((rows, length), self._padding, dtype=np.int64)
        mask = np.zeros((rows, length), dtype=np.int64)
        for row, text in enumerate(texts):
            ids[row, : len(text)] = text
            mask[row, : len(text)] = 1
        return ids, mask if self._masked else None


def _lengths(buckets: Sequence[int], most_tokens: int) -> tuple[int, ...]:
    """The buckets that texts of up to ``most_tokens`` need; that number itself is the last."""
    if not buckets or sorted(set(buckets)) != list(buckets) or buckets[0] < 1:
        raise SessionError(f"buckets are {list(buckets)}: give rising lengths")
    return (*(one for one in buckets if one < most_tokens), most_tokens)
