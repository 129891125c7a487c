"""How an answer is graded: the mark that it carries, and what it is worth."""

import re

from controlplane.simulation.contract import Answer
from controlplane.simulation.luck import unit

COST_REF_USD = 0.004
"""A cost that counts as 1 in :func:`reward_of`."""
COST_WEIGHT = 0.2
CHARACTERS_PER_TOKEN = 4

_MARK = re.compile(r"\(simulated answer, quality (0\.\d\d|1\.00)\)\s*\Z")
_MAX_MARK = 80


def reward_of(answer: Answer) -> float:
    """Score minus the price paid for it: ``score - 0.2 * cost_usd / COST_REF_USD``."""
    return worth(answer.score, answer.cost_usd)


def worth(score: float, cost_usd: float) -> float:
    """The reward of a score had at a cost."""
    return score - COST_WEIGHT * cost_usd / COST_REF_USD


def quality_mark(score: float) -> str:
    """The words that end a served answer, by which a simulated user reads how good it was."""
    return f"(simulated answer, quality {unit(score):.2f})"


def quality_of(text: str) -> float | None:
    """How good a served answer says that it is; None when it is not a simulated answer."""
    found = _MARK.search(text[-_MAX_MARK:])
    return float(found[1]) if found else None


def tokens_of(text: str) -> int:
    """About how many tokens the text has, at least 1."""
    return max(1, -(-len(text) // CHARACTERS_PER_TOKEN))
