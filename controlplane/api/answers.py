"""The answers of the HTTP API."""

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from controlplane.api.wire import (
    ArmBody,
    EdgeBody,
    MetricBody,
    PolicyBody,
    RewardGateBody,
    TermBody,
)


class Answer(BaseModel):
    """What the API answers."""

    model_config = ConfigDict(frozen=True, from_attributes=True)


class Problem(Answer):
    """RFC 9457: what is wrong, and what to do about it."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    field: str | None = None
    value: Any = None
    remedy: str | None = None


class MetricAnswer(MetricBody):
    """A metric as declared, with its name."""

    name: str


class ArmAnswer(ArmBody):
    """An arm in service."""

    name: str


class ArmsAnswer(Answer):
    """The arms of a pool."""

    items: list[ArmAnswer]


class MetricsAnswer(Answer):
    """The metrics of a project."""

    items: list[MetricAnswer]


class StatisticAnswer(Answer):
    """How a metric was spread over ``n`` values of the log when the reward was declared."""

    n: int
    mean: float
    std: float


class RewardVersion(Answer):
    """One version of a reward, for ever."""

    version: int
    created_at: datetime
    expression: str | None = None
    terms: list[TermBody]
    offset: float
    wait_s: float
    gates: list[RewardGateBody] = []
    window: int | None = None
    statistics: dict[str, StatisticAnswer] = {}


class RewardsAnswer(Answer):
    """A policy's reward: the version in force, and those before it, newest first."""

    policy: str
    version: int
    items: list[RewardVersion]


class PolicyAnswer(PolicyBody):
    """A policy as it stands."""

    name: str
    wait_s: float
    log_position: int
    created_at: datetime
    updated_at: datetime


class PoliciesAnswer(Answer):
    """A page of policies; ``next`` is the ``after`` of the page that follows."""

    items: list[PolicyAnswer]
    next: str | None


Status = Literal["accepted", "duplicate", "pending_join", "late"]


class FeedbackAnswer(Answer):
    """What became of a feedback."""

    feedback_id: UUID
    status: Status


class FeedbackItemAnswer(Answer):
    """What became of an item: its id, or the field at fault."""

    feedback_id: UUID | None = None
    status: Status | Literal["rejected"]
    field: str | None = None
    detail: str | None = None


class FeedbackBatchAnswer(Answer):
    """One answer an item, in order."""

    items: list[FeedbackItemAnswer]


class RejectedLine(Answer):
    """A line that will never be taken as it stands; lines count from 1."""

    line: int
    field: str
    detail: str


class BatchAnswer(Answer):
    """What became of a batch of lines."""

    accepted: int
    duplicates: int
    rejected: list[RejectedLine]


class CheckAnswer(Answer):
    """One condition of a gate, its number and its bound."""

    name: str
    passed: bool
    value: float | None
    bound: float | None
    detail: str


class VerdictAnswer(Answer):
    """What a gate said of a version, number by number."""

    id: UUID
    version: int
    learner: str | None = None
    gate: str
    passed: bool
    summary: str
    numbers: dict[str, Any]
    checks: list[CheckAnswer]
    created_at: datetime


class VerdictsAnswer(Answer):
    """Verdicts, newest first."""

    items: list[VerdictAnswer]


class VersionRow(Answer):
    """A version in a list."""

    number: int
    state: str
    learner: str
    parent: int | None
    data_from: int
    data_to: int
    data_digest: str
    digest: str
    seed: int
    created_at: datetime


class VersionAnswer(VersionRow):
    """A version with its configuration and verdicts."""

    config: dict[str, Any]
    verdicts: list[VerdictAnswer]


class VersionsAnswer(Answer):
    """A page of versions, newest first; ``next`` is the ``before`` of the page that follows."""

    items: list[VersionRow]
    next: int | None


class BundleRow(Answer):
    """A published bundle."""

    serial: int
    version: int
    digest: str
    reason: str
    issued_at: datetime
    expires_at: datetime


class BundlesAnswer(Answer):
    """What was published, newest first."""

    items: list[BundleRow]


class ChampionAnswer(Answer):
    """The version that serves; ``revision`` is the ETag to change it with."""

    version: int
    revision: int


class AliasAnswer(Answer):
    """The version that an alias names, if any; ``revision`` is the ETag to change it with."""

    alias: str
    version: int | None
    revision: int


class ReleaseRow(Answer):
    """A version's way to the champion's place; ``numbers`` and ``checks`` are the last look's."""

    number: int
    version: int
    champion: int
    status: str
    reason: str
    by: str
    stages: list[float]
    stage: int
    stage_name: str
    share: float
    started_at: datetime
    stage_at: datetime
    ended_at: datetime | None
    numbers: dict[str, Any] = {}
    checks: list[CheckAnswer] = []


class ReleaseAnswer(ReleaseRow):
    """A release with the rules that it began with, and what was said on its way."""

    rules: dict[str, Any]
    verdicts: list[VerdictAnswer]


class ReleasesAnswer(Answer):
    """A page of releases, newest first; ``next`` is the ``before`` of the page that follows."""

    items: list[ReleaseRow]
    next: int | None


class PublishedAnswer(Answer):
    """What was published."""

    version: int
    serial: int


class AskedAnswer(Answer):
    """Work that stands to be done; a worker takes it up within seconds."""

    kind: str
    due_at: datetime


class WorkRow(Answer):
    """Something to do for a policy."""

    kind: str
    due_at: datetime
    lease_owner: str | None
    lease_until: datetime | None
    attempts: int
    last_error: str | None
    done_at: datetime | None


class ArmShare(Answer):
    """How often an arm served of late."""

    arm: str
    n: int
    share: float
    reward: float | None
    cost_usd: float | None


class RewardPoint(Answer):
    """The mean reward of a stretch of the log."""

    at: datetime
    n: int
    reward: float
    cost_usd: float | None
    version: int


class Counts(Answer):
    """Decisions: all, those whose wait is not over, those joined, and joined without a reward."""

    decisions: int
    pending: int
    joined: int
    unrewarded: int


class StatusAnswer(Answer):
    """Where a policy stands."""

    policy: str
    champion: ChampionAnswer | None
    serial: int | None
    log_position: int
    next_round_position: int
    counts: Counts
    work: list[WorkRow]
    arms: list[ArmShare]
    rewards: list[RewardPoint]


class EdgeAnswer(EdgeBody):
    """An edge's last word."""

    edge_id: str
    seen_at: datetime


class EdgesAnswer(Answer):
    """The project's edges, last seen first."""

    items: list[EdgeAnswer]


class KeyAnswer(Answer):
    """A key, without its secret."""

    id: UUID
    name: str
    prefix: str
    scopes: list[str]
    created_at: datetime
    revoked_at: datetime | None


class NewKeyAnswer(KeyAnswer):
    """A new key: ``token`` is shown this once, and is null when the request is repeated."""

    token: str | None


class KeysAnswer(Answer):
    """The project's keys, oldest first."""

    items: list[KeyAnswer]


class HealthAnswer(Answer):
    """Alive, or ready."""

    status: Literal["ok"] = "ok"
