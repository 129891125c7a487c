"""A policy's configuration: which learners, how much exploration, how strict the gate."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, TypeAdapter, ValidationError

from controlplane import heads_config
from controlplane.errors import ABOVE_0, InvalidError, SettingError, check_ranges
from controlplane.heads_config import GuardConfig, HeadConfig
from controlplane.monitors import MonitorsConfig
from controlplane.release_config import ReleaseConfig
from controlplane.revise_config import ReviseConfig
from kernels.signals.text import SIGNAL_SCHEMA
from learners import catalogue
from learners.contract import Spec
from learners.errors import LearnersError
from learners.features import Schema
from learners.lineup import Dispatch
from learners.priors import TAKES_NONE, Prior
from learners.quality_gate import QualityGate

BASELINE = "best_fixed"
"""Always among the candidates: what cannot beat it is not released."""

MAX_LEARNERS = 8
MAX_SOURCES = 1_000
MAX_CELLS = 100_000_000
"""Rows × columns that a round may hold in memory: 800 MB."""
_SHARES = (
    "max_unjudged",
    "max_unjoined",
    "max_censored",
    "max_unweighed",
    "max_relogged",
    "max_concentration",
    "max_unsupported",
)
"""What a gate bears of a log's faults, each a share from 0 to 1."""
_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class QualityConfig(QualityGate):
    """What a learner is taught by; see there."""

    __pydantic_config__ = _STRICT


def _no_booleans(ratings: object) -> object:
    """Refuse a rating that would else be read as 0 or 1."""
    for arm, rating in ratings.items() if isinstance(ratings, Mapping) else ():
        if isinstance(rating, bool):
            raise SettingError(
                "prior.ratings", f"prior.ratings of {arm!r} is {rating}: give a number"
            )
    return ratings


@dataclass(frozen=True)
class PriorConfig(Prior):
    """What is known of the arms before they have served; see there."""

    __pydantic_config__ = _STRICT

    ratings: Annotated[Mapping[str, float], BeforeValidator(_no_booleans)] = field(
        default_factory=dict
    )

    def __post_init__(self) -> None:
        """Refuse what a prior refuses, by the setting's name."""
        for name, fault in self.faults():
            raise SettingError(f"prior.{name}", f"prior.{fault}")


@dataclass(frozen=True)
class LearnerConfig:
    """A learner of the catalogue with its parameters.

    Attributes:
        name: in the catalogue.
        params: its parameters; what is left out takes its default.
        quality: what its interactions must pass before it learns; None: all teach alike.
    """

    __pydantic_config__ = _STRICT

    name: str
    params: Mapping[str, float | int | str | bool] = field(default_factory=dict)
    quality: QualityConfig | None = None


@dataclass(frozen=True)
class GateConfig:
    """What a candidate must show.

    Attributes:
        min_interactions: interactions in the log before the first round.
        growth: the log's growth from one round to the next, as a factor.
        share: part of the log, the newest, that judges; the older part trains.
        min_judged: judged interactions that a verdict needs.
        min_effective_n: floor of the effective sample size of the importance weights.
        max_unjudged: share of the judging part's decisions that may lack what judges: a reward, a
            propensity, a context of the policy's form. 1 where feedback is rare by nature.
        max_unjoined: share of them whose wait is over and that are not joined yet.
        max_censored: share of the judged rewards that may have been made before their wait was
            over.
        max_unweighed: share of the rewarded decisions without a propensity, which judge nobody
            but by the direct method.
        max_relogged: share of the judging part that others than its commonest logging policy may
            have served. 1: a change is no fault, as each row says its probability.
        max_concentration: share of all weight that the heaviest hundredth of the rows may hold.
        max_unsupported: share of the choices, beside what the floor tries, that may fall on arms
            which the log never served.
        margin: how much better than the champion and the best fixed arm, in units of reward.
        alpha: chance of releasing a version that is no better, over all looks at one champion.
    """

    __pydantic_config__ = _STRICT

    min_interactions: int = 500
    growth: float = 1.5
    share: float = 0.4
    min_judged: int = 200
    min_effective_n: float = 50.0
    max_unjudged: float = 1.0
    max_unjoined: float = 0.05
    max_censored: float = 0.0
    max_unweighed: float = 1.0
    max_relogged: float = 1.0
    max_concentration: float = 0.5
    max_unsupported: float = 0.01
    margin: float = 0.0
    alpha: float = 0.05

    def __post_init__(self) -> None:
        """Refuse what would judge on nothing, or never again."""
        check_ranges(
            "gate",
            self,
            min_interactions=(10, 10_000_000),
            growth=(1.01, 10),
            share=(0.1, 0.9),
            min_judged=(2, math.inf),
            min_effective_n=(1, math.inf),
            margin=(-math.inf, math.inf),
            alpha=(ABOVE_0, 0.5),
            **dict.fromkeys(_SHARES, (0, 1)),
        )


