"""Rewards without data, caps and gates that cross each other, names that name nothing."""

from collections.abc import Callable, Iterator, Sequence

from controlplane.lint_arms import price
from controlplane.lint_subject import Finding, Subject, error, warning
from controlplane.specs import spec_of
from feedback.metrics import OUTCOMES
from learners import catalogue
from learners.errors import LearnersError
from learners.rewards import RewardFunction
from learners.terms import RewardGate, Term

FEW = 0.05
"""A share of decisions with a value, below which the rest decides."""
_BOTH_ENDS = ("always_small", "always_large")
_INFINITY = float("inf")


def lint_rewards(subject: Subject) -> Iterator[Finding]:
    """All rules on the reward, its metrics, and what the configuration names."""
    for rule in _RULES:
        yield from rule(subject)


def _declared(subject: Subject) -> Iterator[Finding]:
    reward = subject.reward
    if reward is None:
        yield warning(
            "no-reward",
            "reward",
            "no reward is declared: nothing is joined, so nothing is learnt",
            "declare one by PUT /v1/rewards/{policy}",
        )
        return
    for name in reward.metrics:
        if name in OUTCOMES:
            continue
        metric = subject.metrics.get(name)
        if metric is None:
            yield error(
                "reward-without-metric",
                f"reward.{name}",
                f"the reward reads {name!r}, which is neither an outcome nor a declared metric",
                f"declare it by PUT /v1/metrics/{name}, or take the term out",
            )
        elif metric.type == "comment":
            yield error(
                "reward-of-comments",
                f"reward.{name}",
                f"the reward reads {name!r}, whose values are comments: they have no number",
                "take a boolean, a float or a category",
            )


def _data(subject: Subject) -> Iterator[Finding]:
    """Terms and gates that nothing ever came for."""
    reward, counts = subject.reward, subject.counts
    if reward is None or not counts.enough:
        return
    parts: list[Term | RewardGate] = [*reward.terms, *reward.gates]
    for part in parts:
        of = "term" if isinstance(part, Term) else "gate"
        there = counts.values.get(part.metric, 0)
        if there >= FEW * counts.decisions:
            continue
        told = (
            f"{there:,} of the last {counts.decisions:,} decisions have a value of {part.metric!r}"
        )
        if part.default is None:
            yield error(
                "reward-term-without-data",
                f"reward.{part.metric}",
                f"{told}, and its {of} has no default: the others earn no reward and teach nothing",
                "send that feedback, give the term a default, or take it out",
            )
        else:
            yield warning(
                "reward-term-without-data",
                f"reward.{part.metric}",
                f"{told}: for the others its {of} counts as {part.default:g}, whatever was served",
                "send that feedback, or take the term out",
            )


def _range_of(subject: Subject, metric: str) -> tuple[float, float]:
    """The lowest and the highest value that a metric can have, as far as that is declared."""
    if metric in OUTCOMES:
        return (0.0, 1.0) if metric == "error" else (0.0, _INFINITY)
    declared = subject.metrics.get(metric)
    if declared is None:
        return -_INFINITY, _INFINITY
    low, high = declared.worst(1.0), declared.worst(-1.0)
    return (-_INFINITY if low is None else low, _INFINITY if high is None else high)


def _caps(subject: Subject) -> Iterator[Finding]:
    """Caps of a term that leave it one value only."""
    if subject.reward is None:
        return
    for term in subject.reward.terms:
        low, high = _range_of(subject, term.metric)
        lowest = low if term.cap_low is None else max(low, term.cap_low)
        highest = high if term.cap_high is None else min(high, term.cap_high)
        if lowest >= highest:
            yield error(
                "caps-leave-nothing",
                f"reward.{term.metric}",
                f"the caps of {term.metric!r} ({_shown(term.cap_low)} to {_shown(term.cap_high)}) "
                f"and its range ({low:g} to {high:g}) meet: every value counts alike",
                "move the caps apart, into the metric's range",
            )


def _gates(subject: Subject) -> Iterator[Finding]:
    """Gates that never or always decide, and gates that would decide at once."""
    reward = subject.reward
    if reward is None:
        return
    for place, gate in enumerate(reward.gates):
        of = f"reward.gates.{place}"
        low, high = _range_of(subject, gate.metric)
        earlier = [one for one in reward.gates[:place] if one.metric == gate.metric]
        hiding = [one for one in earlier if one.at_least >= gate.at_least]
        if gate.at_least > high:
            yield error(
                "gate-always-decides",
                of,
                f"no {gate.metric!r} is at least {gate.at_least:g}: the highest is {high:g}, so "
                "this gate decides every reward",
                "lower at_least",
            )
        elif gate.at_least <= low:
            yield warning(
                "gate-never-decides",
                of,
                f"every {gate.metric!r} is at least {gate.at_least:g}: the lowest is {low:g}",
                "raise at_least, or take the gate out",
            )
        elif hiding:
            yield warning(
                "gates-overlap",
                of,
                f"this gate on {gate.metric!r} below {gate.at_least:g} is never asked: one before "
                f"it decides below {hiding[0].at_least:g}",
                "put the lower bound first, or take this gate out",
            )


