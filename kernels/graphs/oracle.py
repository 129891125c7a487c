"""The encoder once more, in numpy and float64: what every graph is compared with.

Written from the paper (Devlin et al. 2018, arXiv:1810.04805) and apart from the graphs: no
projections joined, no scale folded in, dense scores, masks by comparison of places.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.graphs.config import EncoderConfig, Weights, check_weights

Real = NDArray[np.floating[Any]]
Watch = Callable[[str, Real], None]

_ERF = np.frompyfunc(math.erf, 1, 1)  # numpy has no error function of its own


def encode(
    weights: Weights,
    config: EncoderConfig,
    ids: NDArray[np.int64],
    mask: NDArray[np.int64] | None = None,
    *,
    window: int | None = None,
    dtype: type[np.floating[Any]] = np.float64,
    watch: Watch | None = None,
) -> tuple[Real, Real]:
    """Embeddings (B, hidden) of Euclidean length 1, and the tokens' states (B, T, hidden).

    Args:
        weights: by the names of the checkpoint.
        config: the sizes.
        ids: (B, T), T up to the config's positions.
        mask: (B, T), 1 for a token and 0 for padding; all tokens where None.
        window: how many places away a key may be; any where None.
        dtype: what is computed in.
        watch: is told the name of each linear layer and what goes into it, (B, T, columns).
    """
    mask = np.ones_like(ids) if mask is None else mask
    table = {name: value.astype(dtype) for name, value in check_weights(weights, config).items()}
    run = _Run(table, config, watch)
    x = table["embeddings.word_embeddings.weight"][ids]
    x = x + table["embeddings.position_embeddings.weight"][: ids.shape[1]]
    x = run.norm(x, "embeddings.LayerNorm")
    hidden = _hidden(mask, window)
    for layer in range(config.layers):
        x = run.layer(x, f"encoder.layer.{layer}", hidden)
    return pool(x, mask), x


def pool(x: Real, mask: NDArray[np.int64]) -> Real:
    """Mean of the shown tokens (B, T, d) → (B, d), of Euclidean length 1; 0 where none is shown."""
    seen = mask[:, :, None].astype(x.dtype)
    mean = (x * seen).sum(axis=1) / np.maximum(seen.sum(axis=1), 1)
    unit: Real = mean / np.maximum(np.linalg.norm(mean, axis=-1, keepdims=True), 1e-12)
    return unit


def gelu(x: Real) -> Real:
    """The exact form, x · Φ(x) (Hendrycks and Gimpel 2016, arXiv:1606.08415)."""
    bent: Real = x * 0.5 * (1 + _ERF(x / math.sqrt(2)).astype(x.dtype))
    return bent


def _hidden(mask: NDArray[np.int64], window: int | None) -> NDArray[np.bool_]:
    """(B, 1, T or 1, T): whether a key is out of a query's sight."""
    hidden: NDArray[np.bool_] = (mask == 0)[:, None, None, :]
    if window is None:
        return hidden
    place = np.arange(mask.shape[1])
    far: NDArray[np.bool_] = np.abs(place[:, None] - place[None, :]) > window
    return np.logical_or(hidden, far)


class _Run:
    def __init__(self, table: dict[str, Real], config: EncoderConfig, watch: Watch | None) -> None:
        self._table = table
        self._config = config
        self._watch = watch

    def linear(self, x: Real, name: str) -> Real:
        if self._watch is not None:
            self._watch(name, x)
        mapped: Real = x @ self._table[f"{name}.weight"].T + self._table[f"{name}.bias"]
        return mapped

    def norm(self, x: Real, name: str) -> Real:
        centred = x - x.mean(axis=-1, keepdims=True)
        spread = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + self._config.eps)
        scaled: Real = centred / spread * self._table[f"{name}.weight"]
        return scaled + self._table[f"{name}.bias"]

    def layer(self, x: Real, at: str, hidden: NDArray[np.bool_]) -> Real:
        attended = self.attend(x, f"{at}.attention.self", hidden)
        mixed = self.linear(attended, f"{at}.attention.output.dense")
        x = self.norm(x + mixed, f"{at}.attention.output.LayerNorm")
        wide = self.linear(x, f"{at}.intermediate.dense")
        narrow = self.linear(gelu(wide), f"{at}.output.dense")
        return self.norm(x + narrow, f"{at}.output.LayerNorm")

    def attend(self, x: Real, at: str, hidden: NDArray[np.bool_]) -> Real:
        query, key, value = (
            self._heads(self.linear(x, f"{at}.{part}")) for part in ("query", "key", "value")
        )
        scores = query @ key.swapaxes(-1, -2) / math.sqrt(self._config.head_size)
        scores = np.where(hidden, -1e30, scores)
        shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
        shares /= shares.sum(axis=-1, keepdims=True)
        mixed: Real = shares @ value
        return mixed.swapaxes(1, 2).reshape(x.shape)

    def _heads(self, x: Real) -> Real:
        parted = x.reshape(*x.shape[:2], self._config.heads, self._config.head_size)
        return parted.swapaxes(1, 2)
