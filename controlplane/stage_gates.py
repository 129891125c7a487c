"""May a version take its next step, or must it go back? Pure: numbers in, a ruling out.

Two kinds of checks. An *alarm* that fails sends the version back at once. What is *needed* and not
there yet is waited for, until the stage's time is over.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from controlplane.gates import Check, Verdict
from controlplane.release_config import Guardrail, ReleaseConfig
from controlplane.stage_numbers import ERROR, Excess, Sudden, Watched

Action = Literal["stay", "pass", "revert", "hold"]

_FEW = 1e-12


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a stage beside its decisions.

    Attributes:
        elapsed_s: since it began.
        edges: how many serve its bundle, or a later one.
        nacks: what edges say that refused it for what it is: it computes otherwise there.
        refusals: what edges say that refused it for what they are: they do not know its format, or
            do not trust it.
    """

    elapsed_s: float
    edges: int
    nacks: tuple[str, ...] = ()
    refusals: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Canary:
    """The new version's decisions beside the champion's.

    Attributes:
        decisions: of the new version.
        rewarded: of those, with a reward.
        strayed: decisions that were its to make, and that it could not.
        loss: of reward.
        guardrails: each with its excess over what is allowed.
        segments: losses of reward in each.
        lately: failures that surge at some time.
        error: bounds of the new version's own rate of failures.
        last: whether the next step makes it the champion.
    """

    decisions: int
    rewarded: int
    strayed: int
    loss: Excess
    guardrails: tuple[tuple[Guardrail, Excess], ...]
    segments: tuple[Excess, ...]
    lately: Sudden
    error: tuple[float, float]
    last: bool

    def as_json(self) -> dict[str, Any]:
        """Plain numbers for a verdict."""
        return {
            "decisions": self.decisions,
            "rewarded": self.rewarded,
            "strayed": self.strayed,
            "reward": self.loss.as_json(),
            "guardrails": {excess.name: excess.as_json() for _, excess in self.guardrails},
            "segments": {excess.name: excess.as_json() for excess in self.segments},
            "lately": self.lately.as_json(),
            "error": list(self.error),
        }


@dataclass(frozen=True, slots=True)
class Ruling:
    """What is to be done, and why.

    ``late``: only since the stage's time is over; ``alarms``: the checks for which it goes back.
    """

    action: Action
    verdict: Verdict
    late: bool = False
    alarms: tuple[Check, ...] = ()

    @property
    def missing(self) -> str:
        """What is waited for."""
        return "; ".join(check.detail for check in self.verdict.checks if not check.passed)


def judge_shadow(seen: Watched, config: ReleaseConfig, facts: Facts) -> Ruling:
    """Whether a shadow may decide for the first few."""
    asked = seen.decisions + seen.silent
    silent = seen.silent / asked if asked else 0.0
    enough = asked >= min(config.min_decisions, 20)
    alarms = [
        _no_nack(facts),
        Check(
            "shadow_errors",
            silent <= config.max_shadow_errors + _FEW or not enough,
            silent,
            config.max_shadow_errors,
            f"could not score {seen.silent:,} of {asked:,} decisions",
        ),
        _not_surely(seen.loss, config.margin, "in place of what served"),
    ]
    needs = [
        *_grown(seen.decisions, config, facts),
        Check(
            "agreement",
            seen.decisions > 0 and seen.agreement >= config.min_agreement,
            seen.agreement,
            config.min_agreement,
            f"chose what was served in {100 * _shown(seen.agreement):.1f} % of "
            f"{seen.decisions:,} decisions",
        ),
        _likely(seen.loss, config.margin, config.min_rewarded),
    ]
    return _ruled(alarms, needs, config, facts)


def judge_canary(seen: Canary, config: ReleaseConfig, facts: Facts) -> Ruling:
    """Whether a canary may decide for more."""
    alarms = [_no_nack(facts), *_broken(seen, config, 0.0)]
    needs = [*_grown(seen.decisions, config, facts), _rewarded(seen.rewarded, config)]
    if seen.last:
        needs.append(_surely(seen.loss, config.margin))
    else:
        needs.append(_likely(seen.loss, config.margin, 0))
    for guardrail, excess in seen.guardrails:
        must = guardrail.safety_veto or (seen.last and guardrail.shown)
        needs.append(_kept(guardrail, excess) if must else _not_above(excess))
    return _ruled(alarms, needs, config, facts)


