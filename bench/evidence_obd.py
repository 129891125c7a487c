"""Open Bandit Dataset: is what a policy really earned inside the interval from another's log?

The log of the uniform policy judges Bernoulli Thompson sampling, whose own log tells what it
earned. What that policy does at each position is taken from how often it chose each item there:
its logged probabilities changed on the way, and those of chosen items alone would overstate it.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench import tables
from bench.measure import Measure, main
from feedback.imports import obd
from feedback.imports.files import records
from feedback.imports.rows import Account
from learners import intervals, ope
from learners.ope import Estimator, Imported

CAMPAIGNS = ("all", "men")
ESTIMATORS: tuple[Estimator, ...] = ("ips", "snips", "dm", "dr", "switch_dr", "dros")
LEVEL = 0.95


@dataclass(frozen=True, slots=True, eq=False)
class Impressions:
    """n impressions of a campaign, shape ``(n,)`` each."""

    item: tuple[str, ...]
    position: tuple[str, ...]
    click: NDArray[np.float64]
    propensity: NDArray[np.float64]


def run(quick: bool) -> list[Measure]:  # noqa: FBT001 — the one switch of every benchmark
    """All measures."""
    place = tables.folder()
    if place is None:
        return []
    campaigns = CAMPAIGNS[1:] if quick else CAMPAIGNS
    return [one for campaign in campaigns for one in judged(place, campaign)]


def judged(place: Path, campaign: str) -> Iterator[Measure]:
    """Each estimator's interval of a campaign, beside what was earned."""
    seen, truth = (
        impressions(place / f"obd_{which}_{campaign}.csv.gz") for which in ("random", "bts")
    )
    earned = float(truth.click.mean())
    error = float(truth.click.std(ddof=1)) / len(truth.click) ** 0.5
    log, distribution = as_log(seen, truth)
    for each, found in ope.evaluate_each(log, distribution, ESTIMATORS).items():
        drawn = intervals.bootstrap(found.influence, seed=0, level=LEVEL)
        for kind, one in (("normal", ope.estimate(found, level=LEVEL)), ("bootstrap", drawn)):
            yield Measure(
                measure=f"OBD {campaign}, random to bts, {each}, {kind}: 95 % interval "
                f"{one.low:.5f} to {one.high:.5f}",
                value=float(f"{one.value:.4g}"),
                unit="clicks",
                reference=f"on-policy: {earned:.4f} (s.e. {error:.4f})",
                ratio=round(one.value / earned, 3),
                goal="covers the on-policy value",
                holds=one.low <= earned <= one.high,
            )


def impressions(path: Path) -> Impressions:
    """A campaign's file, read as an import does."""
    account = Account()
    rows = list(obd.read(records([path], account), account))
    return Impressions(
        item=tuple(row.models[0] for row in rows),
        position=tuple(str(row.context["position"]) for row in rows),
        click=np.array([float(row.said[obd.CLICK]) for row in rows]),
        propensity=np.array([row.propensity for row in rows], dtype=np.float64),
    )


def as_log(seen: Impressions, other: Impressions) -> tuple[Imported, NDArray[np.float64]]:
    """One policy's log over the items, and what the other does on it, shape ``(n, K)``."""
    items = sorted({*seen.item, *other.item}, key=int)
    places = sorted({*seen.position, *other.position})
    number = {item: at for at, item in enumerate(items)}
    at = {place: row for row, place in enumerate(places)}
    counts = np.zeros((len(places), len(items)))
    for place, item in zip(other.position, other.item, strict=True):
        counts[at[place], number[item]] += 1.0
    shares = counts / counts.sum(axis=1, keepdims=True)
    position = np.array([at[place] for place in seen.position])
    log = Imported(
        arms=tuple(items),
        x=np.column_stack([np.ones(len(position)), np.eye(len(places))[position]]),
        eligible=np.ones((len(position), len(items)), dtype=np.bool_),
        action=np.array([number[item] for item in seen.item]),
        propensity=seen.propensity,
        reward=seen.click,
    )
    return log, shares[position]


if __name__ == "__main__":
    sys.exit(main(run))
