import base64
import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from controlplane.errors import SettingsError
from controlplane.signing import KEY_FILE, load_keys, public_keys

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
    with pytest.raises(SettingsError, match=KEY_FILE):
        load_keys(None, tmp_path)
