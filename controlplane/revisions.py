"""What an arm earned while another model stood behind its name was another arm's. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from learners.records import Interaction


def told_apart(rows: Sequence[Interaction], revised: Mapping[str, datetime]) -> list[Interaction]:
    """The log with an arm of another name in place of each arm's former model.

    That arm is out of service, so its rows teach nothing about the new model, and weigh in the
    judged log as those of any retired arm do.

    Args:
        rows: in any order.
        revised: since when the model behind an arm stands there, of the arms that had another.
    """
    if not revised:
        return list(rows)
    newest = max(revised.values())
    return [row if row.at >= newest else _renamed(row, revised) for row in rows]


def _renamed(row: Interaction, revised: Mapping[str, datetime]) -> Interaction:
    former = {
        arm: f"{arm} before {revised[arm].isoformat()}"
        for arm in row.eligible
        if arm in revised and row.at < revised[arm]
    }
    if not former:
        return row
    return replace(
        row,
        eligible=tuple(former.get(arm, arm) for arm in row.eligible),
        action=former.get(row.action, row.action),
    )
