"""The gate: may this candidate serve? Pure; says why, number by number."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from controlplane.config import GateConfig
from learners.diagnostics import Finding, about_one
from learners.ope import Calibration
from learners.records import Estimate


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of a candidate, all of it from a log newer than its training.

    Attributes:
        judged: interactions of that log.
        value: the candidate's expected reward.
        champion: the champion's on the same log.
        best_fixed: that of the best fixed arm, chosen on the training part.
        over_champion: candidate − champion, paired, at the level that this look may spend.
        over_best_fixed: the same against the best fixed arm; None when the candidate is it.
        mean_weight: mean importance weight, which is 1 where the propensities are right.
        champion_version: whom it was compared with.
        look: how often this champion has been challenged, this time included.
        candidates: how many are judged at this look.
        segments: candidate − champion in each of the largest segments, at the same level.
        diagnostics: whether the log can say anything of this candidate.
        calibration: of the reward model, by requests that two arms have answered; None where
            there are too few.
    """

    judged: int
    value: Estimate
    champion: Estimate
    best_fixed: Estimate
    over_champion: Estimate
    over_best_fixed: Estimate | None
    mean_weight: Estimate
    champion_version: int
    look: int
    candidates: int
    segments: Mapping[str, Estimate] = field(default_factory=dict)
    diagnostics: tuple[Finding, ...] = ()
    calibration: Calibration | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain numbers for a verdict."""
        found: dict[str, Any] = {
            "judged": self.judged,
            "champion_version": self.champion_version,
            "look": self.look,
            "candidates": self.candidates,
            "diagnostics": {one.name: one.value for one in self.diagnostics},
            "segments": {name: gap.as_json() for name, gap in self.segments.items()},
        }
        for name in (
            "value",
            "champion",
            "best_fixed",
            "over_champion",
            "over_best_fixed",
            "mean_weight",
        ):
            estimate = getattr(self, name)
            found[name] = estimate.as_json() if estimate else None
        if self.calibration is not None:
            found["pairs"] = self.calibration.as_json()
        return found


@dataclass(frozen=True, slots=True)
class Check:
    """One condition, its number, and the bound that it had to keep."""

    name: str
    passed: bool
    value: float
    bound: float
    detail: str

    def as_json(self) -> dict[str, Any]:
        """Plain form for a verdict."""
        return {
            "name": self.name,
            "passed": self.passed,
            "value": self.value,
            "bound": self.bound,
            "detail": self.detail,
        }


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the gate says, and why."""

    passed: bool
    summary: str
    checks: tuple[Check, ...]


def level_of(gate: GateConfig, look: int, candidates: int) -> float:
    """The two-sided level of one comparison, such that all looks together err with ``alpha``.

    Look k may spend α·6/(π²k²), which sums to α over all k (a union bound, Bonferroni over the
    candidates), so the log may be looked at as often as it grows.
    """
    spend = gate.alpha * 6.0 / (3.141592653589793**2 * look**2) / candidates
    return 1.0 - 2.0 * spend


def judge(evidence: Evidence, gate: GateConfig, *, harm: float = 0.05) -> Verdict:
    """Judge one candidate; no segment may surely lose more than ``harm``."""
    others = [("champion", evidence.over_champion)]
    if evidence.over_best_fixed is not None:
        others.append(("best fixed arm", evidence.over_best_fixed))
    gains = [
        _above(f"over_{other.removesuffix(' arm').replace(' ', '_')}", gap, gate.margin, other)
        for other, gap in others
    ]
    effective = min([evidence.value.effective_n, *(gap.effective_n for _, gap in others)])
    checks = [
        _at_least("judged", evidence.judged, gate.min_judged, "interactions newer than training"),
        _at_least(
            "effective_n",
            effective,
            gate.min_effective_n,
            "effective sample size of the weights where it differs",
        ),
        _found(about_one(evidence.mean_weight)),
        *gains,
        *map(_found, evidence.diagnostics),
        *(_unharmed(name, gap, harm) for name, gap in evidence.segments.items()),
    ]
    failed = [check for check in checks if not check.passed]
    if failed:
        return Verdict(False, "not released: " + "; ".join(c.detail for c in failed), tuple(checks))
    return Verdict(True, "better: " + "; ".join(c.detail for c in gains), tuple(checks))


def _unharmed(segment: str, gap: Estimate, margin: float) -> Check:
    passed = not gap.high < -margin
    detail = (
        f"{gap.value:+.4f} against the champion in segment {segment} "
        f"({100 * gap.level:.2f} % interval {gap.low:+.4f} to {gap.high:+.4f}), "
        f"{'not surely' if passed else 'surely'} below {-margin:g}"
    )
    return Check(f"harm {segment}", passed, gap.high, -margin, detail)


def _at_least(name: str, value: float, bound: float, meaning: str) -> Check:
    word = "at least" if value >= bound else "fewer than"
    detail = f"{value:,.0f} {meaning}, {word} the {bound:,.0f} needed"
    return Check(name, value >= bound, float(value), float(bound), detail)


def _found(finding: Finding) -> Check:
    return Check(finding.name, finding.passed, finding.value, finding.bound, finding.sentence)


def _above(name: str, gap: Estimate, margin: float, other: str) -> Check:
    passed = gap.low > margin
    detail = (
        f"{gap.value:+.4f} against the {other} "
        f"({100 * gap.level:.2f} % interval {gap.low:+.4f} to {gap.high:+.4f}), "
        f"lower bound {'above' if passed else 'not above'} {margin:g}"
    )
    return Check(name, passed, gap.low, margin, detail)
