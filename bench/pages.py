"""The control plane's pages: first byte and whole answer beside ``/healthz``, and what they weigh.

A real API process over the embedded Postgres, with a policy of 16 arms, a long log, versions and
verdicts of its rounds, findings and edges. A page is asked for over a kept connection, all of them
in turns, with ``/healthz`` among them. The dashboard is one page without scripts: what a browser
loads is the page, its style sheet and its icon.
"""

import json
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection
from pathlib import Path
from time import perf_counter

import sqlalchemy as sa

from bench.ingest import serving
from bench.measure import Measure, main
from bench.stored_log import FEATURES, StoredLog, fill
from controlplane import findings, keys, logs, rounds
from controlplane.api.wire import EdgeBody
from controlplane.config import GateConfig, LearnerConfig, PolicyConfig
from controlplane.threads import one_thread
from storage import edges, policies, versions
from storage.embedded import Embedded
from storage.engine import connect
from storage.migrate import migrate

ROWS, QUICK_ROWS = 200_000, 10_000
FINDINGS, EDGES = 200, 20
LISTED = 200
PAGE_GOAL = 100.0
"""Times ``/healthz``, which is about a millisecond: a tenth of a second feels like at once."""
LIST_GOAL = 25.0
WEIGHT_GOAL_KIB = 200.0
TRIVIAL = "/healthz"


@dataclass(frozen=True, slots=True)
class Place:
    """A running API, the headers that let a reader in, and what there is to read."""

    port: int
    headers: Mapping[str, str]
    versions: Sequence[int]
    rows: int


@dataclass(frozen=True, slots=True)
class Taken:
    """Medians of one page."""

    first_s: float
    whole_s: float
    size: int


def run(quick: bool) -> list[Measure]:  # noqa: FBT001 — the one switch of every benchmark
    """All measures."""
    logs.configure("error")  # stdout is for the figures, and findings are logged
    with installed(QUICK_ROWS if quick else ROWS) as place:
        paths = [*PAGES.values(), *lists().values(), *judged(place).values(), TRIVIAL]
        found = ask(place, paths, turns=7 if quick else 31)
        trivial = found[TRIVIAL]
        return [
            *(one for name, path in PAGES.items() for one in times(name, found[path], trivial)),
            weight(place, found),
            *(limited(name, found[path], trivial, LIST_GOAL) for name, path in lists().items()),
            *(
                beside(f"{name}, whole", found[path].whole_s, trivial)
                for name, path in judged(place).items()
            ),
        ]


PAGES = {"dashboard": "/", "login page": "/login"}
ASSETS = ("/pointsman.css", "/pointsman.svg")


def lists() -> dict[str, str]:
    """What programs read often."""
    policy = "/v1/policies/chat"
    return {
        "policies": "/v1/policies",
        "versions": f"{policy}/versions?limit={LISTED}",
        "verdicts": f"{policy}/verdicts?limit={LISTED}",
        f"{FINDINGS} findings": f"{policy}/findings?limit={LISTED}",
        f"{EDGES} edges": "/v1/edges",
    }


def judged(place: Place) -> dict[str, str]:
    """What is computed from the log when asked for."""
    first, second = place.versions
    policy, rows = "/v1/policies/chat", f"{place.rows:,} interactions"
    return {
        f"status, {rows}": f"{policy}/status",
        f"compare, {rows}": f"{policy}/versions/{second}/compare/{first}",
    }


@contextmanager
def installed(rows: int) -> Iterator[Place]:
    """A database with a log, its rounds, findings and edges, and the API before it."""
    with tempfile.TemporaryDirectory(prefix="pm-") as name:
        data = Path(name)
        data.chmod(0o711)  # root's Postgres runs as another account and passes through
        with Embedded(data, redis=False) as services:
            migrate(services.database_url)
            engine = connect(services.database_url)
            log = fill(engine, rows, policy_config(rows))
            numbers = judge(log)
            token = furnish(engine, log)
            engine.dispose()
            with serving(services.database_url, data) as port:
                headers = {"authorization": f"Bearer {token}", "cookie": f"pointsman_key={token}"}
                yield Place(port, headers, numbers, rows)


def policy_config(rows: int) -> PolicyConfig:
    return PolicyConfig(
        features=FEATURES,
        learners=(LearnerConfig("linucb"),),
        max_interactions=rows,
        gate=GateConfig(min_interactions=100),
    )


