import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from storage import work
from storage.engine import connect
from storage.work import LEASE_S, Due
from tests.ground import Ground, later, lay

ROOT = Path(__file__).parent.parent.parent
HOLD = """
import sys
from datetime import datetime
from uuid import UUID
from storage.engine import connect
from storage.work import Due, lease
url, policy, now = sys.argv[1:]
with lease(connect(url), Due(UUID(policy), "join"), "victim", datetime.fromisoformat(now)) as mine:
    print(mine, flush=True)
    sys.stdin.read()
"""


def join_of(ground: Ground) -> Due:
    return Due(ground.policy_id, "join")


def notice(ground: Ground, seconds: float = 0) -> None:
    with ground.engine.begin() as connection:
        work.notice(connection, ground.policy_id, "join", later(seconds))


def ask(ground: Ground, seconds: float = 0) -> None:
    with ground.engine.begin() as connection:
        work.ask(connection, ground.policy_id, "join", later(seconds))


def is_due(ground: Ground, seconds: float = 0) -> bool:
    with ground.engine.connect() as connection:
        return join_of(ground) in work.find_due(connection, later(seconds))


def row(ground: Ground) -> dict[str, Any]:
    with ground.engine.connect() as connection:
        [found] = work.list_work(connection, ground.policy_id)
    return found


def run(
    ground: Ground,
    seconds: float = 0,
    *,
    meanwhile: Callable[[], None] = lambda: None,
    error: Exception | None = None,
) -> bool:
    with work.lease(ground.engine, join_of(ground), "worker", later(seconds)) as mine:
        if mine:
            meanwhile()
            if error is not None:
                raise error
        return mine


def test_what_is_noticed_is_due_until_it_is_done(ground: Ground):
    assert not is_due(ground)
    notice(ground)
    assert is_due(ground)
    assert run(ground)
    assert not is_due(ground, 1_000)
    notice(ground, 5)
    assert is_due(ground, 5)


def test_what_is_asked_for_is_due_at_its_time(ground: Ground):
    ask(ground, 10)
    assert not is_due(ground, 9.9)
    assert not run(ground, 9.9)
    assert is_due(ground, 10)


def test_what_is_noticed_while_it_stands_there_changes_nothing(ground: Ground):
    ask(ground, 10)
    notice(ground)
    assert not is_due(ground, 9)


def test_the_longest_due_comes_first(ground: Ground):
    with ground.engine.begin() as connection:
        for kind, seconds in (("round", 2), ("join", 1), ("refresh", 3)):
            work.ask(connection, ground.policy_id, kind, later(seconds - 1e6))
        found = work.find_due(connection, later(0), limit=3)
    assert [due.kind for due in found] == ["join", "round", "refresh"]
    with ground.engine.begin() as connection:  # others look at the oldest too
        connection.execute(
            sa.text("DELETE FROM work WHERE policy_id = :p"), {"p": ground.policy_id}
        )


def test_a_lease_says_who_holds_it_and_until_when(ground: Ground):
    notice(ground)
    with work.lease(ground.engine, join_of(ground), "worker-7", later(0)) as mine:
        assert mine
        held = row(ground)
        assert (held["lease_owner"], held["lease_until"]) == ("worker-7", later(LEASE_S))
    assert (row(ground)["lease_owner"], row(ground)["done_at"] is None) == (None, False)


def test_one_at_a_time_holds_a_lease(ground: Ground):
    notice(ground)
    with work.lease(ground.engine, join_of(ground), "first", later(0)) as mine:
        assert mine
        assert not is_due(ground)
        assert not run(ground)
    assert not run(ground), "it is done"


def test_each_kind_of_work_has_its_own_lease(ground: Ground):
    due = Due(ground.policy_id, "round")
    with (
        work.lease(ground.engine, join_of(ground), "first", later(0)) as mine,
        work.lease(ground.engine, due, "second", later(0)) as another,
    ):
        assert mine
        assert another


def test_of_many_at_once_one_works_and_what_it_did_is_not_done_again(ground: Ground):
    notice(ground)
    start, worked = threading.Barrier(6), []

    def take(number: int) -> None:
        start.wait()
        with work.lease(ground.engine, join_of(ground), str(number), later(0)) as mine:
            if mine:
                worked.append(number)

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(take, range(6)))
    assert len(worked) == 1
    assert not is_due(ground, 1_000)


def test_a_failure_is_kept_and_backs_off_twice_as_long_each_time(ground: Ground):
    notice(ground)
    at = 0.0
    for delay in (1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300):
        with pytest.raises(ValueError, match="no luck"):
            run(ground, at, error=ValueError("no luck"))
        found = row(ground)
        assert found["last_error"] == "ValueError('no luck')"
        assert found["lease_owner"] is None
        waited = (found["due_at"] - later(at)).total_seconds()
        assert delay <= waited < delay + 1
        assert not is_due(ground, at + delay - 0.001)
        at += waited
        assert is_due(ground, at)
    assert run(ground, at)
    assert (row(ground)["attempts"], row(ground)["last_error"]) == (0, None)


def test_what_backs_off_is_not_hurried_by_who_found_it_before(ground: Ground):
    notice(ground)
    with pytest.raises(ValueError, match="no luck"):
        run(ground, error=ValueError("no luck"))
    assert not run(ground, 0.5)
    notice(ground, 0.5)
    assert not is_due(ground, 0.5)


