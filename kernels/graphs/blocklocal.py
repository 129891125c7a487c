"""Attention within a window, in blocks: memory and time grow with T, not with T².

Tokens are cut into blocks as long as the window reaches. A block's queries meet the keys of their
own block and of its two neighbours, which hold all keys within reach; a constant band hides the
rest (Beltagy et al. 2020, arXiv:2004.05150, section 3.1). The result equals dense attention under
a band mask. Basic operators only, so every provider runs it.
"""

from collections.abc import Callable

import numpy as np

from kernels.graphs.layers import FLOAT, MASKED, Encoder


def prepare(encoder: Encoder, window: int) -> Callable[[Encoder, str, int], str]:
    """Softmax attention over the shown tokens at most ``window`` places away."""
    graph, config = encoder.graph, encoder.config
    ids_length = graph.add("Slice", graph.add("Shape", "input_ids"), graph.whole(1), graph.whole(2))
    size = graph.whole(window)
    rest = graph.add("Mod", graph.add("Neg", ids_length), size)
    blocks = graph.add("Div", graph.add("Add", ids_length, rest), size)
    spread = _spread_shape(encoder, blocks, window)
    penalty = _penalty(encoder, rest, blocks, window)
    scale = config.head_size**-0.5

    def attend(encoder: Encoder, x: str, layer: int) -> str:
        query, key, value = encoder.project(x, layer, scale=scale)
        queries = graph.add("Reshape", _pad(encoder, query, rest), spread)
        queries = graph.add("Transpose", queries, perm=[0, 1, 3, 2, 4])
        keys = _neighbours(encoder, graph.add("Reshape", _pad(encoder, key, rest), spread))
        keys = graph.add("Transpose", keys, perm=[0, 1, 3, 4, 2])
        values = _neighbours(encoder, graph.add("Reshape", _pad(encoder, value, rest), spread))
        values = graph.add("Transpose", values, perm=[0, 1, 3, 2, 4])
        scores = graph.add("Add", graph.add("MatMul", queries, keys), penalty)
        mixed = graph.add("MatMul", graph.add("Softmax", scores, axis=-1), values)
        mixed = graph.add("Transpose", mixed, perm=[0, 1, 3, 2, 4])
        flat = graph.add("Reshape", mixed, graph.whole(0, -1, config.hidden))
        return graph.add("Slice", flat, graph.whole(0), ids_length, graph.whole(1))

    return attend


def _spread_shape(encoder: Encoder, blocks: str, window: int) -> str:
    """Shape (B, blocks, window, heads, head size) for Reshape."""
    graph, config = encoder.graph, encoder.config
    tail = graph.whole(window, config.heads, config.head_size)
    return graph.add("Concat", graph.whole(0), blocks, tail, axis=0)


def _pad(encoder: Encoder, x: str, rest: str) -> str:
    """(B, T, hidden) → (B, T + rest, hidden), zeros at the end."""
    graph = encoder.graph
    pads = graph.add("Concat", graph.whole(0, 0, 0, 0), rest, graph.whole(0), axis=0)
    return graph.add("Pad", x, pads)


def _neighbours(encoder: Encoder, x: str) -> str:
    """(B, blocks, window, …) → (B, blocks, 3 · window, …): the block before, itself, the next."""
    graph = encoder.graph
    ends = [0] * 10
    ends[1] = ends[6] = 1
    padded = graph.add("Pad", x, graph.whole(*ends))
    axis, last = graph.whole(1), np.iinfo(np.int64).max
    before = graph.add("Slice", padded, graph.whole(0), graph.whole(-2), axis)
    after = graph.add("Slice", padded, graph.whole(2), graph.whole(last), axis)
    return graph.add("Concat", before, x, after, axis=2)


def _penalty(encoder: Encoder, rest: str, blocks: str, window: int) -> str:
    """(B, blocks, 1, window, 3 · window): 0 for a key within reach and shown, else negative."""
    graph = encoder.graph
    away = np.arange(3 * window)[None, :] - np.arange(window)[:, None] - window
    band = np.where(np.abs(away) <= window, 0.0, MASKED).astype(np.float32)
    seen = graph.add("Cast", "attention_mask", to=FLOAT)
    pads = graph.add("Concat", graph.whole(0, 0, 0), rest, axis=0)
    shape = graph.add("Concat", graph.whole(0), blocks, graph.whole(window), axis=0)
    seen = graph.add("Reshape", graph.add("Pad", seen, pads), shape)
    edges = graph.add("Pad", seen, graph.whole(0, 1, 0, 0, 1, 0))
    axis, last = graph.whole(1), np.iinfo(np.int64).max
    before = graph.add("Slice", edges, graph.whole(0), graph.whole(-2), axis)
    after = graph.add("Slice", edges, graph.whole(2), graph.whole(last), axis)
    near = graph.add("Concat", before, seen, after, axis=2)
    hidden = graph.add("Mul", graph.add("Sub", graph.real(1.0), near), graph.real(MASKED))
    hidden = graph.add("Unsqueeze", hidden, graph.whole(2, 3))
    return graph.add("Add", hidden, graph.constant(f"band_{window}", band))
