"""The third tier: a sentence encoder, run once for all heads.

What was embedded lately is kept by a digest of its tokens: the turns of a chat come again with each
of its requests.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ids = Sequence[int]
CAP = 48
"""Tokens of a text that are read, with the two that frame it; of a longer one those at its ends.

MiniLM was trained on 128. These take little more than a third of the time, and the 46 at both ends
tell domains, attacks and personal data as well as the first 126 do; the first 62 do not."""
KEPT = 1024
"""Texts of which the vectors are kept: 1.6 MB of 384 numbers each."""


class Session(Protocol):
    """What is used of :class:`kernels.sessions.EncoderSession`."""

    def encode(self, texts: Sequence[Ids]) -> Floats:
        """Vectors (n, d) in the order of the texts, each of Euclidean length 1."""


class Encoder:
    """Framed token ids → vectors of Euclidean length 1. Safe to share between threads.

    Args:
        session: runs the model.
        kept: how many vectors are kept.

    Raises:
        ValueError: ``kept`` is below 1.
    """

    def __init__(self, session: Session, *, kept: int = KEPT) -> None:
        if kept < 1:
            raise ValueError(f"kept is {kept}: keep the vector of at least 1 text")
        self._session = session
        self._most = kept
        self._kept: OrderedDict[bytes, Floats] = OrderedDict()
        self._lock = Lock()

    def embed(self, texts: Sequence[Ids]) -> list[Floats]:
        """A vector ``(d,)`` for each text; those that are not kept go through the model together.

        Args:
            texts: framed ids; of each :data:`CAP` are read at most.
        """
        keys = [_key(ids) for ids in texts]
        found = {key: vector for key in keys if (vector := self._find(key)) is not None}
        missing = {key: ids for key, ids in zip(keys, texts, strict=True) if key not in found}
        if missing:
            vectors = self._session.encode([_cut(ids) for ids in missing.values()])
            for key, vector in zip(missing, vectors, strict=True):
                found[key] = vector
                self._keep(key, vector)
        return [found[key] for key in keys]

    def embed_parts(self, parts: Sequence[Ids]) -> Floats:
        """One vector ``(d,)`` for a text of which some parts are read: their mean, of length 1.

        Args:
            parts: framed ids, at least one; parts of one length go through the model together.
        """
        if len(parts) == 1:
            return self.embed(parts)[0]
        key = _key([one for part in parts for one in part])
        vector = self._find(key)
        if vector is None:
            total: Floats = self._session.encode([_cut(ids) for ids in parts]).sum(axis=0)
            vector = total / np.float32(max(float(np.sqrt(total @ total)), 1e-12))
            self._keep(key, vector)
        return vector

    def embed_all(self, texts: Sequence[Ids]) -> Floats:
        """Vectors ``(n, d)`` of many texts; none is kept.

        An 8-bit encoder scales the numbers of a whole batch alike, so a text's vector differs a
        little from the one that it gets alone.
        """
        return self._session.encode([_cut(ids) for ids in texts])

    def knows(self, parts: Sequence[Ids]) -> bool:
        """Whether the vector of a text's parts is kept, so that it costs next to nothing."""
        return _key([one for part in parts for one in part]) in self._kept

    def _find(self, key: bytes) -> Floats | None:
        with self._lock:
            vector = self._kept.get(key)
            if vector is not None:
                self._kept.move_to_end(key)
            return vector

    def _keep(self, key: bytes, vector: Floats) -> None:
        with self._lock:
            self._kept[key] = vector
            if len(self._kept) > self._most:
                self._kept.popitem(last=False)


def _cut(ids: Ids) -> Ids:
    return ids if len(ids) <= CAP else ends(ids, CAP)


def ends(ids: Ids, most: int) -> list[int]:
    """A text's tokens, or of a text with more than ``most`` as many from each end."""
    if len(ids) <= most:
        return list(ids)
    last = most // 2
    return [*ids[: most - last], *ids[len(ids) - last :]]


def _key(ids: Ids) -> bytes:
    row = np.array(ids, dtype=np.int32)
    return hashlib.blake2b(row.tobytes(), digest_size=16).digest()
