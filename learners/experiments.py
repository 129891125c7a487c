"""The verdict on an experiment, which may be asked for at any time, and why it is so.

Each variant is compared with the control (:mod:`learners.contrasts`):

* ``stopped_by_srm``: units are not split as declared; nothing else is looked at.
* ``guardrail_broken``: surely worse than a guardrail's margin allows.
* ``worse``, ``better``: the primary metric's interval is beyond 0, or beyond ``margin``; better
  also needs each guardrail to be shown not to be worse than its margin.
* ``no_difference``: the interval lies within ± ``negligible`` and is not beyond 0 (give a
  ``margin`` as large where a small gain is none), or the planned end was reached.
* ``running``: none of these yet.

Chances of error, over all looks together, are at most 1 − level for any variant to be called
better or worse while it is equal (Bonferroni over variants), and as much again for a guardrail to
be called broken (over variants and guardrails); 0.1 % for the split. That each guardrail has to
hold needs no correction.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from learners.contrasts import (
    SRM_ALARM,
    Difference,
    Sums,
    difference,
    e_benjamini_hochberg,
    holm,
    sample_ratio,
)
from learners.errors import EstimateError
from learners.records import Estimate

Status = Literal[
    "running", "stopped_by_srm", "better", "worse", "no_difference", "guardrail_broken"
]
GuardrailStatus = Literal["holds", "unknown", "broken"]
_RANK: tuple[Status, ...] = (
    "better",
    "running",
    "no_difference",
    "guardrail_broken",
    "worse",
)
"""The experiment's status is the first of these that a variant has."""


@dataclass(frozen=True, slots=True)
class Guardrail:
    """A metric that may get worse by at most ``margin``, in its own unit."""

    metric: str
    margin: float
    higher_is_better: bool = False

    def __post_init__(self) -> None:
        """Refuse a margin of nothing: that something is not worse at all can not be shown."""
        if not (math.isfinite(self.margin) and self.margin > 0):
            raise EstimateError(f"guardrail {self.metric}: margin {self.margin} must be above 0")


@dataclass(frozen=True, slots=True)
class Rules:
    """What was declared before the experiment began.

    Attributes:
        metric: the primary one.
        shares: of the units, by variant; the first is the control.
        planned_rows: rows of control and one variant at which intervals are to be tightest.
        higher_is_better: of the primary metric.
        margin: by how much a variant must be better, in the metric's unit.
        negligible: differences up to here are none; 0 where any counts.
        most_rows: rows of control and one variant at which an open question ends as
            ``no_difference``; infinite for never.
        guardrails: other metrics.
        cuped: use the units' covariate, where the sums have it.
        level: of all looks together.
    """

    metric: str
    shares: Mapping[str, float]
    planned_rows: float
    higher_is_better: bool = True
    margin: float = 0.0
    negligible: float = 0.0
    most_rows: float = math.inf
    guardrails: tuple[Guardrail, ...] = ()
    cuped: bool = False
    level: float = 0.95

    def __post_init__(self) -> None:
        """Refuse what compares nothing."""
        if len(self.shares) < 2:
            raise EstimateError(f"shares {dict(self.shares)}: give a control and a variant")
        if not (math.isfinite(self.planned_rows) and self.planned_rows >= 1):
            raise EstimateError(f"planned_rows {self.planned_rows} must be finite, at least 1")
        if not (0.0 < self.level < 1.0 and self.margin >= 0 and self.negligible >= 0):
            raise EstimateError("level must be in (0, 1), margin and negligible at least 0")

    @property
    def control(self) -> str:
        """The variant that the others are compared with."""
        return next(iter(self.shares))


@dataclass(frozen=True, slots=True)
class Watched:
    """A guardrail of a variant: variant − control, and what it means."""

    guardrail: Guardrail
    status: GuardrailStatus
    difference: Estimate


@dataclass(frozen=True, slots=True)
class Standing:
    """One variant against the control, in the primary metric's unit."""

    variant: str
    status: Status
    difference: Estimate
    explained: float
    guardrails: tuple[Watched, ...]
    sentence: str


