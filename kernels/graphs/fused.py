"""Attention with its projection in one operator, for short texts on the CPU.

ONNX Runtime's ``com.microsoft::Attention`` multiplies by the joint matrix of queries, keys and
values and attends, in one node in place of three; its int8 form is ``QAttention``. All scores
(B, heads, T, T) stand in memory, which is little for the texts of at most some hundred tokens that
an edge reads. There is no mask: texts of one batch must have the same length.
"""

from kernels.graphs.layers import Encoder


def attend(encoder: Encoder, x: str, layer: int) -> str:
    """Softmax attention over all tokens of each text."""
    matrix, bias = encoder.projection(layer, scale=1.0)
    # Both operators scale scores by the root of the head size by themselves.
    return encoder.graph.add(
        "Attention", x, matrix, bias, domain="com.microsoft", num_heads=encoder.config.heads
    )
