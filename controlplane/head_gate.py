"""The gate of a head: may this version serve in place of what does? Pure; says why."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from controlplane.gates import Check, Verdict
from controlplane.heads_config import HeadConfig
from learners.head_training import Comparison, Labelled
from learners.heads import IN, OUT

JUDGED_PART = 4
"""Judging needs one label of a class for so many that training needs."""
LEAST_JUDGED = 2
LEAST_EFFECTIVE = 20.0
"""Effective sample size of the judged rows' weights, at least."""


@dataclass(frozen=True, slots=True)
class HeadEvidence:
    """What is known of a version, from labels newer than its training.

    Attributes:
        trained: labels of each class that trained.
        judged: labels of each class that judge.
        compared: against what serves; None where there were too few labels to train.
        serving: the version that it is compared with; None: how frequent the classes are.
        look: how often this serving version has been challenged, this time included.
    """

    trained: Mapping[str, int]
    judged: Mapping[str, int]
    compared: Comparison | None
    serving: int | None
    look: int

    def as_json(self) -> dict[str, Any]:
        """Plain numbers for a verdict."""
        compared = self.compared
        return {
            "trained": dict(self.trained),
            "judged": dict(self.judged),
            "serving": self.serving,
            "look": self.look,
            "own": compared.own.as_json() if compared else None,
            "other": compared.other.as_json() if compared else None,
            "over": compared.over.as_json() if compared else None,
        }


def counts(rows: Labelled, head: HeadConfig) -> dict[str, int]:
    """How many rows each class has; of an ood head the known and the unknown ones."""
    names = (IN, OUT) if head.kind == "ood" else head.names
    found = np.bincount(rows.told(head.kind), minlength=len(names))
    return dict(zip(names, found.tolist(), strict=True))


def level_of(head: HeadConfig, look: int) -> float:
    """The two-sided level of a look, such that all looks at what serves err with ``alpha``.

    Look k may spend α·6/(π²k²), as rounds do.
    """
    return 1.0 - 2.0 * head.alpha * 6.0 / (math.pi**2 * look**2)


def enough(evidence: HeadEvidence, head: HeadConfig) -> list[Check]:
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


def judge(evidence: HeadEvidence, head: HeadConfig) -> Verdict:
    """Judge one version of a head."""
    checks = enough(evidence, head)
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