def _guardrails(subject: Subject) -> Iterator[Finding]:
    """Guardrails that name nothing, or bound the same thing twice."""
    release = subject.config.release
    if not release.stages:
        return
    named: dict[str, str] = {}
    for guardrail in release.guardrails:
        of = f"release.guardrails.{guardrail.name}"
        if guardrail.metric not in OUTCOMES and guardrail.metric not in subject.metrics:
            yield error(
                "guardrail-without-metric",
                of,
                f"{guardrail.metric!r} is neither an outcome nor a declared metric",
                f"declare it by PUT /v1/metrics/{guardrail.metric}, or take the guardrail out",
            )
        elif subject.counts.enough and not subject.counts.values.get(guardrail.metric):
            yield warning(
                "guardrail-without-data",
                of,
                f"none of the last {subject.counts.decisions:,} decisions has a value of "
                f"{guardrail.metric!r}: no stage can show that it is kept",
                "send it, or take the guardrail out",
            )
        twin = named.setdefault(guardrail.metric, guardrail.name)
        if twin != guardrail.name:
            yield warning(
                "guardrails-overlap",
                of,
                f"{guardrail.name} and {twin} bound the same metric: a release has to pass both, "
                "and shares its chance of error with each",
                "keep the one that matters",
            )
        if guardrail.metric == "error" and not guardrail.relative:
            yield from _caps_on_errors(subject, of, guardrail.margin)


def _caps_on_errors(subject: Subject, of: str, margin: float) -> Iterator[Finding]:
    most = subject.config.release.max_error
    if margin >= most:
        yield warning(
            "caps-intersect",
            of,
            f"a rate of errors may be {margin:g} above the champion's, and no version's may exceed "
            f"{most:g}: the guardrail never decides",
            "give a margin below release.max_error",
        )


def _names(subject: Subject) -> Iterator[Finding]:
    """Settings that name an arm, a feature or a source which is not there."""
    config, arms = subject.config, {arm.name for arm in subject.arms}
    if config.fallback_arm is not None and config.fallback_arm not in arms:
        yield error(
            "role-without-arm",
            "fallback_arm",
            f"{config.fallback_arm!r}, which serves when a bundle has expired, is no arm in "
            "service",
            f"give one of {sorted(arms)}, or leave it out",
        )
    wanted = config.release.harm.feature
    segments = {f.name for f in config.schema.features if f.kind in {"category", "flag"}}
    if wanted is not None and wanted not in segments:
        yield error(
            "segment-without-feature",
            "release.harm.feature",
            f"{wanted!r} is no category and no flag of the features",
            f"give one of {sorted(segments)}, or leave it out",
        )
    if subject.counts.enough:
        for source in config.sources.trusted:
            if not subject.counts.sources.get(source):
                yield warning(
                    "source-without-data",
                    "sources.trusted",
                    f"the trusted source {source!r} graded none of the last "
                    f"{subject.counts.decisions:,} decisions: nothing corrects the others",
                    "have it grade some, or take it out",
                )


def _roles(subject: Subject) -> Iterator[Finding]:
    """Roles that reach no model, or the same one."""
    config, arms = subject.config, subject.arms
    names = [learner.name for learner in config.learners]
    ends = [name for name in names if name in _BOTH_ENDS]
    if ends and len(arms) > 1 and len({price(arm) for arm in arms}) == 1:
        yield warning(
            "roles-alike",
            f"learners.{names.index(ends[0])}",
            f"{' and '.join(ends)} go by price, and all arms cost the same: no arm is the small "
            "or the large one",
            "give the arms' prices, or leave these learners out",
        )
    callable_arms = sum(bool(arm.endpoint) for arm in arms)
    if config.shadow_dispatch.share > 0 and callable_arms < 2:
        yield warning(
            "role-without-arm",
            "shadow_dispatch",
            f"{callable_arms} of the arms have an endpoint: there is no other model that a shadow "
            "could have asked",
            "put a second arm with an endpoint into the pool, or set the share to 0",
        )


def _learners(subject: Subject) -> Iterator[Finding]:
    """Learners that could not be made, as each round would find out."""
    if not subject.arms:
        return
    reward = subject.reward if _whole(subject.reward) else None
    for place, learner in enumerate(subject.config.learners):
        try:
            spec = spec_of(learner, subject.config, subject.arms, reward, subject.config.seed)
            catalogue.load(learner.name).init(spec)
        except LearnersError as problem:
            yield error(
                "learner-cannot-be-made",
                f"learners.{place}",
                f"{learner.name}: {problem}",
                "change its parameters, or what they name",
            )


def _whole(reward: RewardFunction | None) -> bool:
    return reward is not None and reward.aligned


def _shown(cap: float | None) -> str:
    return "none" if cap is None else f"{cap:g}"


_RULES: Sequence[Callable[[Subject], Iterator[Finding]]] = (
    _declared, _data, _caps, _gates, _guardrails, _names, _roles, _learners,
)  # fmt: skip
