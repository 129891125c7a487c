import json

import numpy as np
import pytest

from controlplane import tools_cli
from controlplane.tools_cli import ToolsError, main, read, read_outcomes, read_tools, write
from kernels.tools import Refined

TOOLS = [
    {"name": "weather", "description": "Tells the weather of a place."},
    {"name": "stocks", "description": "Prices of shares."},
]
OUTCOMES = [
    {"query": "Will it rain in Oslo?", "tool": "weather", "success": True},
    {"query": "Will it rain in Oslo?", "tool": "stocks", "success": False},
    {"query": "How much is one share?", "tool": "stocks", "success": True},
]


def a_file(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_outcomes_name_each_query_once_and_each_tool_by_its_place(tmp_path):
    names, descriptions = read_tools(a_file(tmp_path / "tools.jsonl", TOOLS))
    assert (names, descriptions[1]) == (["weather", "stocks"], "Prices of shares.")
    queries, rows = read_outcomes(a_file(tmp_path / "outcomes.jsonl", OUTCOMES), names)
    assert queries == ["Will it rain in Oslo?", "How much is one share?"]
    assert rows.tolist() == [[0, 0, 1], [0, 1, 0], [1, 1, 1]]


@pytest.mark.parametrize(
    ("row", "remedy"),
    [
        ({**OUTCOMES[0], "tool": "maps"}, "line 1: tool 'maps' is not among the tools: add it"),
        ({**OUTCOMES[0], "success": 1}, "line 1: success is 1: give true or false"),
        ({**OUTCOMES[0], "query": " "}, "line 1: query is ' ': give a text"),
        ([1], "line 1: give an object"),
    ],
)
def test_an_outcome_that_cannot_be_used_is_named_with_the_remedy(tmp_path, row, remedy):
    with pytest.raises(ToolsError, match=remedy):
        read_outcomes(a_file(tmp_path / "outcomes.jsonl", [row]), ["weather", "stocks"])


@pytest.mark.parametrize(
    ("rows", "remedy"),
    [
        ([], "no tools"),
        ([TOOLS[0], TOOLS[0]], "line 2: name 'weather' is there twice"),
        ([{**TOOLS[0], "name": "w" * 201}], "at most 200"),
    ],
)
def test_tools_that_cannot_be_used_are_named_with_the_remedy(tmp_path, rows, remedy):
    with pytest.raises(ToolsError, match=remedy):
        read_tools(a_file(tmp_path / "tools.jsonl", rows))


def test_files_that_are_too_long_or_no_json_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "tools.jsonl"
    path.write_text("{")
    with pytest.raises(ToolsError, match="line 1: no JSON"):
        read_tools(path)
    path.write_text("x" * (tools_cli.MAX_LINE + 1))
    with pytest.raises(ToolsError, match="line 1: more than 64,000 characters"):
        read_tools(path)
    monkeypatch.setattr(tools_cli, "MAX_TOOLS", 1)
    with pytest.raises(ToolsError, match="at most 1 lines"):
        read_tools(a_file(path, TOOLS))


def test_refined_tools_are_read_as_they_were_written(tmp_path):
    descriptions, vectors = np.eye(2, 4, dtype=np.float32), np.eye(2, 4, 1, dtype=np.float32)
    favours = np.array([0.1, 0.0], np.float32)
    path = tmp_path / "tools.safetensors"
    kept = Refined(descriptions, vectors, favours, favours > 0, 3.0, 0.5, 0.5, 0.6)
    write(path, ["weather", "stocks"], kept)
    names, found = read(path)
    assert names == ["weather", "stocks"]
    assert (found.pull, found.push, found.before, found.after) == (3.0, 0.5, 0.5, 0.6)
    for one in ("descriptions", "vectors", "favours", "refined"):
        np.testing.assert_array_equal(getattr(found, one), getattr(kept, one))


def test_a_file_that_is_none_of_its_own_is_refused(tmp_path, capsys):
    path = tmp_path / "tools.safetensors"
    path.write_bytes(b"no")
    assert main(["rank", "--tools", str(path), "--query", "Will it rain?"]) == 2
    said = capsys.readouterr().err
    assert "is not what `pointsman tools refine` wrote" in said


def test_without_models_the_command_says_how_to_bring_them(tmp_path, capsys):
    tools = a_file(tmp_path / "tools.jsonl", TOOLS)
    log = a_file(tmp_path / "outcomes.jsonl", OUTCOMES)
    out = tmp_path / "out.safetensors"
    given = ["--models", str(tmp_path / "none"), "refine", "--tools", str(tools)]
    assert main([*given, "--outcomes", str(log), "--out", str(out)]) == 2
    assert "pointsman models fetch" in capsys.readouterr().err
    assert not out.exists()
