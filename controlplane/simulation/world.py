"""Two worlds that answer prompts: a synthetic one, and one that replays a table of real outcomes.

A world is a pure function: the same seed, query, arm and moment give the same answer, so what the
other arms would have answered can always be shown beside what was served.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeAlias, TypeVar

import numpy as np

from controlplane.simulation.luck import luck, normal, unit
from controlplane.simulation.prompts import VOCABULARIES, domain_of, key_of, prompt, with_key
from controlplane.simulation.tables import Floats, Table

COST_REF_USD = 0.004
"""A cost that counts as 1 in :func:`reward_of`."""
COST_WEIGHT = 0.2
EVERY_DOMAIN = "*"
"""Stands for all domains where a drift names skills."""

MAX_DRIFTS = 1_000
MAX_LATENCY_S = 3_600.0
CHARACTERS_PER_TOKEN = 4

_QUERY_SPREAD, _ANSWER_SPREAD, _LENGTH_SPREAD, _LATENCY_SPREAD = 0.06, 0.09, 0.35, 0.20
_MEAN_OUTPUT_TOKENS, _MAX_OUTPUT_TOKENS = 240, 2_000
_FIRST_TOKEN_SHARE = 0.25
_TABLE_LATENCY_S = 0.8
_T = TypeVar("_T")
_QUALITY = re.compile(r"\(simulated answer, quality (0\.\d\d|1\.00)\)\s*\Z")


class WorldError(ValueError):
    """A simulated world, or what was asked of it, does not make sense."""


class UnknownQueryError(WorldError):
    """The prompt's key is not a query of the table: end the prompt with ``[query <query_id>]``."""


@dataclass(frozen=True, slots=True)
class Moment:
    """When a request comes: how many came before it, and seconds since the start."""

    request: int = 0
    elapsed_s: float = 0.0


START = Moment()


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
        for domain, skill in self.skill.items():
            _check(f"arm {self.name}: skill in {domain}", skill, 1.0)
        _check(f"arm {self.name}: failure_rate", self.failure_rate, 1.0)
        _check(f"arm {self.name}: latency_s", self.latency_s, MAX_LATENCY_S)
        for price in (self.usd_per_mtok_in, self.usd_per_mtok_out):
            _check(f"arm {self.name}: price per million tokens", price, 1e6)
        if not self.skill:
            raise WorldError(f"arm {self.name}: skill is empty: give one for each domain")
        if not (math.isfinite(self.tokens_per_s) and self.tokens_per_s > 0):
            raise WorldError(f"arm {self.name}: tokens_per_s is {self.tokens_per_s}: give > 0")


@dataclass(frozen=True, slots=True)
class Drift:
    """A lasting change of an arm, from a request or from a second on; give exactly one of the two.

    What is None or left out stays as it was. Of two drifts in force, the later of the list wins.

    Attributes:
        skill: per domain, or for all with ``"*"``: the new mean score. In a world made from a table
            the measured score is multiplied by it, so 1 is as measured.
    """

    arm: str
    at_request: int | None = None
    at_s: float | None = None
    skill: Mapping[str, float] = field(default_factory=dict)
    failure_rate: float | None = None
    latency_s: float | None = None

    def __post_init__(self) -> None:
        """Refuse a drift without a start, or with numbers out of range."""
        if (self.at_request is None) == (self.at_s is None):
            raise WorldError(f"drift of {self.arm}: give at_request or at_s, one of the two")
        for domain, skill in self.skill.items():
            _check(f"drift of {self.arm}: skill in {domain}", skill, 1.0)
        if self.failure_rate is not None:
            _check(f"drift of {self.arm}: failure_rate", self.failure_rate, 1.0)
        if self.latency_s is not None:
            _check(f"drift of {self.arm}: latency_s", self.latency_s, MAX_LATENCY_S)

    def begun(self, t: Moment) -> bool:
        """Whether it is in force."""
        if self.at_request is not None:
            return t.request >= self.at_request
        return self.at_s is not None and t.elapsed_s >= self.at_s

    def skill_in(self, domain: str | None) -> float | None:
        """The new skill in a domain, or None where it stays as it was."""
        return self.skill.get(domain or EVERY_DOMAIN, self.skill.get(EVERY_DOMAIN))


