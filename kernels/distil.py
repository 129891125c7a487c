"""A static embedding table distilled from an encoder: a vector per token, and no model to run.

Each token of the vocabulary is put through the encoder alone, the vectors are turned onto their
main axes, and frequent tokens are weighed down. A text is then the mean of its tokens' rows
(:mod:`kernels.signals.static`). The recipe is that of Model2Vec (Tulkens and van Dongen 2024); the
weights are those of Arora, Liang and Ma (2017, "A simple but tough-to-beat baseline for sentence
embeddings") with a frequency taken from the rank by Zipf's law, as a vocabulary is in order of it.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Embed = Callable[[NDArray[np.int64]], Floats]
"""Token ids ``(b, t)`` → sentence vectors ``(b, d)``."""

DIMS = 256
SMOOTHING = 1e-3
"""Of the weight ``a / (a + p)``: tokens more frequent than this count less."""
BATCH = 512


def distil(
    embed: Embed,
    *,
    vocabulary: int,
    frame: tuple[int, int],
    dims: int = DIMS,
    smoothing: float = SMOOTHING,
) -> NDArray[np.float16]:
    """The table of an encoder.

    Args:
        embed: the encoder.
        vocabulary: how many tokens there are; id 0 is the most frequent.
        frame: ids that stand before and after a text.
        dims: how many main axes are kept.
        smoothing: the weight's ``a``; the larger, the less frequent tokens are weighed down.

    Returns:
        ``(vocabulary, dims)`` half-precision numbers.

    Raises:
        ValueError: Fewer tokens than axes are wanted.
    """
    if not 0 < dims <= vocabulary:
        raise ValueError(f"dims: {dims} is not within 1 … {vocabulary}, the vocabulary's size")
    vectors = np.concatenate(
        [
            embed(_framed(first, min(first + BATCH, vocabulary), frame))
            for first in range(0, vocabulary, BATCH)
        ]
    )
    turned = _main_axes(vectors, dims) * _weights(vocabulary, smoothing)[:, None]
    return turned.astype(np.float16)


def _framed(first: int, end: int, frame: tuple[int, int]) -> NDArray[np.int64]:
    ids = np.arange(first, end, dtype=np.int64)
    before, after = (np.full_like(ids, token) for token in frame)
    return np.stack([before, ids, after], axis=1)


def _main_axes(vectors: Floats, dims: int) -> Floats:
    """Principal components, without the mean that all tokens share.

    An axis points to where its largest coordinate is positive: eigenvectors have no sign of their
    own, and two machines should build the same table.
    """
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    _, axes = np.linalg.eigh(centred.T @ centred)
    kept = axes[:, ::-1][:, :dims]
    peaks = kept[np.abs(kept).argmax(axis=0), np.arange(kept.shape[1])]
    turned: Floats = (centred @ (kept * np.sign(peaks))).astype(np.float32)
    return turned


def _weights(vocabulary: int, smoothing: float) -> Floats:
    """``a / (a + p)`` with ``p`` of the rank by Zipf's law."""
    inverse = 1.0 / (np.arange(vocabulary) + 2.0)
    frequency = inverse / inverse.sum()
    weights: Floats = (smoothing / (smoothing + frequency)).astype(np.float32)
    return weights
