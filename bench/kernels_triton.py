"""What the attention kernel compiles to, for cards that need not be there.

Each target's kernels (number types × sizes of heads) are compiled twice by Triton's own
environment: seconds, registers, what did not fit in them, matrix instructions, and whether both
times gave the same bytes. Nothing runs on a card.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.measure import Measure, main

ROOT = Path(__file__).parent.parent
TRITON = ROOT / ".venv-triton" / "bin" / "python"
LIMIT_S = 900
# What a thread may have on each: beyond it the compiler spills.
MOST_REGISTERS = {"gfx942": 512, "gfx90a": 512, "gfx950": 512, "sm_90": 255}
MOST_SHARED_KIB = {"gfx942": 64, "gfx90a": 64, "gfx950": 160, "sm_90": 227}

Row = dict[str, Any]


def run(quick: bool) -> list[Measure]:  # noqa: FBT001 -- the shape of every benchmark's run
    """Figures of each target; none where Triton's environment is not there."""
    if not TRITON.exists():
        print(f"{TRITON} is not there: make test creates it", file=sys.stderr)
        return []
    first, second = build(quick=quick), build(quick=quick)
    found = []
    for target in MOST_REGISTERS:
        mine = [row for row in first if row["target"] == target]
        found += measures(target, mine)
    apart = sum(one["sha256"] != two["sha256"] for one, two in zip(first, second, strict=True))
    found.append(bounded("kernels whose bytes differ when compiled again", apart, "kernels", 0))
    return found


def build(*, quick: bool) -> list[Row]:
    """What ``kernels.aot`` says of each kernel; the quick way: fp16 and heads of 32 alone."""
    part = ["--dtype", "fp16", "--head-dim", "32"] if quick else []
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [str(TRITON), "-m", "kernels.aot", "--json", "--out", folder, *part],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
            check=False,
            timeout=LIMIT_S,
        )
    # 1 means that a kernel spills, which is a result; 2 is an error that was printed.
    if done.returncode not in {0, 1}:
        raise RuntimeError(f"kernels.aot ended with {done.returncode}")
    rows: list[Row] = json.loads(done.stdout)
    return rows


def measures(target: str, rows: Sequence[Row]) -> list[Measure]:
    """The figures of one target's kernels."""
    seconds = statistics.median(row["seconds"] for row in rows)
    registers = max(row["registers"].get("vgpr", row["registers"].get("registers")) for row in rows)
    fewest = min(row["matrix_instructions"] for row in rows)
    return [
        Measure(f"{target}: compiling a kernel, median of {len(rows)}", round(seconds, 2), "s"),
        bounded(f"{target}: registers of a thread, most", registers, "", MOST_REGISTERS[target]),
        bounded(
            f"{target}: registers and bytes spilled, most",
            max(sum(row["spills"].values()) for row in rows),
            "",
            0,
        ),
        bounded(
            f"{target}: shared memory, most",
            max(row["shared_bytes"] for row in rows) / 1024,
            "KiB",
            MOST_SHARED_KIB[target],
        ),
        Measure(
            f"{target}: matrix instructions, fewest",
            fewest,
            "",
            goal="> 0",
            holds=fewest > 0,
        ),
    ]


def bounded(measure: str, value: float, unit: str, limit: float) -> Measure:
    """A figure that stays at or below a card's limit."""
    return Measure(measure, value, unit, goal=f"<= {limit:g} {unit}".rstrip(), holds=value <= limit)


if __name__ == "__main__":
    sys.exit(main(run))
