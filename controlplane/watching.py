"""What is read of the log for a release's stage: both sides' decisions, as numbers."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import sqlalchemy as sa

from controlplane.config import PolicyConfig
from controlplane.lineups import CANARY, CONTROL
from controlplane.release_config import MAX_WATCHED, Guardrail, ReleaseConfig
from controlplane.stage_gates import Canary, Facts
from controlplane.stage_numbers import (
    ERROR,
    Better,
    Shadowed,
    Side,
    Sudden,
    Watched,
    excess,
    gain,
    lately,
    segments,
    watched,
)
from feedback.metrics import OUTCOMES
from learners.contrasts import FEWEST_UNITS
from learners.rates import rate_bounds, worth
from storage import edges, policies, stages
from storage.policies import StoredPolicy
from storage.releases import StoredRelease
from storage.stages import Asked, Span, StageRow

MAX_ROWS = MAX_WATCHED
"""Decisions that a look reads, the newest; beyond, an interval holds for those it reads."""
CONTROLS = (2.0, 16.0)
"""Units of the champion that are read for one of the new version's, at least and at most."""
CONTROL_ROWS = 8_000
"""Decisions of the champion up to which more are read than at least: few of the new version's say
most where the champion's own rate is known."""
BEFORE = 5_000
"""Decisions of the champion before, with which a new one is compared."""
PENDING = timedelta(seconds=60)
"""How long an answer may take before its outcome counts as lost."""
ERRORS = Guardrail(ERROR, "rate", margin=0.02)
"""What is watched for sudden failures where a policy's guardrails name no errors."""
EDGE_SILENT = timedelta(minutes=5)
BUNDLE, EDGE = "bundle", "edge"
"""Whose fault it is that an edge refused a bundle."""


@dataclass(frozen=True, slots=True)
class Ground:
    """What a look at a release stands on."""

    policy: StoredPolicy
    config: PolicyConfig
    rules: ReleaseConfig
    release: StoredRelease
    now: datetime

    @property
    def share(self) -> float:
        """Of the units that the new version decides in this stage."""
        return float(self.release.plan["stages"][self.release.stage]["share"])

    @property
    def serial(self) -> int:
        """The first bundle of this stage."""
        return int(self.release.state["serial"])

    @property
    def level(self) -> float:
        """Of each interval, such that all monitors of all stages together err with ``alpha``.

        Half of it is for failures that surge: they are known at once, and hurt at once.
        """
        tests = len(self.rules.guardrails) + 2
        if self.config.segment is not None:
            tests += self.rules.harm.segments
        return 1.0 - (1.0 - self.sudden) / tests

    @property
    def sudden(self) -> float:
        """Of the evidence that failures surge."""
        return 1.0 - self.rules.alpha / (2.0 * len(self.release.plan["stages"]))


def facts(connection: sa.Connection, ground: Ground) -> Facts:
    """How long the stage runs, and what the edges say of its bundle."""
    name, began = ground.policy.name, ground.release.stage_at
    active, nacks, refusals = 0, list[str](), list[str]()
    for edge in edges.list_edges(connection, ground.policy.project_id):
        if edge["seen_at"] < max(began, ground.now - EDGE_SILENT):
            continue
        active += edge["active"].get(name, 0) >= ground.serial
        for nack in edge["nack"]:
            if nack["policy"] != name or nack["serial"] < ground.serial:
                continue
            said = f"edge {edge['edge_id']} refused serial {nack['serial']}: {nack['reason']}"
            (nacks if fault_of(nack) == BUNDLE else refusals).append(said)
    elapsed_s = (ground.now - began).total_seconds()
    return Facts(elapsed_s, active, tuple(nacks), tuple(refusals))


def fault_of(nack: Mapping[str, Any]) -> str:
    """Whose fault a refusal is: that of the bundle or of the edge.

    Edges of a release that does not say so refused whole kinds of bundles that they did not know;
    of what they understood only the golden vectors spoke against the bundle.
    """
    told: str | None = nack.get("fault")
    if told is not None:
        return told
    return BUNDLE if "golden vector" in nack["reason"] else EDGE