@dataclass(frozen=True, slots=True)
class Answer:
    """What an arm does with a query; ``first_token_s`` is the part of ``latency_s`` before text."""

    score: float
    cost_usd: float
    input_tokens: int
    output_tokens: int
    latency_s: float
    first_token_s: float
    failed: bool = False
    cut: bool = False


@dataclass(frozen=True, slots=True)
class Query:
    """A prompt, with what the world knows about it."""

    key: str
    domain: str
    prompt: str


@dataclass(frozen=True)
class World:
    """A synthetic world: arms with a skill per domain, whose luck hangs on the seed and the query.

    A score is the skill, plus the query's ease (shared by all arms), plus the arm's own luck, kept
    within 0 and 1. A prompt of no known domain meets the mean of an arm's skills.
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
        _check_names(self.arm_names)
        for arm in self.arms:
            lacking = set(self.domains) - set(arm.skill)
            if lacking:
                raise WorldError(f"arm {arm.name}: no skill for {sorted(lacking)}: add them")
        _check_drifts(self.drifts, self.arm_names, self.domains)

    @cached_property
    def arm_names(self) -> tuple[str, ...]:
        """The arms' names, in order."""
        return tuple(arm.name for arm in self.arms)

    @cached_property
    def _by_name(self) -> dict[str, SimulatedArm]:
        return {arm.name: arm for arm in self.arms}

    def prompt(self, domain: str, rng: np.random.Generator) -> str:
        """Draw a prompt of a domain."""
        if domain not in self.domains:
            raise WorldError(f"no domain {domain!r}: there are {list(self.domains)}")
        return prompt(domain, rng)

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
        t: Moment = START,
        max_tokens: int | None = None,
    ) -> Answer:
        """What the arm answers to the prompt at that moment.

        Raises:
            WorldError: There is no such arm.
        """
        domain = domain_of(prompt)
        if domain not in self.domains:
            domain = None
        model, skill = self._now(_known(self._by_name, arm), domain, t)
        own, length, wait, failure = luck(f"{self.seed}|{query_key}|{arm}")
        inputs = tokens_of(prompt)
        first_s = model.latency_s * math.exp(_LATENCY_SPREAD * normal(wait))
        if failure < model.failure_rate:
            return Answer(0.0, 0.0, inputs, 0, first_s, first_s, failed=True)
        ease = normal(luck(f"{self.seed}|{query_key}")[0])
        outputs = round(_MEAN_OUTPUT_TOKENS * math.exp(_LENGTH_SPREAD * normal(length)))
        wished = min(_MAX_OUTPUT_TOKENS, max(1, outputs))
        outputs = wished if max_tokens is None else min(wished, max_tokens)
        cost_usd = (inputs * model.usd_per_mtok_in + outputs * model.usd_per_mtok_out) / 1e6
        return Answer(
            score=unit(skill + _QUERY_SPREAD * ease + _ANSWER_SPREAD * normal(own)),
            cost_usd=cost_usd,
            input_tokens=inputs,
            output_tokens=outputs,
            latency_s=first_s + outputs / model.tokens_per_s,
            first_token_s=first_s,
            cut=outputs < wished,
        )

    def drifted(self, drift: Drift) -> "World":
        """The world with one more drift, which wins over those before it."""
        return replace(self, drifts=(*self.drifts, drift))

    def _now(self, arm: SimulatedArm, domain: str | None, t: Moment) -> tuple[SimulatedArm, float]:
        """The arm at a moment and its skill there."""
        skills = arm.skill if domain is None else {domain: arm.skill[domain]}
        for drift in _in_force(self.drifts, arm.name, t):
            changed = {name: drift.skill_in(name) for name in skills}
            skills = {n: s if (new := changed[n]) is None else new for n, s in skills.items()}
            arm = replace(
                arm,
                failure_rate=_or(drift.failure_rate, arm.failure_rate),
                latency_s=_or(drift.latency_s, arm.latency_s),
            )
        return arm, sum(skills.values()) / len(skills)


