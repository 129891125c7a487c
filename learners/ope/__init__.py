"""Off-policy evaluation: what a policy would have earned on a log that another policy served.

Estimators work on the rows' contributions ("influence values"), so that an interval of a difference
of two policies on the same log is paired, which is much tighter than two intervals. A log must be
newer than the training cut-off of every policy that is judged on it: see
:mod:`learners.diagnostics`, which also says whether a log can be trusted at all.

* :mod:`learners.ope.estimators`: single decisions; :mod:`learners.ope.parts`: segments and arms.
* :mod:`learners.ope.episodic`: episodes of several decisions.
* :mod:`learners.ope.evaluations`: intervals of values and of paired differences.
* :mod:`learners.ope.models`: the cross-fitted reward model; :mod:`learners.ope.paired`: the same,
  corrected by requests that two arms have answered.
* :mod:`learners.ope.frontiers`: cost and score of many policies on one log.
"""

from learners.ope.episodic import (
    EPISODE_ESTIMATORS,
    EpisodeEstimator,
    evaluate_episodes,
    value_model,
)
from learners.ope.estimators import evaluate, evaluate_each
from learners.ope.evaluations import (
    INTERVALS,
    NORMAL,
    Evaluation,
    Interval,
    IntervalKind,
    difference,
    estimate,
    mean_weight,
)
from learners.ope.logs import Imported, Log
from learners.ope.models import FOLDS, reward_model
from learners.ope.paired import Calibration, calibrated
from learners.ope.parts import by_arm, by_segment, of_arms
from learners.ope.rows import ESTIMATORS, Estimator

__all__ = [
    "EPISODE_ESTIMATORS",
    "ESTIMATORS",
    "FOLDS",
    "INTERVALS",
    "NORMAL",
    "Calibration",
    "EpisodeEstimator",
    "Estimator",
    "Evaluation",
    "Imported",
    "Interval",
    "IntervalKind",
    "Log",
    "by_arm",
    "by_segment",
    "calibrated",
    "difference",
    "estimate",
    "evaluate",
    "evaluate_each",
    "evaluate_episodes",
    "mean_weight",
    "of_arms",
    "reward_model",
    "value_model",
]
