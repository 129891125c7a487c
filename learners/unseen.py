"""Whether the log has shown what a policy would do otherwise, or a model only imagines it.

Two policies differ on a row by ``g = Σ_a max(π(a|x) − π'(a|x), 0)``, known for every row. What the
log shows of that is ``s = max(w − w', 0)``, of the arm that it happened to serve; given the context
its mean is g exactly. Where a policy turns to arms that are rarely served, a short log may hold no
such row at all: the doubly robust difference is then what the reward model predicts and nothing
corrects it, its interval is narrow, and Kish's effective sample size is that of the many rows on
which both are nearly alike. So s is compared with g among rows of like g.
"""

import numpy as np

from learners.diagnostics import Finding
from learners.ope.logs import Floats, Log

LEAST = 0.5
EDGES = (0.25, 0.5, 0.75)
"""Rows are grouped by how far the two policies differ on them."""
WORTH = 0.2
"""Share of all that differs which a group must hold to be asked: a smaller one is seen by luck."""


def gain_seen(
    log: Log, own: Floats, other: Floats, *, name: str = "champion", least: float = LEAST
) -> Finding:
    """The smallest share of its expected gain in weight that a group of rows shows.

    Args:
        log: n rows.
        own: the judged policy's probabilities, shape ``(n, K)``.
        other: those of whom it is compared with.
        name: who that is.
        least: share that must be shown; with 50 effective rows in a group, half is missed by chance
            in one of 2,000 cases.
    """
    rows = np.arange(len(log))
    expected = np.maximum(own - other, 0.0).sum(axis=1)
    moved = own[rows, log.action] - other[rows, log.action]
    shown = np.maximum(moved, 0.0) / log.propensity
    group = np.digitize(expected, EDGES)
    wanted, found = (np.bincount(group, each, len(EDGES) + 1) for each in (expected, shown))
    asked = wanted >= max(WORTH * float(wanted.sum()), 1e-12)
    share = float((found[asked] / wanted[asked]).min()) if asked.any() else 1.0
    return Finding(
        f"gain_seen_over_{name.replace(' ', '_')}",
        share,
        least,
        share >= least,
        f"the log shows {share:.0%} of what it would choose otherwise than the {name}, "
        f"{'at least' if share >= least else 'less than'} the {least:.0%} needed",
    )
