"""What the dashboard shows of experiments: the verdict, the split, and each variant's interval."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from controlplane.api import charts
from controlplane.api.experiments import ExperimentAnswer, answer
from storage import experiment_rows
from storage.policies import StoredPolicy

MAX_EXPERIMENTS = 5
GOOD, BAD = {"better"}, {"worse", "guardrail_broken", "stopped_by_srm"}


@dataclass(frozen=True, slots=True)
class Compared:
    """A variant against the control; ``span`` is None while there are too few units."""

    standing: Mapping[str, Any]
    span: charts.Span | None


@dataclass(frozen=True, slots=True)
class ExperimentCard:
    """An experiment with its variants' intervals on one scale."""

    experiment: ExperimentAnswer
    compared: list[Compared]

    @property
    def verdict(self) -> str:
        """In a word."""
        return str((self.experiment.result or {}).get("status", "not looked at yet"))

    @property
    def tone(self) -> str:
        """The badge's class."""
        return "good" if self.verdict in GOOD else "bad" if self.verdict in BAD else ""


def cards(connection: sa.Connection, policy: StoredPolicy) -> list[ExperimentCard]:
    """A policy's newest experiments."""
    rows = experiment_rows.page(connection, policy.id, limit=MAX_EXPERIMENTS)
    return [_card(answer(row, policy.name)) for row in rows]


def _card(experiment: ExperimentAnswer) -> ExperimentCard:
    standings = (experiment.result or {}).get("variants", [])
    scale = [one["difference"] for one in standings]
    found = [Compared(one, charts.span(one["difference"], scale)) for one in standings]
    return ExperimentCard(experiment, found)
