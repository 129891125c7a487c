"""What a window of decisions looks like, in few numbers, and how two windows differ.

A summary is plain JSON, and adding rows to it piece by piece gives the same as at once. Each kind
says which rows it reads, adds them up, and compares a recent window with a reference.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from learners import divergence
from learners.windows import Batch, Bools, Bounds, Floats, Mean, Reading, moments, shifted

Summary = dict[str, Any]

LEAST = 30
"""Rows of an arm, in the reference and in a window, without which it is not compared."""
CELLS = 10
"""Parts of equal size that a number's reference is cut into."""
MAX_VALUES = 64
"""Values of a category that are told apart; the others count as one."""
ABSENT, OTHERS = "(none)", "(other)"


class Kind(Protocol):
    """What a monitor watches."""

    def relevant(self, batch: Batch) -> Bools:
        """The rows that count, shape ``(n,)``."""

    def add(self, summary: Summary, batch: Batch) -> Summary:
        """The summary with further rows."""

    def close(self, summary: Summary) -> Summary:
        """The summary as a reference, which is kept for long."""

    def compare(self, reference: Summary, window: Summary, bounds: Bounds) -> list[Reading]:
        """Everything that can be compared."""

    def carry(self, reference: Summary, window: Summary) -> Summary:
        """The reference after a window that was in order."""


class RewardKind:
    """The mean reward."""

    def relevant(self, batch: Batch) -> Bools:
        """Rewarded rows."""
        return np.isfinite(batch.reward)

    def add(self, summary: Summary, batch: Batch) -> Summary:
        """Add."""
        return {"reward": moments(batch.reward, summary.get("reward"))}

    def close(self, summary: Summary) -> Summary:
        """As it is."""
        return summary

    def carry(self, reference: Summary, window: Summary) -> Summary:
        """The same: what drifts slowly has drifted all the same."""
        del window
        return reference

    def compare(self, reference: Summary, window: Summary, bounds: Bounds) -> list[Reading]:
        """One mean with the other."""
        now, before = Mean.of(window["reward"]), Mean.of(reference["reward"])
        return [shifted("reward", now, before, bounds.sigmas, "the mean reward")]


class ArmRewardKind(RewardKind):
    """Each arm's mean reward."""

    def add(self, summary: Summary, batch: Batch) -> Summary:
        """Add, arm by arm."""
        found = dict(summary)
        for each in np.unique(batch.action).tolist():
            arm = batch.arms[each]
            found[arm] = moments(batch.reward[batch.action == each], summary.get(arm))
        return found

    def compare(self, reference: Summary, window: Summary, bounds: Bounds) -> list[Reading]:
        """Arms that both know well enough."""
        both = [
            (arm, Mean.of(window[arm]), Mean.of(reference[arm]))
            for arm in sorted(window.keys() & reference.keys())
        ]
        known = [each for each in both if each[1].n >= LEAST and each[2].n >= LEAST]
        bound = bounds.shared(len(known))
        return [
            shifted(arm, now, before, bound, f"the mean reward of {arm}")
            for arm, now, before in known
        ]


class FeedbackKind(RewardKind):
    """How often feedback comes, and how late."""

    def relevant(self, batch: Batch) -> Bools:
        """Rows whose wait is over: of others nobody knows yet."""
        return batch.waited

    def add(self, summary: Summary, batch: Batch) -> Summary:
        """Answers, and the logarithms of their delays."""
        late = batch.delay_s[batch.answered & np.isfinite(batch.delay_s)]
        return {
            "rate": moments(batch.answered.astype(np.float64), summary.get("rate")),
            "delay": moments(np.log1p(np.maximum(late, 0.0)), summary.get("delay")),
        }

    def compare(self, reference: Summary, window: Summary, bounds: Bounds) -> list[Reading]:
        """Both."""
        bound = bounds.shared(2)
        now, before = Mean.of(window["rate"]), Mean.of(reference["rate"])
        pooled = (now.mean * now.n + before.mean * before.n) / (now.n + before.n)
        spread = pooled * (1.0 - pooled)  # of a rate under no change: also right near 0 and 1
        alike = [Mean(each.n, each.mean, spread) for each in (now, before)]
        found = [shifted("rate", alike[0], alike[1], bound, "the share with feedback")]
        late, usual = Mean.of(window["delay"]), Mean.of(reference["delay"])
        if min(late.n, usual.n) >= LEAST:
            what = "the logarithm of the feedback's delay in seconds"
            found.append(shifted("delay", late, usual, bound, what))
        return found


