"""Run every benchmark, each in a process of its own, and write what was measured, misses included.

``python -m bench [--quick] [--only edge,ingest]``: renders docs/explanation/benchmarks.md, unless
``--quick``, which only prints.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

NAMES = ("loop", "learning", "ingest", "edge")
PAGE = Path(__file__).resolve().parent.parent / "docs" / "explanation" / "benchmarks.md"
START, END = "<!-- measured: begin -->", "<!-- measured: end -->"
LIMIT_S = 1_800


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions; print only")
    parser.add_argument("--only", default=",".join(NAMES), help="names with commas between")
    given = parser.parse_args(argv)
    names = [name for name in given.only.split(",") if name]
    unknown = sorted(set(names) - set(NAMES))
    if unknown:
        parser.error(f"no benchmark {unknown[0]!r}: there are {', '.join(NAMES)}")
    found, failed = {}, []
    for name in names:
        print(f"bench.{name} …", file=sys.stderr, flush=True)
        rows = run(name, quick=given.quick)
        if rows is None:
            failed.append(name)
        else:
            found[name] = rows
    text = render(found)
    print(text)
    if not given.quick and not failed and names == list(NAMES):
        write(text)
    if failed:
        print(f"failed: {', '.join(failed)}; the page stays as it was", file=sys.stderr)
    return 1 if failed else 0


def run(name: str, *, quick: bool) -> list[dict[str, Any]] | None:
    """The rows that a benchmark prints; None when it fails."""
    command = [sys.executable, "-m", f"bench.{name}", "--json", *(["--quick"] if quick else [])]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False, timeout=LIMIT_S)
    # 1 is a missed goal, which is a result; a crash prints no list.
    try:
        rows: list[dict[str, Any]] = json.loads(done.stdout)
    except ValueError:
        return None
    return rows


def render(found: dict[str, list[dict[str, Any]]]) -> str:
    lines = [f"Measured on {datetime.now(UTC):%Y-%m-%d}.", ""]
    for name, rows in found.items():
        lines += [
            f"### `python -m bench.{name}`",
            "",
            "| measure | value | reference | ratio | goal | |",
            "|---|---|---|---|---|---|",
        ]
        lines += [_row(row) for row in rows]
        lines.append("")
    return "\n".join(lines)


def _row(row: dict[str, Any]) -> str:
    holds = {True: "holds", False: "**missed**", None: ""}[row["holds"]]
    value = f"{_number(row['value'])} {row['unit'] or ''}".strip()
    cells = (row["measure"], value, _number(row["reference"]), _number(row["ratio"]))
    return f"| {' | '.join(map(str, cells))} | {row['goal'] or ''} | {holds} |"


def _number(value: Any) -> str:
    if not isinstance(value, (int, float)):
        return str(value or "")
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.4g}"


def write(text: str) -> None:
    """Replace the measured part of the page; what people wrote around it stays."""
    page = PAGE.read_text() if PAGE.exists() else f"# What was measured\n\n{START}\n{END}\n"
    before, _, rest = page.partition(START)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{START}\n\n{text}\n{END}{after}")


if __name__ == "__main__":
    sys.exit(main())
