"""Many measures of one kind as one table: a row a router, a column a table or a quantity.

What belongs together is told by the measures' names, of which four kinds are known:

* ``test reward on llmrouter9: linucb (s.e. 0.0021)``: what, on which column, which row;
* ``true worth: linucb, no guard (s.e. 0.01)``: what, which column, which row;
* ``freeze: linucb (9 arms, 86 columns)``: which column, which row, and the whole table's name;
* ``llmrouter9: linucb: peak (reached in 9 of 10 seeds, s.e. 0.01)``: which column, which row, what.

A row whose name says "all outcomes" knows more than a router may: it stands apart, as references
do, and is not in the contest for the best of its column.
"""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

Row = dict[str, Any]

KNOWING = "all outcomes"
LOWER = frozenset({"µs", "ms", "s", "USD", "requests", "rounds"})
"""Units of which less is better."""
LEAST_ROWS = 2
OUT_OF_REACH = "out of reach"
"""The unit of a figure that is none."""

_ERROR = r" \((?:reached in (?P<note>\d+ of \d+) seeds, )?s\.e\. (?P<error>[0-9.]+)\)"
_ON = re.compile(rf"(?P<title>[^:]+) on (?P<column>[^:]+): (?P<row>.+?)(?:{_ERROR})?")
_OF = re.compile(rf"(?P<title>[^:]+): (?P<column>[^:,(]+), (?P<row>.+?){_ERROR}")
_AT = re.compile(rf"(?P<column>[^:]+): (?P<row>[^:]+): (?P<title>[^:]+?)(?:{_ERROR})?")
_IN = re.compile(r"(?P<column>[^:]+): (?P<row>[^:(,]+) \((?P<title>\d[^)]*)\)")


@dataclass(frozen=True, slots=True)
class Cell:
    """One figure, its standard error and how many seeds it holds for, None where not told.

    The value is NaN where it is out of reach.
    """

    value: float
    error: float | None = None
    note: str | None = None


@dataclass(slots=True)
class Pivot:
    """One table: cells by row and column, and each column's reference."""

    title: str
    unit: str
    columns: list[str] = field(default_factory=list)
    rows: dict[str, dict[str, Cell]] = field(default_factory=dict)
    references: dict[str, set[str]] = field(default_factory=dict)
    averaged: bool = False

    def add(self, name: re.Match[str], row: Row) -> None:
        column, told = name["column"], name.groupdict()
        if column not in self.columns:
            self.columns.append(column)
        if row["unit"] == OUT_OF_REACH:
            cell = Cell(math.nan)
        else:
            self.unit = row["unit"]
            error = None if told.get("error") is None else float(told["error"])
            cell = Cell(float(row["value"]), error, told.get("note"))
        self.rows.setdefault(name["row"], {})[column] = cell
        if row["reference"]:
            self.references.setdefault(column, set()).add(str(row["reference"]))


def pivoted(rows: Iterable[Row]) -> tuple[list[Pivot], list[Row]]:
    """The tables, and the measures that stand in none."""
    tables: dict[str, Pivot] = {}
    members: dict[str, list[Row]] = {}
    rest: list[Row] = []
    for row in rows:
        kinds = (kind.fullmatch(row["measure"]) for kind in (_ON, _OF, _AT, _IN))
        name = next(filter(None, kinds), None)
        if name is None:
            rest.append(row)
            continue
        key = name["title"]
        table = tables.setdefault(key, Pivot(key, row["unit"], averaged=name.re is _ON))
        table.add(name, row)
        members.setdefault(key, []).append(row)
    few = [key for key, table in tables.items() if len(table.rows) < LEAST_ROWS]
    for key in few:
        rest += members[key]
        del tables[key]
    return list(tables.values()), rest


def markdown(table: Pivot) -> list[str]:
    """A pivot's lines: routers by their mean, the best of a column bold, references at the end."""
    mean = table.averaged and len(table.columns) > 1 and table.unit not in LOWER
    columns = [*table.columns, "mean"] if mean else table.columns
    rows = dict(table.rows)
    if mean:
        rows = {name: _with_mean(cells, table.columns) for name, cells in rows.items()}
    routers = [name for name in rows if KNOWING not in name]
    knowing = [name for name in rows if KNOWING in name]
    if table.averaged and table.unit not in LOWER:
        routers.sort(key=lambda name: -rows[name].get(columns[-1], Cell(-math.inf)).value)
    best = {column: _best(table, [rows[name] for name in routers], column) for column in columns}
    lines = [f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for name in routers:
        shown = [_shown(rows[name].get(column), best[column]) for column in columns]
        lines.append(f"| {name} | {' | '.join(shown)} |")
    for name in knowing:
        shown = [_shown(rows[name].get(column), None) for column in columns]
        lines.append(f"| *{name}* | {' | '.join(shown)} |")
    return lines + _references(table, columns)


def _with_mean(cells: dict[str, Cell], columns: Sequence[str]) -> dict[str, Cell]:
    """The cells with their mean, where none is missing; errors of columns are independent."""
    if any(column not in cells for column in columns):
        return cells
    n = len(columns)
    errors = [cells[column].error for column in columns]
    told = [error for error in errors if error is not None]
    return cells | {
        "mean": Cell(
            sum(cells[column].value for column in columns) / n,
            math.sqrt(sum(error**2 for error in told)) / n if len(told) == n else None,
        )
    }


def _best(table: Pivot, rows: Sequence[dict[str, Cell]], column: str) -> float | None:
    found = [cells[column].value for cells in rows if column in cells]
    values = [value for value in found if not math.isnan(value)]
    if not values or table.unit == "":
        return None
    return min(values) if table.unit in LOWER or "cost" in table.unit else max(values)


def _shown(cell: Cell | None, best: float | None) -> str:
    if cell is None:
        return ""
    if math.isnan(cell.value):
        return OUT_OF_REACH
    value = number(cell.value)
    text = value if cell.error is None else f"{cell.value:.4f} ± {cell.error:.4f}"
    if cell.note is not None and len(set(cell.note.split(" of "))) > 1:
        text += f" ({cell.note})"
    return f"**{text}**" if cell.value == best else text


def _references(table: Pivot, columns: Sequence[str]) -> list[str]:
    """Rows of what the columns' figures are compared with, where each has one."""
    alike = {column: found for column, found in table.references.items() if len(found) == 1}
    parts = {column: next(iter(found)).rpartition(": ") for column, found in alike.items()}
    names = sorted({name for name, _, _ in parts.values()} - {"", *table.rows})
    lines = []
    for name in names:
        shown = [parts[c][2] if c in parts and parts[c][0] == name else "" for c in columns]
        lines.append(f"| *{name}* | {' | '.join(shown)} |")
    return lines


def number(value: Any) -> str:
    """A figure for a person, of four digits."""
    if not isinstance(value, (int, float)):
        return str(value or "")
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.4g}"
