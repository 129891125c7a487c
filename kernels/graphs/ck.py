"""Attention by the custom operator ``com.ck::CKFlashAttention``, for legacy ROCm.

The operator comes with a library of its own that registers itself with ONNX Runtime's ROCm
provider, which ONNX Runtime had up to 1.22. Its contract: queries, keys and values as float16
(B, heads, T, head size) and a bias (B, 1, 1, T) of 0 for a token and float16's lowest for padding;
attributes ``scale``, ``window_size_left`` and ``window_size_right``, -1 for no window; head sizes
32, 64 and 128. Today's way to AMD cards is MIGraphX, which runs the other variants.

This graph has been built and checked against that contract, its numbers by an operator written in
numpy; as of 21 November 2026 it has not run on a card.
"""

from collections.abc import Callable

import numpy as np

from kernels.graphs.config import EncoderError
from kernels.graphs.layers import FLOAT, HALF, Encoder

HEAD_SIZES = (32, 64, 128)
DOMAIN = "com.ck"
OPERATOR = "CKFlashAttention"


def prepare(encoder: Encoder, window: int | None) -> Callable[[Encoder, str, int], str]:
    """Softmax attention by the custom operator, over all tokens or within a window.

    Raises:
        EncoderError: the operator has no kernel for this head size.
    """
    graph, config = encoder.graph, encoder.config
    if config.head_size not in HEAD_SIZES:
        sizes = ", ".join(map(str, HEAD_SIZES))
        raise EncoderError(f"head size is {config.head_size}: {OPERATOR} takes {sizes}")
    lowest = graph.constant("lowest_half", np.array(np.finfo(np.float16).min, dtype=np.float16))
    one = graph.constant("one_half", np.array(1.0, dtype=np.float16))
    seen = graph.add("Cast", "attention_mask", to=HALF)
    bias = graph.add("Mul", graph.add("Sub", one, seen), lowest)
    bias = graph.add("Unsqueeze", bias, graph.whole(1, 2))
    reach = -1 if window is None else window

    def attend(encoder: Encoder, x: str, layer: int) -> str:
        parts = encoder.project(x, layer, scale=1.0)
        halves = [graph.add("Cast", encoder.split_heads(part), to=HALF) for part in parts]
        mixed = graph.add(
            OPERATOR,
            *halves,
            bias,
            domain=DOMAIN,
            scale=config.head_size**-0.5,
            window_size_left=reach,
            window_size_right=reach,
        )
        return encoder.join_heads(graph.add("Cast", mixed, to=FLOAT))

    return attend
