"""The demo, as `make demo ARGS="--for …"` runs it."""

import os
import re
import subprocess
import sys

import pytest


def demo(seconds: int) -> str:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("POINTSMAN_")}
    command = [sys.executable, "-m", "controlplane.cli", "demo", "--for", f"{seconds}s"]
    environment = {**clean, "POINTSMAN_PORT": "0", "POINTSMAN_EDGE_PORT": "0"}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=seconds + 120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_demo_ends_by_itself_with_a_summary_and_loses_nothing() -> None:
    shown = demo(6)
    found = re.search(r"([\d,]+) requests, (\d+) errors, \d+ verdicts", shown)
    assert found is not None, shown
    assert int(found[1].replace(",", "")) > 50
    assert ", 0 lost," in shown


@pytest.mark.soak
def test_in_two_minutes_a_learned_policy_serves_and_beats_the_best_fixed_arm() -> None:
    shown = demo(120)
    assert "is the champion now" in shown
    gain = re.search(r"served − best fixed: ([+-][\d.]+)", shown)
    assert gain is not None, shown
    assert float(gain[1]) > 0
