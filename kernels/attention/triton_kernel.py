"""The source of the flash-attention kernel. It imports Triton: take it by ``triton_flash.kernel``.

Layout: ``query``, ``key``, ``value`` and ``out`` are ``(B, H, T, D)`` without gaps, ``lengths`` is
``(B,)`` int32. The grid is (blocks of queries, B × H). ``window`` is at most ``tokens``, ``scale``
is in units of log 2. Scores and sums are fp32 whatever the type of the rest. ``widen`` is for the
interpreter, which multiplies bfloat16 as if its bits were integers.
"""

# mypy: allow-untyped-defs, allow-untyped-decorators, allow-incomplete-defs
# ruff: noqa: ANN001, ANN202, PLR0917 -- Triton reads types from each call, and takes arguments so

import triton
import triton.language as tl


@triton.jit
def flash_attention(
    query,
    key,
    value,
    lengths,
    out,
    heads,
    tokens,
    window,
    scale,
    head_dim: tl.constexpr,
    queries: tl.constexpr,
    keys: tl.constexpr,
    precision: tl.constexpr,
    widen: tl.constexpr,
) -> None:
    row = tl.program_id(1)
    first = tl.program_id(0) * queries
    length = tl.load(lengths + row // heads)
    # A long batch passes 2³¹ elements, so the offset of a head is of 64 bits.
    base = row.to(tl.int64) * tokens * head_dim
    dims = tl.arange(0, head_dim)
    places = first + tl.arange(0, queries)
    # Loads are clamped, not masked: a mask holds two scalar registers for each value of a thread.
    q_at = tl.minimum(places, tokens - 1)[:, None] * head_dim + dims[None, :]
    q = tl.load(query + base + q_at)
    if widen:
        q = q.to(tl.float32)

    # A query sees `span` keys from `lowest` on: one comparison of unsigned numbers, not three.
    lowest, span = _span(places, window, length)
    highest = tl.full([queries], float("-inf"), dtype=tl.float32)
    total = tl.zeros([queries], dtype=tl.float32)
    mixed = tl.zeros([queries, head_dim], dtype=tl.float32)

    begin, end = _reach(first, window, length, queries, keys)
    for start in range(begin, end, keys):
        others = start + tl.arange(0, keys)
        at = tl.minimum(others, length - 1)[:, None] * head_dim + dims[None, :]
        k = tl.load(key + base + at)
        if widen:
            k = k.to(tl.float32)
        scores = tl.dot(q, tl.trans(k), input_precision=precision) * scale
        seen = (others[None, :] - lowest[:, None]).to(tl.uint32) < span[:, None].to(tl.uint32)
        scores = tl.where(seen, scores, float("-inf"))
        weights, kept, highest = _soften(scores, highest)
        total = total * kept + tl.sum(weights, 1)
        v = tl.load(value + base + at)
        weights = weights.to(v.dtype)
        if widen:
            weights = weights.to(tl.float32)
            v = v.to(tl.float32)
        mixed = mixed * kept[:, None]
        mixed = tl.dot(weights, v, mixed, input_precision=precision)

    mixed = mixed / tl.where(total == 0.0, 1.0, total)[:, None]
    mixed = tl.where((places < length)[:, None], mixed, 0.0)
    out_at = places[:, None] * head_dim + dims[None, :]
    tl.store(out + base + out_at, mixed.to(out.dtype.element_ty), mask=(places < tokens)[:, None])


@triton.jit
def _soften(scores, highest):
    """Weights of a block, what earlier weights are scaled by, and the new maximum of each row."""
    higher = tl.maximum(highest, tl.max(scores, 1))
    # A row that has seen no key yet has a maximum of −∞, and −∞ − −∞ is nan.
    level = tl.where(higher == float("-inf"), 0.0, higher)
    return tl.exp2(scores - level[:, None]), tl.exp2(highest - level), higher


@triton.jit
def _span(places, window, length):
    """The first key that each query sees, and how many it sees from there on."""
    lowest = tl.maximum(places - window, 0)
    return lowest, tl.maximum(tl.minimum(places + window + 1, length) - lowest, 0)


@triton.jit
def _reach(first, window, length, queries: tl.constexpr, keys: tl.constexpr):
    """No key before the first of these places, or from the second on, is seen by this block."""
    begin = tl.maximum(first - window, 0) // keys * keys
    end = tl.minimum(first + queries + window, length)
    # A block of padding alone passes over nothing.
    return begin, tl.where(first < length, end, begin)
