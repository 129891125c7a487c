"""Which columns of the activations are large: what int8 must know before it rounds.

Activations are rounded with one scale for all columns, and in BERT a few columns are ten times
larger than the rest. Dividing each column by a factor, and multiplying the matrix's row by it,
leaves the product as it was and the columns alike (Xiao et al. 2022, arXiv:2211.10438).

No text is needed. Two guesses of each column's peak are joined by their geometric mean, since the
one sees what the other misses: what random tokens reach, and what the weights say of normally
distributed inputs.
"""

import numpy as np
from numpy.typing import NDArray

from kernels.graphs.config import EncoderConfig, Weights, check_weights
from kernels.graphs.oracle import Real, encode, gelu

Peaks = dict[str, NDArray[np.float32]]

TEXTS = 12
"""How many random texts are run."""
LENGTH = 32
"""Their tokens."""
DEVIATIONS = 3.0
"""How far from its mean a column is taken to go."""
SMALLEST = 1e-3


def peaks(
    weights: Weights, config: EncoderConfig, *, seed: int = 0, ids: NDArray[np.int64] | None = None
) -> Peaks:
    """The size of each column that enters a constant matrix, by the matrix's name in the graph.

    Products with the attention's own output are left out: their columns are alike already.

    Args:
        weights: by the names of the checkpoint.
        config: the sizes.
        seed: of the random tokens.
        ids: tokens (B, T) of real texts instead of random ones.
    """
    if ids is None:
        length = min(LENGTH, config.positions)
        ids = np.random.default_rng(seed).integers(0, config.vocab, (TEXTS, length))
    measured = _measured(weights, config, ids)
    guessed = _guessed(weights, config)
    return {
        name: np.sqrt(np.maximum(measured[name], SMALLEST) * np.maximum(value, SMALLEST)).astype(
            np.float32
        )
        for name, value in guessed.items()
    }


def _measured(weights: Weights, config: EncoderConfig, ids: NDArray[np.int64]) -> dict[str, Real]:
    """Largest absolute value of each column over the tokens of some texts."""
    found: dict[str, Real] = {}

    def watch(name: str, x: Real) -> None:
        found[_in_graph(name)] = np.abs(x).max(axis=(0, 1))

    encode(weights, config, ids, dtype=np.float32, watch=watch)
    return found


def _in_graph(name: str) -> str:
    """Queries, keys and values have one matrix in the graph, and the same input."""
    for part in ("query", "key", "value"):
        name = name.removesuffix(f".{part}")
    return f"{name}.weight"


def _guessed(weights: Weights, config: EncoderConfig) -> dict[str, Real]:
    """What the weights say: a norm's output has its bias as mean, its weight as deviation."""
    table = check_weights(weights, config)
    found: dict[str, Real] = {}
    norm = "embeddings.LayerNorm"
    for layer in range(config.layers):
        at = f"encoder.layer.{layer}"
        found[f"{at}.attention.self.weight"] = _norm_peak(table, norm)
        norm = f"{at}.attention.output.LayerNorm"
        found[f"{at}.intermediate.dense.weight"] = _norm_peak(table, norm)
        wide = table[f"{at}.intermediate.dense.weight"]
        mean = wide @ table[f"{norm}.bias"] + table[f"{at}.intermediate.dense.bias"]
        deviation = np.sqrt((wide**2) @ (table[f"{norm}.weight"] ** 2))
        # GELU's least value is -0.17: what is negative throughout still reaches that.
        found[f"{at}.output.dense.weight"] = np.maximum(gelu(mean + DEVIATIONS * deviation), 0.17)
        norm = f"{at}.output.LayerNorm"
    return found


def _norm_peak(table: dict[str, NDArray[np.float32]], norm: str) -> Real:
    return np.abs(table[f"{norm}.bias"]) + DEVIATIONS * np.abs(table[f"{norm}.weight"])


def factors(peak: NDArray[np.float32], matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    """What each column of the input is divided by, (rows of the matrix,), geometric mean 1.

    Peaks to the power 0.8, the matrix's own largest values to the power 0.2: the input's columns
    differ far more than the matrix's rows.
    """
    rows = np.maximum(np.abs(matrix).max(axis=1), 1e-8)
    found = np.log(peak) * 0.8 - np.log(rows) * 0.2
    return np.asarray(np.exp(found - found.mean()), dtype=np.float32)