def judge_watch(seen: Canary, config: ReleaseConfig, facts: Facts) -> Ruling:
    """Whether a new champion stays; what it is compared with served before it, at another time."""
    alarms = [_no_nack(facts), *_broken(seen, config, config.margin)]
    needs = [_at_least("decisions", seen.decisions, config.watch_decisions, "decisions watched")]
    known = replace(facts, refusals=())  # the champion alone is no new format to anybody
    ruling = _ruled(alarms, needs, replace(config, on_timeout="hold"), known)
    if ruling.action != "hold":
        return ruling
    said = f"nothing spoke against it in {facts.elapsed_s:,.0f} s"
    return Ruling("pass", Verdict(True, said, ruling.verdict.checks))


def _broken(seen: Canary, config: ReleaseConfig, margin: float) -> list[Check]:
    """What no version may surely do."""
    asked = seen.decisions + seen.strayed
    strayed = seen.strayed / asked if asked else 0.0
    error = next((e for _, e in seen.guardrails if e.name == ERROR), None)
    before = error.control if error is not None and math.isfinite(error.control) else 0.0
    low = seen.error[0]
    found = [
        Check(
            "errors_at_all",
            not low > max(config.max_error, before),
            low,
            config.max_error,
            f"surely fails in {100 * low:.1f} % of its decisions or more; "
            f"{100 * config.max_error:.3g} % are borne",
        ),
        Check(
            "strayed",
            strayed <= config.max_shadow_errors + _FEW or asked < min(config.min_decisions, 20),
            strayed,
            config.max_shadow_errors,
            f"could not decide {seen.strayed:,} of the {asked:,} that were its own",
        ),
        _not_surely(seen.loss, margin, "against the champion"),
    ]
    found += [_not_above_surely(excess) for _, excess in seen.guardrails]
    found.append(_no_surge(seen.lately))
    return found + [
        _not_surely(loss, config.harm.margin, f"in segment {loss.name}", f"harm {loss.name}")
        for loss in seen.segments
    ]


def _ruled(
    alarms: Sequence[Check], needs: Sequence[Check], config: ReleaseConfig, facts: Facts
) -> Ruling:
    checks = (*alarms, *needs)
    rung = [check for check in alarms if not check.passed]
    if rung:
        verdict = Verdict(False, _told("sent back", rung), checks)
        return Ruling("revert", verdict, alarms=tuple(rung))
    missing = [check for check in needs if not check.passed]
    if facts.refusals and facts.elapsed_s < config.max_seconds:
        return Ruling("hold", Verdict(False, _told("held", [_understood(facts)]), checks))
    if not missing:
        return Ruling("pass", Verdict(True, _told("passed", needs), checks))
    if facts.elapsed_s < config.max_seconds:
        return Ruling("stay", Verdict(False, _told("not yet", missing), checks))
    late = f"not passed in {config.max_seconds:,.0f} s"
    action: Action = "revert" if config.on_timeout == "revert" else "hold"
    return Ruling(action, Verdict(False, _told(late, missing), checks), late=True)


def _told(head: str, checks: Sequence[Check]) -> str:
    return f"{head}: " + "; ".join(check.detail for check in checks)


def _no_nack(facts: Facts) -> Check:
    said = "; ".join(facts.nacks)[:500] or "no edge refused the bundle"
    return Check("nacks", not facts.nacks, len(facts.nacks), 0, said)


def _understood(facts: Facts) -> Check:
    """Needed: what an edge cannot take is no fault of the version's, and may be mended there."""
    said = "; ".join(facts.refusals)[:500] or "no edge fails to take the bundle"
    return Check("refusals", not facts.refusals, len(facts.refusals), 0, said)


