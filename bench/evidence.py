"""Evidence: whether intervals, gates, experiments and reverts keep what they promise.

Each part is a benchmark of its own too. What needs the tables of ``$POINTSMAN_BENCH_DATA`` is left
out without it; ``--quick`` leaves out the part that starts the whole installation.
``--part NAME`` runs one part alone: ``intervals``, ``sequences``, ``gates``, ``obd``, ``speed``,
``surges`` or ``canary``.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence

from bench import (
    evidence_canary,
    evidence_gates,
    evidence_intervals,
    evidence_obd,
    evidence_sequences,
    evidence_speed,
    evidence_surges,
)
from bench.learning import together
from bench.measure import Report, Run, main, report

PARTS: Mapping[str, Run] = {
    "intervals": evidence_intervals.run,
    "sequences": evidence_sequences.run,
    "gates": evidence_gates.run,
    "obd": evidence_obd.run,
    "speed": evidence_speed.run,
    "surges": evidence_surges.run,
    "canary": evidence_canary.run,
}


def run(quick: bool) -> Report:  # noqa: FBT001 — the one switch of every benchmark
    """All measures."""
    return together([report(part(quick)) for part in PARTS.values()])


def chosen(argv: Sequence[str]) -> tuple[Run, list[str]]:
    """What is asked for, and the arguments that every benchmark takes."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--part", choices=PARTS)
    given, rest = parser.parse_known_args(argv)
    return (run if given.part is None else PARTS[given.part]), rest


if __name__ == "__main__":
    sys.exit(main(*chosen(sys.argv[1:])))
