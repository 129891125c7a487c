"""Full-information tables: every arm's true score and cost for each query.

A table is two files, ``.csv`` or ``.csv.gz``, UTF-8 with a header row:

- queries: ``query_id``, and where known ``query_text`` and ``domain``;
- outcomes: ``query_id``, ``model``, ``score`` in [0, 1], and where known ``cost_usd``,
  ``latency_s``, ``input_tokens``, ``output_tokens``.

Any other column is ignored. Every row is checked, also those of arms that were not asked for.
"""

import csv
import gzip
import hashlib
import io
import math
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

MAX_ROWS = 2_000_000
"""Rows that one file may hold."""

Floats = NDArray[np.float64]
_QUERY_COLUMNS = ("query_id", "query_text", "domain")
_MEASURES = ("score", "cost_usd", "latency_s", "input_tokens", "output_tokens")
_UPPER = {"score": 1.0}


class TableError(ValueError):
    """A full-information table can not be used; the message names file, row and column."""


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """n queries, each answered by all of K arms. The arrays are read-only.

    Attributes:
        query_ids: n names.
        texts: n prompts, or None when the queries file has none.
        domains: n domains, or None when the queries file has none.
        arms: K names, the order of the columns below.
        scores: in [0, 1], shape ``(n, K)``.
        costs_usd: at least 0, shape ``(n, K)``; 0 where the file does not say (see ``blanks``).
        latencies_s: shape ``(n, K)``, NaN where blank; None when the file has no such column.
        input_tokens: as ``latencies_s``.
        output_tokens: as ``latencies_s``.
        dropped: queries of the file that were left out because some arm did not answer them.
        blanks: where the file has no cost, shape ``(n, K)``; None when it has them all.
    """

    query_ids: tuple[str, ...]
    texts: tuple[str, ...] | None
    domains: tuple[str, ...] | None
    arms: tuple[str, ...]
    scores: Floats
    costs_usd: Floats
    latencies_s: Floats | None = None
    input_tokens: Floats | None = None
    output_tokens: Floats | None = None
    dropped: int = 0
    blanks: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        """Refuse shapes that do not agree, and freeze the arrays."""
        n, k = len(self.query_ids), len(self.arms)
        for column in fields(self):
            value = getattr(self, column.name)
            if isinstance(value, np.ndarray):
                if value.shape != (n, k):
                    raise TableError(f"{column.name} has shape {value.shape}: give {(n, k)}")
                value.setflags(write=False)
            elif column.name in {"texts", "domains"} and value is not None and len(value) != n:
                raise TableError(f"{column.name} has {len(value)} rows: give {n}")

    @property
    def blank_costs(self) -> int:
        """Costs that were blank or absent."""
        return 0 if self.blanks is None else int(self.blanks.sum())

    def __len__(self) -> int:
        """How many queries."""
        return len(self.query_ids)


def read_table(queries: Path, outcomes: Path, arms: Sequence[str] | None = None) -> Table:
    """Read a table, keeping only the queries that every chosen arm answered.

    Args:
        queries: the queries file; its order is the table's.
        outcomes: the outcomes file, rows in any order.
        arms: the arms to keep, in this order; all, sorted, when None.

    Raises:
        TableError: A file can not be read, or holds what no benchmark should be run on.
    """
    asked = _Queries.read(queries)
    answered = _Outcomes.read(outcomes, asked)
    chosen = _choose(arms, answered.models, outcomes)
    return _assemble(asked, answered, chosen, outcomes)


def split(table: Table, share: float = 0.5, salt: str = "pointsman") -> tuple[Table, Table]:
    """Split by query, the same way each time and whatever the other queries are.

    A query goes to the first part when the first 8 bytes of ``sha256(salt + ":" + query_id)``, read
    as a big-endian fraction of 2⁶⁴, are below ``share``.

    Raises:
        TableError: ``share`` is not between 0 and 1, or one part would be empty.
    """
    if not 0.0 < share < 1.0:
        raise TableError(f"share is {share}: give a number between 0 and 1")
    first = np.array([_fraction(f"{salt}:{name}") < share for name in table.query_ids], np.bool_)
    if first.all() or not first.any():
        raise TableError(f"{len(table)} queries split at {share} leave one part empty: use more")
    return take(table, np.flatnonzero(first)), take(table, np.flatnonzero(~first))


