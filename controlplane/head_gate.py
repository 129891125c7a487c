"""The gate of a head: may this version serve in place of what does? Pure; says why."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controlplane.gates import Check, Verdict
from controlplane.head_labels import Sway
from controlplane.heads_config import HeadConfig
from learners.head_training import UNKNOWN, Comparison
from learners.heads import IN, OUT

JUDGED_PART = 4
"""Judging needs one label of a class for so many that training needs."""
LEAST_JUDGED = 2
LEAST_EFFECTIVE = 20.0
"""Effective sample size of the judged rows' weights, at least."""
MOST_MISCALIBRATED = 0.05
"""Of the likeliest class's chance, on average, beyond what so many labels show by chance."""
_NEARLY = 1 + 1e-6


@dataclass(frozen=True, slots=True)
class HeadEvidence:
    """What is known of a version, from labels newer than its training.

    Attributes:
        trained: labels of each class that trained.
        judged: labels of each class that judge.
        compared: against what serves; None where there were too few labels to train.
        serving: the version that it is compared with; None: how frequent the classes are.
        look: how often this serving version has been challenged, this time included.
        continued: the version from which it learnt on; None where it began anew.
        sways: of what trains and of what judges, the source that holds most of a class.
        bound: the part of a class's labels that a source may hold; 1: any.
    """

    trained: Mapping[str, int]
    judged: Mapping[str, int]
    compared: Comparison | None
    serving: int | None
    look: int
    continued: int | None = None
    sways: tuple[Sway, ...] = ()
    bound: float = 1.0

    def as_json(self) -> dict[str, Any]:
        """Plain numbers for a verdict."""
        compared = self.compared
        return {
            "trained": dict(self.trained),
            "judged": dict(self.judged),
            "serving": self.serving,
            "look": self.look,
            "continued": self.continued,
            "own": compared.own.as_json() if compared else None,
            "other": compared.other.as_json() if compared else None,
            "over": compared.over.as_json() if compared else None,
        }


def counts(labels: NDArray[np.int64], head: HeadConfig) -> dict[str, int]:
    """How many rows each class has; of an ood head the known and the unknown ones."""
    ood = head.kind == "ood"
    names = (IN, OUT) if ood else head.names
    told = (labels == UNKNOWN).astype(np.int64) if ood else labels
    found = np.bincount(told, minlength=len(names))
    return dict(zip(names, found.tolist(), strict=True))


def level_of(head: HeadConfig, look: int) -> float:
    """The two-sided level of a look, such that all looks at what serves err with ``alpha``.

    Look k may spend α·6/(π²k²), as rounds do.
    """
    return 1.0 - 2.0 * head.alpha * 6.0 / (math.pi**2 * look**2)


def ready(evidence: HeadEvidence, head: HeadConfig) -> list[Check]:
    """Whether there are labels to train and to judge by, and none of one source's alone."""
    return _enough(evidence, head) + _influence(evidence)


def _enough(evidence: HeadEvidence, head: HeadConfig) -> list[Check]:
    """Whether each class has the labels that training and judging need."""
    least_judged = max(LEAST_JUDGED, head.min_labels // JUDGED_PART)
    checks = []
    for name, labels, least in (
        ("trained", evidence.trained, head.min_labels),
        ("judged", evidence.judged, least_judged),
    ):
        # What an ood head does not know it need not learn.
        asked = {one: n for one, n in labels.items() if (name, one) != ("trained", OUT)}
        rare = min(asked, key=lambda one: asked[one])
        good = asked[rare] >= least
        detail = (
            f"class {rare!r} has {asked[rare]} labels that {name}, "
            f"{'at least' if good else 'fewer than'} the {least} needed"
        )
        checks.append(Check(name, good, float(asked[rare]), float(least), detail))
    return checks


def _influence(evidence: HeadEvidence) -> list[Check]:
    """Whether all sources keep to the bound, which weights alone cannot bring about for a few."""
    if evidence.bound >= 1.0:
        return []
    worst = max(evidence.sways, key=lambda sway: sway.share, default=None)
    if worst is None:
        said = "no source that is capped labelled anything"
        return [Check("influence", True, 0.0, evidence.bound, said)]
    good = worst.share <= evidence.bound * _NEARLY
    detail = (
        f"source {worst.source!r} holds {worst.share:.0%} of the weight of class {worst.label!r}, "
        f"{'at most' if good else 'more than'} the {evidence.bound:.0%} of sources.max_influence"
    )
    few = math.ceil(1 / evidence.bound)
    mend = f": have {few} sources or more label it, or name one you believe in sources.trusted"
    detail += "" if good else mend
    return [Check("influence", good, worst.share, evidence.bound, detail)]


def judge(evidence: HeadEvidence, head: HeadConfig) -> Verdict:
    """Judge one version of a head."""
    checks = ready(evidence, head)
    if evidence.compared is not None:
        checks += _compared(evidence.compared, evidence.serving, head)
    failed = [check for check in checks if not check.passed]
    if failed or evidence.compared is None:
        return Verdict(False, "not served: " + "; ".join(c.detail for c in failed), tuple(checks))
    return Verdict(True, "better: " + checks[-1].detail, tuple(checks))


def _compared(compared: Comparison, serving: int | None, head: HeadConfig) -> list[Check]:
    over = compared.over
    other = "knowing only how frequent the classes are"
    other = other if serving is None else f"version {serving}"
    effective, gained = over.effective_n >= LEAST_EFFECTIVE, over.low > head.margin
    return [
        Check(
            "effective_n",
            effective,
            over.effective_n,
            LEAST_EFFECTIVE,
            f"effective sample size {over.effective_n:,.0f} of the judged labels, "
            f"{'at least' if effective else 'less than'} {LEAST_EFFECTIVE:g}",
        ),
        *([] if head.kind == "ood" else [_calibration(compared.own.miscalibration)]),
        Check(
            "over_serving",
            gained,
            over.low,
            head.margin,
            f"{over.value:+.4f} nats of log-loss gained over {other} ({100 * over.level:.2f} % "
            f"interval {over.low:+.4f} to {over.high:+.4f}), lower bound "
            f"{'above' if gained else 'not above'} {head.margin:g}",
        ),
    ]


def _calibration(off: float) -> Check:
    """Whether chances are frequencies; an ood head's are only where unknown ones are labelled."""
    good = off <= MOST_MISCALIBRATED
    return Check(
        "calibration",
        good,
        off,
        MOST_MISCALIBRATED,
        f"chances are off by {off:.3f} beyond what chance explains, "
        f"{'at most' if good else 'more than'} {MOST_MISCALIBRATED:g}",
    )
