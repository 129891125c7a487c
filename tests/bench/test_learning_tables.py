from dataclasses import asdict

import pytest

from bench import rivals
from bench.learning_tables import FROM_PROBES, FULL, HINDSIGHT, LUCKIEST, gains, measures
from bench.pivots import KNOWING, pivoted

FOUND = {
    table: {
        HINDSIGHT: [0.5, 0.6],
        LUCKIEST: [0.51, 0.61],
        FULL: [0.6, 0.7],
        FROM_PROBES: [0.5, 0.5],
        "auto": [0.58, 0.7],
        "linucb": [0.55, 0.5],
        **{rival: [0.5, 0.55] for rival in rivals.NAMES},
    }
    for table in ("here", "there")
}


def test_every_router_of_every_table_stands_in_one_table():
    rows = [asdict(one) for one in measures(FOUND)]
    (table,), rest = pivoted(rows)
    assert table.columns == ["here", "there"]
    assert set(table.rows) == set(FOUND["here"])
    assert {row["measure"].split(" on ")[0] for row in rest if not row["goal"]} == set()
    assert {name for name in table.rows if KNOWING in name} == {HINDSIGHT, LUCKIEST, FULL}


def test_gains_are_paired_by_seed():
    (auto,) = (one for one in gains(FOUND) if (one.panel, one.name) == ("here", "auto"))
    assert auto.y == pytest.approx([0.09])
    assert auto.error == pytest.approx([0.01])
    drawn = {one.name: one.reference for one in gains(FOUND)}
    assert drawn == {FULL: True, FROM_PROBES: False, "auto": False} | dict.fromkeys(
        rivals.NAMES, False
    )


def test_goals_say_what_is_missed():
    harmed = {table: {**found, "auto": [0.4, 0.5]} for table, found in FOUND.items()}
    for found, holds in ((FOUND, True), (harmed, False)):
        goals = [one for one in measures(found) if one.goal]
        assert len(goals) == 2 * 3 + 1
        assert {one.holds for one in goals} == {holds}
