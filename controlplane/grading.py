"""What the sources of feedback are worth: the log's rewards by trust, corrected and capped. Pure.

What trusted sources say corrects the others in the older part of a log, which trains. The newer
part, which judges, is rectified by its own trusted grades too, so that an error of the correction
does not pass for a gain.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from controlplane.config import SourcesConfig
from feedback.join import bounded
from feedback.metrics import Metric
from learners import trust
from learners.grades import Floats, Grades
from learners.influence import cap
from learners.records import MAX_ABS_REWARD, Interaction
from learners.rewards import RewardFunction

Values = dict[str, float]
MIN_TRUSTED = 10
"""Trusted grades beside others that the newer part needs, to judge by any of it."""


@dataclass(frozen=True, slots=True)
class Graded:
    """Both parts of a log, and by source and arm what was added to its grades on average."""

    training: list[Interaction]
    newer: list[Interaction]
    bias: dict[str, dict[str, float]] = field(default_factory=dict)


def graded(
    sources: SourcesConfig,
    reward: RewardFunction | None,
    metrics: Mapping[str, Metric],
    *,
    training: Sequence[Interaction],
    newer: Sequence[Interaction],
) -> Graded:
    """What trains and what judges, with the rewards that the sources of feedback are worth."""
    if reward is None:
        return Graded(list(training), list(newer))
    return Grader(sources, reward, metrics).graded(training, newer)


@dataclass(frozen=True, slots=True)
class Grader:
    """How a policy's rows are graded: by which sources, for which reward."""

    sources: SourcesConfig
    reward: RewardFunction
    metrics: Mapping[str, Metric]

    def graded(self, training: Sequence[Interaction], newer: Sequence[Interaction]) -> Graded:
        """The log's two parts, reckoned anew.

        A decision that several sources graded teaches as several rows, which share one weight, so
        that each of them can be corrected and capped for itself. It judges as one row.
        """
        if self.sources.plain:
            return Graded(list(training), list(newer))
        arms = _numbers(row.action for part in (training, newer) for row in part)
        speakers = _numbers(
            name
            for part in (training, newer)
            for row in part
            for by_source in row.said.values()
            for name in by_source
        )
        taught, judged = (self._sheet(part, arms, speakers) for part in (training, newer))
        correction = trust.fit(taught.grades)
        limits = taught.grades.limits
        grades = cap(
            trust.apply(correction, taught.grades, limits), self.sources.max_influence, limits
        )
        judging: list[Interaction] = []
        if not self._unproven(judged.grades):
            judging = judged.means(newer, trust.rectified(correction, judged.grades, limits))
        return Graded(
            taught.rows(training, grades, list(speakers)),
            judging,
            {
                speaker: {arm: round(float(correction.bias[a, s]), 4) for arm, a in arms.items()}
                for speaker, s in speakers.items()
                if correction.known[s]
            },
        )

    def _unproven(self, grades: Grades) -> bool:
        """Whether too few of the grades can be compared with trusted ones to believe the rest."""
        told = bool(self.sources.trusted) and bool(grades.named.any())
        return told and int(grades.paired.sum()) < MIN_TRUSTED

    def _sheet(
        self, rows: Sequence[Interaction], arms: Mapping[str, int], speakers: Mapping[str, int]
    ) -> "_Sheet":
        found: list[tuple[int, int, int, float, float, float]] = []
        for i, row in enumerate(rows):
            given, trusted = self._given(row)
            found += [
                (i, arms[row.action], speakers.get(name, -1), reward, weight, trusted)
                for name, reward, weight in given
            ]
        columns = list(zip(*found, strict=True)) or [()] * 6
        place, arm, source = (np.array(column, dtype=np.int64) for column in columns[:3])
        reward, weight, trusted_ = (np.array(one, dtype=np.float64) for one in columns[3:])
        shape = (len(arms), len(speakers))
        return _Sheet(place, Grades(shape, arm, source, reward, weight, trusted_))

    def _given(self, row: Interaction) -> tuple[list[tuple[str, float, float]], float]:
        """A row's grades as (source, reward, weight), and the trusted one; NaN where there is none.

        The source ``""`` is nobody in particular.
        """
        speakers = sorted({name for by_source in row.said.values() for name in by_source})
        if not speakers:
            return [("", row.reward, 1.0)], math.nan
        trusted = [name for name in speakers if name in self.sources.trusted]
        others = {
            name: self.sources.trust_of(name)
            for name in speakers
            if name not in trusted and self.sources.trust_of(name) > 0
        }
        if len(speakers) == len(others) == 1:
            return [(speakers[0], row.reward, others[speakers[0]])], math.nan
        common = self._values(row, others)
        told = math.nan
        if trusted:
            told = self._reward(common | self._spoken(row, dict.fromkeys(trusted, 1.0)), math.nan)
        given = [
            (name, self._reward(common | self._own(row, name), math.nan), weight)
            for name, weight in _shared(others, whole=not math.isnan(told)).items()
        ]
        given = [one for one in given if not math.isnan(one[1])]
        if given:
            return given, told
        alone = told if not math.isnan(told) else self._reward(common, math.nan)
        return ([] if math.isnan(alone) else [("", alone, 1.0)]), told

    def _values(self, row: Interaction, others: Mapping[str, float]) -> Values:
        """What was measured, and what these sources say together."""
        measured = {name: value for name, value in row.values.items() if name not in row.said}
        return measured | self._spoken(row, others)

    def _spoken(self, row: Interaction, weights: Mapping[str, float]) -> Values:
        """One number for each metric that one of these sources spoke of."""
        found = {}
        for name, by_source in row.said.items():
            told = {one: value for one, value in by_source.items() if one in weights}
            if not told or name not in self.metrics:
                continue
            if self.metrics[name].aggregation == "mean":
                found[name] = fmean(told.values(), [weights[one] for one in told])
            else:
                found[name] = self.metrics[name].aggregate(list(told.values()))
        return found

    def _own(self, row: Interaction, source: str) -> Values:
        """What one source says where a mean is taken; a least or greatest value is of all."""
        return {
            name: by_source[source]
            for name, by_source in row.said.items()
            if source in by_source
            and name in self.metrics
            and self.metrics[name].aggregation == "mean"
        }

    def _reward(self, values: Values, otherwise: float) -> float:
        found = bounded(self.reward.evaluate(values))
        return otherwise if found is None else found