@dataclass(frozen=True)
class SourcesConfig:
    """Whose feedback counts, and for how much; a source is an API key's name.

    Attributes:
        trust: by source, what one of its grades weighs; ``*`` for those that are not named.
        trusted: sources by which the others are corrected.
        max_influence: share of an arm's weight that one source may hold; 1: no cap.
    """

    __pydantic_config__ = _STRICT

    trust: Mapping[str, float] = field(default_factory=dict)
    trusted: tuple[str, ...] = ()
    max_influence: float = 1.0

    def __post_init__(self) -> None:
        """Refuse weights that are no parts of one, and a cap that leaves nothing."""
        bad = [name for name, weight in self.trust.items() if not 0 <= weight <= 1]
        if bad:
            raise SettingError(
                "sources.trust",
                f"sources.trust of {bad[0]!r} is {self.trust[bad[0]]}: give 0 to 1",
            )
        if max(len(self.trust), len(self.trusted)) > MAX_SOURCES:
            raise SettingError("sources", f"sources: at most {MAX_SOURCES} are named")
        if not 0.01 <= self.max_influence <= 1:
            raise SettingError(
                "sources.max_influence",
                f"sources.max_influence is {self.max_influence}: give 0.01 to 1",
            )

    @property
    def plain(self) -> bool:
        """Whether all sources count alike, so that the log stands as it was joined."""
        alike = all(weight == 1 for weight in self.trust.values())
        return alike and not self.trusted and self.max_influence == 1

    def trust_of(self, source: str) -> float:
        """What a grade of a source weighs."""
        return self.trust.get(source, self.trust.get("*", 1.0))


@dataclass(frozen=True)
class ShadowDispatchConfig(Dispatch):
    """How much of the traffic is also sent to a shadow's arm; see there. A share of 0: none."""

    __pydantic_config__ = _STRICT

    def __post_init__(self) -> None:
        """Refuse what is no share, no budget and no bound."""
        for name, good in self.bounds().items():
            if not good:
                raise SettingError(
                    f"shadow_dispatch.{name}",
                    f"shadow_dispatch.{name} is {getattr(self, name)}: out of range",
                )


