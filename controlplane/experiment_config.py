"""What a person declares of an experiment before its first unit."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter

from controlplane.errors import SettingError
from controlplane.lineups import CANARY
from learners.lineup import MAX_VARIANTS, Unit

REWARD = "reward"
ENDED = "ended"
"""How an experiment stands that nobody had to stop."""
MAX_GUARDRAILS = 16
MAX_DAYS = 90.0
MAX_NAME = 128
_ROUNDING = 1e-9
_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class ExperimentVariant:
    """One side of an experiment; the first is the control.

    Attributes:
        name: as decisions bear it.
        share: of the experiment's units; all sides' shares sum to 1.
        version: that decides for its units; None: whichever version is the champion.
    """

    __pydantic_config__ = _STRICT

    name: str
    share: float
    version: int | None = None

    def __post_init__(self) -> None:
        """Refuse a name of nothing, and a share of nothing."""
        _check(
            "variants",
            self,
            name=0 < len(self.name) <= MAX_NAME,
            share=math.isfinite(self.share) and 0 < self.share <= 1,
            version=self.version is None or self.version >= 1,
        )


@dataclass(frozen=True)
class ExperimentGuardrail:
    """A metric that no variant may make worse by more than ``margin``, in the metric's unit."""

    __pydantic_config__ = _STRICT

    metric: str
    margin: float

    def __post_init__(self) -> None:
        """Refuse a margin of nothing: that something is not worse at all can not be shown."""
        _check("guardrails", self, margin=math.isfinite(self.margin) and self.margin > 0)


@dataclass(frozen=True)
class Covariate:
    """What is known of a unit beforehand and explains a part of its metric (CUPED).

    Attributes:
        kind: ``context``, a numeric field as the unit's first decision had it, or ``before``, the
            mean of a metric of the unit before the experiment began.
        name: of the field, or of the metric.
        days: how far ``before`` looks back.
    """

    __pydantic_config__ = _STRICT

    kind: Literal["context", "before"]
    name: str
    days: float = 14.0

    def __post_init__(self) -> None:
        """Refuse what looks back nowhere."""
        _check("covariate", self, name=bool(self.name), days=0 < self.days <= MAX_DAYS)


@dataclass(frozen=True)
class ExperimentConfig:
    """Versions that are compared on live traffic.

    Attributes:
        name: the policy's own, for good; decisions bear it.
        variants: the first is the control.
        unit: what is handed to one variant for good: a request, a session or a user.
        layer: experiments of one layer share no unit, across all policies of the project.
        share: of the layer's units; a part that is free is found.
        holdout: share of the layer's units that are in none of its experiments.
        aa: all variants serve the champion: what differs is chance.
        salt: of the hash that picks the variant; None: one of its own.
        metric: that decides: ``reward``, an outcome of the edge or a declared metric.
        guardrails: other metrics that must not get worse.
        covariate: takes out the variance that it explains.
        segment: a field of the context whose values are also looked at apart.
        difference: the smallest that shall be seen; the plan is made for it.
        power: chance of the plan to see it.
        margin: by how much a variant must be better.
        negligible: differences up to here are none; 0: any counts.
        alpha: chance that any variant is called better or worse and is not, over all looks.
        max_decisions: of control and one variant, at which an open question ends; None: never.
        look_s: least time between two looks; they become rarer as the experiment gets older.
        auto_stop: end it where its split is broken, or each variant is worse or breaks a guardrail.
        unproven: take versions that have not passed their gate.
    """

    __pydantic_config__ = _STRICT

    name: str
    variants: tuple[ExperimentVariant, ...]
    unit: Unit = "session"
    layer: str = "default"
    share: float = 1.0
    holdout: float = 0.0
    aa: bool = False
    salt: str | None = None
    metric: str = REWARD
    guardrails: tuple[ExperimentGuardrail, ...] = ()
    covariate: Covariate | None = None
    segment: str | None = None
    difference: float = 0.02
    power: float = 0.8
    margin: float = 0.0
    negligible: float = 0.0
    alpha: float = 0.05
    max_decisions: int | None = None
    look_s: float = 60.0
    auto_stop: bool = True
    unproven: bool = False

    def __post_init__(self) -> None:
        """Refuse what compares nothing, or takes more than there is."""
        _check(
            "",
            self,
            name=0 < len(self.name) <= MAX_NAME and self.name != CANARY,
            layer=len(self.layer) <= MAX_NAME,
            share=0 < self.share <= 1,
            holdout=0 <= self.holdout < 1,
            salt=self.salt is None or 0 < len(self.salt) <= MAX_NAME,
            guardrails=len(self.guardrails) <= MAX_GUARDRAILS,
            difference=math.isfinite(self.difference) and self.difference > 0,
            power=0 < self.power < 1,
            margin=math.isfinite(self.margin) and self.margin >= 0,
            negligible=math.isfinite(self.negligible) and self.negligible >= 0,
            alpha=0 < self.alpha <= 0.5,
            max_decisions=self.max_decisions is None or self.max_decisions >= 1,
            look_s=1 <= self.look_s <= 86_400,
        )
        self._check_variants()

    def _check_variants(self) -> None:
        names = [variant.name for variant in self.variants]
        if not 2 <= len(names) <= MAX_VARIANTS or len(set(names)) < len(names):
            raise SettingError(
                "variants", f"variants {names}: give 2 to {MAX_VARIANTS} that have own names"
            )
        total = math.fsum(variant.share for variant in self.variants)
        if abs(total - 1) > _ROUNDING:
            raise SettingError("variants", f"the variants' shares sum to {total:g}, not to 1")
        metrics = [self.metric, *(one.metric for one in self.guardrails)]
        if len(set(metrics)) < len(metrics):
            raise SettingError("guardrails", f"metrics {metrics}: one comes twice")
        named = [variant.version for variant in self.variants if variant.version is not None]
        if self.aa and named:
            raise SettingError(
                "variants", f"versions {named}: where aa is on, all variants serve the champion"
            )

    @property
    def shares(self) -> dict[str, float]:
        """By variant, the control first."""
        return {variant.name: variant.share for variant in self.variants}


_ADAPTER = TypeAdapter(ExperimentConfig)


def as_json(config: ExperimentConfig) -> dict[str, Any]:
    """Plain form, to be stored."""
    found: dict[str, Any] = _ADAPTER.dump_python(config, mode="json")
    return found


def read_config(row: Mapping[str, Any]) -> ExperimentConfig:
    """What :func:`as_json` wrote, by this release or by a later one."""
    return _ADAPTER.validate_python(dict(row), extra="ignore")


def _check(lead: str, given: object, **good: bool) -> None:
    """Name the first setting that is out of range."""
    for name, is_good in good.items():
        if not is_good:
            path = f"{lead}.{name}" if lead else name
            raise SettingError(path, f"{path} is {getattr(given, name)!r}: out of range")
