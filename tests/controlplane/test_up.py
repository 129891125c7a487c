"""`pointsman up` as a person runs it: one program, its banner, Ctrl-C."""

import base64
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

START_S, STOP_S = 60.0, 40.0


@dataclass
class Running:
    """A `pointsman up`, and what it has printed."""

    popen: subprocess.Popen[str]
    out: Path

    def read(self) -> str:
        return self.out.read_text()

    def address(self, name: str) -> str:
        found = re.search(rf"^  {name}\s+(\S+)", self.read(), re.MULTILINE)
        assert found is not None, self.read()
        return found[1]

    def interrupt(self) -> int:
        """Ctrl-C: the terminal signals the process group that is in front."""
        self.popen.send_signal(signal.SIGINT)
        return self.popen.wait(STOP_S)


@contextmanager
def up(data: Path, **environment: str) -> Iterator[Running]:
    out = data / "up.out"
    command = [sys.executable, "-m", "controlplane.cli", "up"]
    with out.open("w") as file:
        popen = subprocess.Popen(
            command,
            stdout=file,
            stderr=subprocess.STDOUT,
            text=True,
            env={**clean(data), **environment},
        )
    running = Running(popen, out)
    try:
        deadline = time.monotonic() + START_S
        while "Ctrl-C stops all." not in running.read():
            assert popen.poll() is None, running.read()
            assert time.monotonic() < deadline, running.read()
            time.sleep(0.1)
        yield running
    finally:
        if popen.poll() is None:
            popen.send_signal(signal.SIGTERM)
            popen.wait(STOP_S)


def test_up_takes_free_ports_shows_the_key_once_keeps_the_data_and_stops_on_ctrl_c(
    short_path: Path,
) -> None:
    with taken(8080), taken(8081), up(short_path) as first:
        api, key = first.address("dashboard").rstrip("/"), first.address("admin key")
        assert not api.endswith(":8080")
        for port in (8080, 8081):
            assert f"port {port} is taken" in first.read()
        assert f" KEY={key} POINTSMAN_DATA_DIR={short_path}\n" in first.read()
        headers = {"authorization": f"Bearer {key}"}
        assert httpx.get(f"{first.address('edge')[:-3]}/healthz").status_code == 200
        metric = httpx.put(f"{api}/v1/metrics/thumbs", json={"type": "boolean"}, headers=headers)
        assert metric.status_code == 200
        refused = up_refuses(short_path)
        assert "is in use by process" in refused
        listed = keys_command(short_path, "list")
        assert "first admin" in listed
        assert key not in listed
        made = keys_command(short_path, "create", "--name", "app", "--scopes", "read").strip()
        assert first.interrupt() == 0
        assert "stopped" in first.read()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{api}/healthz")
    with up(short_path, POINTSMAN_PORT="0", POINTSMAN_EDGE_PORT="0") as second:
        assert key not in second.read()
        api = second.address("dashboard").rstrip("/")
        metrics = httpx.get(f"{api}/v1/metrics", headers={"authorization": f"Bearer {made}"})
        assert [row["name"] for row in metrics.json()["items"]] == ["thumbs"]
        assert second.interrupt() == 0
    assert working_in(short_path) == []


def test_on_given_services_no_secret_is_written_down_or_told_to_the_edge_which_is_started_again(
    short_path: Path, database_url: str, redis_url: str
) -> None:
    seed = base64.b64encode(bytes([7] * 32)).decode()
    secrets = {
        "POINTSMAN_DATABASE_URL": database_url,
        "POINTSMAN_REDIS_URL": redis_url,
        "POINTSMAN_SIGNING_KEYS": seed,
    }
    with up(short_path, POINTSMAN_PORT="0", POINTSMAN_EDGE_PORT="0", **secrets) as running:
        died = killed_edge(running)
        [edge] = listening_on(running.address("edge")[:-3])
        assert edge != died
        environment = dict(environments())[edge]
        assert "POINTSMAN_EDGE_API_KEY=pm_" in environment
        for name, value in secrets.items():
            assert name not in environment
            assert value not in environment
        files = [path for path in short_path.rglob("*") if path.is_file()]
        assert "edge.key" in {path.name for path in files}
        assert not [path for path in files if database_url.encode() in path.read_bytes()]
        assert running.interrupt() == 0


