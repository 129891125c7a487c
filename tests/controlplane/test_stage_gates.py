"""What a stage's numbers lead to, and how sure those numbers are."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from controlplane.release_config import Guardrail, HarmConfig, ReleaseConfig
from controlplane.stage_gates import Canary, Facts, judge_canary, judge_shadow, judge_watch
from controlplane.stage_numbers import (
    SAMPLES,
    Excess,
    Shadowed,
    Side,
    Sudden,
    excess,
    gain,
    lately,
    segments,
    watched,
)
from controlplane.watching import controls

RULES = ReleaseConfig(min_decisions=100, min_seconds=0, min_rewarded=50)
FACTS = Facts(60.0, edges=1)
ERROR = Guardrail("error", "rate", margin=0.02)
COST = Guardrail("cost_usd", "mean", margin=0.5, relative=True)
SLOW = Guardrail("latency_s", "p95", margin=0.5, relative=True)

QUIET = Sudden(0.5, 4.6, 0.01, 0.01, 0, 0, 0.99)


def known(name: str, value: float, half: float = 0.01) -> Excess:
    return Excess(name, 0.5 + value, 0.5, value, value - half, value + half, 500, 500, 0.99)


def canary(**fields: Any) -> Canary:
    given = {
        "decisions": 500, "rewarded": 500, "strayed": 0, "loss": known("reward", -0.05),
        "guardrails": ((ERROR, known("error", -0.02)), (COST, known("cost_usd", -0.1))),
        "segments": (known("maths", -0.1),), "lately": QUIET,
        "error": (0.0, 0.03), "last": False,
    }  # fmt: skip
    return Canary(**{**given, **fields})


def side(n: int, *, seed: int = 0, error: float = 0.0, cost: float = 1.0, **more: Any) -> Side:
    rng = np.random.default_rng(seed)
    values = {
        "error": (rng.random(n) < error).astype(float),
        "cost_usd": cost * rng.gamma(2.0, 0.5, n),
        "latency_s": more.pop("slow", 1.0) * rng.exponential(size=n),
    }
    reward = rng.normal(more.pop("reward", 0.5), 0.3, n)
    segment = ["maths" if row % 2 else "prose" for row in range(n)]
    at = np.arange(float(n))[::-1]
    return Side(np.arange(n), at, np.zeros(n, dtype=np.bool_), values, reward, segment)


def failed(ruling: Any) -> list[str]:
    return [check.name for check in ruling.verdict.checks if not check.passed]


def test_a_canary_that_is_better_in_all_passes() -> None:
    ruling = judge_canary(canary(last=True), RULES, FACTS)
    assert (ruling.action, ruling.verdict.passed, failed(ruling)) == ("pass", True, [])


@pytest.mark.parametrize(
    ("fields", "check"),
    [
        ({"loss": known("reward", 0.02)}, "reward_not_worse"),
        ({"guardrails": ((ERROR, known("error", 0.02)),)}, "error_not_broken"),
        ({"guardrails": ((COST, known("cost_usd", 0.3)),)}, "cost_usd_not_broken"),
        ({"segments": (known("maths", 0.07),)}, "harm maths_not_worse"),
        ({"lately": replace(QUIET, evidence=5.0, rows=30)}, "error lately_not_broken"),
        ({"error": (0.25, 0.4), "guardrails": ()}, "errors_at_all"),
        ({"strayed": 20}, "strayed"),
    ],
)
def test_what_is_surely_worse_is_sent_back(fields: dict[str, Any], check: str) -> None:
    ruling = judge_canary(canary(**fields), RULES, FACTS)
    assert ruling.action == "revert"
    assert failed(ruling)[0] == check
    assert ruling.verdict.summary.startswith("sent back: ")


def test_an_alarm_waits_for_no_least_time_and_no_least_number() -> None:
    rules = replace(RULES, min_seconds=3_600, min_decisions=10_000)
    surging = canary(decisions=12, rewarded=0, lately=replace(QUIET, evidence=5.0, rows=12))
    ruling = judge_canary(surging, rules, Facts(2.0, edges=0))
    assert ruling.action == "revert"
    assert [check.name for check in ruling.alarms] == ["error lately_not_broken"]
    assert "evidence 148, 99 needed" in ruling.verdict.summary


def test_what_is_not_known_yet_is_waited_for_and_only_the_last_step_must_be_sure() -> None:
    wide = canary(
        loss=known("reward", 0.0, half=0.5), guardrails=((ERROR, known("error", -0.01, half=0.1)),)
    )
    assert judge_canary(wide, RULES, FACTS).action == "pass"
    last = judge_canary(replace(wide, last=True), RULES, FACTS)
    assert (last.action, failed(last)) == ("stay", ["reward", "error"])
    lenient = replace(wide, guardrails=((replace(ERROR, shown=False), wide.guardrails[0][1]),))
    assert failed(judge_canary(replace(lenient, last=True), RULES, FACTS)) == ["reward"]
    veto = replace(wide, guardrails=((replace(ERROR, safety_veto=True), wide.guardrails[0][1]),))
    assert failed(judge_canary(veto, RULES, FACTS)) == ["error"]


def test_what_nobody_measures_is_not_waited_for_unless_it_is_a_veto() -> None:
    nothing = Excess("cost_usd", math.nan, math.nan, math.nan, -math.inf, math.inf, 0, 0, 0.99)
    seen = canary(guardrails=((COST, nothing),), last=True)
    assert judge_canary(seen, RULES, FACTS).action == "pass"
    veto = canary(guardrails=((replace(COST, safety_veto=True), nothing),))
    assert judge_canary(veto, RULES, FACTS).action == "stay"


def test_failures_that_the_champion_has_too_send_nobody_back() -> None:
    both = known("error", -0.02)
    outage = canary(error=(0.45, 0.55), guardrails=((ERROR, replace(both, control=0.5)),))
    assert "errors_at_all" not in failed(judge_canary(outage, RULES, FACTS))


def test_a_watch_ends_when_enough_was_seen_or_its_time_is_over() -> None:
    rules = replace(RULES, watch_decisions=1_000)
    assert judge_watch(canary(), rules, FACTS).action == "stay"
    assert judge_watch(canary(decisions=1_000), rules, FACTS).action == "pass"
    assert judge_watch(canary(), rules, Facts(1e9, 1)).action == "pass"
    assert judge_watch(canary(loss=known("reward", 0.3)), rules, Facts(1e9, 1)).action == "revert"


def test_a_shadow_needs_decisions_an_edge_and_no_sign_of_a_lower_reward() -> None:
    rng = np.random.default_rng(1)
    n = 400
    weight = rng.choice([0.2, 1.8], n)
    rows = Shadowed(
        np.arange(n), weight > 1, weight, rng.normal(0.5, 0.2, n), np.full(n, np.nan), 0
    )
    seen = watched(rows, level=0.99, planned_rows=400)
    assert judge_shadow(seen, RULES, FACTS).action == "pass"
    assert failed(judge_shadow(seen, RULES, Facts(60.0, 0))) == ["edges"]
    worse = Shadowed(rows.unit, weight > 1, weight, rows.reward - 0.5 * (weight > 1), rows.cost, 0)
    ruling = judge_shadow(watched(worse, level=0.99, planned_rows=400), RULES, FACTS)
    assert (ruling.action, failed(ruling)[0]) == ("revert", "reward_not_worse")
    strict = replace(RULES, min_agreement=0.9)
    assert failed(judge_shadow(seen, strict, FACTS)) == ["agreement"]


def test_a_reweighed_gain_is_what_the_shadow_would_have_earned() -> None:
    """Of 200 logs, a 99 % interval may miss 5 or fewer: a chance of 1.6 % to fail by luck."""
    missed, values = 0, []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        served = rng.random(600) < 0.5  # the champion serves the good arm half of the time
        reward = np.where(served, 0.8, 0.4) + rng.normal(0, 0.1, 600)
        weight = np.where(served, 0.9, 0.1) / 0.5  # the shadow nine times of ten
        rows = Shadowed(np.arange(600), served, weight, reward, np.full(600, np.nan), 0)
        found = watched(rows, level=0.99, planned_rows=600).loss
        values.append(-found.value)
        missed += not (found.low <= -0.16 <= found.high)
    assert np.mean(values) == pytest.approx(0.16, abs=0.003)
    assert missed <= 5


def test_a_shadow_s_rows_of_one_session_count_as_one() -> None:
    rng = np.random.default_rng(0)
    served, reward = rng.random(300) < 0.5, rng.normal(0.5, 0.2, 300)
    weight = np.where(served, 0.9, 0.1) / 0.5

    def seen(times: int, unit: Any) -> Excess:
        rows = Shadowed(
            unit,
            np.repeat(served, times),
            np.repeat(weight, times),
            np.repeat(reward, times),
            np.full(300 * times, np.nan),
            0,
        )
        return watched(rows, level=0.99, planned_rows=300).loss

    once, alike = seen(1, np.arange(300)), seen(10, np.repeat(np.arange(300), 10))
    assert alike.high - alike.low > 0.8 * (once.high - once.low)
    apart = seen(10, np.arange(3_000))
    assert apart.high - apart.low < 0.5 * (once.high - once.low)


def test_guardrails_compare_rates_means_and_tails_each_with_its_margin() -> None:
    control = side(4_000, error=0.02)
    for guardrail, worse in ((ERROR, {"error": 0.2}), (COST, {"cost": 2.0}), (SLOW, {"slow": 2.5})):
        args: dict[str, Any] = {"better": "low", "level": 0.99, "planned_rows": 4_000}
        equal = excess(guardrail, side(4_000, seed=1, error=0.02), control, **args)
        assert equal.high <= 0, guardrail
        bad = excess(guardrail, side(4_000, seed=1, **{"error": 0.02, **worse}), control, **args)
        assert bad.low > 0, guardrail
    vetoed = Guardrail("error", "rate", margin=0.05)
    found = excess(vetoed, control, control, better="high", level=0.99, planned_rows=4_000)
    assert found.canary == pytest.approx(0.98, abs=0.01)


def test_young_decisions_without_an_outcome_count_against_no_version() -> None:
    new = side(60, error=1.0)
    values = {**new.values, "error": np.where(np.arange(60) < 54, np.nan, 1.0)}
    young = replace(new, values=values, pending=np.isnan(values["error"]))
    lost = replace(young, pending=np.zeros(60, dtype=np.bool_))
    args: dict[str, Any] = {"better": "low", "level": 0.99, "planned_rows": 60}
    control = side(2_000, error=0.05)
    pending, gone = (excess(ERROR, one, control, **args) for one in (young, lost))
    assert pending.low < 0 < gone.low


def test_a_segment_that_loses_is_found_and_small_ones_are_left_out() -> None:
    control, new = side(2_000, seed=1), side(2_000, seed=2)
    loses = np.array([name == "maths" for name in new.segment])
    new = replace(new, reward=np.where(loses, new.reward - 0.2, new.reward + 0.2))
    harm = HarmConfig(min_rows=100)
    found = {one.name: one for one in segments(new, control, harm, level=0.99, planned_rows=2_000)}
    assert found["maths"].low > 0.05
    assert found["prose"].high < 0
    assert segments(new, control, HarmConfig(min_rows=1_500), level=0.99, planned_rows=99) == ()
    assert gain(new, control, level=0.99, planned_rows=2_000).rows == 2_000


def test_what_breaks_after_a_long_quiet_time_is_found_in_the_newest_decisions() -> None:
    control, new = side(50_000, error=0.01), side(5_000, seed=1, error=0.01)
    new = replace(new, at=10.0 * new.at)
    whole = excess(ERROR, broken(new, 80), control, better="low", level=0.999, planned_rows=1.0)
    for ratio in (10.0, None):
        assert not lately(ERROR, new, control, level=0.999, ratio=ratio).sure
        newest = lately(ERROR, broken(new, 80), control, level=0.999, ratio=ratio)
        assert whole.low < 0
        assert newest.sure
        assert newest.rows <= 100
        assert newest.canary > 0.2


def broken(new: Side, newest: int) -> Side:
    """Of whom the newest decisions, which come first, fail at 30 %."""
    failed = new.values["error"].copy()
    failed[:newest] = np.random.default_rng(2).random(newest) < 0.3
    return replace(new, values={**new.values, "error": failed})


def test_a_surge_of_what_is_told_alone_waits_for_the_pending_ones() -> None:
    """Failures come at once and successes late: of 40 young decisions 4 are told, all failures."""
    control, new = side(4_000, error=0.05), side(400, seed=1, error=0.05)
    new = replace(new, at=10.0 * new.at)
    told = new.values["error"].copy()
    told[:40] = np.where(np.arange(40) % 10, np.nan, 1.0)
    young = replace(new, values={"error": told}, pending=np.isnan(told))
    lost = replace(young, pending=np.zeros(400, dtype=np.bool_))
    pending, gone = (lately(ERROR, one, control, level=0.9, ratio=10.0) for one in (young, lost))
    assert pending.evidence < gone.evidence
    assert not pending.sure


def test_equal_versions_are_hardly_ever_sent_back_by_what_they_did_lately() -> None:
    """At a level of 95 %: at most 5 % expected, 12 of 100 by chance 1 in 200."""
    alarms = 0
    for seed in range(100):
        new, control = side(1_000, seed=seed, error=0.1), side(2_000, seed=seed + 500, error=0.1)
        new = replace(new, at=2.0 * new.at)
        found = lately(Guardrail("error", "rate"), new, control, level=0.95, ratio=2.0)
        alarms += found.sure
    assert alarms <= 12


def test_no_surge_is_sure_where_everything_is_allowed_or_nothing_is_known() -> None:
    control, new = side(200), side(100, error=1.0)
    lenient = Guardrail("error", "rate", margin=2.0)
    assert not lately(lenient, new, control, level=0.5, ratio=2.0).sure
    assert not lately(ERROR, side(0), side(0), level=0.5, ratio=2.0).sure
    assert lately(ERROR, side(0), side(0), level=0.5, ratio=None).as_json()["canary"] is None
    relative = Guardrail("error", "rate", margin=1.0, relative=True)
    assert lately(relative, new, control, level=0.99, ratio=2.0).sure


def test_each_sample_of_the_control_has_its_part_of_the_level() -> None:
    assert len({controls(rows) for rows in range(20_000)}) == SAMPLES
