"""How a version comes to serve step by step: its stages, guardrails, and what sends it back."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter

from controlplane.errors import ABOVE_0, SettingError, check_ranges
from learners.lineup import Unit

Kind = Literal["mean", "p95", "rate"]
Approval = Literal["none", "stages", "champion"]
OnTimeout = Literal["revert", "hold"]

MAX_STAGES = 12
MAX_GUARDRAILS = 16
MAX_SECONDS = 90 * 86_400.0
MAX_DECISIONS = 10_000
"""Of a stage: what is surely among the newest that a look reads, beside the champion's."""
MAX_WATCHED = 40_000
_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class Guardrail:
    """What a version must not make worse.

    Attributes:
        metric: an outcome of the edge, of which less is better, or a declared metric.
        kind: the mean, the 95th percentile, or the rate of values that are not 0.
        margin: how much worse than the champion is borne.
        relative: the margin is a part of the champion's own figure.
        shown: the last stage must show that it is kept; otherwise only that it is not broken.
        safety_veto: every canary stage must show it.
    """

    __pydantic_config__ = _STRICT

    metric: str
    kind: Kind = "mean"
    margin: float = 0.0
    relative: bool = False
    shown: bool = True
    safety_veto: bool = False

    def __post_init__(self) -> None:
        """Refuse a margin that is none."""
        if not (math.isfinite(self.margin) and self.margin >= 0):
            raise SettingError(
                "release.guardrails",
                f"release.guardrails: the margin of {self.metric!r} is {self.margin}: give 0 or "
                "more",
            )

    @property
    def name(self) -> str:
        """As a check of a verdict is called."""
        return self.metric if self.kind != "p95" else f"{self.metric} p95"


GUARDRAILS = (
    Guardrail("error", "rate", margin=0.02),
    Guardrail("cost_usd", "mean", margin=0.5, relative=True),
    Guardrail("latency_s", "p95", margin=0.5, relative=True),
)


@dataclass(frozen=True)
class HarmConfig:
    """That nobody in particular is worse off.

    Attributes:
        feature: a category or flag of the context, whose values are the segments. None: ``domain``
            if the policy has such a category, else its first category, else no segments.
        min_rows: rewarded rows of a segment, of each side, from which on it is looked at.
        margin: how much worse a segment's reward may be, in units of reward.
        segments: the largest, that are looked at.
    """

    __pydantic_config__ = _STRICT

    feature: str | None = None
    min_rows: int = 100
    margin: float = 0.05
    segments: int = 8

    def __post_init__(self) -> None:
        """Refuse what looks at nothing."""
        check_ranges(
            "release.harm", self, min_rows=(2, math.inf), margin=(0, math.inf), segments=(0, 64)
        )


@dataclass(frozen=True)
class ReleaseConfig:
    """The way from candidate to champion.

    Attributes:
        stages: shares of the units that the new version decides, rising: 0 is the shadow, which
            only watches, and the last is 1. Empty: straight to champion.
        unit: what is handed to one version or the other, for good.
        min_decisions: decisions that the new version made in a stage (in shadow: observed).
        min_rewarded: of those, with a reward.
        min_seconds: least time in a stage.
        max_seconds: most time in a stage, while it waits for nobody.
        on_timeout: what becomes of a release whose stage is not passed by then.
        approval: which steps wait for a person.
        margin: units of reward: the new version is sent back when it is surely worse than the
            champion, and before the last step it must be surely no more than this worse.
        guardrails: what must not become worse.
        max_error: a rate of failures that no version may surely exceed, if the champion does not.
        harm: the segments.
        min_edges: edges that must serve the stage's bundle, golden vectors included.
        max_shadow_errors: share of the decisions that a shadow may fail to score.
        min_agreement: share of the decisions on which a shadow must choose what was served.
        watch_decisions: decisions of the new champion that are watched; 0: none.
        cooldown_s: after a release was sent back, the next one begins this much later.
        max_reverts: after so many in a row, no release begins by itself.
        alpha: chance that one of a release's monitors sends back a version that is no worse.
    """

    __pydantic_config__ = _STRICT

    stages: tuple[float, ...] = (0.0, 0.01, 0.05, 0.25, 0.5, 1.0)
    unit: Unit = "session"
    min_decisions: int = 200
    min_rewarded: int = 50
    min_seconds: float = 300.0
    max_seconds: float = 7 * 86_400.0
    on_timeout: OnTimeout = "revert"
    approval: Approval = "none"
    margin: float = 0.05
    guardrails: tuple[Guardrail, ...] = GUARDRAILS
    max_error: float = 0.2
    harm: HarmConfig = field(default_factory=HarmConfig)
    min_edges: int = 1
    max_shadow_errors: float = 0.0
    min_agreement: float = 0.0
    watch_decisions: int = 1_000
    cooldown_s: float = 3_600.0
    max_reverts: int = 3
    alpha: float = 0.05

    def __post_init__(self) -> None:
        """Refuse stages that lead nowhere, and bounds that nothing can keep."""
        rising = all(a < b for a, b in zip(self.stages, self.stages[1:], strict=False))
        whole = self.stages[-1:] in {(), (1.0,)}
        if not (rising and whole and all(0 <= share <= 1 for share in self.stages)):
            raise SettingError(
                "release.stages",
                f"release.stages {list(self.stages)}: give rising shares from 0 to 1, the last 1, "
                "or none",
            )
        if self.approval != "none" and self.stages[:1] in {(), (1.0,)}:
            raise SettingError(
                "release.approval",
                f"release.approval {self.approval!r}: no stage comes before the champion's place, "
                "so nothing would wait for a person: give stages, or switch auto_promote off",
            )
        if len(self.stages) > MAX_STAGES:
            raise SettingError(
                "release.stages", f"release.stages: {len(self.stages)}: give at most {MAX_STAGES}"
            )
        named = [guardrail.name for guardrail in self.guardrails]
        if len(named) > MAX_GUARDRAILS or len(set(named)) < len(named):
            raise SettingError(
                "release.guardrails",
                f"release.guardrails {named}: give each once, at most {MAX_GUARDRAILS}",
            )
        check_ranges(
            "release",
            self,
            min_decisions=(1, MAX_DECISIONS),
            min_rewarded=(0, MAX_DECISIONS),
            min_seconds=(0, MAX_SECONDS),
            max_seconds=(max(1.0, self.min_seconds), MAX_SECONDS),
            margin=(0, math.inf),
            max_error=(ABOVE_0, 1),
            min_edges=(0, 100),
            max_shadow_errors=(0, 1),
            min_agreement=(0, 1),
            watch_decisions=(0, MAX_WATCHED),
            cooldown_s=(0, MAX_SECONDS),
            max_reverts=(1, 1_000),
            alpha=(ABOVE_0, 0.5),
        )

    @property
    def canaries(self) -> int:
        """Stages in which the new version decides for some and the champion for others."""
        return sum(0 < share < 1 for share in self.stages)


_ADAPTER = TypeAdapter(ReleaseConfig)


def as_json(config: ReleaseConfig) -> dict[str, Any]:
    """Plain form, as a release's plan keeps it."""
    plain: dict[str, Any] = _ADAPTER.dump_python(config, mode="json")
    return plain


def read_rules(row: Mapping[str, Any]) -> ReleaseConfig:
    """What :func:`as_json` wrote, by this release or by a later one."""
    return _ADAPTER.validate_python(dict(row), extra="ignore")
