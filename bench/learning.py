"""Learners, all in one run: what they earn on real tables beside their rivals, and what they take.

Each part is a benchmark of its own too. What needs the tables of ``$POINTSMAN_BENCH_DATA`` is left
out without it.
"""

import sys
from collections.abc import Sequence

from bench import (
    episodes,
    learning_drift,
    learning_frontier,
    learning_judge,
    learning_round,
    learning_tables,
    learning_times,
    learning_vw,
    pacing,
)
from bench.measure import Report, Run, main, report

PARTS: tuple[Run, ...] = (
    learning_tables.run,
    learning_frontier.run,
    learning_drift.run,
    learning_judge.run,
    pacing.run,
    episodes.run,
    learning_times.run,
    learning_vw.run,
    learning_round.run,
)


def run(quick: bool) -> Report:  # noqa: FBT001 — the one switch of every benchmark
    """All measures and curves."""
    return together([report(part(quick)) for part in PARTS])


def together(reports: Sequence[Report]) -> Report:
    """One report of several."""
    return Report(
        tuple(one for each in reports for one in each.measures),
        tuple(one for each in reports for one in each.curves),
    )


if __name__ == "__main__":
    sys.exit(main(run))
