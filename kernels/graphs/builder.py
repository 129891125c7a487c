"""Weights → a serialised ONNX encoder, in the variant that its provider runs best.

========== ============================== =================== ================================
variant    attention                      inputs              for
========== ============================== =================== ================================
plain      all keys, scores in memory     ids, attention mask any provider; texts up to 512
flash      all keys, never all scores     ids                 CPU and CUDA; batched by length
fused      all keys, scores in memory     ids                 CPU, short texts: the fastest there
blocklocal keys within the window         ids, attention mask any provider; long texts
ck         all keys or a window, CK op    ids, attention mask ROCm provider of ONNX Runtime ≤ 1.22
========== ============================== =================== ================================

``input_ids`` and ``attention_mask`` are int64 (B, T), with T up to the config's positions.
``embedding`` is float32 (B, hidden): the mean of the tokens, of Euclidean length 1. ``tokens``,
where asked for, is float32 (B, T, hidden): the last layer's states.
"""

from collections.abc import Callable
from typing import Literal

from kernels.graphs import blocklocal, ck, flash, fused, plain
from kernels.graphs.config import EncoderConfig, EncoderError, Weights, check_weights
from kernels.graphs.layers import Encoder, Graph, check_window

Variant = Literal["plain", "flash", "fused", "blocklocal", "ck"]
Attend = Callable[[Encoder, str, int], str]
VARIANTS: tuple[Variant, ...] = ("plain", "flash", "fused", "blocklocal", "ck")
UNMASKED = frozenset({"flash", "fused"})
"""Variants that take texts of one length only."""
WINDOW = 64
"""How many tokens to either side a token of the block-local variant sees."""


def build(
    weights: Weights,
    config: EncoderConfig,
    variant: Variant = "plain",
    *,
    window: int | None = None,
    tokens: bool = False,
) -> bytes:
    """A serialised ONNX model of the encoder.

    Args:
        weights: by the names of the BERT checkpoint, as ``safetensors`` loads them.
        config: the sizes, which the weights must have.
        variant: see the module's table.
        window: for ``blocklocal`` (:data:`WINDOW` where None) and for ``ck`` (all keys where None).
        tokens: whether the states of all tokens are an output too.

    Raises:
        EncoderError: weights and configuration differ, or the variant cannot hold them.
    """
    if variant not in VARIANTS:
        raise EncoderError(f"variant is {variant!r}: give one of {', '.join(VARIANTS)}")
    encoder = Encoder(Graph(), check_weights(weights, config), config)
    mask = None if variant in UNMASKED else "attention_mask"
    attend = _attention(encoder, variant, window)
    x = encoder.embed("input_ids")
    for layer in range(config.layers):
        x = encoder.finish(x, attend(encoder, x, layer), layer)
    encoder.graph.name_output(encoder.pool(x, mask), "embedding")
    outputs: list[tuple[str, list[str | int]]] = [("embedding", ["B", config.hidden])]
    if tokens:
        encoder.graph.name_output(x, "tokens")
        outputs.append(("tokens", ["B", "T", config.hidden]))
    facts = {"variant": variant, "positions": str(config.positions)}
    return encoder.graph.serialise(["input_ids", *([mask] if mask else [])], outputs, facts)


def _attention(encoder: Encoder, variant: Variant, window: int | None) -> Attend:
    if variant == "plain":
        return plain.prepare(encoder)
    if variant == "flash":
        return flash.attend
    if variant == "fused":
        return fused.attend
    if variant == "blocklocal":
        return blocklocal.prepare(encoder, check_window(WINDOW if window is None else window))
    return ck.prepare(encoder, None if window is None else check_window(window))
