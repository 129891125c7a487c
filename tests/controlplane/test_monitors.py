import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from controlplane import monitors
from controlplane.errors import InvalidError
from controlplane.monitors import MonitorConfig, MonitorsConfig, as_json, from_json, look
from learners.monitors import NAMES, State
from learners.windows import Batch


def batch(n: int, reward: float, seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    action = rng.integers(0, 2, n)
    earned = (rng.random(n) < reward).astype(np.float64)
    true = np.ones(n, dtype=np.bool_)
    return Batch(
        ("a", "b"), action, np.full((n, 2), 0.5), earned, true, true, rng.exponential(30.0, n)
    )


def test_a_section_survives_its_table():
    wanted = MonitorsConfig(
        reward=MonitorConfig(reaction="revert", window=100), hold_s=60.0, widen_to=0.5
    )
    assert from_json(json.loads(json.dumps(as_json(wanted)))) == wanted
    assert from_json({}) == MonitorsConfig()


def test_every_monitor_has_its_place_in_the_section():
    assert tuple(MonitorsConfig().each) == NAMES


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ({"reward": {"reaction": "shout"}}, "monitors.reward.reaction"),
        ({"reward": {"window": 1}}, "monitors.reward.window"),
        ({"reward": {"sigmas": 0}}, "monitors.reward.sigmas"),
        ({"context": {"patience": 0}}, "monitors.context.patience"),
        ({"context": {"divergence": -1}}, "monitors.context.divergence"),
        ({"widen_to": 0}, "monitors.widen_to"),
        ({"hold_s": -1}, "monitors.hold_s"),
        ({"mood": {}}, "monitors.mood"),
    ],
)
def test_a_setting_that_cannot_be_is_named(row: dict[str, Any], field: str):
    with pytest.raises(InvalidError) as raised:
        from_json(row)
    assert raised.value.field == field


def test_an_alarm_carries_the_declared_reaction_and_a_warning_none():
    config = from_json(
        {"reward": {"reaction": "revert", "detectors": False}, "arm_reward": {"enabled": False}}
    )
    states: dict[str, State] = {}
    states, found = look(config, batch(2_500, 0.8), states)
    assert not found
    assert set(states) == set(NAMES) - {"arm_reward"}
    told = []
    for seed in (1, 2):
        stored = json.loads(json.dumps(states))
        states, found = look(config, batch(500, 0.4, seed), stored)
        told += [one.as_json() for one in found if one.finding.monitor == "reward"]
    assert [(one["severity"], one["reaction"]) for one in told] == [
        ("warning", "none"), ("alarm", "revert"),
    ]  # fmt: skip


def test_a_monitor_that_was_switched_on_again_begins_anew():
    states, _ = look(MonitorsConfig(), batch(100, 0.5), {})
    off = MonitorsConfig(reward=MonitorConfig(enabled=False))
    states, _ = look(off, batch(100, 0.5), states)
    states, _ = look(MonitorsConfig(), batch(50, 0.5), states)
    assert states["reward"]["rows"] == 50
    assert states["arm_reward"]["rows"] == 250
    assert monitors.MAX_ROWS >= 100_000


LINTS = ("arms", "guards", "rewards")
FIELDS = ("feedback_within_s", "widen_to", "hold_s")
PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "monitors.md").read_text()


def test_the_page_names_every_field_with_its_default():
    rows = re.findall(r"^\| `(\w+)` \| [\w ]+ \| `([^`]+)` \|", PAGE, re.MULTILINE)
    held = {one.name: json.dumps(one.default) for one in fields(MonitorConfig)}
    plain = MonitorsConfig()
    held |= {name: json.dumps(getattr(plain, name)) for name in FIELDS}
    assert {name: told for name, told in rows if name != "monitor"} == held
    assert all(f"`{name}`" in PAGE for name in NAMES)


def test_the_page_names_every_code_of_the_linter():
    folder = Path(monitors.__file__).parent
    source = "".join((folder / f"lint_{of}.py").read_text() for of in LINTS)
    used = set(re.findall(r'(?:error|warning\)?)\(\s*"([a-z]+(?:-[a-z]+)+)"', source))
    told = re.findall(r"^\| `([a-z]+(?:-[a-z]+)+)` \| (?:error|warning)", PAGE, re.MULTILINE)
    assert used
    assert set(told) >= used
    assert all(f'"{code}"' in source for code in told)
