"""Rewards: a sum of terms over the metrics of one decision, declared and versioned."""

import ast
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from learners.errors import RewardError
from learners.terms import ERROR, RewardGate, Statistic, Term, statistic

__all__ = ["ERROR", "RewardFunction", "RewardGate", "Statistic", "Term", "parse"]

MAX_TERMS = 32
MAX_GATES = 8
MAX_EXPRESSION = 1_000
GATE_PART = "(gate)"
"""The part that holds the reward of what a gate decided; no metric has such a name."""

Columns = Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class RewardFunction:
    """The sum of its terms plus ``offset``, unless a gate decides; higher is better.

    Attributes:
        gates: looked at first and in this order; the first whose metric is too low decides.
        statistics: the spread of each metric of :attr:`measured`, by name. They are numbers of the
            reward like its weights: :func:`learners.alignment.align` writes them once.
    """

    terms: tuple[Term, ...]
    offset: float = 0.0
    gates: tuple[RewardGate, ...] = ()
    statistics: Mapping[str, Statistic] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        """Refuse an empty function, a metric that stands twice and an offset not finite."""
        if not math.isfinite(self.offset):
            raise RewardError(f"offset is {self.offset}: give a finite number")
        names = [term.metric for term in self.terms]
        if not names or len(names) > MAX_TERMS:
            raise RewardError(f"{len(names)} terms: give 1 to {MAX_TERMS}")
        if len(set(names)) != len(names):
            raise RewardError(f"metrics repeat: {names}: give each one term")
        if len(self.gates) > MAX_GATES:
            raise RewardError(f"{len(self.gates)} gates: give at most {MAX_GATES}")
        fixed = [term.metric for term in self.terms if term.align is None]
        for term in self.terms:
            if term.align is not None and term.align not in fixed:
                raise RewardError(
                    f"term {term.metric!r}: align is {term.align!r}: give the metric of another "
                    f"term that is not aligned itself: there are {fixed}"
                )

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that the reward reads, each once."""
        names = [term.metric for term in self.terms] + [gate.metric for gate in self.gates]
        return tuple(dict.fromkeys(names))

    @property
    def measured(self) -> tuple[Term, ...]:
        """The terms whose metric's spread the reward needs to know."""
        others = {term.align for term in self.terms}
        return tuple(
            term
            for term in self.terms
            if term.normaliser == "std" or term.align is not None or term.metric in others
        )

    @property
    def aligned(self) -> bool:
        """Whether all that the reward needs to know is there: only then can it be evaluated."""
        return all(term.metric in self.statistics for term in self.measured)

    @property
    def part_names(self) -> tuple[str, ...]:
        """What each part is: a term's metric; last, where there are gates, GATE_PART."""
        names = tuple(term.metric for term in self.terms)
        return (*names, GATE_PART) if self.gates else names

    @property
    def mix(self) -> NDArray[np.float64]:
        """The weight of each part, shape ``(m,)``: a reward is ``parts @ mix + offset``."""
        weights = [term.weight for term in self.terms]
        return np.array([*weights, 1.0] if self.gates else weights)

    def evaluate(self, values: Mapping[str, float]) -> float | None:
        """The reward of one decision, or None when a value without default is missing."""
        known, fixed = self._gated(values)
        if not known or fixed is not None:
            return fixed
        total = self.offset
        for term in self.terms:
            value = self._part(term, values)
            if value is None:
                return None
            total += term.weight * value
        return total

    def parts(self, values: Mapping[str, float]) -> tuple[float | None, ...]:
        """Each term's value before its weight, and the gates' part where there are gates.

        None where a value without default is missing. Where a gate decided, the terms' parts are
        0 and the gates' part is the rest, so that the parts add up on every row.
        """
        own = tuple(self._part(term, values) for term in self.terms)
        if not self.gates:
            return own
        known, fixed = self._gated(values)
        if fixed is not None:
            return (*(0.0 for _ in own), fixed - self.offset)
        return (*own, 0.0 if known else None)

    def evaluate_columns(self, columns: Columns) -> NDArray[np.float64]:
        """The reward of many decisions; all columns share one shape. NaN gives NaN.

        Raises:
            RewardError: A metric has no column.
        """
        parts = self.part_columns(columns)
        total = np.full(parts.shape[:-1], self.offset)
        for i, weight in enumerate(self.mix):  # one after the other: a BLAS may sum otherwise
            total += weight * parts[..., i]
        return total

    def part_columns(self, columns: Columns) -> NDArray[np.float64]:
        """:meth:`parts` of many decisions, shape ``(*shape of the columns, m)``.

        Raises:
            RewardError: A metric has no column.
        """
        missing = [name for name in self.metrics if name not in columns]
        if missing:
            raise RewardError(
                f"no column {missing[0]!r} for the reward: there are {sorted(columns)}"
            )
        own = [
            (term.shaped(columns[term.metric]) - term.zero) / self._divisor(term)
            for term in self.terms
        ]
        if not self.gates:
            return np.stack(own, axis=-1)
        decided, rest = self._gated_columns(columns)
        return np.stack([*(np.where(decided, 0.0, part) for part in own), rest], axis=-1)

    def as_json(self) -> dict[str, Any]:
        """Plain form for a table or an API answer."""
        found: dict[str, Any] = {"terms": [t.as_json() for t in self.terms], "offset": self.offset}
        if self.gates:
            found["gates"] = [gate.as_json() for gate in self.gates]
        if self.statistics:
            found["statistics"] = {name: asdict(one) for name, one in self.statistics.items()}
        return found

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> "RewardFunction":
        """The function that :meth:`as_json` wrote."""
        try:
            return cls(
                tuple(Term.from_json(term) for term in row["terms"]),
                float(row.get("offset", 0.0)),
                tuple(RewardGate(**gate) for gate in row.get("gates", ())),
                {name: Statistic(**one) for name, one in row.get("statistics", {}).items()},
            )
        except RewardError:
            raise
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise RewardError(
                f"the reward cannot be read ({error!r}): give terms of metric, weight, scale, "
                "default, on_error, cap_low, cap_high, normaliser, range and align, offset, and "
                "gates of metric, at_least and reward"
            ) from error

    def _part(self, term: Term, values: Mapping[str, float]) -> float | None:
        value = term.value(values)
        if value is None:
            return None
        return (float(term.shaped(np.asarray(value))) - term.zero) / self._divisor(term)

    def _divisor(self, term: Term) -> float:
        """What normaliser and scale divide a term's value by."""
        span = term.span(self.statistics)
        if term.align is None:
            return span * term.scale
        (other,) = (one for one in self.terms if one.metric == term.align)
        unit = abs(other.span(self.statistics) * other.scale)
        own = statistic(self.statistics, term.metric).std
        return own / (statistic(self.statistics, term.align).std / unit)

    def _gated(self, values: Mapping[str, float]) -> tuple[bool, float | None]:
        """Whether it is known what the gates say, and the reward where one of them decides."""
        for gate in self.gates:
            value = gate.value(values)
            if value is None:
                return False, None
            if value < gate.at_least:
                return True, gate.reward
        return True, None

    def _gated_columns(self, columns: Columns) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """Where a gate decides, and the gates' part."""
        part = np.zeros(columns[self.gates[0].metric].shape)
        decided, open_ = np.zeros(part.shape, np.bool_), np.ones(part.shape, np.bool_)
        for gate in self.gates:
            column = columns[gate.metric]
            unknown, low = open_ & np.isnan(column), open_ & (column < gate.at_least)
            part[unknown], part[low] = np.nan, gate.reward - self.offset
            decided |= low
            open_ &= ~(unknown | low)
        return decided, part