def test_an_error_that_no_column_holds_is_kept_as_far_as_it_can_be(ground: Ground):
    notice(ground)
    with pytest.raises(ValueError, match="odd"):
        run(ground, error=ValueError("odd \x00 \udc80" + "x" * 10_000))
    assert row(ground)["last_error"].startswith("ValueError('odd ")
    assert len(row(ground)["last_error"]) <= 2_000


@pytest.mark.parametrize("seconds", [0, 5])
def test_what_is_asked_for_during_a_run_runs_again(ground: Ground, seconds: float):
    ask(ground)
    with work.lease(ground.engine, join_of(ground), "worker", later(0)):
        ask(ground, seconds)
        assert not is_due(ground, 100)
    assert is_due(ground, seconds)
    assert run(ground, seconds)
    assert not is_due(ground, 100)


def test_what_is_asked_for_during_a_run_that_fails_runs_again_too(ground: Ground):
    ask(ground)
    with pytest.raises(ValueError, match="no luck"):
        run(ground, meanwhile=lambda: ask(ground), error=ValueError("no luck"))
    assert is_due(ground, 2)


def test_an_interrupted_worker_leaves_the_work_due(ground: Ground):
    notice(ground)
    with (
        pytest.raises(KeyboardInterrupt),
        work.lease(ground.engine, join_of(ground), "worker", later(0)),
    ):
        raise KeyboardInterrupt
    assert is_due(ground)
    assert run(ground)


def test_a_lease_whose_connection_is_cut_can_be_taken_by_another(ground: Ground):
    def lose() -> None:
        cut_holder(ground)
        assert is_due(ground)
        assert run(ground)

    notice(ground)
    with pytest.raises(sa.exc.OperationalError):
        run(ground, meanwhile=lose)
    assert row(ground)["done_at"] is not None, "the second one's"


def cut_holder(ground: Ground) -> None:
    with ground.engine.begin() as connection:
        connection.execute(
            sa.text(
                "SELECT pg_terminate_backend(l.pid, 5000) FROM pg_locks l "
                "JOIN pg_database d ON d.oid = l.database AND d.datname = current_database() "
                "WHERE l.locktype = 'advisory' AND l.granted AND l.pid <> pg_backend_pid()"
            )
        )


@contextmanager
def holder(ground: Ground, now: datetime) -> Iterator[subprocess.Popen[str]]:
    """A process of its own that holds the lease of the join."""
    url = ground.engine.url.render_as_string(hide_password=False)
    with subprocess.Popen(
        (sys.executable, "-c", HOLD, url, str(ground.policy_id), now.isoformat()),
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "True\n"
            yield process
        finally:
            process.kill()


def check_takeover(ground: Ground) -> None:
    notice(ground)
    with holder(ground, later(0)) as process:
        assert not is_due(ground)
        assert not run(ground)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        until = time.monotonic() + 5
        while not is_due(ground) and time.monotonic() < until:
            time.sleep(0.01)
        assert is_due(ground)
        assert row(ground)["lease_owner"] == "victim"
        assert run(ground)
    assert (row(ground)["lease_owner"], row(ground)["attempts"]) == (None, 0)


def test_what_a_killed_worker_held_is_due_at_once_and_another_takes_it(ground: Ground):
    check_takeover(ground)


@pytest.mark.external
def test_what_a_killed_worker_held_on_another_server_is_due_at_once(external_database_url: str):
    engine = connect(external_database_url)
    check_takeover(lay(engine))
    engine.dispose()


def test_work_that_kills_each_of_its_workers_backs_off(ground: Ground):
    notice(ground)
    at = 0.0
    for delay in (0, 1, 2):
        with holder(ground, later(at)) as process:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        until = time.monotonic() + 5
        while not is_due(ground, at + delay) and time.monotonic() < until:
            time.sleep(0.01)
        assert is_due(ground, at + delay)
        assert delay == 0 or not is_due(ground, at + delay - 0.01)
        at += delay


def test_nothing_that_is_asked_for_at_once_with_runs_is_lost(ground: Ground):
    """Each ask raises a number; a run reads it. In the end, the last run has read the last one."""
    asked, done, stop = [0], [0], threading.Event()

    def asker() -> None:
        for number in range(1, 41):
            asked[0] = number
            ask(ground)
        stop.set()

    def worker() -> None:
        last = False
        while not last:
            last = stop.is_set()
            if is_due(ground):
                with work.lease(ground.engine, join_of(ground), "worker", later(0)) as mine:
                    if mine:
                        done[0] = asked[0]
                last = False

    with ThreadPoolExecutor(3) as threads:
        running = [threads.submit(call) for call in (asker, worker, worker)]
        for one in running:
            one.result(timeout=60)
    assert done == [40]
    assert not is_due(ground, 1)


def test_the_lease_holds_for_as_long_as_a_run_may_take(ground: Ground):
    now = datetime.now(UTC)
    with ground.engine.begin() as connection:
        work.notice(connection, ground.policy_id, "round", now)
    due = Due(ground.policy_id, "round")
    with work.lease(ground.engine, due, "first", now):
        expired = now + timedelta(seconds=2 * LEASE_S)
        with work.lease(ground.engine, due, "second", expired) as mine:
            assert not mine, "what excludes is the lock, not the time in the row"