class PropensityKind(RewardKind):
    """Whether arms are served as often as the logged probabilities say.

    Its reference is all that came before the window: nothing has to be learnt first. The sums over
    all windows are compared as well, by a bound that holds at every look (a normal mixture:
    Robbins 1970; Howard, Ramdas, McAuliffe & Sekhon 2021, arXiv:1810.08240, equation 14).
    """

    def relevant(self, batch: Batch) -> Bools:
        """Rows with a known distribution."""
        return np.asarray(np.isfinite(batch.distribution).all(axis=1))

    def add(self, summary: Summary, batch: Batch) -> Summary:
        """Of each arm how often it served, how often it should have, and that number's variance."""
        served = np.bincount(batch.action, minlength=len(batch.arms)).astype(np.float64)
        chance = batch.distribution
        told = np.stack([served, chance.sum(axis=0), (chance * (1.0 - chance)).sum(axis=0)], axis=1)
        return _summed(summary, dict(zip(batch.arms, told.tolist(), strict=True)))

    def carry(self, reference: Summary, window: Summary) -> Summary:
        """Both."""
        return _summed(reference, window)

    def compare(self, reference: Summary, window: Summary, bounds: Bounds) -> list[Reading]:
        """Each arm's count with its expectation, in this window and since the start."""
        found = []
        for sure, told in ((False, window), (True, _summed(reference, window))):
            known = {arm: sums for arm, sums in told.items() if sums[2] >= 1.0}
            for arm in sorted(known):
                sums = known[arm]
                bound = bounds.shared(len(known))
                if sure:
                    bound = _at_every_look(sums[2], bounds.chance / len(known))
                found.append(_served(arm, sums, bound, sure=sure))
        return found


_TIGHTEST = 200.0
"""Variance of an arm's count at which the bound for every look is tightest."""


def _at_every_look(variance: float, chance: float) -> float:
    """Standard deviations that a sum of mean 0 exceeds at any look with this chance only."""
    grown = variance + _TIGHTEST
    return math.sqrt(grown * math.log(grown / (_TIGHTEST * chance * chance)) / variance)


def _summed(first: Summary, second: Summary) -> Summary:
    found = dict(first)
    for arm, told in second.items():
        found[arm] = [a + b for a, b in zip(found.get(arm, [0.0] * 3), told, strict=True)]
    return found


def _served(arm: str, told: Sequence[float], bound: float, *, sure: bool) -> Reading:
    served, expected, variance = told
    z = (served - expected) / math.sqrt(variance)
    text = (
        f"{arm} was served {served:,.0f} times{' since the start' if sure else ''}, where the "
        f"logged probabilities say {expected:,.1f}: {abs(z):.1f} standard deviations, {bound:.1f} "
        "are borne"
    )
    metric = f"{arm} in all" if sure else arm
    return Reading(metric, abs(z), bound, 1 if z >= 0 else -1, text, sure)


class ActionMixKind(RewardKind):
    """Which arms serve."""

    def relevant(self, batch: Batch) -> Bools:
        """All rows."""
        return np.ones(len(batch), dtype=np.bool_)

    def add(self, summary: Summary, batch: Batch) -> Summary:
        """Count."""
        counts = np.bincount(batch.action, minlength=len(batch.arms)).tolist()
        found = dict(summary)
        for arm, count in zip(batch.arms, counts, strict=True):
            found[arm] = found.get(arm, 0) + count
        return found

    def compare(self, reference: Summary, window: Summary, bounds: Bounds) -> list[Reading]:
        """The divergence of both mixes."""
        arms = sorted(reference.keys() | window.keys())
        before, now = (
            np.array([counts.get(arm, 0) for arm in arms], dtype=np.float64)
            for counts in (reference, window)
        )
        value = divergence.jensen_shannon(before, now)
        bound = max(bounds.divergence, divergence.js_by_chance(before, now, bounds.chance))
        gap = np.abs(now / max(now.sum(), 1.0) - before / max(before.sum(), 1.0))
        most = arms[int(gap.argmax())] if arms else ""
        text = (
            f"the mix of arms is {value:.3f} bits (Jensen-Shannon) from what it was, {bound:.3f} "
            f"are borne; {most} moved most"
        )
        return [Reading("js", value, bound, 1, text)]