@dataclass(frozen=True)
class TableWorld:
    """The world that a full-information table measured; drifts can break its arms.

    A prompt is the query's text with a last line ``[query <query_id>]``. What the table does not
    tell (latency, tokens) is made up from the prompt and the seed; ``max_tokens`` cuts nothing, as
    the answers were measured whole.
    """

    table: Table
    drifts: tuple[Drift, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse an empty table and drifts of what it does not hold."""
        if not len(self.table):
            raise WorldError("the table has no queries: read one that has")
        _check_names(self.table.arms)
        _check_drifts(self.drifts, self.table.arms, self.domains)

    @property
    def arm_names(self) -> tuple[str, ...]:
        """The arms' names, in order."""
        return self.table.arms

    @cached_property
    def domains(self) -> tuple[str, ...]:
        """The domains of the table, sorted; ``"*"`` alone when it has none."""
        return tuple(sorted(set(self.table.domains or (EVERY_DOMAIN,))))

    @cached_property
    def _row(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.table.query_ids)}

    @cached_property
    def _column(self) -> dict[str, int]:
        return {name: column for column, name in enumerate(self.table.arms)}

    def prompt(self, domain: str, rng: np.random.Generator) -> str:
        """Draw a prompt of a domain."""
        names = self.table.domains or (EVERY_DOMAIN,) * len(self.table)
        rows = [row for row, name in enumerate(names) if name == domain]
        if not rows:
            raise WorldError(f"no domain {domain!r}: there are {list(self.domains)}")
        return self._query(rows[int(rng.integers(len(rows)))]).prompt

    def prompts(self, count: int, rng: np.random.Generator) -> Iterator[Query]:
        """Draw queries, each once before any comes again."""
        order = rng.permutation(len(self.table))
        for i in range(count):
            if i and i % len(order) == 0:
                order = rng.permutation(len(self.table))
            yield self._query(int(order[i % len(order)]))

    def answer(
        self,
        query_key: str,
        arm: str,
        prompt: str,
        t: Moment = START,
        max_tokens: int | None = None,
    ) -> Answer:
        """What the arm was measured to answer to the query, as drifts have changed it since.

        Raises:
            UnknownQueryError: The table has no such query.
            WorldError: There is no such arm.
        """
        del max_tokens
        row, at = self._row.get(query_key), _known(self._column, arm)
        if row is None:
            raise UnknownQueryError(f"no query {query_key!r}: end the prompt with [query <id>]")
        table, domain = self.table, self._domain(row)
        scale, failure_rate, latency_s = 1.0, 0.0, _cell(table.latencies_s, row, at)
        for drift in _in_force(self.drifts, arm, t):
            scale = _or(drift.skill_in(domain), scale)
            failure_rate = _or(drift.failure_rate, failure_rate)
            latency_s = drift.latency_s if drift.latency_s is not None else latency_s
        _, length, wait, failure = luck(f"{self.seed}|{query_key}|{arm}")
        if latency_s is None:
            latency_s = _TABLE_LATENCY_S * math.exp(_LATENCY_SPREAD * normal(wait))
        made_up = _MEAN_OUTPUT_TOKENS * math.exp(_LENGTH_SPREAD * normal(length))
        inputs = round(_or(_cell(table.input_tokens, row, at), tokens_of(prompt)))
        first_s = latency_s * _FIRST_TOKEN_SHARE
        if failure < failure_rate:
            return Answer(0.0, 0.0, inputs, 0, first_s, first_s, failed=True)
        return Answer(
            score=unit(float(table.scores[row, at]) * scale),
            cost_usd=float(table.costs_usd[row, at]),
            input_tokens=inputs,
            output_tokens=round(_or(_cell(table.output_tokens, row, at), made_up)),
            latency_s=latency_s,
            first_token_s=first_s,
        )

    def drifted(self, drift: Drift) -> "TableWorld":
        """The world with one more drift, which wins over those before it."""
        return replace(self, drifts=(*self.drifts, drift))

    def _domain(self, row: int) -> str:
        return EVERY_DOMAIN if self.table.domains is None else self.table.domains[row]

    def _query(self, row: int) -> Query:
        name, domain = self.table.query_ids[row], self._domain(row)
        text = self.table.texts[row] if self.table.texts else f"A question of domain {domain}."
        return Query(name, domain, with_key(text, name))


