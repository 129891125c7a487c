"""The attention kernel on a card, where there is one: against the oracle, its time, its memory.

The card's own driver launches what ``kernels.aot`` compiled for it: no PyTorch, and no Triton
where ``python -m bench.kernels_gpu --objects DIR`` names a folder of code objects. Without a card
nothing is measured and it is said why. As of 21 November 2026 it has run on no card.
"""

import sys
from argparse import ArgumentParser
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import get_args

from bench.measure import Measure, at_most, main
from kernels.aot import TARGETS
from kernels.attention import launch, trials
from kernels.attention.driver import Card, DriverError
from kernels.attention.triton_flash import DTYPES, Backend, Dtype

SPEED_UP = 5.0
"""How many times as fast attention within the window is to be."""
MIB = 2**20


def run(quick: bool, objects: Path | None = None) -> list[Measure]:  # noqa: FBT001 — the one switch of every benchmark
    """Figures of the first card of each maker; none, with the reasons, where there is no card.

    Args:
        quick: fewer launches.
        objects: what ``kernels.aot`` wrote; None: the kernels are built here.
    """
    found = []
    for backend in get_args(Backend):
        try:
            card = Card(backend)
        except DriverError as error:
            print(f"no {backend} card is measured: {error}", file=sys.stderr)
            continue
        with card:
            found += measures(card, objects, quick=quick)
    return found


def measures(
    card: Card, objects: Path | None, *, quick: bool, tokens: int = trials.LONG_TOKENS
) -> list[Measure]:
    """Figures of one card; none, with the reason, where no kernel can be built for it."""
    if card.target not in TARGETS:
        known = ", ".join(TARGETS)
        print(f"{card.name} is {card.target}: kernels are built for {known}", file=sys.stderr)
        return []
    with TemporaryDirectory() as scratch:
        try:
            folder = objects or trials.build(card.target, Path(scratch))
        except trials.MissingTritonError as missing:
            print(f"{missing}; or give --objects to bench.kernels_gpu", file=sys.stderr)
            return []
        found = [_difference(card, folder, dtype) for dtype in DTYPES]
        attention = launch.load(card, folder, "fp16", trials.HEAD_DIM)
    return [*found, _window(attention, quick=quick, tokens=tokens), _memory(attention, tokens)]


def _difference(card: Card, folder: Path, dtype: Dtype) -> Measure:
    attention = launch.load(card, folder, dtype, trials.HEAD_DIM)
    worst, bound = trials.difference(attention), trials.BOUNDS[dtype]
    name = f"{_at(card)}: largest difference to the float64 oracle, {dtype}"
    return Measure(name, float(f"{worst:.4g}"), "", goal=f"<= {bound:g}", holds=worst <= bound)


def _window(attention: launch.Attention, *, quick: bool, tokens: int) -> Measure:
    whole, near = trials.seconds(attention, tokens, rounds=3 if quick else 15)
    name = f"{_at(attention.card)}: attention within ±{trials.WINDOW} of {tokens:,} tokens, fp16"
    limit = whole * 1e3 / SPEED_UP
    return at_most(name, near * 1e3, "ms", reference=("to all", whole * 1e3), limit=limit)


def _memory(attention: launch.Attention, tokens: int) -> Measure:
    taken = trials.memory(attention, tokens)
    name = f"{_at(attention.card)}: memory of a launch over {tokens:,} tokens beside its arrays"
    limit = trials.MOST_SCORES_SHARE * taken.naive / MIB
    naive = ("scores of naive attention", taken.naive / MIB)
    return at_most(name, taken.launch / MIB, "MiB", reference=naive, limit=limit)


def _at(card: Card) -> str:
    return f"{card.name} ({card.target})"


if __name__ == "__main__":
    parser = ArgumentParser(add_help=False)
    parser.add_argument("--objects", type=Path)
    given, others = parser.parse_known_args()
    chosen = partial(run, objects=given.objects)
    chosen.__module__ = __name__
    sys.exit(main(chosen, others))
