from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from storage import engine as engines
from storage.engine import connect


@pytest.fixture
def opened(log_engine: sa.Engine) -> Iterator[sa.Engine]:
    found = connect(log_engine.url.render_as_string(hide_password=False))
    yield found
    found.dispose()


def answers(engine: sa.Engine) -> bool:
    with engine.connect() as connection:
        return bool(connection.execute(sa.text("SELECT true")).scalar_one())


def end_all_of(engine: sa.Engine, by: sa.Engine) -> None:
    """Break the connections that the engine keeps, three of them, as a restarted server would."""
    held = [engine.connect() for _ in range(3)]
    pids = [one.execute(sa.text("SELECT pg_backend_pid()")).scalar_one() for one in held]
    for one in held:
        one.close()
    with by.connect() as connection:
        for pid in pids:
            connection.execute(sa.text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})


def test_a_connection_that_died_while_it_was_idle_is_replaced_unseen(
    opened: sa.Engine, log_engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(engines, "PING_AFTER_S", 0.0)
    end_all_of(opened, log_engine)
    assert answers(opened)


def test_of_connections_that_died_a_moment_ago_one_fails_and_all_are_replaced(
    opened: sa.Engine, log_engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(engines, "PING_AFTER_S", 600.0)
    end_all_of(opened, log_engine)
    with pytest.raises(OperationalError):
        answers(opened)
    assert all(answers(opened) for _ in range(3))
