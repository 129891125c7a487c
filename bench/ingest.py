"""Ingest over HTTP into the embedded Postgres: decisions and feedback a second, beside bare SQL.

A real API process, two connections, batches as an edge sends them (gzipped NDJSON of 1,000 lines,
each with the signals of a prompt). The reference writes equal rows into an equal table with the
same batches, commits and connections, and nothing else: no HTTP, no check, no queue of joins.
"""

import gzip
import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any
from uuid import UUID

import psycopg
import sqlalchemy as sa

from bench.measure import Measure, main
from controlplane import keys
from kernels.signals.text import read_messages
from learners.ids import ENTROPY_BYTES, uuid7
from storage.copying import line
from storage.embedded import Embedded
from storage.engine import connect
from storage.events import DECISION_COLUMNS
from storage.migrate import migrate

CONNECTIONS = 2
LINES = 1_000
ITEMS = 500
ARMS = tuple(f"arm-{number}" for number in range(8))
PROMPT = (
    "My function sort_rows(rows) returns None when the list holds 3 rows or more. Could you tell "
    "me why, and write it so that it returns a new list, sorted by the second column?"
)
DECISIONS_GOAL = 10_000.0
FEEDBACK_GOAL = 1_000.0
SINGLE_GOAL = 200.0

Send = Callable[[Any], None]


def run(quick: bool) -> list[Measure]:  # noqa: FBT001 — the one switch of every benchmark
    rounds, size = (3, 4) if quick else (7, 16)
    with tempfile.TemporaryDirectory(prefix="pm-") as folder:
        data = Path(folder)
        data.chmod(0o711)
        with Embedded(data, redis=False) as services:
            migrate(services.database_url)
            engine = connect(services.database_url)
            project, token = a_key(engine)
            with serving(services.database_url, data) as port:
                api = Client(port, token)
                declare(api)
                bench = Bench(api, engine, project, policy_id(engine), rounds, size)
                found = [decisions(bench), batches(bench), singles(bench)]
            engine.dispose()
    return found


@dataclass(frozen=True, slots=True)
class Client:
    """Calls of the API, a kept connection each."""

    port: int
    token: str

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def call(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        body: bytes,
        **headers: str,
    ) -> Any:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        named["authorization"] = f"Bearer {self.token}"
        connection.request(method, path, body, named)
        answer = connection.getresponse()
        text = answer.read()
        assert answer.status < 300, f"{path}: {answer.status}: {text[:500]!r}"
        return json.loads(text)


@dataclass(frozen=True, slots=True)
class Bench:
    api: Client
    engine: sa.Engine
    project_id: UUID
    policy_id: UUID
    rounds: int
    size: int
    """Batches a round."""


def decisions(bench: Bench) -> Measure:
    create_equal(bench.engine, "bare_decisions", "decisions")
    names = ", ".join(DECISION_COLUMNS)

    def upload() -> Callable[[bytes], None]:
        connection = bench.api.connection()

        def send(body: bytes) -> None:
            answer = bench.api.call(
                connection, "POST", "/v1/decisions:batch", body, content_encoding="gzip"
            )
            assert answer == {"accepted": LINES, "duplicates": 0, "rejected": []}, answer

        return send

    def copy() -> Callable[[str], None]:
        connection = psycopg.connect(driver_url(bench.engine))

        def send(text: str) -> None:
            with connection.cursor().copy(f"COPY bare_decisions ({names}) FROM STDIN") as out:
                out.write(text)
            connection.commit()

        return send

    def made() -> tuple[list[bytes], list[str]]:
        rows = [[a_decision() for _ in range(LINES)] for _ in range(bench.size)]
        bodies = [gzip.compress(b"\n".join(map(encoded, batch)), 3) for batch in rows]
        return bodies, ["".join(line(as_row(bench, one)) for one in batch) for batch in rows]

    http_rate, bare_rate = rates(bench.rounds, made, upload, copy, LINES)
    count = 'SELECT count(*) FROM "{}"'
    assert scalar(bench.engine, count.format("decisions")) == scalar(
        bench.engine, count.format("bare_decisions")
    )
    return measure(
        "decisions over HTTP", http_rate, "rows/s", ("bare COPY", bare_rate), DECISIONS_GOAL
    )


