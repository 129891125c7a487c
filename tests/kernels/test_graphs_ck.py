"""The numbers of the graph for ``com.ck::CKFlashAttention``, whose library only legacy ROCm has.

The operator is written here once more, in numpy, from the contract that :mod:`kernels.graphs.ck`
states. So what is checked is what the graph gives it and does with its results; that the library
keeps the contract can only be seen on a card.
"""

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from kernels.graphs.builder import build
from kernels.graphs.config import EncoderConfig
from kernels.graphs.oracle import encode
from tests.kernels.encoders import minilm, padded, spread, texts

LOWEST = float(np.finfo(np.float16).min)
CLOSE = 5e-4
"""Largest difference of an embedding's number to the oracle's, which counts in float64. Queries,
keys, values and results are rounded to 11 bits (1 part in 2,048) in each layer; found: 2.8e-4."""
STATES_CLOSE = 2e-2
"""The same of a token's state, whose numbers reach 4 where an embedding has length 1; found:
1.3e-2."""
SIZES = (
    EncoderConfig(layers=2, heads=2, hidden=64, intermediate=80, vocab=97, positions=96),
    EncoderConfig(layers=1, heads=1, hidden=64, intermediate=48, vocab=53, positions=96),
    EncoderConfig(layers=1, heads=2, hidden=256, intermediate=64, vocab=31, positions=96),
)
"""Heads of 32, 64 and 128 numbers."""


class CKFlashAttention(OpRun):
    """Half precision in and out; as on a card, what is between is of single precision."""

    op_domain = "com.ck"

    def _run(
        self,
        *halves: NDArray[np.float16],
        scale: float,
        window_size_left: int,
        window_size_right: int,
    ) -> tuple[NDArray[np.float16]]:
        query, key, value, bias = halves
        batch, _, tokens, size = query.shape
        assert {one.dtype for one in halves} == {np.dtype(np.float16)}
        assert query.shape == key.shape == value.shape
        assert size in {32, 64, 128}
        assert bias.shape == (batch, 1, 1, tokens)
        assert set(np.unique(bias).tolist()) <= {0.0, LOWEST}
        q, k, v = (one.astype(np.float32) for one in (query, key, value))
        scores = q @ k.swapaxes(-1, -2) * np.float32(scale) + bias.astype(np.float32)
        ahead = np.arange(tokens)[None, :] - np.arange(tokens)[:, None]
        if window_size_left >= 0:
            scores = np.where(-ahead > window_size_left, -np.inf, scores)
        if window_size_right >= 0:
            scores = np.where(ahead > window_size_right, -np.inf, scores)
        shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
        mixed = shares / shares.sum(axis=-1, keepdims=True) @ v
        return (mixed.astype(np.float16),)


def run(model: bytes, feed: dict[str, NDArray[np.int64]]) -> list[Any]:
    graph = onnx.load_model_from_string(model)
    return list(ReferenceEvaluator(graph, new_ops=[CKFlashAttention]).run(None, feed))


@pytest.mark.parametrize("window", [None, 1, 8])
@pytest.mark.parametrize("lengths", [[1], [40, 7, 33, 1], [29, 29], [70, 12]])
@pytest.mark.parametrize("config", SIZES)
def test_the_ck_graph_equals_the_oracle_within_half_precision(
    config: EncoderConfig, lengths: list[int], window: int | None
):
    weights = spread(config, seed=1)
    feed = padded(texts(config, lengths, seed=2))

    model = build(weights, config, "ck", window=window, tokens=True)
    embedding, tokens = run(model, feed)

    ids, mask = feed["input_ids"], feed["attention_mask"]
    wanted, states = encode(weights, config, ids, mask, window=window)
    assert np.abs(embedding - wanted).max() < CLOSE
    assert np.abs(tokens - states)[mask.astype(bool)].max() < STATES_CLOSE


@pytest.mark.parametrize("config", SIZES)
def test_a_mask_or_a_window_left_out_would_be_seen(config: EncoderConfig):
    weights = spread(config, seed=1)
    feed = padded(texts(config, [40, 7], seed=2))

    whole, near = (
        run(build(weights, config, "ck", window=window), feed)[0] for window in (None, 1)
    )

    unmasked, _ = encode(weights, config, feed["input_ids"])
    assert np.abs(whole - unmasked)[1].max() > 10 * CLOSE
    assert np.abs(near - whole).max() > 10 * CLOSE


@pytest.mark.parametrize("window", [None, 8])
def test_the_ck_graph_of_minilm_equals_the_oracle(window: int | None):
    model = minilm()
    feed = padded(texts(model.config, [60, 23], seed=13))

    found = run(build(model.weights, model.config, "ck", window=window), feed)[0]

    ids, mask = feed["input_ids"], feed["attention_mask"]
    wanted, _ = encode(model.weights, model.config, ids, mask, window=window)
    assert np.abs(found - wanted).max() < CLOSE


def test_padding_changes_nothing_in_the_ck_graph():
    config = SIZES[0]
    rows = texts(config, [11, 50], seed=10)
    model = build(spread(config, seed=9), config, "ck", window=4)
    together = run(model, padded(rows))[0]
    alone = [run(model, padded([row]))[0][0] for row in rows]
    assert np.abs(together - np.stack(alone)).max() < CLOSE


def test_a_text_of_padding_alone_gives_finite_numbers_in_the_ck_graph():
    config = SIZES[0]
    feed = padded(texts(config, [12, 12], seed=11))
    feed["attention_mask"][1] = 0
    found = run(build(spread(config, seed=12), config, "ck"), feed)[0]
    assert np.isfinite(found).all()
    assert (found[1] == 0).all()
