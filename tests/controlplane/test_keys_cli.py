import re
from pathlib import Path

import pytest
import sqlalchemy as sa

from controlplane import keys_cli


@pytest.fixture(name="cli")
def _cli(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("POINTSMAN_DATABASE_URL", database_url)
    monkeypatch.setenv("POINTSMAN_DATA_DIR", str(tmp_path))
    return keys_cli.main


def test_a_key_is_made_listed_and_revoked(cli, capsys):
    assert cli(["--project", "shop", "create", "--name", "app", "--scopes", "read,ingest"]) == 0
    token = capsys.readouterr().out.strip()
    assert cli(["--project", "shop", "list"]) == 0
    listed = capsys.readouterr().out
    header, row = listed.splitlines()
    assert header.split() == ["id", "token", "scopes", "name"]
    assert [header.index(name) for name in ("token", "name")] == [
        row.index(text) for text in ("pm_", "app")
    ]
    assert token[:15] in listed
    assert token not in listed
    assert cli(["--project", "shop", "revoke", row.split()[0]]) == 0
    assert cli(["--project", "shop", "list"]) == 0
    assert "(revoked)" in capsys.readouterr().out


def test_the_help_says_what_each_command_does(cli, capsys):
    with pytest.raises(SystemExit, match="0"):
        cli(["--help"])
    said = capsys.readouterr().out
    for command in ("create", "list", "revoke"):
        assert re.search(rf"^ +{command} {{2,}}\w+", said, re.MULTILINE), said


@pytest.mark.parametrize("command", [["list"], ["revoke", "019b0000-0000-7000-8000-000000000000"]])
def test_a_mistyped_project_is_named_and_not_made(cli, capsys, engine: sa.Engine, command):
    assert cli(["--project", "shpo", *command]) == 1
    assert "project 'shpo' does not exist" in capsys.readouterr().err
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM projects").scalar() == 0


def test_a_database_without_tables_is_said_to_be_so(
    cli, capsys, empty_database_url: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("POINTSMAN_DATABASE_URL", empty_database_url)
    assert cli(["list"]) == 1
    assert "no tables yet" in (said := capsys.readouterr().err)
    assert "pointsman migrate" in said


def test_a_database_that_does_not_answer_is_said_to_be_so(
    cli, capsys, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("POINTSMAN_DATABASE_URL", "postgresql://x:secret@127.0.0.1:1/x")
    assert cli(["list"]) == 1
    assert "does not answer" in (said := capsys.readouterr().err)
    assert "secret" not in said
