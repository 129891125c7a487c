import json
import subprocess
import sys

import pytest

from controlplane import logs
from controlplane.errors import SettingsError

PROGRAM = """
import logging, structlog
from controlplane import logs
logs.configure({level!r})
log = structlog.get_logger()
log.debug("a.debug")
log.info("policy.published", policy="chat", token="pm_0123456789ab_secret")
log.info("b.said", detail="key pm_0123456789ab_sEcr-et_x refused", url="postgres://u:pw@h/db")
logging.getLogger("lib").info("chatter")
logging.getLogger("lib").warning("of pm_0123456789ab_secret")
try:
    raise ValueError("bad")
except ValueError:
    log.exception("c.failed")
"""


def lines(level: str) -> list[dict[str, str]]:
    program = PROGRAM.format(level=level)
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert ended.stdout == ""
    return [json.loads(line) for line in ended.stderr.splitlines()]


def test_each_line_is_one_object_on_stderr_with_its_event_time_and_level() -> None:
    found = lines("info")
    assert [line["event"] for line in found] == ["policy.published", "b.said", "lib", "c.failed"]
    assert all(line["at"].endswith("Z") for line in found)
    assert [line["level"] for line in found] == ["info", "info", "warning", "error"]
    assert "ValueError: bad" in found[3]["exception"]


def test_no_secret_is_written() -> None:
    published, said, library, _ = lines("info")
    assert published["token"] == "…"
    assert said["detail"] == "key pm_0123456789ab_… refused"
    assert said["url"] == "postgres://u:…@h/db"
    assert library["message"] == "of pm_0123456789ab_…"


def test_the_level_is_kept() -> None:
    assert lines("debug")[0]["event"] == "a.debug"
    assert [line["event"] for line in lines("error")] == ["c.failed"]


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(SettingsError, match="loud"):
        logs.configure("loud")
