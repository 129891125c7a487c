"""Prompt → a vector of hashed character 3- to 5-grams: what a linear head reads without a model.

Grams see the insides of words, so they bear typing errors, other forms of a word and languages
that no word list knows. The same text gives the same bytes on every machine: counts are whole
numbers, and only correctly rounded operations (a root and a quotient) come after them.
"""

import numpy as np
from numpy.typing import NDArray

SIZE = 4096
"""Length of the vector; a power of two."""
MAX_CHARS = 65_536
"""Characters that are read: the first half from the start, the second from the end."""

_BLOCK = 16_384
_LOWER = bytes(range(256)).lower()
_BLANKS = bytes.maketrans(b"\t\r\n\x0b\x0c", b"     ")
_FACTOR = np.uint32(0x01000193)
_MIX = np.uint32(0x9E3779B1)


def read(text: str, *, size: int = SIZE) -> NDArray[np.float32]:
    """Signed feature hashing of a text's grams (Weinberger et al. 2009, arXiv:0902.2206).

    A gram is 3, 4 or 5 bytes of UTF-8 in lower case (ASCII letters only), a run of white space
    being one space; the text's ends count as spaces. Each count is replaced by its root.

    Returns:
        ``(size,)`` of Euclidean length 1, or all 0 where every count is 0.

    Raises:
        ValueError: ``size`` is no power of two from 2 to 65,536.
    """
    if not 2 <= size <= 65_536 or size & (size - 1):
        raise ValueError(f"size is {size}; give a power of two from 2 to 65536")
    counts = _count(_plain(text), size)
    total = np.abs(counts).sum()
    if not total:
        return np.zeros(size, np.float32)
    # The squares of the roots add up to a whole number, so no order of adding changes the length.
    roots = np.sign(counts) * np.sqrt(np.abs(counts))
    found: NDArray[np.float32] = (roots / np.sqrt(np.float64(total))).astype(np.float32)
    return found


def _plain(text: str) -> bytes:
    half = MAX_CHARS // 2
    part = text if len(text) <= MAX_CHARS else f"{text[:half]} {text[-half:]}"
    data = part.encode("utf-8", "surrogatepass").translate(_LOWER).translate(_BLANKS)
    return b" %b " % b" ".join(data.split())


def _count(data: bytes, size: int) -> NDArray[np.int64]:
    """The signed counts of all grams ``(size,)``."""
    shift = np.uint32(31 - size.bit_length() + 1)
    counts = np.zeros(2 * size, np.int64)
    for at in range(0, len(data), _BLOCK):
        raw = np.frombuffer(data[at : at + _BLOCK + 4], np.uint8).astype(np.uint32)
        codes = []
        gram = raw
        for length in range(2, 6):
            # A gram belongs to the block in which it begins.
            gram = gram[: len(raw) - length + 1] * _FACTOR ^ raw[length - 1 :]
            if length > 2:
                codes.append(gram[:_BLOCK] * _MIX ^ np.uint32(length))
        found = np.concatenate(codes)
        found = (found ^ (found >> np.uint32(15))) * _MIX
        counts += np.bincount(found >> shift, minlength=2 * size)
    signed: NDArray[np.int64] = counts[::2] - counts[1::2]
    return signed
