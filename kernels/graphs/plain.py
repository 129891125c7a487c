"""Attention as the paper writes it: all scores (B, heads, T, T) stand in memory."""

from collections.abc import Callable

from kernels.graphs.layers import Encoder


def prepare(encoder: Encoder) -> Callable[[Encoder, str, int], str]:
    """Softmax attention over all tokens that the mask shows (Vaswani 2017, arXiv:1706.03762)."""
    penalty = encoder.penalty("attention_mask")
    scale = encoder.config.head_size**-0.5

    def attend(encoder: Encoder, x: str, layer: int) -> str:
        graph = encoder.graph
        query, key, value = encoder.project(x, layer, scale=scale)
        keys = graph.add("Transpose", encoder.split_heads(key), perm=[0, 1, 3, 2])
        scores = graph.add("MatMul", encoder.split_heads(query), keys)
        shares = graph.add("Softmax", graph.add("Add", scores, penalty), axis=-1)
        return encoder.join_heads(graph.add("MatMul", shares, encoder.split_heads(value)))

    return attend