def parse(expression: str, constants: Mapping[str, float] | None = None) -> RewardFunction:
    """Read a linear expression such as ``score - 0.2*cost_usd/COST_REF``.

    Args:
        expression: numbers, metric names, ``+ - * /`` and parentheses; linear in the metrics.
        constants: names that stand for numbers.

    Raises:
        RewardError: It does not parse, is not linear, or divides by zero.
    """
    if len(expression) > MAX_EXPRESSION:
        raise RewardError(f"the reward has {len(expression)} characters: at most {MAX_EXPRESSION}")
    try:
        tree = ast.parse(expression.strip(), mode="eval")
        linear = _linear(tree.body, constants or {})
        terms = tuple(Term(name, weight) for name, weight in linear.items() if name)
        return RewardFunction(terms, linear.get("", 0.0))
    except RewardError as error:
        raise RewardError(f"reward {expression!r}: {error}") from error
    except (SyntaxError, ValueError) as error:
        raise RewardError(f"reward {expression!r} does not parse: {error}") from error
    except (MemoryError, OverflowError, RecursionError) as error:
        raise RewardError(
            f"reward {expression[:80]!r} is too deep or its numbers too large"
        ) from error


def _linear(node: ast.expr, constants: Mapping[str, float]) -> dict[str, float]:
    """Coefficients by metric; the constant part stands under ``""``."""
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return {"": float(value)}
        case ast.Name(id=name):
            return {"": float(constants[name])} if name in constants else {name: 1.0}
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return _scaled(_linear(operand, constants), -1.0)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _linear(operand, constants)
        case ast.BinOp(left=left, op=operator, right=right):
            return _combined(_linear(left, constants), operator, _linear(right, constants))
    raise RewardError("use only numbers, metric names, + - * / and parentheses")


def _combined(
    left: dict[str, float], operator: ast.operator, right: dict[str, float]
) -> dict[str, float]:
    match operator:
        case ast.Add() | ast.Sub():
            sign = 1.0 if isinstance(operator, ast.Add) else -1.0
            return {k: left.get(k, 0.0) + sign * right.get(k, 0.0) for k in left | right}
        case ast.Mult():
            if set(left) <= {""}:
                return _scaled(right, left.get("", 0.0))
            if set(right) <= {""}:
                return _scaled(left, right.get("", 0.0))
            raise RewardError("a product of two metrics is not linear")
        case ast.Div():
            if not set(right) <= {""}:
                raise RewardError("a division by a metric is not linear")
            if right.get("", 0.0) == 0.0:
                raise RewardError("a division by zero")
            return _scaled(left, 1.0 / right[""])
    raise RewardError("use only numbers, metric names, + - * / and parentheses")


def _scaled(linear: dict[str, float], factor: float) -> dict[str, float]:
    return {name: weight * factor for name, weight in linear.items()}
