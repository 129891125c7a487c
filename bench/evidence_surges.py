"""How many requests a failing arm hurts until the evidence is there; how often it alarms wrongly.

Simulated: a canary that sends 95 % of its requests to one arm, beside a champion that sends each
arm the same share. That arm's failures rise from the base to 30 % for both, once the canary has
decided some requests. Hurt are the canary's failed first choices from then until the evidence is
enough at the share of the error that a release of the default five stages gives it. Waiting for
reports and looks is not in it: see :mod:`bench.evidence_canary`.

Wrong alarms are counted at a level of 95 % over all looks, at failures that are just still allowed:
2 points above the champion's.
"""

import math
import sys

import numpy as np
from numpy.typing import NDArray

from bench.measure import Measure, main
from controlplane.release_config import ReleaseConfig
from learners.surges import Allowed, Surge, Trail, beside

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

RUNS, WRONG_RUNS = 100, 1_000
FAILS, STICKS, MARGIN = 0.3, 0.95, 0.02
BEFORE, AFTER = (20, 1_000), 400
"""Decisions of the canary before its arm breaks, and at most after."""
SHARES = (0.01, 0.05, 0.25)
POOLS = ((4, 0.01), (9, 0.0))
"""How many arms, and how often the others fail."""
MOST_CONTROLS = 16.0
ALPHA, NOMINAL = ReleaseConfig().alpha / (2 * len(ReleaseConfig().stages)), 0.05
WRONG_ROWS = 1_000


def run(quick: bool) -> list[Measure]:  # noqa: FBT001 — the one switch of every benchmark
    """All measures."""
    runs, wrong = (5, 50) if quick else (RUNS, WRONG_RUNS)
    found = [
        of_break(share, arms, base, before, runs)
        for share in SHARES
        for arms, base in POOLS
        for before in BEFORE
    ]
    return found + [
        of_wrong(ratio, base, wrong) for ratio in (1.0, 3.0, MOST_CONTROLS) for base in (0.0, 0.05)
    ]


def of_break(share: float, arms: int, base: float, before: int, runs: int) -> Measure:
    """What a break costs."""
    ratio = min(MOST_CONTROLS, (1.0 - share) / share)
    rates = tuple(s * FAILS + (1.0 - s) * base for s in (STICKS + 0.05 / arms, 1.0 / arms))
    hurt = [hurt_until(np.random.default_rng(seed), ratio, rates, base, before)
            for seed in range(runs)]  # fmt: skip
    fewest = rates[0] * -math.log(ALPHA) / information(rates, ratio)
    middle, most = float(np.median(hurt)), float(np.quantile(hurt, 0.9))
    return Measure(
        measure=f"{share:.0%} canary, {arms} arms, base {base:.0%}: arm fails {FAILS:.0%} after "
        f"{before:,} decisions: requests hurt (a tenth of {runs} runs: {most:.0f} or more)",
        value=round(middle, 1),
        unit="requests",
        reference=f"by the likelihood ratio of rates and time known before: {fewest:.2g} requests",
        ratio=round(middle / fewest, 2),
    )


def of_wrong(ratio: float, base: float, runs: int) -> Measure:
    """How often failures that are just allowed alarm."""
    alarms = 0
    for seed in range(runs):
        at, own, coins = drawn(np.random.default_rng(seed), WRONG_ROWS, ratio)
        hit = coins < np.where(own, base + MARGIN, base)
        alarms += seen(at, own, hit, ratio).log_e >= -math.log(NOMINAL)
    return Measure(
        measure=f"{ratio:.0f} of the champion's for one of the canary's, base {base:.0%}: failures "
        f"that are just allowed alarm within {WRONG_ROWS:,} decisions, of {runs:,} runs",
        value=round(alarms / runs, 4),
        unit="of runs",
        goal=f"<= {NOMINAL}, and a luck of 1 in 100",
        holds=alarms <= NOMINAL * runs + 2.33 * math.sqrt(NOMINAL * (1.0 - NOMINAL) * runs),
    )


def drawn(rng: np.random.Generator, rows: int, ratio: float) -> tuple[Floats, Bools, Floats]:
    """When requests come, which are the canary's, and a coin for each."""
    n = int(rows * (1.0 + ratio))
    return np.sort(rng.random(n)), rng.random(n) < 1.0 / (1.0 + ratio), rng.random(n)


def seen(at: Floats, own: Bools, hit: Bools, ratio: float) -> Surge:
    """What a look finds."""
    new, old = (Trail(hit[of], at[of]) for of in (own, ~own))
    return beside(new, old, Allowed(MARGIN), ratio=ratio)


def hurt_until(
    rng: np.random.Generator, ratio: float, rates: tuple[float, ...], base: float, before: int
) -> float:
    """Failed first choices of the canary from the break to the alarm, which any later look sees."""
    at, own, coins = drawn(rng, before + AFTER, ratio)
    rows = np.flatnonzero(own)
    breaks = int(rows[min(before, len(rows) - 1)])
    later = np.arange(len(at)) >= breaks
    hit = coins < np.where(later, np.where(own, rates[0], rates[1]), base)
    low, high = breaks, len(at)
    while high - low > 1:
        middle = (low + high) // 2
        found = seen(at[:middle], own[:middle], hit[:middle], ratio)
        low, high = (low, middle) if found.log_e >= -math.log(ALPHA) else (middle, high)
    return float((hit & own & later)[:high].sum())


def information(rates: tuple[float, ...], ratio: float) -> float:
    """Nats that one of the canary's decisions and its control's hold against all allowed rates."""
    allowed = np.linspace(1e-6, 1.0 - MARGIN - 1e-6, 100_000)
    each = _entropy(rates[0], allowed + MARGIN) + ratio * _entropy(rates[1], allowed)
    return float(each.min())


def _entropy(rate: float, other: Floats) -> Floats:
    parts = [(rate, other), (1.0 - rate, 1.0 - other)]
    found: Floats = np.sum([p * np.log(p / q) for p, q in parts if p > 0], axis=0)
    return found


if __name__ == "__main__":
    sys.exit(main(run))
