"""docs/explanation/benchmarks.md: what was measured, misses included, between two markers."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from bench.pivots import Row, markdown, number, pivoted

PAGE = Path(__file__).resolve().parent.parent / "docs" / "explanation" / "benchmarks.md"
START, END = "<!-- measured: begin -->", "<!-- measured: end -->"


def render(found: Mapping[str, Sequence[Row]], plots: Mapping[str, Path] | None = None) -> str:
    """The measured part of the page.

    Args:
        found: the rows that each benchmark printed, by its name.
        plots: the pictures that were drawn, by what they show.
    """
    lines = [f"Measured on {datetime.now(UTC):%Y-%m-%d}.", ""]
    for name, rows in found.items():
        lines += [f"### `python -m bench.{name}`", "", *part(rows)]
    if plots:
        lines += ["### Plots", ""]
        for what, path in plots.items():
            lines += [f"![{what}]({path.relative_to(PAGE.parent)})", ""]
    return "\n".join(lines)


def part(rows: Sequence[Row]) -> list[str]:
    """A benchmark's rows: goals first where there are tables of many routers, else as they come."""
    tables, rest = pivoted(rows)
    if not tables:
        return _table(rows)
    lines = []
    goals = [row for row in rows if row["goal"]]
    if goals:
        held = sum(row["holds"] is True for row in goals)
        lines += [f"Goals: {held} of {len(goals)} hold.", "", *_table(goals)]
    for table in tables:
        unit = f" ({table.unit})" if table.unit else ""
        lines += [f"**{table.title}{unit}**", "", *markdown(table), ""]
    without = [row for row in rest if not row["goal"]]
    return lines + (["**More figures**", "", *_table(without)] if without else [])


def _table(rows: Sequence[Row]) -> list[str]:
    head = ["| measure | value | reference | ratio | goal | |", "|---|---|---|---|---|---|"]
    return [*head, *map(_line, rows), ""]


def _line(row: Row) -> str:
    holds = {True: "holds", False: "**missed**", None: ""}[row["holds"]]
    value = f"{number(row['value'])} {row['unit'] or ''}".strip()
    cells = (row["measure"], value, number(row["reference"]), number(row["ratio"]))
    return f"| {' | '.join(map(str, cells))} | {row['goal'] or ''} | {holds} |"


def write(text: str, page: Path = PAGE) -> None:
    """Replace the measured part of the page; what people wrote around it stays."""
    whole = page.read_text() if page.exists() else f"# What was measured\n\n{START}\n{END}\n"
    before, _, rest = whole.partition(START)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{START}\n\n{text}\n{END}{after}")
