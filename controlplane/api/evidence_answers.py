"""The answers on what monitors found, what the linter says, and how versions compare."""

from datetime import datetime
from typing import Any
from uuid import UUID

from controlplane.api.answers import Answer


class OverrideAnswer(Answer):
    """What a reaction put over a policy's own settings; ``value`` is the floor's."""

    since: datetime
    until: datetime
    why: str
    value: float | None = None


class FindingAnswer(Answer):
    """What a monitor saw, and what was done about it."""

    id: UUID
    monitor: str
    severity: str
    reaction: str
    summary: str
    numbers: dict[str, Any]
    created_at: datetime


class FindingsAnswer(Answer):
    """Findings, newest first, and what stands now: ``frozen``, ``floor``."""

    items: list[FindingAnswer]
    overrides: dict[str, OverrideAnswer]


class LintFinding(Answer):
    """One thing that is wrong (``error``) or odd (``warning``), and what to do about it."""

    code: str
    severity: str
    field: str
    sentence: str
    remedy: str


class LintAnswer(Answer):
    """What the linter says of a policy, errors first."""

    errors: int
    warnings: int
    findings: list[LintFinding]


class FindingOfLog(Answer):
    """Whether a log can judge, by one diagnostic."""

    name: str
    value: float | None
    bound: float | None
    passed: bool
    sentence: str


class ComparisonAnswer(Answer):
    """Two versions on one log: ``difference`` is the first minus the second, paired."""

    first: int
    second: int
    judged: int
    judged_on: tuple[int, int]
    interval: str
    difference: dict[str, Any]
    values: tuple[dict[str, Any], dict[str, Any]]
    segments: dict[str, dict[str, Any]]
    episodes: dict[str, Any] | None
    diagnostics: list[FindingOfLog]
