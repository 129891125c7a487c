"""Arms that nobody reaches, arms without cards, exploration that is too little."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from controlplane.config import LearnerConfig
from controlplane.lint_subject import Finding, Subject, error, warning
from learners.budgets import BUDGET_PARAMS
from learners.errors import LearnersError
from learners.exploration import Exploration
from learners.features import Feature, Schema
from learners.preferences import mixes
from learners.records import Arm, Card, Context, ContextValue
from learners.scorers.base import Scorer

PROBES = 64
MAX_CONTEXTS = 1_000
LEAST_CHANCE = 1e-3
"""An arm that serves more rarely is never learnt about in time."""
_TOLERANCE = 1e-9
_COST = "cost_usd"
_BY_PRICE = ("always_small", "always_large", "cheapest")
"""Learners for which an arm without prices is a free one."""


def lint_arms(subject: Subject) -> Iterator[Finding]:
    """All rules on arms and on who is chosen."""
    for rule in _RULES:
        yield from rule(subject)


def _pool(subject: Subject) -> Iterator[Finding]:
    if not subject.arms:
        yield error("no-arms", "pool", "the pool has no arm", "put one into the pool")
    if len(subject.arms) == 1:
        yield warning(
            "one-arm",
            "pool",
            f"{subject.arms[0].name} is the only arm: there is nothing to choose",
            "put a second arm into the pool, or call the model itself",
        )
    behind: dict[tuple[str, str], str] = {}
    for arm in subject.arms:
        twin = behind.setdefault((arm.model, arm.endpoint), arm.name)
        if twin != arm.name:
            yield warning(
                "arms-alike",
                f"arms.{arm.name}",
                f"{arm.name} and {twin} are the same model at the same endpoint",
                "retire one of them: they would share the evidence between them",
            )


def _endpoints(subject: Subject) -> Iterator[Finding]:
    for arm in subject.arms:
        if not arm.endpoint:
            yield warning(
                "arm-without-endpoint",
                f"arms.{arm.name}.endpoint",
                f"{arm.name} has no endpoint: /v1/decide may choose it, a chat request never does",
                "give its endpoint, if an edge is to call it",
            )


def _eligible(subject: Subject) -> Iterator[Finding]:
    counts = subject.counts
    if not counts.enough or not counts.eligible:
        return
    for arm in subject.arms:
        if counts.eligible.get(arm.name, 0) == 0:
            yield warning(
                "arm-never-eligible",
                f"arms.{arm.name}",
                f"{arm.name} was eligible for none of the last {counts.decisions:,} decisions",
                "look at what excludes it, or retire it",
            )


def _cards(subject: Subject) -> Iterator[Finding]:
    why = _why_prices_matter(subject)
    for arm in subject.arms:
        blank, free = arm.card == Card(), not price(arm)
        if blank:
            yield (error if why else warning)(
                "arm-without-card",
                f"arms.{arm.name}.card",
                f"{arm.name} has no card" + (f", and {why}: it would count as free" if why else ""),
                "give its prices, and its context_tokens, tags and capabilities where known",
            )
        elif free and why:
            yield warning(
                "arm-costs-nothing",
                f"arms.{arm.name}.card",
                f"the card of {arm.name} has no price, and {why}: it counts as free",
                "give usd_per_mtok_in and usd_per_mtok_out, if it is not",
            )


def _why_prices_matter(subject: Subject) -> str | None:
    if subject.reward is not None and _COST in subject.reward.metrics:
        return f"the reward reads {_COST}"
    for learner in subject.config.learners:
        if learner.name in _BY_PRICE:
            return f"the learner {learner.name} goes by prices"
        if learner.params.get("max_turns") and "max_turns" in BUDGET_PARAMS:
            return f"the budget of the learner {learner.name} is bounded by prices"
    return None


def price(arm: Arm) -> float:
    return arm.card.usd_per_mtok_in + arm.card.usd_per_mtok_out


def _floors(subject: Subject) -> Iterator[Finding]:
    config = subject.config
    scorer = subject.scorer
    if scorer is not None and scorer.exploration.floor < config.floor - _TOLERANCE:
        yield error(
            "exploration-below-floor",
            "floor",
            f"the version explores {scorer.exploration.floor:g} of its traffic evenly, and the "
            f"policy's floor is {config.floor:g}",
            "publish it with the policy's floor, or lower that",
        )
    for place, learner in enumerate(config.learners):
        own = _floor_of(learner)
        if own is not None and own < config.floor - _TOLERANCE:
            yield warning(
                "exploration-below-floor",
                f"learners.{place}.params.floor",
                f"{learner.name} asks for a floor of {own:g} and is served with the policy's "
                f"{config.floor:g}",
                "leave its floor out, or lower the policy's",
            )
    if subject.arms and config.floor / len(subject.arms) < LEAST_CHANCE:
        each = config.floor / len(subject.arms)
        yield warning(
            "exploration-thin",
            "floor",
            f"a floor of {config.floor:g} over {len(subject.arms)} arms serves each with a "
            f"probability of {each:.2g}: once in {1 / each:,.0f} decisions",
            "raise the floor, or have fewer arms",
        )


def _floor_of(learner: LearnerConfig) -> float | None:
    found = learner.params.get("floor")
    return float(found) if isinstance(found, (int, float)) else None


def _chosen(subject: Subject) -> Iterator[Finding]:
    """Arms that the version gives no chance, or none but by exploring."""
    scorer, names = subject.scorer, [arm.name for arm in subject.arms]
    if scorer is None or not names:
        return
    if list(scorer.arms) != names:
        strange = sorted(set(names) ^ set(scorer.arms)) or names
        yield error(
            "version-of-other-arms",
            "arms",
            f"the version is over {list(scorer.arms)}, and the pool over {names}: {strange[0]} is "
            "not the same in both",
            "publish the version for the arms in service",
        )
        return
    try:
        chances, best = _distributions(subject, scorer)
    except LearnersError as problem:
        yield error(
            "version-cannot-choose",
            "features",
            f"the version cannot score a context: {problem}",
            "train it anew, by the features that are declared",
        )
        return
    for place, name in enumerate(names):
        most = float(chances[:, place].max())
        if most <= _TOLERANCE:
            yield error(
                "arm-never-chosen",
                f"arms.{name}",
                f"{name} is never chosen in {len(chances):,} contexts, not even to explore",
                "give the version a floor, or retire the arm",
            )
        elif len(names) > 1 and not best[:, place].any():
            yield warning(
                "arm-by-exploration-only",
                f"arms.{name}",
                f"{name} is best in none of {len(chances):,} contexts: it serves by exploration "
                f"only, with a probability of {most:.2g} at most",
                "nothing, if it is new; else retire it and save what exploring it costs",
            )


def _distributions(
    subject: Subject, scorer: Scorer
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Probabilities ``(n, K)``, and where an arm is the greedy choice, ``(n, K)``."""
    schema = subject.schema or subject.config.schema
    contexts = [*list(subject.contexts)[:MAX_CONTEXTS], *probes(schema)]
    x = schema.encode_all(contexts)
    mix = mixes(contexts, scorer)
    every = np.ones((len(x), len(scorer.arms)), dtype=np.bool_)
    chances = scorer.distribution(x, every, mix)
    plain = Exploration("votes" if scorer.exploration.kind == "votes" else "greedy")
    greedy = scorer.explored(plain).distribution(x, every, mix)
    return chances, greedy > _TOLERANCE


def probes(schema: Schema, count: int = PROBES) -> list[Context]:
    """Contexts that the schema alone decides: its categories' values in turn, and usual numbers."""
    random = np.random.default_rng(0)
    return [
        {feature.name: _value(feature, random, number) for feature in schema.features}
        for number in range(count)
    ]


def _value(feature: Feature, random: np.random.Generator, number: int) -> ContextValue:
    if feature.kind == "category":
        return feature.values[number % len(feature.values)] if feature.values else ""
    if feature.kind == "flag":
        return bool(random.random() < 0.5)
    if feature.kind == "vector":
        vector = random.normal(size=feature.size)
        return [float(one) for one in vector / np.linalg.norm(vector)]
    return float(feature.mean + feature.scale * random.normal())


_RULES: Sequence[Callable[[Subject], Iterator[Finding]]] = (
    _pool, _endpoints, _eligible, _cards, _floors, _chosen,
)  # fmt: skip
