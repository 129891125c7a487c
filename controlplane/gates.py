"""The gate: may this candidate serve? Pure; says why, number by number."""

from dataclasses import dataclass
from typing import Any

from controlplane.config import GateConfig
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
        look: how often this champion has been challenged, this time included.
        candidates: how many are judged at this look.
    """

    judged: int
    value: Estimate
    champion: Estimate
    best_fixed: Estimate
    over_champion: Estimate
    over_best_fixed: Estimate | None
    look: int
    candidates: int

    def as_json(self) -> dict[str, Any]:
        """Plain numbers for a verdict."""
        found: dict[str, Any] = {
            "judged": self.judged,
            "look": self.look,
            "candidates": self.candidates,
        }
        for name in ("value", "champion", "best_fixed", "over_champion", "over_best_fixed"):
            estimate = getattr(self, name)
            found[name] = estimate.as_json() if estimate else None
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


def judge(evidence: Evidence, gate: GateConfig) -> Verdict:
    """Judge one candidate."""
    over = evidence.over_champion
    checks = [
        _at_least("judged", evidence.judged, gate.min_judged, "interactions newer than training"),
        _at_least(
            "effective_n",
            evidence.value.effective_n,
            gate.min_effective_n,
            "effective sample size of the importance weights",
        ),
        _above("over_champion", over, gate.margin, "champion"),
    ]
    if evidence.over_best_fixed is not None:
        checks.append(
            _above("over_best_fixed", evidence.over_best_fixed, gate.margin, "best fixed arm")
        )
    failed = [check for check in checks if not check.passed]
    if failed:
        return Verdict(False, "not released: " + "; ".join(c.detail for c in failed), tuple(checks))
    return Verdict(True, "better: " + "; ".join(c.detail for c in checks[2:]), tuple(checks))


def _at_least(name: str, value: float, bound: float, meaning: str) -> Check:
    word = "at least" if value >= bound else "fewer than"
    detail = f"{value:,.0f} {meaning}, {word} the {bound:,.0f} needed"
    return Check(name, value >= bound, float(value), float(bound), detail)


def _above(name: str, gap: Estimate, margin: float, other: str) -> Check:
    passed = gap.low > margin
    detail = (
        f"{gap.value:+.4f} against the {other} "
        f"({100 * gap.level:.2f} % interval {gap.low:+.4f} to {gap.high:+.4f}), "
        f"lower bound {'above' if passed else 'not above'} {margin:g}"
    )
    return Check(name, passed, gap.low, margin, detail)
