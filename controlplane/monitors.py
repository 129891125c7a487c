"""What a policy declares of its monitors: how each looks, and what is done when one alarms.

The section ``monitors`` of a policy's configuration. :func:`look` is pure: whoever calls it keeps
the states, stores the findings and carries out their reactions.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from controlplane.errors import InvalidError, SettingError, check_ranges
from learners import monitors
from learners.monitors import Finding, Settings, State
from learners.summaries import LEAST
from learners.windows import Batch, Bounds

Reaction = Literal["freeze", "widen", "revert", "none"]

MAX_ROWS = 1_000_000
MAX_SECONDS = 90 * 86_400.0
_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class MonitorConfig:
    """One monitor.

    Attributes:
        enabled: whether it looks at all.
        reaction: what an alarm does; every finding is logged, whatever is declared here.
        reference: decisions that it takes for usual.
        window: decisions of each comparison with them.
        sigmas: standard errors beyond which a window is out of bounds; all that one monitor
            compares at once shares the chance.
        divergence: of distributions: what is no difference, however sure.
        patience: windows in a row, out of bounds on the same side, that are an alarm.
        detectors: whether rewards are watched decision by decision too.
    """

    __pydantic_config__ = _STRICT

    enabled: bool = True
    reaction: Reaction = "none"
    reference: int = 2_000
    window: int = 500
    sigmas: float = 3.0
    divergence: float = 0.1
    patience: int = 2
    detectors: bool = True

    def __post_init__(self) -> None:
        """Refuse windows of nothing, and bounds that everything or nothing breaks."""
        check_ranges(
            "monitors",
            self,
            reference=(LEAST, MAX_ROWS),
            window=(LEAST, MAX_ROWS),
            sigmas=(1, 8),
            divergence=(0, 10),
            patience=(1, 100),
        )

    @property
    def settings(self) -> Settings:
        """As the monitor itself reads them."""
        return Settings(
            reference=self.reference,
            window=self.window,
            patience=self.patience,
            bounds=Bounds(self.sigmas, self.divergence),
            detectors=self.detectors,
        )


@dataclass(frozen=True)
class MonitorsConfig:
    """All monitors of a policy, and how far their reactions go.

    Attributes:
        reward: the mean reward.
        arm_reward: each arm's mean reward.
        context: the features' distributions.
        action_mix: which arms serve.
        feedback: how often feedback comes, and how late.
        propensity: whether arms are served as often as the logged probabilities say.
        feedback_within_s: seconds after a decision at which ``feedback`` counts whether it was
            answered, where its reward waits for longer.
        widen_to: share of the traffic that explores evenly after ``widen``.
        hold_s: seconds for which ``freeze`` and ``widen`` stand.
    """

    __pydantic_config__ = _STRICT

    reward: MonitorConfig = field(default_factory=MonitorConfig)
    arm_reward: MonitorConfig = field(default_factory=MonitorConfig)
    context: MonitorConfig = field(default_factory=MonitorConfig)
    action_mix: MonitorConfig = field(default_factory=MonitorConfig)
    feedback: MonitorConfig = field(default_factory=MonitorConfig)
    propensity: MonitorConfig = field(default_factory=MonitorConfig)
    feedback_within_s: float = 600.0
    widen_to: float = 0.3
    hold_s: float = 86_400.0

    def __post_init__(self) -> None:
        """Refuse what would widen to nothing, or hold for ever."""
        check_ranges(
            "monitors",
            self,
            widen_to=(0.001, 1),
            feedback_within_s=(1, MAX_SECONDS),
            hold_s=(0, MAX_SECONDS),
        )

    @property
    def each(self) -> dict[str, MonitorConfig]:
        """The monitors by name."""
        return {name: getattr(self, name) for name in monitors.NAMES}


@dataclass(frozen=True, slots=True)
class Found:
    """A finding with what is to be done about it: nothing, for a warning."""

    finding: Finding
    reaction: Reaction

    def as_json(self) -> dict[str, Any]:
        """Plain form."""
        return {**self.finding.as_json(), "reaction": self.reaction}


_ADAPTER = TypeAdapter(MonitorsConfig)


def as_json(config: MonitorsConfig) -> dict[str, Any]:
    """Plain form for a table or an API answer."""
    plain: dict[str, Any] = _ADAPTER.dump_python(config, mode="json")
    return plain


def from_json(row: Mapping[str, Any]) -> MonitorsConfig:
    """The section that a person wrote.

    Raises:
        InvalidError: Naming the first field at fault; a name that is not known is one.
    """
    try:
        return _ADAPTER.validate_python(dict(row))
    except ValidationError as error:
        first = error.errors()[0]
        found = first.get("ctx", {}).get("error")
        place = ".".join(("monitors", *map(str, first["loc"])))
        if isinstance(found, SettingError):
            field_name = found.field.rpartition(".")[2]
            place = place if place.endswith(f".{field_name}") else f"{place}.{field_name}"
            raise InvalidError(place, f"{place}: {found}") from error
        raise InvalidError(place, f"{place}: {first['msg']}") from error


def look(
    config: MonitorsConfig, window_stats: Batch, states: Mapping[str, State]
) -> tuple[dict[str, State], list[Found]]:
    """Have every monitor take the next decisions.

    Args:
        config: what the policy declares.
        window_stats: the decisions since the last look, in their order, once each.
        states: what the last look gave; what is missing begins anew. Leave out those that a
            change of ours explains: ``action_mix`` where another version serves, ``reward`` and
            ``arm_reward`` where the reward was declared anew.

    Returns:
        The states to keep, and what was found. A monitor that is switched off keeps none.
    """
    kept: dict[str, State] = {}
    found: list[Found] = []
    for name, one in config.each.items():
        if not one.enabled:
            continue
        before = states.get(name) or monitors.start()
        kept[name], seen = monitors.update(name, before, window_stats, one.settings)
        found += [
            Found(each, one.reaction if each.severity == "alarm" else "none") for each in seen
        ]
    return kept, found