@dataclass(frozen=True, slots=True)
class ExperimentVerdict:
    """What is to be stored, number by number.

    Attributes:
        status: of the whole.
        sentence: for people.
        winner: the variant to serve, where one is better.
        split_evidence: largest e-value against the declared split so far: give it to the next look.
        split_p_value: anytime-valid.
        variants: one each but the control; none where the split stopped the verdict.
    """

    status: Status
    sentence: str
    winner: str | None
    split_evidence: float
    split_p_value: float
    variants: tuple[Standing, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Plain numbers; None for infinite ones."""
        return {
            "status": self.status,
            "sentence": self.sentence,
            "winner": self.winner,
            "split_evidence": self.split_evidence,
            "split_p_value": self.split_p_value,
            "variants": [
                {
                    "variant": each.variant,
                    "status": each.status,
                    "sentence": each.sentence,
                    "difference": finite(each.difference),
                    "explained": each.explained,
                    "guardrails": [
                        {
                            "metric": one.guardrail.metric,
                            "margin": one.guardrail.margin,
                            "status": one.status,
                            "difference": finite(one.difference),
                        }
                        for one in each.guardrails
                    ],
                }
                for each in self.variants
            ],
        }


def finite(estimate: Estimate) -> dict[str, Any]:
    """An estimate as JSON takes it: None for what is not finite."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in estimate.as_json().items()
    }


def judge(
    rules: Rules,
    counts: Mapping[str, int],
    metrics: Mapping[str, Mapping[str, Sums]],
    *,
    split_evidence: float = 0.0,
) -> ExperimentVerdict:
    """The verdict now.

    Args:
        rules: as declared before the first unit.
        counts: units drawn to each variant, also those without any row.
        metrics: by metric, then by variant: the sums so far.
        split_evidence: of the last verdict, so that an alarm stays one.

    Raises:
        EstimateError: A variant or a metric is missing.
    """
    found = max(split_evidence, sample_ratio(counts, rules.shares))
    p_value = min(1.0, 1.0 / found)
    if p_value < SRM_ALARM:
        return ExperimentVerdict(
            "stopped_by_srm", _split_sentence(rules, counts, p_value), None, found, p_value
        )
    variants = tuple(
        _standing(rules, variant, metrics) for variant in rules.shares if variant != rules.control
    )
    best = min(variants, key=lambda each: (_RANK.index(each.status), -_gain(rules, each)))
    return ExperimentVerdict(
        best.status,
        " ".join(each.sentence for each in variants),
        best.variant if best.status == "better" else None,
        found,
        p_value,
        variants,
    )


def _gain(rules: Rules, standing: Standing) -> float:
    """The surest gain of a variant."""
    shown = standing.difference
    return shown.low if rules.higher_is_better else -shown.high


def _contrast(
    rules: Rules, metrics: Mapping[str, Mapping[str, Sums]], metric: str, variant: str
) -> Difference:
    try:
        by_variant = metrics[metric]
        return difference(by_variant[rules.control], by_variant[variant], cuped=rules.cuped)
    except KeyError as missing:
        raise EstimateError(f"metric {metric}: nothing of {missing}") from None


def _standing(rules: Rules, variant: str, metrics: Mapping[str, Mapping[str, Sums]]) -> Standing:
    error = (1.0 - rules.level) / (len(rules.shares) - 1)
    contrast = _contrast(rules, metrics, rules.metric, variant)
    shown = contrast.interval(planned_rows=rules.planned_rows, level=1.0 - error)
    watched = tuple(
        _watched(rules, one, _contrast(rules, metrics, one.metric, variant), error)
        for one in rules.guardrails
    )
    rows = sum(metrics[rules.metric][each].rows for each in (rules.control, variant))
    status = _status(rules, shown, watched, rows)
    sentence = _sentence(rules, variant, status, shown, watched)
    return Standing(variant, status, shown, contrast.explained, watched, sentence)


def _status(rules: Rules, shown: Estimate, watched: tuple[Watched, ...], rows: int) -> Status:
    low, high = (shown.low, shown.high) if rules.higher_is_better else (-shown.high, -shown.low)
    if any(one.status == "broken" for one in watched):
        return "guardrail_broken"
    if high < 0:
        return "worse"
    if low > rules.margin and all(one.status == "holds" for one in watched):
        return "better"
    if max(-low, high) < rules.negligible:
        return "no_difference"
    if rows >= rules.most_rows and low <= rules.margin:
        return "no_difference"
    return "running"


