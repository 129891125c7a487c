import argparse
import json
import re
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from controlplane import cli, leaderboard
from learners.bradley_terry import Row, fit

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "leaderboard.md").read_text()


@pytest.fixture(name="run")
def _run(tmp_path, capsys):
    """Run the command on a file of this text: its code, what it printed, and its errors."""

    def run(text: str, *options: str) -> tuple[int, str, str]:
        path = tmp_path / "votes.csv"
        path.write_text(text)
        code = cli.main(["leaderboard", "--votes", str(path), *options])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


def world(n: int) -> str:
    """n votes: large beats middle beats small, each three times of four; a tenth are ties."""
    random = np.random.default_rng(0)
    names = ("large", "middle", "small")
    lines = ["prompt,winner,loser,tie,weight"]
    for i in range(n):
        better, worse = sorted(random.permutation(3)[:2].tolist())
        if random.random() > 0.75:
            better, worse = worse, better
        tie = int(random.random() < 0.1)
        lines.append(f"p{i // 2},{names[better]},{names[worse]},{tie},1")
    return "\n".join(lines) + "\n"


def test_the_better_arm_stands_higher_with_an_interval(run):
    code, out, err = run(world(600), "--json")
    found = json.loads(out)
    assert (code, err) == (0, "")
    assert [row["arm"] for row in found["arms"]] == ["large", "middle", "small"]
    assert [row["rank"] for row in found["arms"]] == [1, 2, 3]
    for row in found["arms"]:
        assert row["low"] < row["strength"] < row["high"]
        assert row["win_low"] < row["win_probability"] < row["win_high"]
    assert found["votes"] == 600
    assert run(world(600), "--json")[1] == out


def test_the_table_shows_what_the_answer_holds(run):
    _, out, _ = run(world(600))
    lines = out.splitlines()
    assert lines[0].split()[:3] == ["rank", "arm", "wins"]
    assert [line.split()[1] for line in lines[1:]] == ["large", "middle", "small"]


def test_an_arm_of_few_votes_has_no_rank(run):
    _, out, _ = run("winner,loser\n" + "a,b\n" * 40 + "a,c\n")
    assert out.splitlines()[-1].split()[:2] == ["-", "c"]


def test_arms_that_were_never_compared_are_told_of(run):
    _, out, _ = run("winner,loser\n" + "a,b\nc,d\n" * 3)
    assert "never compared" in out.splitlines()[-1]


def test_ties_prompts_and_weights_are_read(tmp_path):
    path = tmp_path / "votes.csv"
    path.write_text("winner,loser,tie,prompt,weight\na,b,0,p,2\nb,a,True,q,\na,b,,p,0.5\n")
    votes = leaderboard.read_votes(path)
    assert votes.tied.tolist() == [False, True, False]
    assert votes.weight.tolist() == [2.0, 1.0, 0.5]
    assert votes.prompt is not None
    assert votes.prompt[0] == votes.prompt[2] != votes.prompt[1]
    assert fit(votes).votes.tolist() == [3.5, 3.5]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "row 1: column winner: is missing"),
        ("winner\na\n", "row 1: column loser: is missing"),
        ("winner,loser,loser\na,b,c\n", "row 1: column loser: is there twice"),
        ("winner,loser\n", "no votes"),
        ("winner,loser\na,b\n,b\n", "row 3: column winner: ''"),
        ("winner,loser\na,b\na\n", "row 3: column loser: None"),
        ("winner,loser\na,b\na,b,c\n", "row 3: has more fields"),
        ("winner,loser\na,a\n", "row 2: column loser: 'a' is the winner too"),
        (f"winner,loser\na,{'b' * 129}\n", "row 2: column loser"),
        ("winner,loser,tie\na,b,perhaps\n", "row 2: column tie: 'perhaps'"),
        ("winner,loser,weight\na,b,1\na,b,much\n", "row 3: column weight: 'much'"),
        ("winner,loser,weight\na,b,-1\n", "row 2: column weight: '-1'"),
        ("winner,loser,weight\na,b,nan\n", "row 2: column weight: 'nan'"),
        ("winner,loser,prompt\na,b,\n", "row 2: column prompt: ''"),
        ('winner,loser\n"a,b\n', "unexpected end of data"),
    ],
)
def test_what_is_no_vote_is_named_by_row_and_column(run, text, message):
    code, out, err = run(text)
    assert (code, out) == (2, "")
    assert message in err


@pytest.mark.parametrize(("option", "value"), [("--rounds", "1"), ("--level", "1")])
def test_an_option_out_of_range_is_named(run, option, value):
    code, _, err = run(world(10), option, value)
    assert code == 2
    assert option.strip("-") in err


def test_more_votes_or_arms_than_fit_are_refused(run, monkeypatch):
    monkeypatch.setattr(leaderboard, "MAX_VOTES", 5)
    assert "more than 5 votes" in run(world(6))[2]
    monkeypatch.setattr(leaderboard, "MAX_ARMS", 2)
    assert "3 arms: at most 2" in run("winner,loser\na,b\na,c\n")[2]


def test_a_file_that_cannot_be_read_is_named(tmp_path, capsys):
    missing = tmp_path / "none.csv"
    assert leaderboard.main(["--votes", str(missing)]) == 2
    assert str(missing) in capsys.readouterr().err
    binary = tmp_path / "binary.csv"
    binary.write_bytes(b"winner,loser\n\xff,b\n")
    assert leaderboard.main(["--votes", str(binary)]) == 2


def test_the_pages_example_runs_and_its_lists_are_the_codes(run):
    (text,) = re.findall(r"^```csv\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    code, out, _ = run(text, "--least-votes", "1", "--json")
    assert code == 0
    assert json.loads(out)["arms"][0]["arm"] == "large"
    first = re.findall(r"^\| `([^`]+)`", PAGE, re.MULTILINE)
    parser = argparse.ArgumentParser(add_help=False)
    leaderboard.add_arguments(parser)
    options = [action.option_strings[0] for action in parser._actions]
    told = [name.split()[0] for name in first]
    assert set(told) == {*leaderboard.COLUMNS, *options, *(field.name for field in fields(Row))}
    defaults = dict(re.findall(r"^\| `(--[\w-]+)[^`]*` \| `([^`]+)`", PAGE, re.MULTILINE))
    held = {a.option_strings[0]: str(a.default) for a in parser._actions if a.default is not None}
    assert defaults == {k: v for k, v in held.items() if v != "False"}
