import json
import logging
from datetime import UTC, datetime, timedelta

import pytest
import structlog

from edge.logs import configure

pytestmark = pytest.mark.usefixtures("restored")


@pytest.fixture
def restored():
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    structlog.reset_defaults()
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


def test_every_line_is_json_on_standard_error(capsys):
    configure("INFO")
    structlog.get_logger().info("policy.published", serial=3)
    structlog.get_logger().debug("policy.hidden")
    logging.getLogger("aiohttp.server").error("broken %s", "pipe")
    found = capsys.readouterr()
    rows = [json.loads(line) for line in found.err.splitlines()]
    assert [row["event"] for row in rows] == ["policy.published", "broken pipe"]
    assert rows[0]["serial"] == 3
    now = datetime.now(UTC)
    for row in rows:
        assert abs(datetime.fromisoformat(row["at"]) - now) < timedelta(minutes=1)
    assert found.out == ""


def test_a_traceback_shows_no_local_values(capsys):
    configure("INFO")

    def fails():
        prompt = "a very private question"
        raise ValueError(len(prompt))

    try:
        fails()
    except ValueError:
        structlog.get_logger().exception("request.failed")
        logging.getLogger("aiohttp.server").exception("request failed")
    errors = capsys.readouterr().err
    assert "ValueError" in errors
    assert "private" not in errors