AnyWorld: TypeAlias = World | TableWorld


def default_world(seed: int = 0, drifts: tuple[Drift, ...] = ()) -> World:
    """Five arms, none of them best everywhere: it pays to know the domain and the price."""
    domains = ("code", "maths", "law", "writing", "support")

    def arm(name: str, skills: tuple[float, ...], *rest: float) -> SimulatedArm:
        return SimulatedArm(name, dict(zip(domains, skills, strict=True)), *rest)

    arms = (
        arm("small", (0.34, 0.28, 0.40, 0.66, 0.84), 0.10, 0.40, 0.15, 160.0, 0.002),
        arm("medium", (0.57, 0.52, 0.66, 0.83, 0.86), 0.50, 1.50, 0.35, 90.0, 0.003),
        arm("large", (0.82, 0.78, 0.92, 0.86, 0.90), 5.00, 15.0, 0.90, 45.0, 0.005),
        arm("coder", (0.88, 0.46, 0.30, 0.38, 0.46), 0.30, 0.90, 0.30, 110.0, 0.004),
        arm("maths", (0.46, 0.88, 0.28, 0.34, 0.40), 0.30, 0.90, 0.40, 100.0, 0.004),
    )
    return World(domains, arms, drifts, seed)


def reward_of(answer: Answer) -> float:
    """Score minus the price paid for it: ``score - 0.2 * cost_usd / COST_REF_USD``."""
    return answer.score - COST_WEIGHT * answer.cost_usd / COST_REF_USD


def quality_mark(score: float) -> str:
    """The words that end a served answer, by which a simulated user reads how good it was."""
    return f"(simulated answer, quality {unit(score):.2f})"


def quality_of(text: str) -> float | None:
    """How good a served answer says that it is; None when it is not a simulated answer."""
    found = _QUALITY.search(text[-80:])
    return float(found[1]) if found else None


def tokens_of(text: str) -> int:
    """About how many tokens the text has, at least 1."""
    return max(1, -(-len(text) // CHARACTERS_PER_TOKEN))


def _check(what: str, value: float, upper: float) -> None:
    if not 0.0 <= value <= upper:
        raise WorldError(f"{what} is {value}: give a number from 0 to {upper:g}")


def _check_names(names: tuple[str, ...]) -> None:
    if not names or len(set(names)) != len(names):
        raise WorldError(f"arms {list(names)} are none or repeat: name each arm once")


def _check_drifts(
    drifts: tuple[Drift, ...], arms: tuple[str, ...], domains: tuple[str, ...]
) -> None:
    if len(drifts) > MAX_DRIFTS:
        raise WorldError(f"{len(drifts)} drifts: at most {MAX_DRIFTS} are allowed")
    for drift in drifts:
        _known(dict.fromkeys(arms), drift.arm)
        unknown = set(drift.skill) - set(domains) - {EVERY_DOMAIN}
        if unknown:
            raise WorldError(
                f"drift of {drift.arm}: no domain {sorted(unknown)}: there are {list(domains)}"
            )


def _known(by_name: Mapping[str, _T], arm: str) -> _T:
    if arm not in by_name:
        raise WorldError(f"no arm {arm!r}: there are {list(by_name)[:20]}")
    return by_name[arm]


def _in_force(drifts: tuple[Drift, ...], arm: str, t: Moment) -> Iterator[Drift]:
    return (drift for drift in drifts if drift.arm == arm and drift.begun(t))


def _or(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value


def _cell(block: Floats | None, row: int, column: int) -> float | None:
    """A measure of a table; None when it was not taken."""
    value = math.nan if block is None else float(block[row, column])
    return None if math.isnan(value) else value
