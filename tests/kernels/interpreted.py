"""Run by Triton's own environment: the kernel in the interpreter, beside the oracle, as JSON.

Each row says how far they are apart, for one case.
"""

import json
import sys
from itertools import product

import numpy as np

from kernels.attention.reference import attend
from kernels.attention.triton_flash import Blocks, from_bfloat16, interpret, to_bfloat16

SHAPES = (
    ((1, 1, 1, 32), (1,)),
    ((3, 1, 1, 32), (0, 1, 1)),
    ((2, 3, 77, 32), (77, 40)),
    ((1, 2, 130, 64), (129,)),
    ((3, 1, 128, 32), (0, 64, 128)),
    ((2, 1, 97, 64), (33, 1)),
)
WINDOWS = (None, 0, 1, 31, 500)
CUTS = (Blocks(), Blocks(queries=16, keys=64), Blocks(queries=32, keys=16))


def draw(shape, seed):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(np.float32) for _ in range(3)]


def apart(found, wanted):
    """The largest difference; nan where the kernel wrote nothing or something that is none."""
    return float(np.abs(found.astype(np.float64) - wanted).max())


def exact():
    for number, ((shape, lengths), window) in enumerate(product(SHAPES, WINDOWS)):
        parts, real = draw(shape, number), np.array(lengths)
        wanted = attend(*parts, lengths=real, window=window)
        cut = CUTS[number % len(CUTS)]
        found = interpret(*parts, lengths=real, window=window, blocks=cut)
        yield f"fp32 {shape} {lengths} ±{window}", apart(found, wanted)


def rounded():
    for number, (shape, lengths) in enumerate(SHAPES):
        parts, real = draw(shape, number), np.array(lengths)
        half = [part.astype(np.float16) for part in parts]
        wanted = attend(*half, lengths=real, window=9)
        yield f"fp16 {shape}", apart(interpret(*half, lengths=real, window=9), wanted)
        brain = [to_bfloat16(part) for part in parts]
        wanted = attend(*(from_bfloat16(part) for part in brain), lengths=real, window=9)
        found = from_bfloat16(interpret(*brain, lengths=real, window=9))
        yield f"bf16 {shape}", apart(found, wanted)


def hidden():
    """What no query may see is nan: one read of it would make the result nan."""
    query, key, value = draw((1, 2, 192, 32), 7)
    wanted = attend(query, key, value, lengths=np.array([150]), window=None)
    for part in (query, key, value):
        part[:, :, 150:] = np.nan
    found = interpret(query, key, value, lengths=np.array([150]))
    yield "padding is nan", apart(found, wanted)
    # Queries 0…31 with ±8 see keys 0…39: the blocks of keys from 48 on are not computed for them.
    query, key, value = draw((1, 1, 192, 32), 8)
    wanted = attend(query, key, value, window=8)[:, :, :32]
    key[:, :, 48:] = value[:, :, 48:] = np.nan
    found = interpret(query, key, value, window=8, blocks=Blocks(queries=32, keys=16))
    yield "keys after the window are nan", apart(found[:, :, :32], wanted)
    # Queries 160…191 with ±8 see keys 152…191: blocks before 144 are not computed for them.
    query, key, value = draw((1, 1, 192, 32), 9)
    wanted = attend(query, key, value, window=8)[:, :, 160:]
    key[:, :, :144] = value[:, :, :144] = np.nan
    found = interpret(query, key, value, window=8, blocks=Blocks(queries=32, keys=16))
    yield "keys before the window are nan", apart(found[:, :, 160:], wanted)


def extreme():
    """Scores of thousands: the running maximum keeps each exponential in range."""
    query, key, value = draw((1, 1, 70, 32), 10)
    query *= 1_000.0
    # One key wins by far, so the rounding of a score does not matter, only that of its order.
    key[:, :, 3] = 0.0
    key[:, :, 3, 0] = np.where(query[0, 0, :, 0] > 0, 50.0, -50.0).mean() + 50.0
    query[..., 0] = np.abs(query[..., 0]) + 5_000.0
    wanted = attend(query, key, value)
    yield "large scores", apart(interpret(query, key, value), wanted)
    query, key, value = draw((2, 1, 40, 32), 11)
    wanted = attend(query, key, value, scale=0.5)
    yield "another scale", apart(interpret(query, key, value, scale=0.5), wanted)


if __name__ == "__main__":
    parts = {"exact": exact, "rounded": rounded, "hidden": hidden, "extreme": extreme}
    json.dump({name: dict(run()) for name, run in parts.items()}, sys.stdout)
