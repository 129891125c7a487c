"""Agents: what learners of episodes earn in two simulated worlds, beside both boundary policies.

Each seed draws a log of 1,500 episodes that an even policy served, and judges on 2,000 others.
``reinforce`` is also run as it would serve: ten rounds of 150 episodes, learnt one by one.
"""

import sys
from collections.abc import Callable, Mapping

import numpy as np

from bench.measure import Measure, main
from controlplane.simulation.episodes import SPARSE, TIGHT, EpisodeWorld, Run, play
from learners import catalogue
from learners.contract import Spec
from learners.exploration import Exploration
from learners.interactions import Interactions
from learners.scorers.base import Scorer
from learners.scorers.linear import constant

WORLDS: Mapping[str, EpisodeWorld] = {"sparse": SPARSE, "tight": TIGHT}
LOGGED, JUDGED, ROUNDS = 1_500, 2_000, 10
ENDS = ("always_small", "always_large")
AGENTS = ("fqi", "reinforce")
Make = Callable[[int, Interactions], Scorer]


def run(quick: bool) -> list[Measure]:  # noqa: FBT001 -- the one switch of every benchmark
    """All measures."""
    seeds = 2 if quick else 10
    return [row for name in WORLDS for row in earned(name, WORLDS[name], seeds)]


def earned(name: str, world: EpisodeWorld, seeds: int) -> list[Measure]:
    """Each policy's reward, with its standard error; agents beside the best of what is fixed."""
    logs = [play(world, even(world), LOGGED, seed).log for seed in range(seeds)]
    found = {what: judged(world, make, logs) for what, make in policies(world).items()}
    means = {what: float(np.mean(rewards(runs))) for what, runs in found.items()}
    best = max((*ENDS, "random"), key=means.__getitem__)
    rows = []
    for what, runs in found.items():
        each = rewards(runs)
        error = float(np.std(each, ddof=1) / np.sqrt(seeds))
        agent = what.startswith(AGENTS)
        rows.append(
            Measure(
                measure=f"reward an episode in {name}: {what} (± {error:.4f} over {seeds} seeds; "
                f"{told(world, runs)})",
                value=round(means[what], 4),
                unit="reward",
                reference=f"{best}: {means[best]:.4f}",
                ratio=round(means[what] / means[best], 3),
                goal="> both ends and random" if agent else None,
                holds=means[what] > means[best] if agent else None,
            )
        )
    return rows


def told(world: EpisodeWorld, runs: list[Run]) -> str:
    """How the reward came about."""
    numbers = {
        "solved": [each.solved.mean() for each in runs],
        "USD": [each.spent_usd.mean() for each in runs],
        "over budget": [(each.spent_usd > world.budget_usd).mean() for each in runs],
        "large on hard": [each.share("large", 2) for each in runs],
        "small on easy": [each.share("small", 0) for each in runs],
    }
    return ", ".join(f"{name} {np.mean(each):.3f}" for name, each in numbers.items())


def rewards(runs: list[Run]) -> list[float]:
    return [float(each.reward.mean()) for each in runs]


def judged(world: EpisodeWorld, make: Make, logs: list[Interactions]) -> list[Run]:
    return [play(world, make(seed, log), JUDGED, 1_000 + seed) for seed, log in enumerate(logs)]


def policies(world: EpisodeWorld) -> dict[str, Make]:
    """How each is made from a seed and the even policy's log."""
    masked = {"max_turns": world.max_turns, "cost_margin": 1.2}
    return {
        **{name: learnt(world, name) for name in ENDS},
        "random": lambda _seed, _log: even(world),
        "linucb": learnt(world, "linucb"),
        "fqi": learnt(world, "fqi"),
        "fqi, budget mask": learnt(world, "fqi", masked),
        "reinforce": learnt(world, "reinforce"),
        "reinforce, budget mask": learnt(world, "reinforce", masked),
        f"reinforce, {ROUNDS} rounds": lambda seed, _log: in_rounds(world, seed).greedy(),
        f"reinforce, {ROUNDS} rounds, as served": lambda seed, _log: in_rounds(world, seed),
    }


def learnt(world: EpisodeWorld, name: str, params: Mapping[str, float] | None = None) -> Make:
    def make(_seed: int, log: Interactions) -> Scorer:
        learner = catalogue.load(name)
        spec = Spec(world.schema, world.arms, params or {}, reading=world.reading)
        return learner.freeze(learner.learn(learner.init(spec), log)).greedy()

    return make


def in_rounds(world: EpisodeWorld, seed: int) -> Scorer:
    learner = catalogue.load("reinforce")
    state = learner.init(Spec(world.schema, world.arms, reading=world.reading))
    for number in range(ROUNDS):
        served = play(world, learner.freeze(state), LOGGED // ROUNDS, 10_000 + 100 * seed + number)
        state = learner.learn(state, served.log)
    return learner.freeze(state)


def even(world: EpisodeWorld) -> Scorer:
    arms = dict.fromkeys(world.arms, 0.0)
    return constant(arms, world.schema.dimension, Exploration("uniform"))


if __name__ == "__main__":
    sys.exit(main(run))