def take(table: Table, rows: Sequence[int] | NDArray[np.int64]) -> Table:
    """The queries at the given rows, in that order; ``dropped`` becomes 0."""
    index = np.asarray(rows, dtype=np.int64)
    names, texts, domains = (
        None if column is None else tuple(column[i] for i in index.tolist())
        for column in (table.query_ids, table.texts, table.domains)
    )
    latencies, inputs, outputs = (
        None if block is None else block[index]
        for block in (table.latencies_s, table.input_tokens, table.output_tokens)
    )
    return replace(
        table,
        query_ids=names or (),
        texts=texts,
        domains=domains,
        scores=table.scores[index],
        costs_usd=table.costs_usd[index],
        latencies_s=latencies,
        input_tokens=inputs,
        output_tokens=outputs,
        dropped=0,
        blanks=None if table.blanks is None else table.blanks[index],
    )


@dataclass(frozen=True, slots=True)
class _Queries:
    path: Path
    index: dict[str, int]
    texts: list[str] | None
    domains: list[str] | None

    @classmethod
    def read(cls, path: Path) -> "_Queries":
        index: dict[str, int] = {}
        with _reading(path, required=("query_id",)) as file:
            columns = {name: file.header.index(name) for name in file.header}
            at = columns["query_id"]
            text_at, domain_at = columns.get("query_text"), columns.get("domain")
            texts: list[str] | None = None if text_at is None else []
            domains: list[str] | None = None if domain_at is None else []
            for line, row in file.rows():
                name = _name(row[at], path, line, "query_id")
                if name in index:
                    raise _repeated(path, line, name, file.header)
                index[name] = len(index)
                if texts is not None and text_at is not None:
                    texts.append(row[text_at])
                if domains is not None and domain_at is not None:
                    domains.append(row[domain_at])
        return cls(path, index, texts, domains)


@dataclass(slots=True)
class _Outcomes:
    """The outcomes file by column: ``query[i]``, ``model[i]`` and the measures of row i."""

    models: dict[str, int] = field(default_factory=dict)
    query: list[int] = field(default_factory=list)
    model: list[int] = field(default_factory=list)
    measures: dict[str, list[float]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path, asked: _Queries) -> "_Outcomes":
        found, seen = cls(), set[tuple[int, int]]()
        with _reading(path, required=("query_id", "model", "score")) as file:
            query_at, model_at = file.header.index("query_id"), file.header.index("model")
            present = [(name, file.header.index(name)) for name in _MEASURES if name in file.header]
            measured = [(name, at, found.measures.setdefault(name, [])) for name, at in present]
            for line, row in file.rows():
                query = asked.index.get(row[query_at])
                if query is None:
                    text = f"{row[query_at]!r} is not in {asked.path}: add it or drop the row"
                    raise _bad(path, line, "query_id", text)
                name = row[model_at]
                model = found.models.get(name)
                if model is None:
                    model = found.models[_name(name, path, line, "model")] = len(found.models)
                pair = (query, model)
                if pair in seen:
                    text = f"{row[query_at]!r} was answered twice by {name!r}: keep one row"
                    raise _bad(path, line, "model", text)
                seen.add(pair)
                found.query.append(query)
                found.model.append(model)
                for column, at, values in measured:
                    values.append(_number(row[at], path, line, column))
        return found


def _choose(arms: Sequence[str] | None, models: dict[str, int], path: Path) -> tuple[str, ...]:
    if arms is None:
        return tuple(sorted(models))
    unknown = [arm for arm in arms if arm not in models]
    if unknown:
        known = ", ".join(sorted(models)[:20])
        raise TableError(f"{path}: column model: no arm {unknown[0]!r}; there are: {known}")
    if not arms or len(set(arms)) != len(arms):
        raise TableError(f"arms {list(arms)} are none or repeat: name each arm once")
    return tuple(arms)


def _assemble(asked: _Queries, answered: _Outcomes, arms: tuple[str, ...], path: Path) -> Table:
    column_of = np.full(len(answered.models), -1, dtype=np.int64)
    for at, arm in enumerate(arms):
        column_of[answered.models[arm]] = at
    column = column_of[np.array(answered.model, dtype=np.int64)]
    row = np.array(answered.query, dtype=np.int64)
    used = column >= 0
    answers = np.bincount(row[used], minlength=len(asked.index))
    kept = (answers == len(arms)) & (answers > 0)
    if not kept.any():
        text = f"no query was answered by all {len(arms)} arms{_rarest(column[used], arms)}"
        raise TableError(f"{path}: {text}: choose arms that share queries")
    used &= kept[row]
    place = (np.cumsum(kept) - 1)[row[used]], column[used]

    def measured(name: str) -> Floats:
        values = np.empty((int(kept.sum()), len(arms)))
        values[place] = np.array(answered.measures[name])[used]
        return values

    def block(name: str) -> Floats | None:
        return measured(name) if name in answered.measures else None

    costs = block("cost_usd")
    if costs is None:
        costs = np.full((int(kept.sum()), len(arms)), np.nan)
    rows = np.flatnonzero(kept).tolist()
    names = list(asked.index)
    return Table(
        query_ids=tuple(names[i] for i in rows),
        texts=None if asked.texts is None else tuple(asked.texts[i] for i in rows),
        domains=None if asked.domains is None else tuple(asked.domains[i] for i in rows),
        arms=arms,
        scores=measured("score"),
        costs_usd=np.nan_to_num(costs, nan=0.0),
        latencies_s=block("latency_s"),
        input_tokens=block("input_tokens"),
        output_tokens=block("output_tokens"),
        dropped=len(names) - len(rows),
        blanks=np.isnan(costs) if np.isnan(costs).any() else None,
    )