def _grown(decisions: int, config: ReleaseConfig, facts: Facts) -> list[Check]:
    return [
        _understood(facts),
        _at_least("decisions", decisions, config.min_decisions, "decisions"),
        Check(
            "seconds",
            facts.elapsed_s >= config.min_seconds,
            facts.elapsed_s,
            config.min_seconds,
            f"{facts.elapsed_s:,.0f} s of at least {config.min_seconds:,.0f} s",
        ),
        _at_least("edges", facts.edges, config.min_edges, "edges with its golden vectors passed"),
    ]


def _rewarded(rewarded: int, config: ReleaseConfig) -> Check:
    return _at_least("rewarded", rewarded, config.min_rewarded, "of them with a reward")


def _at_least(name: str, value: float, bound: float, meaning: str) -> Check:
    passed = value >= bound
    return Check(
        name, passed, value, bound, f"{value:,.0f} {meaning}, {bound:,.0f} needed"
    )  # fmt: skip


def _not_surely(loss: Excess, margin: float, where: str, name: str = "") -> Check:
    """An alarm: the reward is surely lower by more than the margin."""
    passed = not loss.low > margin
    return Check(f"{name or loss.name}_not_worse", passed, -loss.low, -margin, _gained(loss, where))


def _likely(loss: Excess, margin: float, fewest: int) -> Check:
    """Needed before the next stage: the reward does not look lower by more than the margin."""
    known = math.isfinite(loss.value)
    passed = loss.rows >= fewest and (not known or loss.value <= margin)
    detail = f"{_gained(loss, 'against the champion')}, of {loss.rows:,} rewards"
    return Check("reward", passed, -loss.value, -margin, detail)


def _surely(loss: Excess, margin: float) -> Check:
    """Needed before the last step: the reward is surely not lower by more than the margin."""
    passed = loss.high <= margin
    return Check("reward", passed, -loss.high, -margin, _gained(loss, "against the champion"))


def _gained(loss: Excess, where: str) -> str:
    if not math.isfinite(loss.value):
        return f"reward {where}: nothing is known yet"
    return (
        f"reward {-loss.value:+.4f} {where} "
        f"({100 * loss.level:.2f} % interval {-loss.high:+.4f} to {-loss.low:+.4f})"
    )


def _not_above_surely(excess: Excess) -> Check:
    return Check(f"{excess.name}_not_broken", not excess.low > 0, excess.low, 0.0, _guarded(excess))


def _no_surge(lately: Sudden) -> Check:
    """An alarm: at some time failures began to be surely more than allowed."""
    detail = "failures have not surged"
    if lately.rows:
        detail = (
            f"error lately {lately.canary:.5g} in {lately.rows:,} decisions against "
            f"{_shown(lately.control):.5g} in {lately.control_rows:,}: evidence "
            f"{math.exp(min(lately.evidence, 700.0)):,.0f}, {math.exp(lately.needed):,.0f} needed"
        )
    return Check("error lately_not_broken", not lately.sure, lately.evidence, lately.needed, detail)


def _not_above(excess: Excess) -> Check:
    known = math.isfinite(excess.value)
    passed = not known or excess.value <= 0
    return Check(excess.name, passed, excess.value, 0.0, _guarded(excess))


def _kept(guardrail: Guardrail, excess: Excess) -> Check:
    """Needed: surely within the margin. What nobody measures is not waited for."""
    unmeasured = excess.rows == excess.control_rows == 0
    if unmeasured and not guardrail.safety_veto:
        return Check(excess.name, True, excess.high, 0.0, f"{excess.name}: nobody measures it")
    return Check(excess.name, excess.high <= 0, excess.high, 0.0, _guarded(excess))


def _guarded(excess: Excess) -> str:
    if not math.isfinite(excess.value):
        return f"{excess.name}: nothing is known yet"
    side = "more" if excess.value > 0 else "less"
    return (
        f"{excess.name} {excess.canary:.5g} against {excess.control:.5g}, "
        f"{abs(excess.value):.4g} {side} than allowed "
        f"({100 * excess.level:.2f} % interval {excess.low:+.4g} to {excess.high:+.4g})"
    )


def _shown(value: float) -> float:
    return value if math.isfinite(value) else 0.0
