"""The world that a full-information table measured, so that real data flow through real HTTP."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from controlplane.simulation.conditions import check_drifts, condition_of, failure_of
from controlplane.simulation.contract import (
    EVERY_DOMAIN,
    START,
    Answer,
    Drift,
    Moment,
    Query,
    UnknownQueryError,
    WorldError,
    check_names,
    known,
)
from controlplane.simulation.grading import tokens_of
from controlplane.simulation.luck import luck, normal, unit
from controlplane.simulation.prompts import with_key
from controlplane.simulation.tables import Floats, Table
from controlplane.simulation.world import LATENCY_SPREAD, made_up_tokens

_FIRST_TOKEN_SHARE = 0.25
_LATENCY_S = 0.8


@dataclass(frozen=True)
class TableWorld:
    """Answers are those of the table; drifts can break its arms.

    A prompt is the query's text with a last line ``[query <query_id>]``. What the table does not
    tell (latency, tokens) is made up from the prompt and the seed; ``max_tokens`` cuts nothing, as
    the answers were measured whole.
    """

    table: Table
    drifts: tuple[Drift, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse an empty table and drifts of what it does not hold."""
        if not len(self.table):
            raise WorldError("the table has no queries: read one that has")
        check_names(self.table.arms)
        check_drifts(self.drifts, self.table.arms, self.domains)

    @property
    def arm_names(self) -> tuple[str, ...]:
        """The arms' names, in order."""
        return self.table.arms

    @cached_property
    def domains(self) -> tuple[str, ...]:
        """The domains of the table, sorted; ``"*"`` alone when it has none."""
        return tuple(sorted(set(self.table.domains or (EVERY_DOMAIN,))))

    @cached_property
    def _row(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.table.query_ids)}

    @cached_property
    def _column(self) -> dict[str, int]:
        return {name: column for column, name in enumerate(self.table.arms)}

    def prompts(self, count: int, rng: np.random.Generator) -> Iterator[Query]:
        """Draw queries, each once before any comes again."""
        order = rng.permutation(len(self.table))
        for i in range(count):
            if i and i % len(order) == 0:
                order = rng.permutation(len(self.table))
            yield self._query(int(order[i % len(order)]))

    def answer(
        self,
        query_key: str,
        arm: str,
        prompt: str,
        *,
        t: Moment = START,
        max_tokens: int | None = None,
    ) -> Answer:
        """What the arm was measured to answer to the query, as drifts have changed it since.

        Raises:
            UnknownQueryError: The table has no such query.
            WorldError: There is no such arm.
        """
        del max_tokens
        row, at = self._row.get(query_key), known(self._column, arm)
        if row is None:
            raise UnknownQueryError(
                f"no query {query_key[:200]!r}: end the prompt with a line [query <query_id>]"
            )
        table, condition = self.table, condition_of(self.drifts, arm, t)
        _, length, wait, chance = luck(f"{self.seed}|{query_key}|{arm}")
        latency_s = _cell(table.latencies_s, row, at)
        if latency_s is None:
            latency_s = _LATENCY_S * math.exp(LATENCY_SPREAD * normal(wait))
        latency_s *= condition.latency_factor
        inputs, outputs = _cell(table.input_tokens, row, at), _cell(table.output_tokens, row, at)
        first_s = latency_s * _FIRST_TOKEN_SHARE
        input_tokens = tokens_of(prompt) if inputs is None else round(inputs)
        status = failure_of(chance, condition.failure_rate or 0.0)
        if status is not None:
            return Answer(0.0, 0.0, input_tokens, 0, first_s, first_s, status)
        return Answer(
            score=unit(float(table.scores[row, at]) + condition.shift_in(self._domain(row))),
            cost_usd=float(table.costs_usd[row, at]),
            input_tokens=input_tokens,
            output_tokens=made_up_tokens(length) if outputs is None else round(outputs),
            latency_s=latency_s,
            first_token_s=first_s,
        )

    def with_drifts(self, drifts: tuple[Drift, ...]) -> "TableWorld":
        """The same world with these drifts in place of its own."""
        return replace(self, drifts=drifts)

    def card(self, arm: str) -> dict[str, object]:
        """What is known of an arm, as plain values."""
        at = known(self._column, arm)
        return {
            "mean_score": float(self.table.scores[:, at].mean()),
            "mean_cost_usd": float(self.table.costs_usd[:, at].mean()),
        }

    def _domain(self, row: int) -> str:
        return EVERY_DOMAIN if self.table.domains is None else self.table.domains[row]

    def _query(self, row: int) -> Query:
        name, domain = self.table.query_ids[row], self._domain(row)
        text = self.table.texts[row] if self.table.texts else f"A question of domain {domain}."
        return Query(name, domain, with_key(text, name))


def _cell(block: Floats | None, row: int, column: int) -> float | None:
    """A measure of a table; None when it was not taken."""
    value = math.nan if block is None else float(block[row, column])
    return None if math.isnan(value) else value