def batches(bench: Bench) -> Measure:
    create_equal(bench.engine, "bare_feedback", "feedback")

    def made() -> tuple[list[bytes], list[list[dict[str, Any]]]]:
        said = [[a_feedback() for _ in range(ITEMS)] for _ in range(max(2, bench.size // 4))]
        bodies = [json.dumps({"items": batch}).encode() for batch in said]
        return bodies, [[feedback_row(bench, one) for one in batch] for batch in said]

    def post() -> Callable[[bytes], None]:
        connection = bench.api.connection()

        def send(body: bytes) -> None:
            answer = bench.api.call(
                connection, "POST", "/v1/feedback:batch", body, content_type="application/json"
            )
            assert all(item["status"] == "pending_join" for item in answer["items"]), answer

        return send

    rate, bare = rates(bench.rounds, made, post, lambda: inserting(bench), ITEMS)
    name = f"bare INSERT of {ITEMS} rows a commit"
    return measure(f"feedback in batches of {ITEMS}", rate, "items/s", (name, bare), FEEDBACK_GOAL)


def singles(bench: Bench) -> Measure:
    count = bench.size * 12

    def made() -> tuple[list[bytes], list[list[dict[str, Any]]]]:
        said = [a_feedback() for _ in range(count)]
        return [json.dumps(one).encode() for one in said], [
            [feedback_row(bench, one)] for one in said
        ]

    def post() -> Callable[[bytes], None]:
        connection = bench.api.connection()

        def send(body: bytes) -> None:
            answer = bench.api.call(
                connection, "POST", "/v1/feedback", body, content_type="application/json"
            )
            assert answer["status"] == "pending_join", answer

        return send

    rate, bare = rates(bench.rounds, made, post, lambda: inserting(bench), 1)
    name = "bare INSERT of one row a commit"
    return measure("feedback one by one", rate, "posts/s", (name, bare), SINGLE_GOAL)


def inserting(bench: Bench) -> Callable[[list[dict[str, Any]]], None]:
    connection = psycopg.connect(driver_url(bench.engine))
    statement = (
        "INSERT INTO bare_feedback (feedback_id, project_id, decision_id, metric, value, number, "
        "source, occurred_at, tags, received_at) VALUES (%(feedback_id)s, %(project_id)s, "
        "%(decision_id)s, %(metric)s, %(value)s, %(number)s, %(source)s, %(at)s, '{}', %(at)s)"
    )

    def send(rows: list[dict[str, Any]]) -> None:
        with connection.cursor() as cursor:
            cursor.executemany(statement, rows)
        connection.commit()

    return send


def rates(
    rounds: int,
    made: Callable[[], tuple[Sequence[Any], Sequence[Any]]],
    first: Callable[[], Send],
    second: Callable[[], Send],
    each: int,
) -> tuple[float, float]:
    """Median things a second of both ways, taken in turns, so that both meet the same machine."""
    ways = [[make() for _ in range(CONNECTIONS)] for make in (first, second)]
    found: list[list[float]] = [[], []]
    for number in range(rounds + 1):
        for way, parts, times in zip(ways, made(), found, strict=True):
            took = spread(way, parts)
            if number:  # the first turn warms up
                times.append(len(parts) * each / took)
    return statistics.median(found[0]), statistics.median(found[1])


def spread(senders: Sequence[Send], parts: Sequence[Any]) -> float:
    """Seconds in which the senders, at once, send all parts."""

    def work(number: int) -> None:
        for part in parts[number :: len(senders)]:
            senders[number](part)

    started = perf_counter()
    with ThreadPoolExecutor(len(senders)) as pool:
        list(pool.map(work, range(len(senders))))
    return perf_counter() - started


def measure(
    name: str, value: float, unit: str, reference: tuple[str, float], goal: float
) -> Measure:
    return Measure(
        measure=name,
        value=float(f"{value:.4g}"),
        unit=unit,
        reference=f"{reference[0]}: {reference[1]:.4g} {unit}",
        ratio=float(f"{value / reference[1]:.3g}"),
        goal=f">= {goal:g} {unit}",
        holds=value >= goal,
    )


def a_decision() -> dict[str, Any]:
    now = datetime.now(UTC)
    return {
        "decision_id": str(uuid7(now, os.urandom(ENTROPY_BYTES))),
        "policy": "chat",
        "version": 1,
        "serial": 1,
        "digest": "0" * 64,
        "at": now.isoformat(),
        "context": SIGNALS,
        "eligible": ARMS,
        "distribution": [0.125] * 8,
        "action": ARMS[3],
        "propensity": 0.125,
        "mode": "policy",
        "session_id": "session-1",
        "edge_id": "edge-1",
    }


SIGNALS = read_messages([{"role": "user", "content": PROMPT}])


def a_feedback() -> dict[str, Any]:
    identifier = uuid7(datetime.now(UTC), os.urandom(ENTROPY_BYTES))
    return {"decision_id": str(identifier), "metric": "score", "value": 0.5}


def as_row(bench: Bench, one: dict[str, Any]) -> list[Any]:
    known: dict[str, Any] = {"retry_of": None, "episode_id": None}
    known |= {"project_id": bench.project_id, "policy_id": bench.policy_id}
    known |= {"received_at": datetime.now(UTC)}
    row = {**one, **known, "eligible": list(ARMS), "at": datetime.fromisoformat(one["at"])}
    return [row.get(name) for name in DECISION_COLUMNS]


def feedback_row(bench: Bench, one: dict[str, Any]) -> dict[str, Any]:
    now = datetime.now(UTC)
    return {
        **one,
        "feedback_id": uuid7(now, os.urandom(ENTROPY_BYTES)),
        "project_id": bench.project_id,
        "value": "0.5",
        "number": 0.5,
        "source": "key:bench",
        "at": now,
    }


def encoded(row: dict[str, Any]) -> bytes:
    return json.dumps(row).encode()


def create_equal(engine: sa.Engine, name: str, like: str) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE TABLE {name} (LIKE {like} INCLUDING ALL)")


def scalar(engine: sa.Engine, statement: str) -> int:
    with engine.connect() as connection:
        found: int = connection.exec_driver_sql(statement).scalar_one()
    return found


def policy_id(engine: sa.Engine) -> UUID:
    with engine.connect() as connection:
        found: UUID = connection.exec_driver_sql("SELECT id FROM policies").scalar_one()
    return found


def driver_url(engine: sa.Engine) -> str:
    return engine.url.set(drivername="postgresql").render_as_string(hide_password=False)


def a_key(engine: sa.Engine) -> tuple[UUID, str]:
    with engine.begin() as connection:
        minted = keys.first_admin(connection, datetime.now(UTC))
    assert minted is not None
    return minted.key.project_id, minted.token


def declare(api: Client) -> None:
    connection = api.connection()

    def put(path: str, body: dict[str, Any]) -> None:
        api.call(
            connection, "PUT", path, json.dumps(body).encode(), content_type="application/json"
        )

    for arm in ARMS:
        put(f"/v1/pools/main/arms/{arm}", {"model": arm, "endpoint": "http://127.0.0.1:9/v1"})
    put("/v1/metrics/score", {"range": [0, 1]})
    put("/v1/policies/chat", {"pool": "main"})
    put("/v1/rewards/chat", {"expression": "score"})


@contextmanager
def serving(database_url: str, data: Path) -> Iterator[int]:
    """The port of an API process."""
    env = {
        **os.environ,
        "POINTSMAN_DATABASE_URL": database_url,
        "POINTSMAN_DATA_DIR": str(data),
        "POINTSMAN_PORT": "0",
        "POINTSMAN_LOG_LEVEL": "warning",
    }
    command = [sys.executable, "-m", "controlplane.api.app"]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())["port"]
        finally:
            process.terminate()


if __name__ == "__main__":
    sys.exit(main(run))