def judge(log: StoredLog) -> tuple[int, int]:
    """Two rounds; the numbers of two versions that they made."""
    with one_thread():
        for _ in range(2):
            done = rounds.run_round(
                log.engine, log.publisher, log.policy, started_at=datetime.now(UTC)
            )
            assert done is not None
            assert not done.summary["failed"]
    with log.engine.connect() as connection:
        made = versions.list_versions(connection, log.policy, limit=LISTED)
    numbers = sorted(row["number"] for row in made)
    assert len(numbers) >= 2, f"the rounds made the versions {numbers}"
    return numbers[-2], numbers[-1]


def furnish(engine: sa.Engine, log: StoredLog) -> str:
    """Findings and edges as a month of serving leaves them; a key that reads."""
    now = datetime.now(UTC)
    with engine.begin() as connection:
        project = policies.get_policy(connection, log.policy).project_id
        for number in range(FINDINGS):
            findings.note(
                connection,
                log.policy,
                monitor="reward",
                severity="warning",
                reaction="none",
                summary="the reward of arm-03 fell by 0.08 within 2,000 decisions",
                numbers={"before": 0.52, "after": 0.44, "decisions": 2_000 + number},
                now=now - timedelta(hours=number),
            )
        for number in range(EDGES):
            status = EdgeBody(active={"chat": 1}, lag_s=0.1, version="0.1.0")
            told = status.model_dump()
            edges.put_status(connection, project, f"edge-{number:02}", told, now)
        minted = keys.mint(connection, project, name="bench", scopes=["read"], now=now)
    return minted.token


def ask(place: Place, paths: Sequence[str], *, turns: int) -> dict[str, Taken]:
    """Medians of each path, asked in turns over one kept connection; the first turn warms up."""
    connection = HTTPConnection("127.0.0.1", place.port, timeout=60)
    times: dict[str, list[tuple[float, float, int]]] = {path: [] for path in paths}
    for turn in range(turns + 1):
        for path in paths:
            taken = get(connection, path, place.headers)
            if turn:
                times[path].append(taken)
    connection.close()
    return {path: _median(taken) for path, taken in times.items()}


def get(
    connection: HTTPConnection, path: str, headers: Mapping[str, str]
) -> tuple[float, float, int]:
    """Seconds to the first byte and to the last, and the answer's bytes."""
    began = perf_counter()
    connection.request("GET", path, headers=dict(headers))
    answer = connection.getresponse()
    first_s = perf_counter() - began
    body = answer.read()
    whole_s = perf_counter() - began
    assert answer.status == 200, f"{path}: {answer.status}: {body[:500]!r}"
    if path.startswith("/v1/"):
        json.loads(body)
    return first_s, whole_s, len(body)


def _median(taken: Sequence[tuple[float, float, int]]) -> Taken:
    first, whole, size = zip(*taken, strict=True)
    return Taken(statistics.median(first), statistics.median(whole), max(size))


def times(name: str, taken: Taken, trivial: Taken) -> list[Measure]:
    """First byte and whole page."""
    return [
        beside(f"{name}, first byte", taken.first_s, trivial),
        limited(name, taken, trivial, PAGE_GOAL),
    ]


def limited(name: str, taken: Taken, trivial: Taken, times: float) -> Measure:
    """A whole answer with a goal."""
    ratio = taken.whole_s / trivial.whole_s
    told = beside(f"{name}, whole", taken.whole_s, trivial)
    return Measure(
        measure=told.measure,
        value=told.value,
        unit=told.unit,
        reference=told.reference,
        ratio=told.ratio,
        goal=f"<= {times:g} × {TRIVIAL}",
        holds=ratio <= times,
    )


def beside(name: str, seconds: float, trivial: Taken) -> Measure:
    """Milliseconds beside the trivial answer's."""
    return Measure(
        measure=name,
        value=_rounded(1e3 * seconds),
        unit="ms",
        reference=f"{TRIVIAL}: {_rounded(1e3 * trivial.whole_s):g} ms",
        ratio=_rounded(seconds / trivial.whole_s),
    )


def weight(place: Place, found: Mapping[str, Taken]) -> Measure:
    """What a browser loads at first."""
    connection = HTTPConnection("127.0.0.1", place.port, timeout=60)
    assets = [get(connection, path, place.headers)[2] for path in ASSETS]
    connection.close()
    kib = (found[PAGES["dashboard"]].size + sum(assets)) / 1024
    return Measure(
        measure="dashboard, its style sheet and its icon",
        value=_rounded(kib),
        unit="KiB",
        goal=f"<= {WEIGHT_GOAL_KIB:g} KiB",
        holds=kib <= WEIGHT_GOAL_KIB,
    )


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


if __name__ == "__main__":
    sys.exit(main(run))
