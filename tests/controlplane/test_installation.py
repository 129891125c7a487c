"""A command finds the installation's database, or says where it looked."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from controlplane import keys_cli, lint_cli, plan_cli
from controlplane.installation import database_of
from controlplane.settings import read_settings

COMMANDS: list[tuple[Callable[[Sequence[str]], int], list[str]]] = [
    (keys_cli.main, ["list"]),
    (lint_cli.main, ["--policy", "chat"]),
    (plan_cli.main, ["--policy", "chat", "--difference", "0.02"]),
]


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.delenv("POINTSMAN_DATABASE_URL", raising=False)
    monkeypatch.setenv("POINTSMAN_DATA_DIR", str(tmp_path / "nothing"))
    return tmp_path / "nothing"


@pytest.mark.parametrize(("command", "arguments"), COMMANDS)
def test_a_folder_in_which_nothing_was_ever_started_is_named_and_left_alone(
    command: Callable[[Sequence[str]], int],
    arguments: list[str],
    nowhere: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command(arguments) != 0
    assert f"{nowhere} holds no installation" in capsys.readouterr().err
    assert not nowhere.exists()


def test_a_database_that_is_given_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POINTSMAN_DATABASE_URL", "postgresql+psycopg://a@b/c")
    with database_of(read_settings()) as url:
        assert url == "postgresql+psycopg://a@b/c"
