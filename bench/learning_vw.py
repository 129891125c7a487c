"""VW beside itself: what ``vw.learn`` costs an interaction, and what VW's bare loop costs."""

import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from vowpal_wabbit_next import CBLabel, Example, Workspace

from bench.measure import Measure, main, seconds_each
from learners import vw
from learners.contract import Spec
from learners.features import Feature, Schema
from learners.interactions import Interactions

ARMS = 9
COLUMNS = 87
SCHEMA = Schema((Feature("terms", "vector", size=COLUMNS - 1),))
ROWS = 5_000
"""A round's interactions; each round loads and saves the model once."""
GOAL = 1.3


def run(quick: bool) -> list[Measure]:  # noqa: FBT001 — the one switch of every benchmark
    """All measures."""
    ours_s, raw_s = overhead(3 if quick else 9)
    ratio = round(ours_s / raw_s, 2)
    actions = large_action_space(3 if quick else 9)
    return [
        Measure(
            measure=f"vw.learn: an interaction ({ARMS} arms, {COLUMNS} columns)",
            value=round(ours_s * 1e6, 2),
            unit="µs",
            reference=f"bare loop, the chosen arm alone: {raw_s * 1e6:.3g} µs",
            ratio=ratio,
            goal=f"<= {GOAL} ×",
            holds=ratio <= GOAL,
        ),
        Measure(
            measure="decide among 200 arms with --large_action_space",
            value=round(actions[0] * 1e6, 1),
            unit="µs",
            reference=f"without: {actions[1] * 1e6:.3g} µs; our linear scorer: "
            f"{actions[2] * 1e6:.3g} µs",
            ratio=round(actions[0] / actions[1], 2),
        ),
    ]


def overhead(rounds: int) -> tuple[float, float]:
    """Seconds an interaction of ``vw.learn`` and of the least loop over arrays made before.

    The loop builds direct-index examples of the chosen arm alone, as ours does, so the ratio is
    what standardising, encoding, loading and saving add.
    """
    log = a_log(ROWS)
    state = vw.init(Spec(SCHEMA, log.arms))
    every = np.arange(COLUMNS)
    arrays = [
        (
            (arm * COLUMNS + every).astype(np.uint64),
            row.astype(np.float32),
            float(reward),
        )
        for arm, row, reward in zip(log.action.tolist(), log.x, log.reward, strict=True)
    ]
    ours_s, raw_s = seconds_each(
        [partial(vw.learn, state, log), partial(bare, arrays)], rounds=rounds, calls=1
    )
    return ours_s / ROWS, raw_s / ROWS


def bare(arrays: Sequence[tuple[Any, Any, float]]) -> None:
    """The loop of a user who has the arrays."""
    workspace = Workspace(["--cb_adf", "--cb_type", "mtr", "--noconstant", "-b", "16", "--quiet"])
    for indices, values, reward in arrays:
        example = Example()
        example["a"].push_many_features(indices, values)
        example.set_label(CBLabel(label=(-reward, 1.0)))
        workspace.learn_one([example])


def a_log(n: int) -> Interactions:
    """Random interactions of the size that the tables have."""
    random = np.random.default_rng(0)
    return Interactions(
        arms=tuple(f"arm-{i}" for i in range(ARMS)),
        x=np.column_stack([np.ones(n), random.normal(size=(n, COLUMNS - 1)) / 8]),
        eligible=np.ones((n, ARMS), dtype=np.bool_),
        action=random.integers(ARMS, size=n),
        propensity=np.full(n, 1 / ARMS),
        reward=random.random(n),
        weight=np.ones(n),
    )


def large_action_space(rounds: int, arms: int = 200) -> tuple[float, float, float]:
    """Seconds a decision with the flag, without it, and of the scorer that the edge has."""
    random = np.random.default_rng(0)
    x = np.concatenate([[1.0], random.normal(size=COLUMNS - 1) / 8])
    every = np.arange(COLUMNS)
    examples = []
    for arm in range(arms):
        example = Example()
        places: Any = (arm * COLUMNS + every).astype(np.uint64)
        values: Any = x.astype(np.float32)
        example["a"].push_many_features(places, values)
        example.set_label(CBLabel())
        examples.append(example)
    flags = ["--cb_explore_adf", "--squarecb", "--noconstant", "-b", "16", "--quiet"]
    wide, plain = Workspace([*flags, "--large_action_space"]), Workspace(flags)
    names = tuple(f"arm-{i}" for i in range(arms))
    scorer = vw.freeze(vw.init(Spec(SCHEMA, names)))
    eligible = np.ones((1, arms), dtype=np.bool_)
    wide_s, plain_s, ours_s = seconds_each(
        [
            partial(wide.predict_one, examples),
            partial(plain.predict_one, examples),
            partial(scorer.distribution, x[None], eligible),
        ],
        rounds=rounds,
        calls=5,
    )
    return wide_s, plain_s, ours_s


if __name__ == "__main__":
    sys.exit(main(run))
