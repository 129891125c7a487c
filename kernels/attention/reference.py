"""Attention with padding and a symmetric sliding window, in float64: what a kernel is held to.

It forms the whole score matrix, so it needs ``B × H × T × T × 8`` bytes: for checks only.
"""

import math

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]


def attend(
    query: Floats,
    key: Floats,
    value: Floats,
    *,
    lengths: npt.NDArray[np.integer] | None = None,
    window: int | None = None,
    scale: float | None = None,
) -> npt.NDArray[np.float64]:
    """Scaled dot-product attention (Vaswani et al. 2017, arXiv:1706.03762, equation 1).

    Args:
        query: Of shape ``(B, H, T, D)``, as ``key`` and ``value``.
        key: See ``query``.
        value: See ``query``.
        lengths: Of shape ``(B,)``: how many of the T tokens are real; the rest is padding at the
            end. None: all.
        window: A token sees those at most this many places away, on both sides (Longformer,
            arXiv:2004.05150); 0 sees itself only. None: all.
        scale: What scores are multiplied by. None: ``1 / sqrt(D)``.

    Returns:
        Of shape ``(B, H, T, D)``. Rows of padding are 0, whatever padding holds.

    Raises:
        ValueError: Shapes, lengths or window make no sense.
    """
    check_shapes(query.shape, key.shape, value.shape)
    batch, _, tokens, size = query.shape
    real = np.full(batch, tokens) if lengths is None else np.asarray(lengths)
    check_lengths(real, batch=batch, tokens=tokens)
    check_window(window)
    seen = visible(real, tokens=tokens, window=window)
    rows = np.arange(tokens) < real[:, None]
    # Padding may hold anything, and 0 × nan is nan: it is taken out, not weighted by 0.
    kept = rows[:, None, :, None]
    q, k, v = (np.where(kept, part, 0.0).astype(np.float64) for part in (query, key, value))
    scores = q @ k.swapaxes(-1, -2) * (1.0 / math.sqrt(size) if scale is None else scale)
    scores = np.where(seen[:, None], scores, -np.inf)
    highest = scores.max(axis=-1, keepdims=True, initial=-np.inf)
    weights = np.exp(scores - np.where(np.isfinite(highest), highest, 0.0))
    total = weights.sum(axis=-1, keepdims=True)
    mixed: npt.NDArray[np.float64] = weights / np.where(total == 0.0, 1.0, total) @ v
    return mixed


def visible(
    lengths: npt.NDArray[np.integer], *, tokens: int, window: int | None
) -> npt.NDArray[np.bool_]:
    """Which token (second axis) sees which (third), of shape ``(B, T, T)``."""
    place = np.arange(tokens)
    real = place < np.asarray(lengths)[:, None]
    near = np.ones((tokens, tokens), dtype=bool)
    if window is not None:
        near = np.abs(place[:, None] - place[None, :]) <= window
    return real[:, :, None] & real[:, None, :] & near


def check_shapes(*shapes: tuple[int, ...]) -> None:
    """Refuse queries, keys and values that are not ``(B, H, T, D)``, all the same."""
    if any(len(shape) != 4 for shape in shapes) or len(set(shapes)) != 1:
        raise ValueError(f"query, key, value have shapes {shapes}: give all three (B, H, T, D)")


def check_lengths(lengths: npt.NDArray[np.integer], *, batch: int, tokens: int) -> None:
    """Refuse lengths that are not one of 0…T for each row of the batch."""
    if lengths.shape != (batch,) or not np.issubdtype(lengths.dtype, np.integer):
        raise ValueError(
            f"lengths is {lengths.dtype}{lengths.shape}: give integers of shape ({batch},)"
        )
    if batch and (lengths.min() < 0 or lengths.max() > tokens):
        raise ValueError(f"lengths is {lengths.tolist()}: each must be 0…{tokens}")


def check_window(window: int | None) -> None:
    """Refuse a window below 0."""
    if window is not None and window < 0:
        raise ValueError(f"window is {window}: give 0 or more, or None for no window")
