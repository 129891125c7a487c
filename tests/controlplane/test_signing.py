import base64
import os
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from threading import Barrier

import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from controlplane.errors import SettingsError
from controlplane.settings import Settings
from controlplane.signing import KEY_FILE, agree, load_keys, public_keys, register
from learners.bundle import key_id
from storage.engine import connect

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SEEDS = [base64.b64encode(bytes([number] * 32)).decode() for number in (1, 2)]


def raw(keys: tuple[Ed25519PrivateKey, ...]) -> list[bytes]:
    return [key.private_bytes_raw() for key in keys]


def test_the_first_start_makes_a_key_that_later_starts_read(tmp_path: Path) -> None:
    made = load_keys(None, tmp_path / "new")
    assert raw(load_keys(None, tmp_path / "new")) == raw(made)
    assert raw(load_keys(None, tmp_path / "other")) != raw(made)


def test_the_key_file_is_for_this_account_alone(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        load_keys(None, tmp_path)
    finally:
        os.umask(old)
    assert (tmp_path / KEY_FILE).stat().st_mode & 0o777 == 0o600


def test_given_keys_come_in_order_and_no_file_is_made(tmp_path: Path) -> None:
    found = load_keys(f" {SEEDS[0]} ,{SEEDS[1]}", tmp_path)
    assert raw(found) == [bytes([1] * 32), bytes([2] * 32)]
    assert list(tmp_path.iterdir()) == []


def test_edges_are_told_the_public_halves(tmp_path: Path) -> None:
    found = load_keys(",".join(SEEDS), tmp_path)
    parts = public_keys(found).split(",")
    assert [base64.b64decode(part) for part in parts] == [
        key.public_key().public_bytes_raw() for key in found
    ]


@pytest.mark.parametrize("given", ["", "not base64!", "c2hvcnQ=", f"{SEEDS[0]},"])
def test_a_seed_that_is_none_is_refused_without_being_shown(tmp_path: Path, given: str) -> None:
    with pytest.raises(SettingsError, match="POINTSMAN_SIGNING_KEYS") as raised:
        load_keys(given, tmp_path)
    assert SEEDS[0] not in str(raised.value)


def test_a_damaged_key_file_is_named(tmp_path: Path) -> None:
    (tmp_path / KEY_FILE).write_text("x")
    (tmp_path / KEY_FILE).chmod(0o600)
    with pytest.raises(SettingsError, match=KEY_FILE):
        load_keys(None, tmp_path)


def test_a_start_that_is_cut_off_leaves_no_half_a_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fdopen", full)
        with pytest.raises(OSError, match="No space"):
            load_keys(None, tmp_path)
    assert not (tmp_path / KEY_FILE).exists()
    assert raw(load_keys(None, tmp_path)) == raw(load_keys(None, tmp_path))


def test_starts_at_once_agree_on_one_key_and_leave_nothing_else(tmp_path: Path) -> None:
    together = Barrier(8)

    def start(number: int) -> list[bytes]:
        together.wait()
        return raw(load_keys(None, tmp_path / str(number)))

    for number in range(20):
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(start, [number] * 8))
        assert found == [found[0]] * 8
        assert [path.name for path in (tmp_path / str(number)).iterdir()] == [KEY_FILE]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_key_file_that_others_can_read_is_refused_with_the_remedy(
    tmp_path: Path, mode: int
) -> None:
    load_keys(None, tmp_path)
    (tmp_path / KEY_FILE).chmod(mode)
    with pytest.raises(SettingsError, match=f"mode {mode:o}.*chmod 600"):
        load_keys(None, tmp_path)


def given(*numbers: int) -> tuple[Ed25519PrivateKey, ...]:
    return tuple(Ed25519PrivateKey.from_private_bytes(bytes([number] * 32)) for number in numbers)


def test_a_program_with_a_key_of_its_own_is_refused(engine: sa.Engine) -> None:
    start(engine, 1)
    with pytest.raises(SettingsError, match="POINTSMAN_SIGNING_KEYS to the same keys") as raised:
        start(engine, 2)
    for number in (1, 2):
        assert key_id(given(number)[0].public_key()) in str(raised.value)
    start(engine, 1)


def test_keys_are_changed_by_giving_old_and_new_together(engine: sa.Engine) -> None:
    start(engine, 1)
    start(engine, 1, 2)
    start(engine, 2)
    with pytest.raises(SettingsError):  # it was left out, so edges may have dropped it
        start(engine, 1)


def test_of_two_first_starts_at_once_one_is_refused(engine: sa.Engine) -> None:
    together = Barrier(2)

    def first(number: int) -> bool:
        together.wait()
        try:
            start(engine, number)
        except SettingsError:
            return False
        return True

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(first, (1, 2))) == [False, True]


def start(engine: sa.Engine, *numbers: int) -> None:
    with engine.begin() as connection:
        register(connection, given(*numbers), NOW)


def test_a_program_starts_with_the_keys_that_the_database_knows(
    engine: sa.Engine, tmp_path: Path
) -> None:
    settings = Settings(data_dir=tmp_path)
    keys = agree(settings, engine, NOW)
    assert raw(keys) == raw(load_keys(None, tmp_path))
    with pytest.raises(SettingsError, match="edges trust only those"):
        agree(Settings(data_dir=tmp_path / "another"), engine, NOW)


def test_a_program_does_not_start_on_a_database_without_tables(
    empty_database_url: str, tmp_path: Path
) -> None:
    engine = connect(empty_database_url)
    with pytest.raises(SettingsError, match="pointsman migrate"):
        agree(Settings(data_dir=tmp_path), engine, NOW)
    engine.dispose()


def test_a_database_that_is_away_is_named_by_its_setting(tmp_path: Path) -> None:
    engine = connect("postgresql://x:secret@127.0.0.1:1/x")
    with pytest.raises(SettingsError, match="POINTSMAN_DATABASE_URL") as raised:
        agree(Settings(data_dir=tmp_path), engine, NOW)
    assert "secret" not in str(raised.value)