class ContextKind(RewardKind):
    """How each feature is distributed."""

    def relevant(self, batch: Batch) -> Bools:
        """All rows."""
        return np.ones(len(batch), dtype=np.bool_)

    def add(self, summary: Summary, batch: Batch) -> Summary:
        """Numbers as they are, categories counted."""
        found = {name: dict(told) for name, told in summary.items()}
        for name, column in batch.context.items():
            told = found.setdefault(name, {})
            if column.dtype.kind == "f":
                there = column[np.isfinite(column)]
                told["values"] = told.get("values", []) + there.tolist()
                told["absent"] = told.get("absent", 0) + len(column) - len(there)
            else:
                told["counts"] = _counted(told.get("counts", {}), column)
        return found

    def close(self, summary: Summary) -> Summary:
        """Numbers cut into parts of equal size: their edges and counts."""
        return {name: _cut(told) if "values" in told else told for name, told in summary.items()}

    def compare(self, reference: Summary, window: Summary, bounds: Bounds) -> list[Reading]:
        """Each feature that both have."""
        names = sorted(reference.keys() & window.keys())
        chance = bounds.chance / max(len(names), 1)
        found = []
        for name in names:
            cells = _cells(reference[name], window[name])
            if cells is not None:
                found.append(_moved(name, *cells, bounds.divergence, chance))
        return found


def _moved(name: str, before: Floats, now: Floats, least: float, chance: float) -> Reading:
    value = divergence.psi(before, now)
    bound = max(least, divergence.psi_by_chance(before, now, chance))
    apart = divergence.jensen_shannon(before, now)
    text = (
        f"the feature {name} has a population stability index of {value:.3f} (Jensen-Shannon "
        f"{apart:.3f} bits), {bound:.3f} is borne"
    )
    return Reading(name, value, bound, 1, text)


def _counted(before: Mapping[str, int], column: NDArray[Any]) -> dict[str, int]:
    found = dict(before)
    for value in column.tolist():
        name = ABSENT if value == "" else str(value)
        if name not in found and len(found) >= MAX_VALUES:
            name = OTHERS
        found[name] = found.get(name, 0) + 1
    return found


def _cut(told: Summary) -> Summary:
    values = np.sort(np.array(told["values"], dtype=np.float64))
    if not len(values):
        return {"edges": [], "cells": [0], "absent": told["absent"]}
    places = (np.arange(1, CELLS) * len(values)) // CELLS
    edges = np.unique(values[places])
    cells = np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1)
    return {"edges": edges.tolist(), "cells": cells.tolist(), "absent": told["absent"]}


def _cells(before: Summary, now: Summary) -> tuple[Floats, Floats] | None:
    """Both as counts over the same cells; None where the feature changed its kind."""
    if "edges" in before and "values" in now:
        at = np.searchsorted(before["edges"], now["values"], side="right").astype(np.int64)
        mine = np.bincount(at, minlength=len(before["cells"])).tolist()
        rows = [[*before["cells"], before["absent"]], [*mine, now["absent"]]]
    elif "counts" in before and "counts" in now:
        names = sorted(before["counts"])
        known = [now["counts"].get(name, 0) for name in names]
        strange = sum(now["counts"].values()) - sum(known)
        rows = [[*(before["counts"][name] for name in names), 0], [*known, strange]]
    else:
        return None
    first, second = (np.array(row, dtype=np.float64) for row in rows)
    return first, second


KINDS: Mapping[str, Kind] = {
    "reward": RewardKind(),
    "arm_reward": ArmRewardKind(),
    "context": ContextKind(),
    "action_mix": ActionMixKind(),
    "feedback": FeedbackKind(),
    "propensity": PropensityKind(),
}
WITHOUT_REFERENCE = frozenset({"propensity"})
