"""The bodies that the HTTP API takes, and the forms of their fields."""

from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import Path
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from controlplane.config import (
    GateConfig,
    LearnerConfig,
    PolicyConfig,
    PriorConfig,
    ShadowDispatchConfig,
    SourcesConfig,
)
from controlplane.heads_config import GuardConfig, HeadConfig
from controlplane.monitors import MonitorsConfig
from controlplane.registry import ALIGN_WINDOW
from controlplane.release_config import ReleaseConfig
from controlplane.revise_config import ReviseConfig
from feedback.metrics import Aggregation, Level, MetricType
from learners.head_bank import MAX_GUARDS, MAX_HEADS
from learners.terms import Normaliser

MAX_FEEDBACK_ITEMS = 1_000
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
ARM_NAME = r"^[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,127}$"

Name = Annotated[str, Path(pattern=NAME, description="letters, digits, `.`, `_` and `-`")]
ArmName = Annotated[str, Path(pattern=ARM_NAME, description="as a name, with `:`, `/`, `@`, `+`")]
VersionNumber = Annotated[int, Path(ge=1, le=2**62)]

Finite = Annotated[float, Field(allow_inf_nan=False)]
Text = Annotated[str, StringConstraints(max_length=256, pattern=r"^[^\x00]*$")]
LongText = Annotated[str, StringConstraints(max_length=10_000, pattern=r"^[^\x00]*$")]
Small = Annotated[list[Text], Field(max_length=64)]


class Body(BaseModel):
    """What a client sends: unknown fields are refused, not ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class MetricBody(Body):
    """A declared measurement."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"type": "float", "range": [0, 1], "wait_s": 600}]}
    )

    type: MetricType = "float"
    level: Level = "decision"
    optimize: Literal["max", "min"] = "max"
    unit: Annotated[str, StringConstraints(max_length=32)] = ""
    range: tuple[Finite, Finite] | None = None
    categories: Annotated[dict[Text, Finite], Field(max_length=64)] = {}
    wait_s: Finite = 600.0
    default: Finite | None = None
    aggregation: Aggregation = "mean"


class CardBody(Body):
    """What is known of an arm before it has served; prices in USD per million tokens."""

    usd_per_mtok_in: Annotated[Finite, Field(ge=0)] = 0.0
    usd_per_mtok_out: Annotated[Finite, Field(ge=0)] = 0.0
    context_tokens: Annotated[int, Field(ge=1, le=10**9)] | None = None
    joules_per_token_in: Annotated[Finite, Field(ge=0)] | None = None
    joules_per_token_out: Annotated[Finite, Field(ge=0)] | None = None
    tags: Small = []
    capabilities: Small = []


class ArmBody(Body):
    """A model behind an endpoint."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model": "qwen3-8b",
                    "endpoint": "http://127.0.0.1:8000/v1",
                    "card": {"usd_per_mtok_in": 0.1, "usd_per_mtok_out": 0.4},
                }
            ]
        }
    )

    model: Annotated[Text, Field(min_length=1)]
    endpoint: Annotated[
        str, StringConstraints(max_length=2_048, pattern=r"^https?://[^\s\x00@?#]+$")
    ]
    api_key_env: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")] | None = None
    card: CardBody = CardBody()


class TermBody(Body):
    """``weight · normalised(metric) / scale``; the default stands in for a value that never came.

    ``on_error`` stands in where the arm failed: by default the metric's worst value, 0 for a cost.
    ``align`` names another term, which this one shall be spread like, in place of a scale.
    """

    metric: Text
    weight: Finite = 1.0
    scale: Finite = 1.0
    default: Finite | None = None
    on_error: Finite | None = None
    cap_low: Finite | None = None
    cap_high: Finite | None = None
    normaliser: Normaliser = "none"
    range: tuple[Finite, Finite] | None = None
    align: Text | None = None


class RewardGateBody(Body):
    """Below ``at_least`` the reward is ``reward``, and nothing else counts."""

    metric: Text
    at_least: Finite
    reward: Finite
    default: Finite | None = None
    on_error: Finite | None = None


class RewardBody(Body):
    """A reward: an expression, or terms; and gates before them."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"expression": "score - 0.2*cost_usd/0.01"}]}
    )

    expression: Annotated[str, Field(min_length=1, max_length=1_000)] | None = None
    terms: Annotated[list[TermBody], Field(max_length=32)] = []
    offset: Finite = 0.0
    wait_s: Annotated[Finite, Field(ge=0)] | None = None
    gates: Annotated[list[RewardGateBody], Field(max_length=8)] = []
    window: Annotated[int, Field(ge=100, le=100_000)] = ALIGN_WINDOW


