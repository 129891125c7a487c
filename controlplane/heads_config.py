"""What a policy declares of its heads: what each tells apart, from which labels, how strictly."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ConfigDict

from controlplane.errors import InvalidError, SettingError
from feedback.metrics import Metric
from kernels.signals import prototypes
from kernels.signals.text import SIGNAL_SCHEMA, TERMS
from learners.errors import HeadError
from learners.features import Feature, Schema
from learners.head_bank import HEAD_NAME, MAX_GUARDS, MAX_HEADS, MAX_TAG
from learners.heads import MAX_CLASSES, HeadKind, check_classes
from learners.records import MAX_NAME

NO, YES = "no", "yes"
"""The classes of a binary head that names none: of a boolean label."""
TAKEN = frozenset(
    {*(row["name"] for row in SIGNAL_SCHEMA), "language", "personal", "embedding", "tiers"}
    | {"reask", "ood", "grams", "static", "both", "joint", "suspicion"}
)
"""Names under which an edge's own signals stand in a context."""
NUL = "\x00"
"""No column of a table holds it."""
UNLOGGED = "grams"
"""A vector that no log holds, as it is too long: nothing can be learnt from it."""
MAX_LABELS = 100_000
MAX_SIZE = 1_024
MAX_CELLS = 20_000_000
"""Labels × length of the vector that a training may hold in memory: 160 MB."""
_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class WeakSufficesConfig:
    """A label from the log: whether an arm's reward is high enough where it served.

    Attributes:
        arm: the weak arm.
        at_least: reward from which on it suffices.
    """

    __pydantic_config__ = _STRICT

    arm: str
    at_least: float

    def __post_init__(self) -> None:
        """Refuse a threshold that is no number."""
        if not math.isfinite(self.at_least):
            raise SettingError(
                "heads.weak_suffices",
                f"heads: weak_suffices.at_least is {self.at_least}: give a finite reward",
            )