def _rarest(column: NDArray[np.int64], arms: tuple[str, ...]) -> str:
    if not column.size:
        return ""
    counts = np.bincount(column, minlength=len(arms))
    return f" ({arms[int(counts.argmin())]!r} answered the fewest: {counts.min()})"


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    header: list[str]
    lines: "_Reader"

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """Each record with the line that it starts on; blank lines are skipped."""
        width, reader = len(self.header), self.lines
        line = reader.line_num + 1
        for count, row in enumerate(reader):
            if row:
                if len(row) != width:
                    text = f"{len(row)} fields where the header has {width}: quote or fix the row"
                    raise TableError(f"{self.path}: row {line}: {text}")
                yield line, row
            if count >= MAX_ROWS:
                raise TableError(f"{self.path}: more than {MAX_ROWS} rows: use a part of it")
            line = reader.line_num + 1


class _Reader(Iterator[list[str]]):
    """The standard library's reader, typed."""

    def __init__(self, stream: io.TextIOBase, path: Path) -> None:
        self._reader = csv.reader(stream, strict=True)
        self._path = path

    @property
    def line_num(self) -> int:
        return self._reader.line_num

    def __next__(self) -> list[str]:
        try:
            return next(self._reader)
        except csv.Error as error:
            text = f"{self._path}: row {self.line_num}: not CSV ({error})"
            raise TableError(text) from error


@contextmanager
def _reading(path: Path, required: Sequence[str]) -> Iterator[_File]:
    """Open a file and check its header; whatever makes it unreadable becomes a TableError."""
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8-sig", newline="") as stream:
            reader = _Reader(stream, path)
            header = next(reader, [])
            for name in required:
                if name not in header:
                    raise _bad(path, 1, name, f"is missing; the header has {header[:20]}")
            for name in (*_QUERY_COLUMNS, "model", *_MEASURES):
                if header.count(name) > 1:
                    raise _bad(path, 1, name, "is there twice: keep one")
            yield _File(path, header, reader)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise TableError(f"{path}: not a whole gzip file ({error})") from error
    except UnicodeDecodeError as error:
        raise TableError(f"{path}: not UTF-8 ({error})") from error
    except OSError as error:
        raise TableError(f"{path}: can not be read ({error.strerror or error})") from error


def _number(text: str, path: Path, line: int, column: str) -> float:
    """A measure; NaN for a blank that may be one."""
    try:
        value = float(text)
    except ValueError:
        if column != "score" and not text.strip():
            return math.nan
        raise _bad(path, line, column, f"{text!r} is not a number") from None
    upper = _UPPER.get(column, math.inf)
    if not 0.0 <= value <= upper or value == math.inf or "_" in text:
        wanted = "between 0 and 1" if column == "score" else "finite and at least 0"
        raise _bad(path, line, column, f"{text!r} must be a number {wanted}")
    return value


def _name(text: str, path: Path, line: int, column: str) -> str:
    if text.strip() != text or text.splitlines() != [text]:
        raise _bad(path, line, column, f"{text!r} is blank, padded or of several lines: name it")
    return text


def _repeated(path: Path, line: int, query: str, header: Sequence[str]) -> TableError:
    """A query that stands twice, as it may in an outcomes file that was given for the other."""
    if {"model", "score"} <= set(header):
        return TableError(
            f"{path}: this is an outcomes file (it has the columns model and score, and {query!r} "
            "twice): give it as --outcomes, and the file of the queries as --queries"
        )
    return _bad(path, line, "query_id", f"{query!r} is there twice: keep one row")


def _bad(path: Path, line: int, column: str, text: str) -> TableError:
    return TableError(f"{path}: row {line}: column {column}: {text}")


def _fraction(text: str) -> float:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64
