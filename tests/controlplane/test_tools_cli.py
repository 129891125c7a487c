import json
from dataclasses import replace
from pathlib import Path

import pytest

from bench import minilm
from controlplane import tools_cli
from controlplane.tools_cli import ToolsError, main, read_outcomes, read_tools
from kernels import tools_rerank
from kernels.models import encoder_of
from kernels.tools_file import read, write

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


def test_a_file_that_is_none_of_its_own_is_refused(tmp_path, capsys):
    path = tmp_path / "tools.safetensors"
    path.write_bytes(b"no")
    assert main(["rank", "--tools", str(path), "--query", "Will it rain?"]) == 2
    said = capsys.readouterr().err
    assert "is not what `pointsman tools refine` wrote" in said


WEATHER = ("rain", "snow", "wind", "fog", "hail", "frost", "storm")
SHARES = ("gold", "oil", "steel", "wheat", "silver", "copper", "cotton")


def dense(path):
    """Enough outcomes of two tools for a second look to be tried."""
    rows = [
        {"query": text.format(word), "tool": tool, "success": True}
        for tool, words, texts in (
            ("weather", WEATHER, ("Will there be {} in Oslo?", "Is {} coming on Monday?")),
            ("stocks", SHARES, ("What does {} cost today?", "Is {} going up?")),
        )
        for word in words
        for text in texts
    ]
    return a_file(path, rows)


@pytest.fixture(scope="module")
def models():
    pytest.importorskip("onnxruntime")
    return str(minilm.root())


def test_refined_tools_rank_a_query_by_the_encoder_that_they_were_refined_with(
    tmp_path, capsys, models
):
    tools = a_file(tmp_path / "tools.jsonl", TOOLS)
    log, out = dense(tmp_path / "outcomes.jsonl"), tmp_path / "tools.safetensors"
    given = ["--models", models, "refine", "--tools", str(tools), "--outcomes", str(log)]
    assert main([*given, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "2 of 2 tools refined" in said
    assert "second look" in said
    asked = ["--models", models, "rank", "--tools", str(out), "--query"]
    for query, first in (("Do I need an umbrella?", "weather"), ("Shall I sell?", "stocks")):
        assert main([*asked, query]) == 0
        assert capsys.readouterr().out.split()[0] == first
    found = read(out)
    assert found.encoder == encoder_of(Path(models))
    write(out, replace(found, encoder="another:01"))
    assert main([*asked, "Shall I sell?"]) == 2
    assert f"is of the encoder another:01, and this is {found.encoder}" in capsys.readouterr().err


def test_a_second_look_is_kept_where_it_was_learnt_and_left_out_on_request(
    tmp_path, monkeypatch, models
):
    tools = a_file(tmp_path / "tools.jsonl", TOOLS)
    log, out = dense(tmp_path / "outcomes.jsonl"), tmp_path / "tools.safetensors"
    monkeypatch.setattr(tools_rerank, "LEAST_GAIN", -1.0)
    given = ["--models", models, "refine", "--tools", str(tools), "--outcomes", str(log)]
    assert main([*given, "--out", str(out)]) == 0
    second = read(out).second
    assert second is not None
    assert len(second.examples) == 28
    assert main([*given, "--out", str(out), "--no-second-look"]) == 0
    assert read(out).second is None


def test_without_models_the_command_says_how_to_bring_them(tmp_path, capsys):
    tools = a_file(tmp_path / "tools.jsonl", TOOLS)
    log = a_file(tmp_path / "outcomes.jsonl", OUTCOMES)
    out = tmp_path / "out.safetensors"
    given = ["--models", str(tmp_path / "none"), "refine", "--tools", str(tools)]
    assert main([*given, "--outcomes", str(log), "--out", str(out)]) == 2
    assert "pointsman models fetch" in capsys.readouterr().err
    assert not out.exists()