@dataclass(frozen=True)
class HeadConfig:
    """One head.

    Attributes:
        name: what its answers stand under in a context.
        metric: the declared boolean or category metric whose feedback labels decisions.
        weak_suffices: the label, where no metric is named.
        kind: softmax (one of several classes), binary (is it so?) or ood (is it unlike all known?).
        classes: categories of the metric, in any order; of a binary head the second is what it
            looks for; of an ood head those that are known, any other category being unknown.
        feature: the vector of the context that it reads.
        size: that vector's length.
        parent: a binary head, without whose finding this one is not asked.
        threshold: chance of the second class from which on a binary or ood head says it is so.
        min_labels: labels of each class that training needs; judging needs a quarter as many.
        share: part of the labels, the newest, that judges.
        growth: of the labels from one training to the next, as a factor; at most 1,000 more where
            it learns on.
        max_labels: the newest labels that a training reads.
        margin: how much less log-loss than what serves, in nats.
        alpha: chance of serving a version that is no better, over all looks at what serves.
        auto_publish: whether a version that passed serves at once; otherwise it waits.
        start: what serves before there are labels: ``prototypes`` of what a turn says of the answer
            before it, or nothing.
    """

    __pydantic_config__ = _STRICT

    name: str
    metric: str | None = None
    weak_suffices: WeakSufficesConfig | None = None
    kind: HeadKind = "softmax"
    classes: tuple[str, ...] = ()
    feature: str = "terms"
    size: int = TERMS
    parent: str | None = None
    threshold: float = 0.5
    min_labels: int = 20
    share: float = 0.3
    growth: float = 1.25
    max_labels: int = 20_000
    margin: float = 0.01
    alpha: float = 0.05
    auto_publish: bool = True
    start: Literal["prototypes"] | None = None

    def __post_init__(self) -> None:
        """Refuse names, labels and classes that no head could have, and numbers out of range."""
        if not HEAD_NAME.fullmatch(self.name) or self.name in TAKEN:
            raise SettingError(
                "heads.name",
                f"heads: name {self.name!r}: give 1 to 64 small letters, digits and _, a letter "
                f"first, and none of {sorted(TAKEN)}",
            )
        if not 0 < len(self.feature) <= MAX_NAME or NUL in self.feature:
            remedy = f"give 1 to {MAX_NAME} characters, none of them NUL"
            raise self._wrong("feature", self.feature, remedy)
        if self.feature == UNLOGGED:
            raise self._wrong(
                "feature",
                self.feature,
                "an edge never logs it, so no head learns from it: give 'terms', 'static', "
                "'embedding', 'both' or 'joint', or give a vector of your own another name",
            )
        self._check_label()
        self._check_numbers()
        self._check_start()

    def _check_label(self) -> None:
        if (self.metric is None) == (self.weak_suffices is None):
            raise self._wrong("metric", self.metric, "give a metric or weak_suffices, one of both")
        if self.weak_suffices is not None and self.kind != "binary":
            raise self._wrong("kind", self.kind, "weak_suffices is answered yes or no: give binary")
        if any(NUL in name for name in self.classes):
            raise self._wrong("classes", list(self.classes), "give names without NUL")
        if self.kind == "ood":
            if not 1 <= len(set(self.classes)) == len(self.classes) <= MAX_CLASSES:
                remedy = f"name the categories that are known, 1 to {MAX_CLASSES}, each once"
                raise self._wrong("classes", list(self.classes), remedy)
            return
        try:
            check_classes(self.kind, self.names)
        except HeadError as error:
            raise self._wrong("classes", list(self.classes), str(error)) from error

    def _check_numbers(self) -> None:
        good = {
            "size": 1 <= self.size <= MAX_SIZE,
            "threshold": 0 < self.threshold < 1,
            "min_labels": 4 <= self.min_labels <= 10_000,
            "share": 0.1 <= self.share <= 0.9,
            "growth": 1.01 <= self.growth <= 10,
            "max_labels": 100 <= self.max_labels <= MAX_LABELS,
            "margin": 0 <= self.margin < math.inf,
            "alpha": 0 < self.alpha <= 0.5,
        }
        for name, kept in good.items():
            if not kept:
                raise self._wrong(name, getattr(self, name), "out of range")
        if self.max_labels * self.size > MAX_CELLS:
            raise self._wrong(
                "max_labels",
                self.max_labels,
                f"times {self.size} numbers exceeds {MAX_CELLS:,}: give at most "
                f"{MAX_CELLS // self.size:,}",
            )

        if self.first_labels > self.max_labels:
            raise self._wrong(
                "max_labels",
                self.max_labels,
                f"it never trains, as {self.min_labels} labels of each class take "
                f"{self.first_labels:,}: give at least that many, or lower `min_labels` or `share`",
            )

    def _check_start(self) -> None:
        """Prototypes are of certain classes, and of one vector."""
        if self.start is None:
            return
        known, width = sorted(prototypes.FEEDBACK), prototypes.shipped().shape[1]
        reads = (self.kind, self.feature, self.size)
        if sorted(self.classes) != known or reads != ("softmax", prototypes.FEATURE, width):
            raise self._wrong(
                "start",
                self.start,
                f"it is of the classes {known}, kind softmax, feature {prototypes.FEATURE!r} and "
                f"size {width}: declare these, or leave `start` out",
            )

    def _wrong(self, field: str, value: object, remedy: str) -> SettingError:
        return SettingError(
            f"heads.{field}", f"head {self.name!r}: {field} is {value!r:.80}: {remedy}"
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The classes, with those that a binary head has where none are named."""
        return self.classes or ((NO, YES) if self.kind == "binary" else ())

    @property
    def first_labels(self) -> int:
        """Labels that the first training waits for."""
        classes = 1 if self.kind == "ood" else len(self.names)
        return math.ceil(classes * self.min_labels / (1 - self.share))

    @property
    def identity(self) -> dict[str, Any]:
        """What a version stands on: with another of these it is another head."""
        weak = self.weak_suffices
        return {
            "kind": self.kind,
            "classes": list(self.names),
            "feature": self.feature,
            "size": self.size,
            "metric": self.metric,
            "weak_suffices": None if weak is None else [weak.arm, weak.at_least],
        }

    @property
    def values(self) -> tuple[str, ...]:
        """Names of a context under which its answers stand, all of them."""
        if self.kind == "ood":
            return (f"ood.{self.name}",)
        return (self.name, *(f"{self.name}.{one}" for one in self.names))


@dataclass(frozen=True)
class GuardConfig:
    """Where a head is sure enough, only arms with a tag may serve.

    Attributes:
        head: a binary or ood head of the policy.
        at_least: chance of its second class from which on the guard holds.
        tag: of the arms' cards.
    """

    __pydantic_config__ = _STRICT

    head: str
    at_least: float
    tag: str

    def __post_init__(self) -> None:
        """Refuse what is no chance and no tag."""
        if not 0 < self.at_least <= 1:
            raise SettingError(
                "guards.at_least",
                f"guard of head {self.head!r}: at_least is {self.at_least}: give more than 0, "
                "at most 1",
            )
        if not 1 <= len(self.tag) <= MAX_TAG:
            raise SettingError(
                "guards.tag",
                f"guard of head {self.head!r}: give a tag of 1 to {MAX_TAG} characters",
            )


def check(heads: Sequence[HeadConfig], guards: Sequence[GuardConfig], schema: Schema) -> None:
    """Refuse heads, guards and features that do not go together.

    Raises:
        SettingError: Naming the field at fault.
    """
    names = [head.name for head in heads]
    if len(set(names)) != len(names) or len(names) > MAX_HEADS:
        raise SettingError("heads", f"heads {names}: give each name once, at most {MAX_HEADS}")
    known = {head.name: head for head in heads}
    for head in heads:
        _check_parent(head, known)
    sizes = {feature.name: feature.size for feature in schema.features if feature.kind == "vector"}
    for head in heads:
        if sizes.setdefault(head.feature, head.size) != head.size:
            raise SettingError(
                "heads.size",
                f"head {head.name!r}: size is {head.size}, and {head.feature!r} has "
                f"{sizes[head.feature]} numbers elsewhere in this policy",
            )
    for feature in schema.features:
        _check_feature(feature, known)
    _check_guards(guards, known)


def _check_parent(head: HeadConfig, known: Mapping[str, HeadConfig]) -> None:
    if head.parent is None:
        return
    parent = known.get(head.parent)
    asked = parent is not None and parent.kind == "binary" and parent.parent is None
    if not asked or parent is head or head.kind == "ood":
        raise SettingError(
            "heads.parent",
            f"head {head.name!r}: parent is {head.parent!r}: give a binary head of this policy "
            "that has no parent, and an ood head none",
        )


def _check_feature(feature: Feature, known: Mapping[str, HeadConfig]) -> None:
    """A feature under a head's name must be one that the head writes, in its form."""
    name, _, rest = feature.name.partition(".")
    head = known.get(rest if name == "ood" else name)
    if head is None:
        return
    if feature.name not in head.values:
        raise SettingError(
            "features",
            f"feature {feature.name!r}: head {head.name!r} gives {list(head.values)[:8]}",
        )
    wanted = "category" if feature.name == head.name else "number"
    if feature.kind != wanted or not set(feature.values) <= set(head.names):
        raise SettingError(
            "features",
            f"feature {feature.name!r} is of head {head.name!r}: give it kind {wanted}"
            + (f" with values of {list(head.names)[:8]}" if wanted == "category" else ""),
        )


def _check_guards(guards: Sequence[GuardConfig], known: Mapping[str, HeadConfig]) -> None:
    if len(guards) > MAX_GUARDS:
        raise SettingError("guards", f"{len(guards)} guards: give at most {MAX_GUARDS}")
    for guard in guards:
        if guard.head not in known or known[guard.head].kind == "softmax":
            fit = [name for name, head in known.items() if head.kind != "softmax"]
            raise SettingError(
                "guards.head",
                f"guard of head {guard.head!r}: give a binary or ood head of this policy: {fit}",
            )


def check_labels(
    heads: Sequence[HeadConfig],
    guards: Sequence[GuardConfig],
    metrics: Mapping[str, Metric],
    arms: Sequence[Mapping[str, Any]],
) -> None:
    """Refuse labels that nobody can give, and guards that would leave no arm.

    Args:
        heads: of a policy.
        guards: of the same.
        metrics: the project's, by name.
        arms: of the policy's pool, in service, as stored.

    Raises:
        InvalidError: Naming the field at fault.
    """
    for head in heads:
        if head.metric is not None:
            _check_metric(head, head.metric, metrics.get(head.metric))
        elif head.weak_suffices is not None:
            names = [arm["name"] for arm in arms]
            if head.weak_suffices.arm not in names:
                raise InvalidError(
                    "heads.weak_suffices",
                    f"head {head.name!r}: weak_suffices.arm {head.weak_suffices.arm!r} is none "
                    f"of {names}",
                )
    tags = {tag for arm in arms for tag in arm["card"]["tags"]}
    for guard in guards:
        if guard.tag not in tags:
            raise InvalidError(
                "guards.tag",
                f"guard of head {guard.head!r}: no arm in service has the tag {guard.tag!r}: give "
                f"one of {sorted(tags)}, or PUT the arm with it first",
            )


def _check_metric(head: HeadConfig, name: str, metric: Metric | None) -> None:
    if metric is None:
        raise InvalidError(
            "heads.metric",
            f"head {head.name!r}: metric {name!r} is not declared: PUT /v1/metrics/{name}",
        )
    if metric.type not in {"boolean", "category"} or metric.level != "decision":
        raise InvalidError(
            "heads.metric",
            f"head {head.name!r}: metric {name!r} is a {metric.type} of {metric.level}s: give a "
            "boolean or a category of decisions",
        )
    if metric.type == "boolean":
        if head.kind != "binary":
            raise InvalidError(
                "heads.kind", f"head {head.name!r}: metric {name!r} is a boolean: give kind binary"
            )
        return
    unknown = [one for one in head.names if one not in metric.categories]
    if unknown:
        raise InvalidError(
            "heads.classes",
            f"head {head.name!r}: class {unknown[0]!r} is no category of metric {name!r}: give "
            f"some of {sorted(metric.categories)}",
        )
