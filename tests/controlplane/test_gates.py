import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.config import GateConfig
from controlplane.gates import Evidence, judge, level_of
from learners.diagnostics import Finding
from learners.records import Estimate

GATE = GateConfig(min_judged=200, min_effective_n=100, margin=0.01, alpha=0.05)


def estimate(low: float, *, value: float | None = None, effective_n: float = 500.0) -> Estimate:
    middle = low + 0.1 if value is None else value
    return Estimate("dr", middle, low, low + 0.2, 0.05, 1_000, effective_n)


def evidence(**change: Any) -> Evidence:
    given_ = {
        "judged": 1_000,
        "value": estimate(0.5),
        "champion": estimate(0.3),
        "best_fixed": estimate(0.35),
        "over_champion": estimate(0.02),
        "over_best_fixed": estimate(0.02),
        "look": 1,
        "candidates": 3,
        "mean_weight": Estimate("mean_weight", 1.0, 0.9, 1.1, 0.03, 1_000, 500),
        "champion_version": 1,
        **change,
    }
    return Evidence(**given_)


def test_a_candidate_that_is_surely_better_passes_and_says_by_how_much() -> None:
    verdict = judge(evidence(), GATE)
    assert verdict.passed
    assert verdict.summary.startswith("better: +0.1200 against the champion")
    assert [check.name for check in verdict.checks] == [
        "judged", "effective_n", "mean_weight", "over_champion", "over_best_fixed",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "failed"),
    [
        ({"judged": 199}, "judged"),
        ({"value": estimate(0.5, effective_n=99)}, "effective_n"),
        ({"over_champion": estimate(0.02, effective_n=99)}, "effective_n"),
        ({"over_best_fixed": estimate(0.02, effective_n=99)}, "effective_n"),
        ({"mean_weight": Estimate("mean_weight", 0.5, 0.4, 0.6, 0.03, 900, 500)}, "mean_weight"),
        ({"over_champion": estimate(0.01)}, "over_champion"),
        ({"over_champion": estimate(math.nan)}, "over_champion"),
        ({"over_best_fixed": estimate(-0.1)}, "over_best_fixed"),
    ],
)
def test_each_check_alone_refuses(change: dict[str, Any], failed: str) -> None:
    verdict = judge(evidence(**change), GATE)
    assert not verdict.passed
    assert [check.name for check in verdict.checks if not check.passed] == [failed]
    assert verdict.summary.startswith("not released: ")


def test_the_best_fixed_arm_need_not_beat_itself() -> None:
    verdict = judge(evidence(over_best_fixed=None), GATE)
    assert verdict.passed
    assert [check.name for check in verdict.checks][-1] == "over_champion"


def test_a_value_that_is_only_likely_better_does_not_pass() -> None:
    likely = estimate(-0.001, value=0.099)
    assert not judge(evidence(over_champion=likely), replace(GATE, margin=0.0)).passed


@given(st.integers(1, 8), st.floats(0.001, 0.5))
def test_all_looks_together_spend_no_more_than_alpha(candidates: int, alpha: float) -> None:
    gate = GateConfig(alpha=alpha)
    spent = sum(
        candidates * (1.0 - level_of(gate, look, candidates)) / 2 for look in range(1, 2_000)
    )
    assert spent <= alpha * (1 + 1e-9)
    assert spent > 0.99 * alpha


@given(st.integers(1, 1_000), st.integers(1, 9))
def test_each_further_look_is_stricter(look: int, candidates: int) -> None:
    assert level_of(GATE, look + 1, candidates) > level_of(GATE, look, candidates)
    assert 0 < level_of(GATE, look, candidates) < 1


def test_a_verdicts_numbers_are_plain() -> None:
    numbers = evidence(over_best_fixed=None).as_json()
    assert numbers["over_best_fixed"] is None
    assert numbers["over_champion"]["low"] == 0.02
    assert set(numbers) == {
        "judged", "look", "candidates", "value", "champion", "best_fixed", "over_champion",
        "over_best_fixed", "mean_weight", "champion_version", "segments",
            "diagnostics",
    }  # fmt: skip


def test_a_segment_that_surely_loses_and_a_log_that_cannot_judge_refuse() -> None:
    loses = estimate(-0.3, value=-0.2)
    assert loses.high == pytest.approx(-0.1)
    harmed = judge(evidence(segments={"maths": loses}), GateConfig(), harm=0.05)
    assert "surely below -0.05" in harmed.summary
    assert judge(evidence(segments={"maths": loses}), GateConfig(), harm=0.15).passed
    gap = Finding("support", 0.4, 0.1, passed=False, sentence="40 % fall on arms never served")
    unfit = judge(evidence(diagnostics=(gap,)), GateConfig())
    assert unfit.summary == "not released: 40 % fall on arms never served"
