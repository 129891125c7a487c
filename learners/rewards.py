"""Rewards: a linear function of the metrics of one decision, declared and versioned."""

import ast
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from learners.errors import RewardError

MAX_TERMS = 32
ERROR = "error"
"""The outcome that says whether the arm failed: 1, or 0."""
MAX_EXPRESSION = 1_000


@dataclass(frozen=True, slots=True)
class Term:
    """``weight · metric / scale``; ``default`` stands in when the wait has passed without a value.

    Without a default a missing value leaves the decision unrewarded: it teaches nothing. A decision
    whose arm failed (``error`` is 1) has no answer that anyone could grade: there ``on_error``
    stands in, or else an arm that always fails would cost nothing.
    """

    metric: str
    weight: float = 1.0
    scale: float = 1.0
    default: float | None = None
    on_error: float | None = None

    def __post_init__(self) -> None:
        """Refuse numbers that are not finite, and a scale of 0."""
        for name in ("weight", "scale", "default", "on_error"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise RewardError(f"term {self.metric!r}: {name} is {value}: give a finite number")
        if self.scale == 0:
            raise RewardError(f"term {self.metric!r}: scale is 0: give the metric's typical size")

    def value(self, values: Mapping[str, float]) -> float | None:
        """The metric's value among these, or what stands in for it."""
        if self.metric in values:
            return values[self.metric]
        if values.get(ERROR, 0.0) >= 1.0 and self.on_error is not None:
            return self.on_error
        return self.default


@dataclass(frozen=True, slots=True)
class RewardFunction:
    """The sum of its terms plus ``offset``; higher is better."""

    terms: tuple[Term, ...]
    offset: float = 0.0

    def __post_init__(self) -> None:
        """Refuse an empty function, a metric that stands twice and an offset not finite."""
        if not math.isfinite(self.offset):
            raise RewardError(f"offset is {self.offset}: give a finite number")
        names = self.metrics
        if not names or len(names) > MAX_TERMS:
            raise RewardError(f"{len(names)} terms: give 1 to {MAX_TERMS}")
        if len(set(names)) != len(names):
            raise RewardError(f"metrics repeat: {list(names)}: give each one term")

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that the reward reads."""
        return tuple(term.metric for term in self.terms)

    def evaluate(self, values: Mapping[str, float]) -> float | None:
        """The reward of one decision, or None when a value without default is missing."""
        total = self.offset
        for term in self.terms:
            value = term.value(values)
            if value is None:
                return None
            total += term.weight * value / term.scale
        return total

    def evaluate_columns(self, columns: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
        """The reward of many decisions; all columns share one shape.

        Raises:
            RewardError: A metric has no column.
        """
        missing = [name for name in self.metrics if name not in columns]
        if missing:
            raise RewardError(
                f"no column {missing[0]!r} for the reward: there are {sorted(columns)}"
            )
        parts = [term.weight * columns[term.metric] / term.scale for term in self.terms]
        return cast("NDArray[np.float64]", self.offset + np.sum(parts, axis=0))

    def as_json(self) -> dict[str, Any]:
        """Plain form for a table or an API answer."""
        terms = [
            {
                "metric": t.metric,
                "weight": t.weight,
                "scale": t.scale,
                "default": t.default,
                "on_error": t.on_error,
            }
            for t in self.terms
        ]
        return {"terms": terms, "offset": self.offset}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> "RewardFunction":
        """The function that :meth:`as_json` wrote."""
        try:
            terms: Sequence[Mapping[str, Any]] = row["terms"]
            return cls(tuple(Term(**term) for term in terms), float(row.get("offset", 0.0)))
        except RewardError:
            raise
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise RewardError(
                f"the reward cannot be read ({error!r}): give terms of metric, weight, scale, "
                "default and on_error, and offset"
            ) from error


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
