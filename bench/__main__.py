"""Run every benchmark, each in a process of its own, and write what was measured, misses included.

``python -m bench [--quick] [--only edge,ingest]``: renders docs/explanation/benchmarks.md and draws
its plots, unless ``--quick`` or ``--only`` is given: then it only prints.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from bench import curves, page, plots
from bench.curves import Curve
from bench.pivots import Row

NAMES = ("loop", "learning", "evidence", "ingest", "edge", "pages", "kernels")
LIMIT_S = {"learning": 8 * 3_600, "evidence": 2 * 3_600, "kernels": 2 * 3_600}
"""Of a benchmark's process; the learners pass over all tables, ten times each; evidence is of
hundreds of logs."""
USUAL_LIMIT_S = 1_800


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions; print only")
    parser.add_argument("--only", default=",".join(NAMES), help="names with commas between")
    given = parser.parse_args(argv)
    names = [name for name in given.only.split(",") if name]
    unknown = sorted(set(names) - set(NAMES))
    if unknown:
        parser.error(f"no benchmark {unknown[0]!r}: there are {', '.join(NAMES)}")
    found: dict[str, list[Row]] = {}
    drawn: list[Curve] = []
    for name in names:
        print(f"bench.{name} …", file=sys.stderr, flush=True)
        measured = run(name, quick=given.quick)
        if measured is not None:
            found[name] = measured[0]
            drawn += measured[1]
    whole = not given.quick and list(found) == list(NAMES)
    text = page.render(found, plots.draw(drawn) if whole else None)
    print(text)
    if whole:
        page.write(text)
    failed = [name for name in names if name not in found]
    if failed:
        print(f"failed: {', '.join(failed)}; the page stays as it was", file=sys.stderr)
    return 1 if failed else 0


def run(name: str, *, quick: bool) -> tuple[list[Row], list[Curve]] | None:
    """The rows that a benchmark prints and what it draws; None when it fails."""
    with TemporaryDirectory() as folder:
        kept = Path(folder) / "curves.json"
        command = [sys.executable, "-m", f"bench.{name}", "--json", "--curves", str(kept)]
        done = subprocess.run(
            [*command, *(["--quick"] if quick else [])],
            stdout=subprocess.PIPE,
            check=False,
            timeout=LIMIT_S.get(name, USUAL_LIMIT_S),
        )
        # 1 is a missed goal, which is a result; a crash prints no list.
        try:
            rows: list[Row] = json.loads(done.stdout)
        except ValueError:
            return None
        return rows, curves.read(kept)


if __name__ == "__main__":
    sys.exit(main())