def shadow(connection: sa.Connection, ground: Ground) -> Watched:
    """What the release's version would have done in the champion's place."""
    asked = Asked(_reward_version(connection, ground.policy), shadow=ground.release.version)
    span = Span(ground.serial, ground.release.stage_at, MAX_ROWS)
    rows = stages.of_version(
        connection, ground.policy, span, asked, version=ground.release.champion
    )
    planned = max(2.0 * ground.rules.min_decisions, float(FEWEST_UNITS))
    return watched(shadowed(rows), level=ground.level, planned_rows=planned)


def shadowed(rows: Sequence[StageRow]) -> Shadowed:
    """The rows' numbers."""
    told = [(row, row.shadow) for row in rows if row.shadow is not None]
    return Shadowed(
        unit=_units([row for row, _ in told]),
        agreed=np.array([said["action"] == row.action for row, said in told], dtype=np.bool_),
        weight=np.array([said["served"] / row.propensity for row, said in told], dtype=np.float64),
        reward=_column([row.reward for row, _ in told]),
        cost=_column([(row.outcome or {}).get("cost_usd") for row, _ in told]),
        silent=len(rows) - len(told),
    )


def canary(connection: sa.Connection, ground: Ground) -> Canary:
    """The canary beside the control of the same units' split."""
    asked, full = _asked(connection, ground), (1.0 - ground.share) / ground.share
    span = Span(ground.serial, ground.release.stage_at, MAX_ROWS // 3)

    def read(span: Span, variant: str, share: float) -> list[StageRow]:
        return stages.of_split(
            connection, ground.policy, span, asked, split=CANARY, variant=variant, share=share
        )

    own = read(span, CANARY, 1.0)
    ratio = min(full, controls(len(own)))
    control = read(replace(span, limit=MAX_ROWS - len(own)), CONTROL, ratio / full)
    if len(own) == span.limit:  # both sides of the same time
        control = [row for row in control if row.decision_id >= own[-1].decision_id]
    decided = [row for row in own if row.version == ground.release.version]
    strayed = _first(own) - _first(decided)
    return _beside(connection, ground, decided, control, ratio=ratio, strayed=strayed)


def controls(rows: int) -> float:
    """How many of the champion's units are read for one of the new version's ``rows``.

    In powers of 2: another sample is other evidence, which is to change seldom.
    """
    fewest, most = CONTROLS
    wanted = 2.0 ** math.floor(math.log2(CONTROL_ROWS / max(rows, 1)))
    return min(max(wanted, fewest), most)


def champion(connection: sa.Connection, ground: Ground) -> Canary:
    """The new champion beside the newest decisions of the one before."""
    asked, release = _asked(connection, ground), ground.release
    span = Span(ground.serial, release.stage_at, MAX_ROWS)
    own = stages.of_version(connection, ground.policy, span, asked, version=release.version)
    before = stages.of_version(
        connection,
        ground.policy,
        Span(0, release.started_at - timedelta(days=30), BEFORE),
        asked,
        version=release.champion,
    )
    return _beside(connection, ground, own, before, ratio=None)


def _beside(
    connection: sa.Connection,
    ground: Ground,
    own: Sequence[StageRow],
    other: Sequence[StageRow],
    *,
    ratio: float | None,
    strayed: int = 0,
) -> Canary:
    """Both sides' numbers; without a ``ratio`` the other side's decisions are of another time."""
    rules, level = ground.rules, ground.level
    names = [guardrail.metric for guardrail in rules.guardrails]
    names = list(dict.fromkeys([*names, ERROR]))
    new, old = (side(rows, names, ground.now) for rows in (own, other))
    better = directions(connection, ground.policy, names)
    planned = max(4.0 * rules.min_decisions, 2.0 * FEWEST_UNITS)
    return Canary(
        decisions=_first(own),
        rewarded=new.rewarded,
        strayed=strayed,
        loss=gain(new, old, level=level, planned_rows=planned),
        lately=_lately(ground, new, old, ratio),
        guardrails=tuple(
            (
                one,
                excess(
                    one,
                    new,
                    old,
                    better=better[one.metric],
                    level=level,
                    planned_rows=planned,
                ),
            )
            for one in rules.guardrails
        ),
        segments=segments(new, old, rules.harm, level=level, planned_rows=planned),
        error=_failures(new, level),
        last=ground.release.stage + 2 >= len(ground.release.plan["stages"]),
    )


def _lately(ground: Ground, new: Side, old: Side, ratio: float | None) -> Sudden:
    """Whether failures surge."""
    own = next((one for one in ground.rules.guardrails if one.name == ERROR), ERRORS)
    return lately(own, new, old, level=ground.sudden, ratio=ratio)


def _first(rows: Sequence[StageRow]) -> int:
    """Decisions that are no retries: requests."""
    return sum(not row.again for row in rows)


def _failures(side: Side, level: float) -> tuple[float, float]:
    """Bounds of the rate; what has not been told yet counts as no failure."""
    failed = side.values[ERROR]
    known = np.isfinite(failed)
    hit = failed[known] != 0
    part, rows = worth(hit, side.unit[known]), int(known.sum()) + int(side.pending.sum())
    return rate_bounds(part * float(hit.sum()), part * rows, level)


def side(rows: Sequence[StageRow], metrics: Sequence[str], now: datetime) -> Side:
    """The numbers of one side's decisions."""
    return Side(
        unit=_units(rows),
        at=np.array([row.at.timestamp() for row in rows], dtype=np.float64),
        pending=np.array(
            [not row.again and row.outcome is None and now - row.at < PENDING for row in rows],
            dtype=np.bool_,
        ),
        values={name: _column([_value(row, name) for row in rows]) for name in metrics},
        reward=_column([row.reward for row in rows]),
        segment=[row.segment or "" for row in rows],
    )


def _units(rows: Sequence[StageRow]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """A number for each unit; who has none is one of its own."""
    codes: dict[str, int] = {}
    unit = [codes.setdefault(row.unit or str(row.decision_id), len(codes)) for row in rows]
    return np.array(unit, dtype=np.int64)


def _value(row: StageRow, metric: str) -> float | None:
    """What is known of a metric; an answer that was told and did not fail had no error.

    A retry's failure is not the version's own choice, and its success does not undo the first.
    """
    if metric == ERROR and row.again:
        return None
    for known in (row.outcome, row.said, row.joined):
        if known is not None and metric in known:
            return float(known[metric])
    return 0.0 if metric == ERROR and row.outcome is not None else None


def _column(values: Sequence[float | None]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def directions(
    connection: sa.Connection, policy: StoredPolicy, metrics: Sequence[str]
) -> Mapping[str, Better]:
    """Which direction of each metric is better; less of what the edge measures."""
    declared = policies.find_metrics(connection, policy.project_id, metrics)
    return {
        name: "high" if declared.get(name, {}).get("optimize") == "max" else "low"
        for name in metrics
    }


def unmeasurable(
    connection: sa.Connection, policy: StoredPolicy, guardrails: Sequence[Guardrail]
) -> list[str]:
    """Metrics of guardrails that are neither measured by edges nor declared."""
    names = [one.metric for one in guardrails if one.metric not in OUTCOMES]
    declared = policies.find_metrics(connection, policy.project_id, names)
    return [name for name in names if name not in declared]


def _asked(connection: sa.Connection, ground: Ground) -> Asked:
    said = [one.metric for one in ground.rules.guardrails if one.metric not in OUTCOMES]
    version = _reward_version(connection, ground.policy)
    return Asked(version, ground.config.segment, said)


def _reward_version(connection: sa.Connection, policy: StoredPolicy) -> int:
    found = policies.newest_reward(connection, policy.id)
    return found[0] if found else 0
