"""The real program: started, stopped, killed."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from edge.cli import main
from tests.edge.doubles import TRUSTED, EdgeClient, arms, control_plane, eventually, make_bundle

ROOT = Path(__file__).parents[2]
ASK = {"policy": "chat", "context": {}}
FORBIDDEN = (
    "alembic",
    "celery",
    "controlplane",
    "fastapi",
    "feedback",
    "psycopg",
    "redis",
    "river",
    "scipy",
    "sqlalchemy",
    "starlette",
    "storage",
    "vowpal_wabbit_next",
    "workers",
)


@asynccontextmanager
async def program(url, data_dir, **changes):
    """``pointsman-edge`` as a process of its own, once it is ready; killed at the end."""
    given = {
        "CONTROL_PLANE_URL": url,
        "API_KEY": "pm_edge_secret",
        "TRUSTED_KEYS": TRUSTED,
        "DATA_DIR": str(data_dir),
        "PORT": "0",
        "POLL_WAIT_S": "1",
        **changes,
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "edge.cli",
        cwd=ROOT,
        env={**os.environ, **{f"POINTSMAN_EDGE_{name}": value for name, value in given.items()}},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        line = json.loads(await asyncio.wait_for(process.stdout.readline(), 20))
        assert line["ready"] is True
        async with aiohttp.ClientSession() as session:
            client = EdgeClient(f"http://127.0.0.1:{line['port']}", session)
            yield process, client
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def run(scenario):
    asyncio.run(asyncio.wait_for(scenario, 60))


def test_the_edge_imports_no_server_library():
    code = "import edge.cli, json, sys; print(json.dumps(sorted(sys.modules)))"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True, timeout=60
    )
    roots = {name.partition(".")[0] for name in json.loads(found.stdout)}
    assert "aiohttp" in roots
    assert roots & set(FORBIDDEN) == set()


def test_a_killed_edge_loses_no_decision_that_it_has_answered(tmp_path):
    async def scenario():
        async with control_plane() as plane:
            plane.publish(make_bundle())
            wanted: set[str] = set()
            async with program(plane.url, tmp_path) as (process, client):
                await client.ready()
                # Some are uploaded before the kill and some wait, a few with their answer unread.
                for number in range(60):
                    plane.refuse_with = 503 if number >= 30 else None
                    wanted.add((await client.post("/v1/decide", ASK))[1]["decision_id"])
                flying = [asyncio.create_task(client.post("/v1/decide", ASK)) for _ in range(20)]
                await asyncio.sleep(0.005)
                process.send_signal(signal.SIGKILL)
                for found in await asyncio.gather(*flying, return_exceptions=True):
                    if isinstance(found, tuple):
                        wanted.add(found[1]["decision_id"])
            plane.refuse_with = None
            async with program(plane.url, tmp_path):
                await eventually(lambda: wanted <= {row["decision_id"] for row in plane.decisions})
            ids = [row["decision_id"] for row in plane.decisions]
            again = len(ids) - len(set(ids))
            # What was being uploaded at the kill may come twice, and is known by its id.
            assert again <= 30
            assert len(set(ids)) <= len(wanted) + 20

    run(scenario())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_edge_finishes_its_requests_and_its_uploads(tmp_path, number):
    async def scenario():
        async with control_plane() as plane, arms() as pool:
            plane.publish(make_bundle(endpoint=pool.url))
            pool.behaviour = dict.fromkeys(("small", "medium", "large"), "slow")
            async with program(plane.url, tmp_path, UPLOAD_INTERVAL_S="60") as (process, client):
                await client.ready()
                body = {"model": "route/chat", "messages": [{"role": "user", "content": "hello"}]}
                asked = asyncio.create_task(client.post("/v1/chat/completions", body))
                await eventually(lambda: pool.models)
                process.send_signal(number)
                status, answer = await asked
                assert (status, answer["id"]) == (200, "chatcmpl-1")
                _, errors = await asyncio.wait_for(process.communicate(), 15)
                assert process.returncode == 0
            assert len(plane.decisions) == len(plane.outcomes) == 1
            events = [json.loads(line)["event"] for line in errors.decode().splitlines()]
            assert events[0] == "edge.started"
            assert events[-1] == "edge.stopped"
            assert "hello" not in errors.decode()
            assert "pm_edge_secret" not in errors.decode()

    run(scenario())


def test_a_second_edge_on_the_same_folder_says_why_it_does_not_start(tmp_path):
    async def scenario():
        async with control_plane() as plane, program(plane.url, tmp_path):
            again = await asyncio.to_thread(start_in_vain, plane.url, tmp_path)
            assert again.returncode == 1
            assert b"in use by another edge" in again.stderr

    run(scenario())


def start_in_vain(url, data_dir, *options):
    given = {"CONTROL_PLANE_URL": url, "API_KEY": "k", "TRUSTED_KEYS": TRUSTED, "PORT": "0"}
    return subprocess.run(
        [sys.executable, "-m", "edge.cli", "--data-dir", str(data_dir), *options],
        cwd=ROOT,
        env={**os.environ, **{f"POINTSMAN_EDGE_{name}": value for name, value in given.items()}},
        capture_output=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("API_KEY", None, "POINTSMAN_EDGE_API_KEY: Field required"),
        ("TRUSTED_KEYS", "AAAA", "not base64 of a raw 32-byte Ed25519 public key"),
        ("TRUSTED_KEYS", "", "no key is given"),
        ("CONTROL_PLANE_URL", "nowhere", "POINTSMAN_EDGE_CONTROL_PLANE_URL"),
        ("POLICIES", "chat,chat", "each once"),
        ("POLICIES", "../chat", "use letters, digits"),
        ("PORT", "99999", "POINTSMAN_EDGE_PORT"),
        ("ID", "a/b", "POINTSMAN_EDGE_ID"),
        ("TOOLS_KEPT", "1025", "POINTSMAN_EDGE_TOOLS_KEPT"),
    ],
)
def test_a_wrong_setting_is_named_and_its_value_is_not_shown(
    monkeypatch, capsys, name, value, said
):
    given = {"CONTROL_PLANE_URL": "http://x", "API_KEY": "pm_secret", "TRUSTED_KEYS": TRUSTED}
    for key, text in (given | {name: value}).items():
        if text is None:
            monkeypatch.delenv(f"POINTSMAN_EDGE_{key}", raising=False)
        else:
            monkeypatch.setenv(f"POINTSMAN_EDGE_{key}", text)
    assert main([]) == 2
    errors = capsys.readouterr().err
    assert said in errors
    assert "pm_secret" not in errors


def test_a_file_of_tools_that_is_not_there_is_named_by_its_option(tmp_path):
    path = tmp_path / "tools.safetensors"
    options = ("--tools-file", str(path), "--tools-kept", "8")
    done = start_in_vain("http://127.0.0.1:9", tmp_path / "data", *options)
    assert done.returncode == 1
    said = done.stdout + done.stderr
    assert f"POINTSMAN_EDGE_TOOLS_FILE={path}: [Errno 2] No such file".encode() in said
