"""A worker is one program to whoever starts or ends it, and rounds keep nothing else waiting."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa

from controlplane import signing
from controlplane.processes import Process
from tests.workers.conftest import Log, until
from workers.app import QUEUE, ROUNDS_QUEUE

Start = Callable[..., Process]


def processes_of(data: Path, naming: str = "workers.cli") -> list[int]:
    """The processes of an installation whose command line names something."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                ours = str(data) in (entry / "environ").read_text(errors="replace")
                command = (entry / "cmdline").read_text().replace("\0", " ")
            except OSError:
                continue
            if ours and f" {naming} " in command:
                found.append(int(entry.name))
    return found


def test_joins_go_on_while_every_process_for_rounds_is_busy(
    log: Log, run: Start, short_path: Path
) -> None:
    run("worker")
    rounds = processes_of(short_path, ROUNDS_QUEUE)
    assert len(rounds) >= 2
    for pid in rounds:
        os.kill(pid, signal.SIGSTOP)
    run("beat")
    log.grow(800)
    until(lambda: log.scalar("SELECT count(*) FROM interactions") == 800, 30)
    until(lambda: log.scalar("SELECT count(*) FROM work WHERE kind = 'round'") == 1, 10)
    assert log.scalar("SELECT count(*) FROM rounds") == 0
    for pid in rounds:
        os.kill(pid, signal.SIGCONT)
    until(lambda: log.scalar("SELECT count(*) FROM rounds") == 1, 30)


def test_a_worker_killed_at_work_leaves_no_process_behind(
    log: Log, run: Start, short_path: Path
) -> None:
    worker = run("worker", "beat")
    log.grow(10)
    with log.engine.begin() as connection:
        connection.exec_driver_sql("SELECT 1 FROM policies FOR UPDATE")
        until(lambda: log.scalar(WAITING) > 0, 30)
        os.kill(worker.pid, signal.SIGKILL)
        until(lambda: processes_of(short_path, "worker") == [], 10)
        until(lambda: processes_of(short_path, "node") == [], 10)


WAITING = (
    "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pointsman worker' "
    "AND datname = current_database() AND wait_event_type = 'Lock'"
)


@pytest.mark.parametrize("queue", [QUEUE, ROUNDS_QUEUE])
def test_a_worker_that_loses_one_of_its_nodes_ends_as_a_whole(
    log: Log, run: Start, short_path: Path, queue: str
) -> None:
    worker = run("worker")
    assert log.scalar("SELECT count(*) FROM signers") == 1
    node = min(processes_of(short_path, queue))
    os.kill(node, signal.SIGKILL)
    until(lambda: worker.ended() is not None, 10)
    assert worker.ended() == 1
    until(lambda: processes_of(short_path) == [], 10)


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_that_is_asked_to_end_ends_all_of_it(
    run: Start, short_path: Path, sent: signal.Signals
) -> None:
    worker = run("worker")
    assert len(processes_of(short_path)) >= 5
    os.kill(worker.pid, sent)
    until(lambda: worker.ended() is not None, 20)
    assert worker.ended() == 0
    assert processes_of(short_path) == []


def test_a_second_signal_does_not_wait_for_what_is_under_way(
    log: Log, run: Start, short_path: Path
) -> None:
    worker = run("worker", "beat")
    log.grow(10)
    with log.engine.begin() as connection:
        connection.exec_driver_sql("SELECT 1 FROM policies FOR UPDATE")
        until(lambda: log.scalar(WAITING) > 0, 30)
        os.kill(worker.pid, signal.SIGTERM)
        until(lambda: processes_of(short_path, ROUNDS_QUEUE) == [], 10)
        assert worker.ended() is None
        os.kill(worker.pid, signal.SIGTERM)
        until(lambda: worker.ended() is not None, 10)
    until(lambda: processes_of(short_path, "node") == [], 10)


def test_a_worker_whose_key_edges_do_not_trust_does_not_start(
    engine: sa.Engine, database_url: str, redis_url: str, short_path: Path
) -> None:
    with engine.begin() as connection:
        others = signing.load_keys(None, short_path / "another host")
        signing.register(connection, others, datetime.now(UTC))
    ended = subprocess.run(
        [sys.executable, "-m", "workers.cli", "worker"],
        env={
            **os.environ,
            "POINTSMAN_DATABASE_URL": database_url,
            "POINTSMAN_REDIS_URL": redis_url,
            "POINTSMAN_DATA_DIR": str(short_path),
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1
    assert "set POINTSMAN_SIGNING_KEYS to the same keys" in ended.stderr
    assert "Traceback" not in ended.stderr
