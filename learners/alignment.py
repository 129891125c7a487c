"""Scales that a log gives, so that a reward does not depend on its metrics' units.

Source: BudgetMem, whose cost term is multiplied by the ratio of the standard deviations of the
task's reward and of the cost over recent decisions. Here the ratio is measured once and kept with
the reward, so that a version means the same for ever and a log can be evaluated again.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from learners.errors import RewardError
from learners.rewards import RewardFunction
from learners.terms import Statistic, Term

MIN_VALUES = 100
"""The standard error of a standard deviation of so many values is some 7 % of it (normal)."""


def align(
    reward: RewardFunction, columns: Mapping[str, NDArray[np.float64]], least: int = MIN_VALUES
) -> RewardFunction:
    """The reward with the spread of each metric that it needs to know.

    A metric whose values are multiplied by a constant, its caps and stand-ins with it, leaves an
    aligned term as it was, and one in standard deviations too.

    Args:
        reward: as declared; spreads that it holds already are measured anew.
        columns: values by metric, of any shape; NaN for one that is missing.
        least: how many values of a metric are needed.

    Raises:
        RewardError: A metric has too few values, or they are all alike or not finite.
    """
    return replace(
        reward,
        statistics={term.metric: _measure(term, columns, least) for term in reward.measured},
    )


def _measure(term: Term, columns: Mapping[str, NDArray[np.float64]], least: int) -> Statistic:
    column = columns.get(term.metric, np.empty(0))
    values = term.shaped(column[~np.isnan(column)])
    if len(values) < max(least, 2):
        raise RewardError(
            f"metric {term.metric!r} has {len(values)} values: its spread needs {max(least, 2)}"
        )
    with np.errstate(all="ignore"):  # what is not finite is refused below
        # Summed around the first value: values all alike must give 0, and not a rounding's rest.
        near = values - values[0]
        mean, std = float(values[0] + near.mean()), float(near.std(ddof=1))
    try:
        return Statistic(len(values), mean, std)
    except RewardError as error:
        raise RewardError(f"metric {term.metric!r}: {error}") from error