def killed_edge(running: Running) -> int:
    """Kill the edge and wait until another one answers; returns the process that was."""
    url = running.address("edge")[:-3]
    [pid] = listening_on(url)
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + START_S
    while "edge ended with code -9: started again" not in running.read():
        assert time.monotonic() < deadline, running.read()
        time.sleep(0.1)
    while True:
        try:
            assert httpx.get(f"{url}/healthz").status_code == 200
        except httpx.ConnectError:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        else:
            return pid


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("POINTSMAN_PORT", "abc", "POINTSMAN_PORT is 'abc'"),
        ("POINTSMAN_DATABASE_URL", "postgresql://x:y@127.0.0.1:1/z", "POINTSMAN_DATABASE_URL"),
        ("POINTSMAN_DATABASE_URL", "nonsense", "POINTSMAN_DATABASE_URL"),
        ("POINTSMAN_REDIS_URL", "redis://127.0.0.1:1/0", "POINTSMAN_REDIS_URL"),
    ],
)
def test_a_setting_that_cannot_work_is_named_in_one_line(
    short_path: Path, name: str, value: str, told: str
) -> None:
    said = up_refuses(short_path, **{name: value})
    assert told in said
    assert "Traceback" not in said


def test_a_port_that_was_asked_for_and_is_taken_is_an_error(short_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        assert f"POINTSMAN_PORT is {port}" in up_refuses(short_path, POINTSMAN_PORT=port)


def test_ctrl_c_while_it_starts_stops_what_has_started(short_path: Path) -> None:
    popen = subprocess.Popen(
        [sys.executable, "-m", "controlplane.cli", "up"],
        env={**clean(short_path), "POINTSMAN_PORT": "0", "POINTSMAN_EDGE_PORT": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + START_S
    while not (short_path / "logs" / "api.log").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    popen.send_signal(signal.SIGINT)
    out, _ = popen.communicate(timeout=STOP_S)
    assert popen.returncode == 130
    assert "Traceback" not in out
    assert working_in(short_path) == []


@pytest.mark.external
def test_up_uses_the_services_that_are_given_by_url(
    short_path: Path, external_empty_database_url: str, external_redis_url: str
) -> None:
    with up(
        short_path,
        POINTSMAN_PORT="0",
        POINTSMAN_EDGE_PORT="0",
        POINTSMAN_DATABASE_URL=external_empty_database_url,
        POINTSMAN_REDIS_URL=external_redis_url,
    ) as running:
        assert httpx.get(f"{running.address('dashboard')}readyz").status_code == 200
        assert not (short_path / "postgres").exists()
        assert running.interrupt() == 0


@contextmanager
def taken(port: int) -> Iterator[None]:
    """Somebody listens on the port: another program, or else this test."""
    try:
        server = socket.create_server(("127.0.0.1", port))
    except OSError:
        yield
        return
    with server:
        yield


def up_refuses(data: Path, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "controlplane.cli", "up"],
        env={**clean(data), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=START_S,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stderr


def clean(data: Path) -> dict[str, str]:
    """This process's environment without any setting of ours but the data directory."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("POINTSMAN_")}
    return {**kept, "POINTSMAN_DATA_DIR": str(data)}


def keys_command(data: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "controlplane.cli", "keys", *arguments],
        env=clean(data),
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    return done.stdout


def listening_on(url: str) -> list[int]:
    """The edge's process, by the port in its environment."""
    port = url.rpartition(":")[2]
    return [
        pid
        for pid, environment in environments()
        if f"POINTSMAN_EDGE_PORT={port}" in environment and "edge.cli" in command_of(pid)
    ]


def working_in(data: Path) -> list[int]:
    """Processes that still have the data directory in their environment."""
    return [pid for pid, environment in environments() if str(data) in environment]


def environments() -> Iterator[tuple[int, str]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                yield int(entry.name), (entry / "environ").read_text(errors="replace")
            except OSError:
                continue


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""
