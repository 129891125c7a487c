"""A synthetic world: arms with a skill per domain, whose luck hangs on the seed and the query."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from controlplane.simulation.conditions import check_drifts, condition_of, failure_of
from controlplane.simulation.contract import (
    START,
    Answer,
    Drift,
    Moment,
    Query,
    WorldError,
    check,
    check_names,
    known,
)
from controlplane.simulation.grading import tokens_of
from controlplane.simulation.luck import luck, normal, unit
from controlplane.simulation.prompts import VOCABULARIES, domain_of, key_of, prompt

MAX_LATENCY_S = 3_600.0
MEAN_OUTPUT_TOKENS, LENGTH_SPREAD, LATENCY_SPREAD = 240, 0.35, 0.20
_MAX_OUTPUT_TOKENS = 2_000
_QUERY_SPREAD, _ANSWER_SPREAD = 0.06, 0.09


@dataclass(frozen=True, slots=True)
class SimulatedArm:
    """One model of the pool: ``skill`` is its mean score in each domain."""

    name: str
    skill: Mapping[str, float]
    usd_per_mtok_in: float
    usd_per_mtok_out: float
    latency_s: float
    tokens_per_s: float
    failure_rate: float = 0.0

    def __post_init__(self) -> None:
        """Refuse numbers that no model has."""
        if not self.skill:
            raise WorldError(f"arm {self.name}: skill is empty: give one for each domain")
        for domain, skill in self.skill.items():
            check(f"arm {self.name}: skill in {domain}", skill, 0.0, 1.0)
        check(f"arm {self.name}: failure_rate", self.failure_rate, 0.0, 1.0)
        check(f"arm {self.name}: latency_s", self.latency_s, 0.0, MAX_LATENCY_S)
        check(f"arm {self.name}: tokens_per_s", self.tokens_per_s, 1e-3, 1e9)
        for price in (self.usd_per_mtok_in, self.usd_per_mtok_out):
            check(f"arm {self.name}: price per million tokens", price, 0.0, 1e6)


@dataclass(frozen=True)
class World:
    """A score is the skill, plus the query's ease (shared by all arms), plus the arm's own luck.

    It is kept within 0 and 1. A prompt of no known domain meets the mean of an arm's skills.
    """

    domains: tuple[str, ...]
    arms: tuple[SimulatedArm, ...]
    drifts: tuple[Drift, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse names that do not fit together."""
        unknown = set(self.domains) - set(VOCABULARIES)
        if unknown or not self.domains:
            raise WorldError(f"domains {sorted(unknown)}: choose some of {sorted(VOCABULARIES)}")
        check_names(self.arm_names)
        for arm in self.arms:
            lacking = set(self.domains) - set(arm.skill)
            if lacking:
                raise WorldError(f"arm {arm.name}: no skill for {sorted(lacking)}: add them")
        check_drifts(self.drifts, self.arm_names, self.domains)

    @cached_property
    def arm_names(self) -> tuple[str, ...]:
        """The arms' names, in order."""
        return tuple(arm.name for arm in self.arms)

    @cached_property
    def _by_name(self) -> dict[str, SimulatedArm]:
        return {arm.name: arm for arm in self.arms}

    def prompts(self, count: int, rng: np.random.Generator) -> Iterator[Query]:
        """Draw queries, every domain as likely."""
        for _ in range(count):
            domain = self.domains[int(rng.integers(len(self.domains)))]
            text = prompt(domain, rng)
            yield Query(key_of(text), domain, text)

    def answer(
        self,
        query_key: str,
        arm: str,
        prompt: str,
        *,
        t: Moment = START,
        max_tokens: int | None = None,
    ) -> Answer:
        """What the arm answers to the prompt at that moment.

        Raises:
            WorldError: There is no such arm.
        """
        model, condition = known(self._by_name, arm), condition_of(self.drifts, arm, t)
        own, length, wait, chance = luck(f"{self.seed}|{query_key}|{arm}")
        inputs = tokens_of(prompt)
        pace = condition.latency_factor * math.exp(LATENCY_SPREAD * normal(wait))
        first_s = model.latency_s * pace
        rate = condition.failure_rate
        status = failure_of(chance, model.failure_rate if rate is None else rate)
        if status is not None:
            return Answer(0.0, 0.0, inputs, 0, first_s, first_s, status)
        found = domain_of(prompt)
        met = (found,) if found in self.domains else self.domains
        skill = sum(model.skill[name] + condition.shift_in(name) for name in met) / len(met)
        ease = normal(luck(f"{self.seed}|{query_key}")[0])
        wished = made_up_tokens(length)
        outputs = wished if max_tokens is None else min(wished, max_tokens)
        return Answer(
            score=unit(skill + _QUERY_SPREAD * ease + _ANSWER_SPREAD * normal(own)),
            cost_usd=(inputs * model.usd_per_mtok_in + outputs * model.usd_per_mtok_out) / 1e6,
            input_tokens=inputs,
            output_tokens=outputs,
            latency_s=first_s + outputs * pace / model.tokens_per_s,
            first_token_s=first_s,
            cut=outputs < wished,
        )

    def with_drifts(self, drifts: tuple[Drift, ...]) -> "World":
        """The same world with these drifts in place of its own."""
        return replace(self, drifts=drifts)

    def only(self, names: tuple[str, ...]) -> "World":
        """The same world with these arms alone; the drifts of the others go with them."""
        arms = tuple(known(self._by_name, name) for name in names)
        return replace(self, arms=arms, drifts=tuple(d for d in self.drifts if d.arm in names))

    def card(self, arm: str) -> dict[str, object]:
        """What is known of an arm, as plain values."""
        model = known(self._by_name, arm)
        return {
            "skill": dict(model.skill),
            "usd_per_mtok_in": model.usd_per_mtok_in,
            "usd_per_mtok_out": model.usd_per_mtok_out,
            "latency_s": model.latency_s,
            "tokens_per_s": model.tokens_per_s,
            "failure_rate": model.failure_rate,
        }


def made_up_tokens(uniform: float) -> int:
    """The length of an answer, log-normal, from an even number."""
    wished = round(MEAN_OUTPUT_TOKENS * math.exp(LENGTH_SPREAD * normal(uniform)))
    return min(_MAX_OUTPUT_TOKENS, max(1, wished))


def default_world(seed: int = 0, drifts: tuple[Drift, ...] = ()) -> World:
    """Five arms, each the best choice in one domain: it pays to know which."""
    domains = ("code", "maths", "law", "writing", "support")

    def arm(name: str, skills: tuple[float, ...], *rest: float) -> SimulatedArm:
        return SimulatedArm(name, dict(zip(domains, skills, strict=True)), *rest)

    arms = (
        arm("small", (0.34, 0.28, 0.40, 0.66, 0.87), 0.10, 0.40, 0.15, 160.0, 0.002),
        arm("medium", (0.57, 0.52, 0.62, 0.84, 0.84), 0.50, 1.50, 0.35, 90.0, 0.003),
        arm("large", (0.82, 0.78, 0.94, 0.86, 0.88), 5.00, 15.0, 0.90, 45.0, 0.005),
        arm("coder", (0.88, 0.46, 0.30, 0.38, 0.46), 0.30, 0.90, 0.30, 110.0, 0.004),
        arm("maths", (0.46, 0.88, 0.28, 0.34, 0.40), 0.30, 0.90, 0.40, 100.0, 0.004),
    )
    return World(domains, arms, drifts, seed)