@dataclass(frozen=True, slots=True, eq=False)
class _Sheet:
    """Grades, and the row that each is of."""

    row: NDArray[np.int64]
    grades: Grades

    def rows(
        self, rows: Sequence[Interaction], grades: Grades, speakers: Sequence[str]
    ) -> list[Interaction]:
        """A row a grade."""
        columns = (self.row, grades.reward, grades.weight, grades.source)
        return [
            replace(
                rows[i],
                reward=reward,
                weight=rows[i].weight * weight,
                source=None if source < 0 else speakers[source],
            )
            for i, reward, weight, source in zip(*(one.tolist() for one in columns), strict=True)
        ]

    def means(self, rows: Sequence[Interaction], rewards: Floats) -> list[Interaction]:
        """A row a decision, with the mean of its grades.

        A rectified outlier may lie far beyond what it was; one row must not end a round.
        """
        weight = np.bincount(self.row, self.grades.weight, len(rows))
        total = np.bincount(self.row, self.grades.weight * rewards, len(rows))
        kept = np.flatnonzero(weight > 0)
        mean = np.clip(total[kept] / weight[kept], -MAX_ABS_REWARD, MAX_ABS_REWARD)
        return [
            replace(rows[i], reward=reward)
            for i, reward in zip(kept.tolist(), mean.tolist(), strict=True)
        ]


def _shared(trusts: Mapping[str, float], *, whole: bool) -> dict[str, float]:
    """The weight of each source's grade of one decision; together the greatest trust, or 1."""
    if not trusts:
        return {}
    total = 1.0 if whole else max(trusts.values())
    every = sum(trusts.values())
    return {name: total * weight / every for name, weight in trusts.items()}


def _numbers(names: Iterable[str]) -> dict[str, int]:
    """Names as numbers, in the order of the names."""
    return {name: i for i, name in enumerate(sorted(set(names)))}