_POLICY = PolicyConfig()


class PolicyBody(Body):
    """A policy: its pool, and how it learns. What is left out takes its default."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"pool": "main", "learners": [{"name": "linucb"}], "auto_promote": True}]
        }
    )

    pool: Annotated[str, Field(pattern=NAME)]
    features: Annotated[tuple[dict[str, Any], ...], Field(max_length=512)] = tuple(
        dict(row) for row in _POLICY.features
    )
    learners: Annotated[tuple[LearnerConfig, ...], Field(min_length=1)] = _POLICY.learners
    prior: PriorConfig = _POLICY.prior
    floor: Finite = _POLICY.floor
    fallback_arm: Text | None = None
    auto_promote: bool = _POLICY.auto_promote
    max_interactions: int = _POLICY.max_interactions
    seed: Annotated[int, Field(ge=0, le=2**31)] = _POLICY.seed
    gate: GateConfig = _POLICY.gate
    sources: SourcesConfig = _POLICY.sources
    release: ReleaseConfig = _POLICY.release
    shadow_dispatch: ShadowDispatchConfig = _POLICY.shadow_dispatch
    monitors: MonitorsConfig = _POLICY.monitors
    revise: ReviseConfig = _POLICY.revise
    heads: Annotated[tuple[HeadConfig, ...], Field(max_length=MAX_HEADS)] = ()
    guards: Annotated[tuple[GuardConfig, ...], Field(max_length=MAX_GUARDS)] = ()


class FeedbackBody(Body):
    """Something said, later, of a decision or an episode."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "decision_id": "0195c1f4-6c00-7a3e-9d43-2f6f3c0a9b11",
                    "metric": "score",
                    "value": 0.9,
                }
            ]
        }
    )

    decision_id: Text | None = None
    episode_id: Text | None = None
    response_id: Text | None = None
    metric: Annotated[Text, Field(min_length=1)]
    value: bool | int | Finite | LongText
    occurred_at: AwareDatetime | None = None
    tags: Annotated[dict[Text, bool | int | Finite | Text], Field(max_length=32)] = {}

    @model_validator(mode="after")
    def _one_subject(self) -> "FeedbackBody":
        given = [self.decision_id, self.episode_id, self.response_id]
        if sum(one is not None for one in given) != 1:
            raise ValueError("give exactly one of decision_id, episode_id, response_id")
        return self


class FeedbackItem(FeedbackBody):
    """A line of a feedback batch, which may carry its own key."""

    idempotency_key: Annotated[str, Field(min_length=1, max_length=200)] | None = None


class FeedbackBatchBody(Body):
    """Feedback, item by item: a bad one spoils nobody."""

    items: Annotated[
        list[Any],
        Field(
            min_length=1,
            max_length=MAX_FEEDBACK_ITEMS,
            json_schema_extra={"items": {"$ref": "#/components/schemas/FeedbackItem"}},
        ),
    ]


class AliasBody(Body):
    """The version that an alias shall name, and the evaluation that this rests on.

    ``rollout`` is the share of the units that it is to decide first: 1 for the champion.
    """

    version: Annotated[int, Field(ge=1, le=2**62)]
    rollout: Annotated[Finite, Field(ge=0, le=1)] | None = None
    evaluation_id: UUID | None = None


class Nack(Body):
    """A bundle that an edge refused, and why; ``fault`` is whose, which older edges do not say."""

    policy: Text
    serial: Annotated[int, Field(ge=0, le=2**62)]
    reason: Annotated[str, StringConstraints(max_length=2_000, pattern=r"^[^\x00]*$")]
    fault: Literal["bundle", "edge"] | None = None


class EdgeBody(Body):
    """What an edge says of itself."""

    active: Annotated[dict[Text, Annotated[int, Field(ge=0, le=2**62)]], Field(max_length=200)] = {}
    nack: Annotated[list[Nack], Field(max_length=200)] = []
    lag_s: Annotated[Finite, Field(ge=0)] = 0.0
    spool_depth: Annotated[int, Field(ge=0, le=2**62)] = 0
    version: Text = ""


class KeyBody(Body):
    """A new key."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"name": "app", "scopes": ["ingest"]}]}
    )

    name: Annotated[Text, Field(min_length=1)]
    scopes: Annotated[
        list[Literal["ingest", "read", "publish", "edge", "admin"]],
        Field(min_length=1, max_length=5),
    ]
