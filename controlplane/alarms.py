"""What experiments and releases see that is an alarm, as findings beside those of the monitors."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from controlplane import findings
from controlplane.gates import Check
from learners.contrasts import SRM_ALARM
from storage.releases import StoredExperiment, StoredRelease

SPLIT, GUARDRAIL, RELEASE, EDGES = "split", "guardrail", "release", "edges"
"""Who found it: an experiment's test of its split, a guardrail, any other monitor of a release, or
edges that do not take a bundle."""
STOP, REVERT, HOLD, NONE = "stop", "revert", "hold", "none"
_OF_GUARDRAILS = ("_not_broken", "errors_at_all")

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Alarm:
    """Something to be told once; ``key`` names it within its experiment."""

    key: str
    monitor: str
    sentence: str
    numbers: Json


def of_experiment(
    connection: sa.Connection, before: StoredExperiment, looked: StoredExperiment, now: datetime
) -> list[str]:
    """Note what a look found that no look before has told; returns all that has been told by now.

    Args:
        connection: holds the transaction that stores the look.
        before: the experiment as the look found it.
        looked: as the look leaves it.
        now: the time.
    """
    told = list(before.state.get("told", []))
    ended = looked.ended_at is not None and before.ended_at is None
    for alarm in _of_result(looked):
        if alarm.key in told:
            continue
        said = ["the verdict stops"] if alarm.monitor == SPLIT else []
        said += ["the experiment ends"] if ended else []
        findings.note(
            connection,
            looked.policy_id,
            monitor=alarm.monitor,
            severity=findings.ALARM,
            reaction=STOP if said else NONE,
            summary="; ".join((f"experiment {looked.name}: {alarm.sentence}", *said)),
            numbers={**alarm.numbers, "experiment": looked.name, "id": str(looked.id)},
            now=now,
        )
        told.append(alarm.key)
    return told


def _of_result(experiment: StoredExperiment) -> Iterator[_Alarm]:
    """What a verdict says that is an alarm."""
    result = experiment.result or {}
    if result.get("status") == "stopped_by_srm":
        units = {name: one["units"] for name, one in result["counts"].items()}
        numbers = {
            "metric": "split",
            "value": result["split_p_value"],
            "bound": SRM_ALARM,
            "units": units,
        }
        yield _Alarm("split", SPLIT, result["sentence"].rstrip("."), numbers)
    for variant in result.get("variants", []):
        for one in variant["guardrails"]:
            if one["status"] != "broken":
                continue
            gap, name = one["difference"], variant["variant"]
            sentence = (
                f"{name} breaks the guardrail {one['metric']}: {gap['value']:+.4g} against the "
                f"control ({_ends(gap)}), and {one['margin']:.4g} worse is allowed"
            )
            numbers = {
                "metric": one["metric"],
                "variant": name,
                "value": gap["value"],
                "low": gap["low"],
                "high": gap["high"],
                "bound": one["margin"],
            }
            yield _Alarm(f"{name}/{one['metric']}", GUARDRAIL, sentence, numbers)


def _ends(estimate: Json) -> str:
    low, high = (
        "open" if estimate[end] is None else f"{estimate[end]:+.4g}" for end in ("low", "high")
    )
    return f"{100 * estimate['level']:.4g} % of all looks: {low} to {high}"


def of_release(
    connection: sa.Connection,
    release: StoredRelease,
    stage: str,
    alarms: Sequence[Check],
    now: datetime,
) -> None:
    """Note each check for which a release is sent back."""
    for check in alarms:
        guardrail = any(part in check.name for part in _OF_GUARDRAILS)
        findings.note(
            connection,
            release.policy_id,
            monitor=GUARDRAIL if guardrail else RELEASE,
            severity=findings.ALARM,
            reaction=REVERT,
            summary=f"release {release.number}, {stage}: {check.detail}; sent back",
            numbers={
                "metric": check.name.removesuffix("_not_broken"),
                "value": check.value,
                "bound": check.bound,
                "release": release.number,
                "version": release.version,
            },
            now=now,
        )


def of_edges(
    connection: sa.Connection,
    release: StoredRelease,
    stage: str,
    refusals: Sequence[str],
    now: datetime,
) -> None:
    """Note that edges hold a release up, as they cannot take its bundle."""
    findings.note(
        connection,
        release.policy_id,
        monitor=EDGES,
        severity=findings.WARNING,
        reaction=HOLD,
        summary=(
            f"release {release.number}, {stage}: held, as {'; '.join(refusals)[:500]}. Those edges "
            "serve their last good bundle until it expires: upgrade them or see to their keys and "
            "clocks, or revert the release"
        ),
        numbers={"value": len(refusals), "bound": 0, "release": release.number},
        now=now,
    )
