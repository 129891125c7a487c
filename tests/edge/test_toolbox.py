"""The file of tools at an edge: at its start, when it changes, and when it cannot be used."""

import asyncio
import json
import os

import pytest
import structlog

from edge.chat import read_chat
from edge.errors import ToolsError
from edge.metrics import Metrics
from edge.toolbox import Toolbox
from edge.tools import Narrower
from kernels.tools_file import write
from tests.edge.doubles import edge
from tests.edge.toolkit import FAKE, asking, drawn

NAMES = ("weather", "stocks", "chess")


def boxed(path, *, encoder=FAKE):
    metrics = Metrics()
    return Toolbox(path, encoder, metrics, look_s=30), metrics


def refused(metrics):
    return metrics.tools_refused._value.get()


def test_tools_are_there_after_the_start(tmp_path):
    path = tmp_path / "tools.safetensors"
    write(path, drawn(NAMES))
    box, _ = boxed(path)
    box.boot()
    assert box.tools is not None
    assert box.tools.index == {"weather": 0, "stocks": 1, "chess": 2}


def test_without_a_file_there_are_no_tools_and_nothing_is_looked_for():
    box, metrics = boxed(None)
    box.boot()
    box.look()
    assert box.tools is None
    assert refused(metrics) == 0


@pytest.mark.parametrize(
    ("data", "said"), [(None, "No such file"), (b"", "refine again"), (b"{}" * 99, "refine again")]
)
def test_an_edge_does_not_start_with_a_file_that_it_cannot_use(tmp_path, data, said):
    path = tmp_path / "tools.safetensors"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(ToolsError, match=said) as error:
        boxed(path)[0].boot()
    assert f"POINTSMAN_EDGE_TOOLS_FILE={path}" in str(error.value)

    async def start():
        async with edge("http://127.0.0.1:9", tmp_path / "data", tools_file=path):
            pass

    with pytest.raises(ToolsError, match=said):
        asyncio.run(start())


def test_an_upgrades_edge_starts_without_the_tools_of_another_encoder_and_names_both(tmp_path):
    path = tmp_path / "tools.safetensors"
    write(path, drawn(NAMES, encoder="other:02"))
    box, metrics = boxed(path)
    with structlog.testing.capture_logs() as logs:
        box.boot()
    assert box.tools is None
    assert refused(metrics) == 1
    assert "encoder other:02, and this edge runs fake:01: refine" in logs[0]["reason"]
    write(path, drawn(NAMES))
    box.look()
    assert box.tools is not None


def test_an_edge_without_models_says_that_nothing_will_be_ranked(tmp_path):
    path = tmp_path / "tools.safetensors"
    write(path, drawn(NAMES))
    with structlog.testing.capture_logs() as logs:
        boxed(path, encoder=None)[0].boot()
    assert [row["event"] for row in logs] == ["tools.no_models", "tools.active"]


def test_a_file_is_read_again_when_it_has_changed_and_only_then(tmp_path):
    path = tmp_path / "tools.safetensors"
    write(path, drawn(NAMES))
    box, _ = boxed(path)
    box.boot()
    first = box.tools
    box.look()
    assert box.tools is first
    write(path, drawn((*NAMES, "music")))
    box.look()
    assert box.tools is not first
    assert "music" in box.tools.index


def test_what_cannot_be_used_is_said_and_counted_once_and_the_old_tools_stay(tmp_path):
    path = tmp_path / "tools.safetensors"
    write(path, drawn(NAMES))
    whole = path.read_bytes()
    box, metrics = boxed(path)
    box.boot()
    first = box.tools
    with structlog.testing.capture_logs() as logs:
        for number, data in enumerate((whole[:-9], b"", None), start=1):
            if data is None:
                path.unlink()
            else:
                path.write_bytes(data)
            for _ in range(3):
                box.look()
            assert box.tools is first
            assert refused(metrics) == number
    assert [row["log_level"] for row in logs] == ["warning"] * 3
    assert all(row["path"] == str(path) for row in logs)
    path.write_bytes(whole)
    box.look()
    assert box.tools is not first


def test_a_file_of_the_same_size_and_another_time_is_read_again(tmp_path):
    path = tmp_path / "tools.safetensors"
    write(path, drawn(NAMES, seed=0))
    box, _ = boxed(path)
    box.boot()
    first = box.tools
    other = tmp_path / "other.safetensors"
    write(other, drawn(NAMES, seed=1))
    assert other.stat().st_size == path.stat().st_size
    path.write_bytes(other.read_bytes())
    os.utime(path, ns=(1, 1))
    box.look()
    assert (box.tools.file.refined.vectors != first.file.refined.vectors).any()


def test_a_vector_of_another_length_leaves_all_tools_where_they_are(tmp_path):
    path = tmp_path / "tools.safetensors"
    write(path, drawn(NAMES, size=8))
    box, metrics = boxed(path)
    box.boot()
    narrower = Narrower(box, metrics, kept=1, has_models=True)
    chat = read_chat(json.dumps(asking("Rain?", *NAMES)).encode(), {})
    asked = narrower.ask(chat, {})
    assert asked is not None
    for vector in (None, [1.0] * 7, []):
        kept, told = narrower.narrow(chat, asked, "chat", vector)
        assert kept is chat
        assert told == {"x-route-tools": "3/3;no_embedding"}
    kept, told = narrower.narrow(chat, asked, "chat", [1.0] * 8)
    assert told == {"x-route-tools": "1/3;narrowed"}
    assert kept.messages is chat.messages
