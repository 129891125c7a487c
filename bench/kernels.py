"""The classifiers' kernels: attention, text, heads, tools, Triton, cards; a module a part."""

import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from functools import partial
from importlib import import_module

from bench.measure import Measure, main

PARTS = {
    "attention": "bench.kernels_attention",
    "text": "bench.kernels_text",
    "heads": "bench.kernels_heads",
    "tools": "bench.kernels_tools",
    "triton": "bench.kernels_triton",
    "gpu": "bench.kernels_gpu",
}
"""Part → module, imported when the part is run. Each has ``run(quick) -> list[Measure]``."""


def run(quick: bool, parts: Sequence[str] = tuple(PARTS)) -> list[Measure]:  # noqa: FBT001 — the one switch of every benchmark
    """All measures of the parts."""
    return [one for part in parts for one in import_module(PARTS[part]).run(quick)]


def parse(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The parts that ``--part`` names, all where it names none, and the other arguments."""
    parser = ArgumentParser(add_help=False)
    parser.add_argument("--part", action="append", choices=sorted(PARTS))
    found, rest = parser.parse_known_args(argv)
    return found.part or list(PARTS), rest


if __name__ == "__main__":
    chosen, others = parse(sys.argv[1:])
    whole = partial(run, parts=chosen)
    whole.__module__ = __name__
    sys.exit(main(whole, others))
