"""Imported rows as the two files of a full-information table, which ``pointsman replay`` reads."""

import csv
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from feedback.imports.rows import Account, Row, number_of

QUERIES = ("query_id", "query_text", "domain")
OUTCOMES = (
    "query_id", "model", "score", "cost_usd", "latency_s", "input_tokens", "output_tokens",
)  # fmt: skip
_MAX_NAME = 128
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]+")


@dataclass(slots=True)
class _Table:
    """What has been seen: of each query its row, and of each answer its measures."""

    score: str
    arms: Mapping[str, str]
    queries: dict[str, tuple[str, str]] = field(default_factory=dict)
    answers: dict[tuple[str, str], tuple[float | None, ...]] = field(default_factory=dict)

    def take(self, row: Row, account: Account) -> None:
        """Add a row that has a score, the first of its query and model."""
        score = number_of(_plain(row.said.get(self.score)))
        if score is None or not 0 <= score <= 1:
            account.skip(self.score, "no score from 0 to 1")
            return
        named = next((self.arms[name] for name in row.models if name in self.arms), row.models[0])
        query, model = _name(row.query), _name(named)
        if (query, model) in self.answers:
            account.skip("query", "was answered by this model before: the first answer counts")
            return
        self.queries.setdefault(query, (row.text or "", row.domain or ""))
        measures = [row.values.get(name) for name in OUTCOMES[3:]]
        self.answers[query, model] = (score, *measures)

    @property
    def complete(self) -> int:
        """Queries that every model answered: a replay reads no others."""
        models = {model for _, model in self.answers}
        answered: dict[str, int] = {}
        for query, _ in self.answers:
            answered[query] = answered.get(query, 0) + 1
        return sum(n == len(models) for n in answered.values())


def write_tables(
    path: Path, rows: Iterable[Row], score: str, arms: Mapping[str, str], account: Account
) -> dict[str, Any]:
    """Write ``path``.queries.csv and ``path``.outcomes.csv; the counts of what they hold.

    Args:
        path: without its endings.
        rows: of the log.
        score: the feedback that says how good an answer was, 0 to 1 (or yes and no).
        arms: what the log calls a model → what the table calls it.
        account: where rows without a score stand.
    """
    table = _Table(score, arms)
    for row in rows:
        table.take(row, account)
    base = path.with_suffix("") if path.suffix == ".csv" else path
    queries, outcomes = (Path(f"{base}.{name}.csv") for name in ("queries", "outcomes"))
    with _writing(queries, QUERIES) as writer:
        writer.writerows((name, *told) for name, told in table.queries.items())
    with _writing(outcomes, OUTCOMES) as writer:
        writer.writerows(
            (*pair, *("" if value is None else repr(value) for value in measures))
            for pair, measures in table.answers.items()
        )
    return {
        "queries": len(table.queries),
        "answers": len(table.answers),
        "models": len({model for _, model in table.answers}),
        "queries_that_all_models_answered": table.complete,
        "files": [str(queries), str(outcomes)],
    }


@contextmanager
def _writing(path: Path, header: tuple[str, ...]) -> Iterator[Any]:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(header)
        yield writer


def _name(text: str) -> str:
    """A name that a table takes: printable, and not too long to be one."""
    plain = _UNPRINTABLE.sub(" ", text).strip()
    if plain and len(plain) <= _MAX_NAME:
        return plain
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()


def _plain(value: object) -> object:
    return float(value) if isinstance(value, bool) else value