@dataclass(frozen=True)
class PolicyConfig:
    """How a policy learns.

    Attributes:
        features: rows of a feature schema; by default the signals that the edge reads of a text.
        learners: candidates of each round, beside the best fixed arm.
        prior: ratings of the arms, which the learners start from.
        floor: share of the traffic that explores evenly, whatever the learner says.
        fallback_arm: serves when a bundle has expired; by default the best on average.
        auto_promote: whether a passed verdict publishes; otherwise it waits for a person.
        max_interactions: the newest part of the log that a round reads.
        sources: whose feedback counts, and for how much.
        release: the steps from candidate to champion.
        shadow_dispatch: how many requests an edge also sends to a shadow's arm.
        monitors: what is watched for change, and what is done then.
        revise: whether the champion goes on learning between releases.
        heads: classifiers of the context, which learn from feedback.
        guards: which arms may serve where a head is sure of something.
    """

    __pydantic_config__ = _STRICT

    features: tuple[Mapping[str, Any], ...] = tuple(SIGNAL_SCHEMA)
    learners: tuple[LearnerConfig, ...] = (LearnerConfig("linucb"), LearnerConfig("vw"))
    prior: PriorConfig = field(default_factory=PriorConfig)
    floor: float = 0.1
    fallback_arm: str | None = None
    auto_promote: bool = False
    max_interactions: int = 100_000
    seed: int = 0
    gate: GateConfig = field(default_factory=GateConfig)
    sources: SourcesConfig = field(default_factory=SourcesConfig)
    release: ReleaseConfig = field(default_factory=ReleaseConfig)
    shadow_dispatch: ShadowDispatchConfig = field(default_factory=ShadowDispatchConfig)
    monitors: MonitorsConfig = field(default_factory=MonitorsConfig)
    revise: ReviseConfig = field(default_factory=ReviseConfig)
    heads: tuple[HeadConfig, ...] = ()
    guards: tuple[GuardConfig, ...] = ()

    def __post_init__(self) -> None:
        """Refuse unknown learners, features that cannot be encoded, and no exploration at all."""
        if not 0.001 <= self.floor <= 1:
            raise SettingError(
                "floor",
                f"floor is {self.floor}: give 0.001 to 1; without exploration no later policy "
                "could be judged",
            )
        if not 1 <= len(self.learners) <= MAX_LEARNERS:
            raise SettingError(
                "learners", f"{len(self.learners)} learners: give 1 to {MAX_LEARNERS}"
            )
        if not 100 <= self.max_interactions <= 1_000_000:
            raise SettingError(
                "max_interactions",
                f"max_interactions is {self.max_interactions}: give 100 to 1,000,000",
            )
        names = [learner.name for learner in self.learners]
        unknown = [name for name in names if name not in catalogue.NAMES]
        if unknown or len(set(names)) != len(names):
            raise SettingError(
                "learners", f"learners {names}: give each once, of {list(catalogue.NAMES)}"
            )
        try:
            cells = self.max_interactions * self.schema.dimension
        except LearnersError as error:
            raise SettingError("features", f"features: {error}") from error
        if cells > MAX_CELLS:
            raise SettingError(
                "max_interactions",
                f"max_interactions {self.max_interactions} times {self.schema.dimension} columns "
                f"exceeds {MAX_CELLS:,}: give at most {MAX_CELLS // self.schema.dimension:,}",
            )
        self._check_together()

    def _check_together(self) -> None:
        """Refuse sections that do not go together."""
        if self.max_interactions * self.gate.share < self.gate.min_judged:
            raise SettingError(
                "max_interactions",
                f"max_interactions {self.max_interactions} times gate.share {self.gate.share} is "
                f"fewer than the {self.gate.min_judged} of gate.min_judged: nothing could pass",
            )
        if self.prior and all(learner.name in TAKES_NONE for learner in self.learners):
            raise SettingError(
                "prior.ratings",
                f"prior.ratings: none of {[learner.name for learner in self.learners]} takes a "
                "prior: name another learner, or leave the ratings out",
            )
        if self.revise.every_s > 0 and self.release.watch_decisions == 0:
            raise SettingError(
                "revise.every_s",
                "revise.every_s: a revision is watched as a new champion is: give "
                "release.watch_decisions more than 0",
            )
        heads_config.check(self.heads, self.guards, self.schema)

    @cached_property
    def schema(self) -> Schema:
        """The feature schema that the rows declare."""
        return Schema.from_json(self.features)

    @property
    def segment(self) -> str | None:
        """The feature whose values are the segments in which nobody is to be worse off."""
        harm = self.release.harm
        if harm.feature is not None or harm.segments == 0:
            return harm.feature
        categories = [f.name for f in self.schema.features if f.kind == "category"]
        return "domain" if "domain" in categories else next(iter(categories), None)

    @property
    def candidates(self) -> tuple[LearnerConfig, ...]:
        """What a round trains: the learners, and always the baseline."""
        if BASELINE in [learner.name for learner in self.learners]:
            return self.learners
        return (*self.learners, LearnerConfig(BASELINE))


_ADAPTER = TypeAdapter(PolicyConfig)


def as_json(config: PolicyConfig) -> dict[str, Any]:
    """Plain form for a table or an API answer."""
    plain: dict[str, Any] = _ADAPTER.dump_python(config, mode="json")
    return plain


def from_json(row: Mapping[str, Any]) -> PolicyConfig:
    """The configuration that a person wrote.

    Raises:
        InvalidError: Naming the first field at fault; a name that is not known is one.
    """
    return _read(row, "forbid")


def read_config(row: Mapping[str, Any]) -> PolicyConfig:
    """The configuration that :func:`as_json` wrote, by this release or by a later one.

    Raises:
        InvalidError: It cannot be used.
    """
    return _read(row, "ignore")


def check_learners(config: PolicyConfig, arms: Sequence[str]) -> None:
    """Refuse parameters and sizes that would fail in each round.

    Raises:
        InvalidError: A learner cannot be made for these arms.
    """
    for learner in config.candidates:
        try:
            module = catalogue.load(learner.name)
            module.init(Spec(config.schema, tuple(arms), learner.params, config.seed))
        except LearnersError as error:
            raise InvalidError("learners", f"learners: {learner.name}: {error}") from error


def _read(row: Mapping[str, Any], extra: Literal["forbid", "ignore"]) -> PolicyConfig:
    try:
        return _ADAPTER.validate_python(dict(row), extra=extra)
    except ValidationError as error:
        first = error.errors()[0]
        found = first.get("ctx", {}).get("error")
        if isinstance(found, SettingError):
            raise InvalidError(found.field, str(found)) from error
        place = ".".join(str(part) for part in first["loc"]) or "config"
        raise InvalidError(place, f"{place}: {first['msg']}") from error
