"""The real program: its ready line, its logs, and how it stops."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa

from controlplane import keys, signing

START_S = 60


def environment(database_url: str, data: Path, **more: str) -> dict[str, str]:
    return {
        **os.environ,
        "POINTSMAN_DATABASE_URL": database_url,
        "POINTSMAN_DATA_DIR": str(data),
        "POINTSMAN_PORT": "0",
        **more,
    }


@contextmanager
def running(env: Mapping[str, str]) -> Iterator[tuple[subprocess.Popen[str], int]]:
    command = [sys.executable, "-m", "controlplane.api.app"]
    with subprocess.Popen(
        command, env=dict(env), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            ready = json.loads(process.stdout.readline())
            assert ready["ready"] is True
            yield process, ready["port"]
        finally:
            process.kill()


def admin_key(engine: sa.Engine) -> str:
    with engine.begin() as connection:
        minted = keys.first_admin(connection, datetime.now(UTC))
    assert minted is not None
    return minted.token


def test_it_says_when_it_listens_and_stops_cleanly_though_an_edge_waits(
    database_url: str, engine: sa.Engine, tmp_path: Path
) -> None:
    token = admin_key(engine)
    answers: list[int] = []
    with running(environment(database_url, tmp_path)) as (process, port):
        headers = {"authorization": f"Bearer {token}"}
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers) as client:
            arm = {"model": "m", "endpoint": "http://127.0.0.1:9/v1"}
            assert client.put("/v1/pools/main/arms/a", json=arm).status_code == 200
            assert client.put("/v1/policies/chat", json={"pool": "main"}).status_code == 200
            etag = client.get("/v1/bundles/chat").headers["etag"]
            wait = {"if-none-match": etag, "prefer": "wait=60"}

            def poll() -> None:
                answers.append(client.get("/v1/bundles/chat", headers=wait, timeout=70).status_code)

            waiting = threading.Thread(target=poll)
            waiting.start()
            time.sleep(1)
            began = time.monotonic()
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
            assert time.monotonic() - began < 25
            waiting.join()
        assert answers == [304]
        assert process.stderr is not None
        logged = [json.loads(line) for line in process.stderr]
    events = [line["event"] for line in logged]
    assert events[0] == "api.ready"
    assert events[-1] == "api.stopped"
    assert token not in json.dumps(logged)


def test_its_bundles_are_signed_by_the_key_of_its_data_directory(
    database_url: str, engine: sa.Engine, tmp_path: Path
) -> None:
    token = admin_key(engine)
    with running(environment(database_url, tmp_path)) as (_, port):
        headers = {"authorization": f"Bearer {token}"}
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers) as client:
            arm = {"model": "m", "endpoint": "http://127.0.0.1:9/v1"}
            client.put("/v1/pools/main/arms/a", json=arm)
            client.put("/v1/policies/chat", json={"pool": "main"})
            sealed = client.get("/v1/bundles/chat").content
    from learners.bundle import unseal  # noqa: PLC0415 — beside what it proves

    trusted = [key.public_key() for key in signing.load_keys(None, tmp_path)]
    assert unseal(sealed, trusted).serial == 1


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"POINTSMAN_DATABASE_URL": ""}, "POINTSMAN_DATABASE_URL"),
        ({"POINTSMAN_SIGNING_KEYS": "short"}, "POINTSMAN_SIGNING_KEYS"),
        ({"POINTSMAN_PORT": "high"}, "POINTSMAN_PORT"),
        ({"POINTSMAN_LOG_LEVEL": "loud"}, "loud"),
    ],
)
def test_a_setting_that_is_wrong_ends_it_with_a_remedy(
    tmp_path: Path, change: dict[str, str], named: str
) -> None:
    env = environment("postgresql://nobody@127.0.0.1:1/none", tmp_path, **change)
    ended = subprocess.run(
        [sys.executable, "-m", "controlplane.api.app"],
        env={name: value for name, value in env.items() if value},
        capture_output=True,
        text=True,
        timeout=START_S,
        check=False,
    )
    assert ended.returncode == 1
    assert named in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_port_in_use_ends_it_with_a_remedy(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = subprocess.run(
            [sys.executable, "-m", "controlplane.api.app"],
            env=environment("postgresql://x@127.0.0.1:1/x", tmp_path, POINTSMAN_PORT=port),
            capture_output=True,
            text=True,
            timeout=START_S,
            check=False,
        )
    assert ended.returncode == 1
    assert f"port {port}" in ended.stderr
    assert "POINTSMAN_PORT" in ended.stderr


def test_a_signing_key_that_edges_do_not_trust_ends_it_with_a_remedy(
    database_url: str, engine: sa.Engine, tmp_path: Path
) -> None:
    with engine.begin() as connection:
        others = signing.load_keys(None, tmp_path / "another host")
        signing.register(connection, others, datetime.now(UTC))
    ended = subprocess.run(
        [sys.executable, "-m", "controlplane.api.app"],
        env=environment(database_url, tmp_path),
        capture_output=True,
        text=True,
        timeout=START_S,
        check=False,
    )
    assert ended.returncode == 1
    assert "set POINTSMAN_SIGNING_KEYS to the same keys" in ended.stderr
    assert "Traceback" not in ended.stderr