def _watched(rules: Rules, guardrail: Guardrail, contrast: Difference, error: float) -> Watched:
    """Two one-sided questions: is it surely within the margin, is it surely beyond."""
    sign = 1.0 if guardrail.higher_is_better else -1.0
    good, bad = ("low", "high") if sign > 0 else ("high", "low")
    planned = rules.planned_rows
    holds = contrast.interval(planned_rows=planned, level=1.0 - error, side=good)  # type: ignore[arg-type]
    broken = contrast.interval(
        planned_rows=planned,
        level=1.0 - error / len(rules.guardrails),
        side=bad,  # type: ignore[arg-type]
    )
    worst = holds.low if sign > 0 else -holds.high
    best = broken.high if sign > 0 else -broken.low
    status: GuardrailStatus = "unknown"
    if best < -guardrail.margin:
        status = "broken"
    elif worst > -guardrail.margin:
        status = "holds"
    low, high = (holds.low, broken.high) if sign > 0 else (broken.low, holds.high)
    both = Estimate(
        holds.estimator,
        holds.value,
        low,
        high,
        holds.standard_error,
        holds.n,
        holds.effective_n,
        holds.level,
    )
    return Watched(guardrail, status, both)


def _split_sentence(rules: Rules, counts: Mapping[str, int], p_value: float) -> str:
    total = sum(counts.values())
    parts = ", ".join(
        f"{name} has {counts[name]:,} of {total:,} units ({counts[name] / max(total, 1):.2%}, "
        f"declared {share:.2%})"
        for name, share in rules.shares.items()
    )
    return (
        f"Stopped: {parts} (p = {p_value:.1g}). Who is in which variant is not chance, so no "
        "difference counts: find what drops or adds units."
    )


def _sentence(
    rules: Rules, variant: str, status: Status, shown: Estimate, watched: tuple[Watched, ...]
) -> str:
    gap = f"{rules.metric} {shown.value:+.4g} against {rules.control}"
    if not math.isfinite(shown.low):
        return f"{variant}: too few units yet to say anything."
    gap += f" ({shown.level:.4g} of all looks: {shown.low:+.4g} to {shown.high:+.4g})"
    if status == "guardrail_broken":
        worst = ", ".join(_guard(one) for one in watched if one.status == "broken")
        return f"{variant} breaks a guardrail: {worst}; {gap}."
    if status == "running":
        open_ones = ", ".join(one.guardrail.metric for one in watched if one.status == "unknown")
        more = f"; not yet shown to hold: {open_ones}" if open_ones else ""
        return f"{variant} is undecided: {gap}{more}."
    word = {
        "better": "is better",
        "worse": "is worse",
        "no_difference": "makes no difference that counts",
    }[status]
    return f"{variant} {word}: {gap}."


def _guard(one: Watched) -> str:
    found = one.difference
    end = (
        f"at most {found.high:+.4g}"
        if one.guardrail.higher_is_better
        else f"at least {found.low:+.4g}"
    )
    return f"{one.guardrail.metric} {found.value:+.4g} ({end}, allowed {one.guardrail.margin:.4g})"


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment's difference.

    Attributes:
        name: of the segment.
        difference: its interval; all segments' hold together at the level (Bonferroni).
        e_value: against no difference.
        p_value: anytime-valid.
        discovered: by e-Benjamini-Hochberg: of all discovered, at most 1 − level are none.
        certain: by Holm: the chance that any certain one is none is at most 1 − level.
    """

    name: str
    difference: Estimate
    e_value: float
    p_value: float
    discovered: bool
    certain: bool


def by_segment(
    rules: Rules, control: Mapping[str, Sums], variant: Mapping[str, Sums]
) -> list[Segment]:
    """The primary metric's difference in each segment that both have, in their order.

    Args:
        rules: planned_rows is spread evenly over the segments.
        control: sums by segment.
        variant: sums by segment.
    """
    names = [name for name in control if name in variant]
    if not names:
        return []
    alpha, found = 1.0 - rules.level, []
    planned = max(rules.planned_rows / len(names), 1.0)
    for name in names:
        contrast = difference(control[name], variant[name], cuped=rules.cuped)
        shown = contrast.interval(planned_rows=planned, level=1.0 - alpha / len(names))
        found.append((shown, contrast.e_value(planned_rows=planned, level=rules.level)))
    e_values = [e_value for _, e_value in found]
    p_values = [min(1.0, 1.0 / e_value) for e_value in e_values]
    discovered, certain = e_benjamini_hochberg(e_values, alpha), holm(p_values, alpha)
    return [
        Segment(name, shown, e_value, p_value, is_found, is_certain)
        for name, (shown, e_value), p_value, is_found, is_certain in zip(
            names, found, p_values, discovered, certain, strict=True
        )
    ]
