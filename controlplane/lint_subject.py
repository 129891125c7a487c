"""What the policy linter looks at, and what it says."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from controlplane.config import PolicyConfig
from feedback.metrics import Metric
from learners.features import Schema
from learners.records import Arm, Context
from learners.rewards import RewardFunction
from learners.scorers.base import Scorer

Severity = Literal["error", "warning"]

ENOUGH = 200
"""Decisions without which a count of 0 says nothing."""


@dataclass(frozen=True, slots=True)
class Counts:
    """How much there is of what a policy needs, over its newest decisions.

    Attributes:
        decisions: how many were counted.
        eligible: of those, how often each arm could have served, by its name.
        values: how many of them have a value, by outcome or metric.
        sources: how many of them each source has graded, by its name.
    """

    decisions: int = 0
    eligible: Mapping[str, int] = field(default_factory=dict)
    values: Mapping[str, int] = field(default_factory=dict)
    sources: Mapping[str, int] = field(default_factory=dict)

    @property
    def enough(self) -> bool:
        """Whether what is not there is missing, and not just late."""
        return self.decisions >= ENOUGH


@dataclass(frozen=True, slots=True)
class Subject:
    """A policy as it would be published.

    Attributes:
        config: its configuration.
        arms: its pool's, in service.
        reward: in force; None where none was declared.
        metrics: what its project declares, by name.
        scorer: what would be served, over the arms in their order and with the policy's floor;
            None before there is a version: then nothing is said of who is chosen.
        schema: how the scorer reads a context; the policy's own if not given.
        contexts: of recent decisions; the linter adds some that the schema alone decides.
        counts: of recent decisions.
    """

    config: PolicyConfig
    arms: Sequence[Arm]
    reward: RewardFunction | None = None
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    scorer: Scorer | None = None
    schema: Schema | None = None
    contexts: Sequence[Context] = ()
    counts: Counts = field(default_factory=Counts)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, or odd.

    Attributes:
        code: names the rule.
        severity: an error is no policy that anybody wants; a warning may be meant.
        field: where it stands in what was declared.
        sentence: what is the matter.
        remedy: what to do about it.
    """

    code: str
    severity: Severity
    field: str
    sentence: str
    remedy: str

    def as_json(self) -> dict[str, Any]:
        """Plain form."""
        return asdict(self)


def error(code: str, of: str, sentence: str, remedy: str) -> Finding:
    """A finding that is an error."""
    return Finding(code, "error", of, sentence, remedy)


def warning(code: str, of: str, sentence: str, remedy: str) -> Finding:
    """A finding that is a warning."""
    return Finding(code, "warning", of, sentence, remedy)
