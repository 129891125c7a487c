"""Workers: what is to be done stands in Postgres, so killing them or Redis loses nothing."""

import os
import signal
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
import redis
import sqlalchemy as sa
from threadpoolctl import threadpool_info, threadpool_limits

from controlplane import agenda, publishing
from controlplane.processes import Process
from feedback import join
from storage import versions, work
from storage.embedded import redis_client_url
from storage.work import Due
from tests.workers.conftest import Log, until
from workers import tasks

Start = Callable[..., Process]


def test_a_tick_finds_joins_and_then_a_round_and_the_better_version_is_published(log: Log) -> None:
    log.grow(1_200)
    for _ in range(3):
        with log.engine.begin() as connection:
            found = agenda.find(connection, datetime.now(UTC))
        for due in found:
            with work.lease(log.engine, due, "test", datetime.now(UTC)) as held:
                assert held
                agenda.perform(log.engine, log.publisher, due)
    with log.engine.connect() as connection:
        champion = versions.find_alias(connection, log.policy, "champion")
        verdicts = versions.list_verdicts(connection, log.policy)
    assert champion is not None
    assert champion[0] > 1, [v.summary for v in verdicts]
    assert champion[0] in {v.version for v in verdicts if v.passed}
    assert log.scalar("SELECT count(*) FROM interactions") == 1_200


def test_work_that_is_done_is_not_found_again(log: Log) -> None:
    log.grow(10)
    kinds = [work.JOIN, work.WATCH]  # the monitors look at what has arrived, joined or not
    with log.engine.begin() as connection:
        found = agenda.find(connection, datetime.now(UTC))
    assert sorted(found, key=lambda due: due.kind) == [Due(log.policy, kind) for kind in kinds]
    for due in found:
        with work.lease(log.engine, due, "test", datetime.now(UTC)):
            agenda.perform(log.engine, log.publisher, due)
    with log.engine.begin() as connection:
        assert agenda.find(connection, datetime.now(UTC)) == []


def test_real_workers_join_learn_and_publish(log: Log, run: Start) -> None:
    run("worker", "beat")
    log.grow(1_200)
    until(lambda: log.scalar("SELECT count(*) FROM interactions") == 1_200, 20)
    until(lambda: log.scalar("SELECT version FROM aliases") > 1, 30)
    assert log.scalar("SELECT count(*) FROM rounds") == 1
    assert log.scalar("SELECT max(serial) FROM bundles") == 2


def test_a_worker_killed_at_work_is_followed_by_another_within_seconds(
    log: Log, run: Start
) -> None:
    worker = run("worker", "beat")
    log.grow(2_000)
    os.killpg(worker.pid, signal.SIGKILL)
    log.grow(200, seed=1)
    run("worker")
    until(lambda: log.scalar("SELECT count(*) FROM interactions") == 2_200, 20)
    assert log.scalar("SELECT count(DISTINCT position) FROM interactions") == 2_200


def test_an_emptied_redis_delays_the_work_by_seconds(log: Log, run: Start, redis_url: str) -> None:
    run("worker", "beat")
    log.grow(100)
    with redis.Redis.from_url(redis_client_url(redis_url)) as client:
        client.flushall()
    until(lambda: log.scalar("SELECT count(*) FROM interactions") == 100, 20)


def test_work_is_done_on_one_thread(
    log: Log, database_url: str, short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POINTSMAN_DATABASE_URL", database_url)
    monkeypatch.setenv("POINTSMAN_DATA_DIR", str(short_path))
    monkeypatch.setattr(tasks._Process, "means", None)
    log.grow(10)
    seen: list[int] = []

    def look(_: sa.Connection) -> None:
        seen.extend(row["num_threads"] for row in threadpool_info() if row["user_api"] == "blas")

    engine = tasks.means().engine
    sa.event.listen(engine, "begin", look)
    with threadpool_limits(2, "blas"):
        tasks.do(str(log.policy), work.JOIN)
    engine.dispose()
    assert log.scalar("SELECT count(*) FROM interactions") == 10
    assert 1 in seen


def test_a_join_of_very_many_makes_progress_over_several_leases(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(join, "BATCH", 10)
    monkeypatch.setattr(join.settle, "__kwdefaults__", {"limit": 10})
    monkeypatch.setattr(agenda, "BATCHES_A_LEASE", 3)
    log.grow(80)
    done: list[int] = []
    for _ in range(4):
        now = datetime.now(UTC)
        with log.engine.begin() as connection:
            due = work.find_due(connection, now) if done else agenda.find(connection, now)
        joins = [one for one in due if one.kind == work.JOIN]
        if not joins:
            break
        with work.lease(log.engine, joins[0], "test", now) as held:
            assert held
            agenda.perform(log.engine, log.publisher, joins[0])
        done.append(log.scalar("SELECT count(*) FROM interactions"))
    assert done == [30, 60, 80]
    assert log.scalar("SELECT count(*) FROM work WHERE last_error IS NOT NULL") == 0


def test_tidying_drops_the_bytes_of_old_bundles(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agenda, "KEPT_BUNDLES", 1)
    now = datetime.now(UTC)
    with log.engine.begin() as connection:
        publishing.republish(connection, log.publisher, log.policy, reason="again", now=now)
        agenda.tidy(connection, now)
    assert log.scalar("SELECT count(*) FROM bundles") == 2
    assert log.scalar("SELECT count(body) FROM bundles") == 1
    assert log.scalar("SELECT serial FROM bundles WHERE body IS NOT NULL") == 2
