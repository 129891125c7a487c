"""The keys that sign bundles: from the environment, else one file made at the first start."""

import base64
import binascii
import os
import stat
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from controlplane.errors import SettingsError
from controlplane.settings import Settings
from learners.bundle import key_id
from storage.migrate import SchemaError, require
from storage.signers import read_signers, replace_signers

KEY_FILE = "signing.key"
OTHERS = 0o077
"""The part of a mode that must be empty."""
_SEED_BYTES = 32


def agree(settings: Settings, engine: sa.Engine, now: datetime) -> tuple[Ed25519PrivateKey, ...]:
    """The keys of a program that starts, which it shares with all that publish here.

    Raises:
        SettingsError: The keys do not load or do not agree, or the database is not ready.
    """
    given = settings.signing_keys.get_secret_value() if settings.signing_keys else None
    keys = load_keys(given, settings.data)
    try:
        with engine.begin() as connection:
            require(connection)
            register(connection, keys, now)
    except SchemaError as error:
        raise SettingsError(str(error)) from error
    except sa.exc.OperationalError as error:
        raise SettingsError(
            f"the database does not answer: {error.orig}; is it running, and is "
            "POINTSMAN_DATABASE_URL right?"
        ) from error
    return keys


def load_keys(given: str | None, data_dir: Path) -> tuple[Ed25519PrivateKey, ...]:
    """The signing keys; with several, each signs, so that edges can move from one to the next.

    Args:
        given: base64 seeds, comma separated; None for the key file.
        data_dir: holds the key file, readable by this account alone.

    Raises:
        SettingsError: A seed is not the base64 of 32 bytes, or others may read the key file.
    """
    if given is not None:
        return tuple(_key(part.strip(), "POINTSMAN_SIGNING_KEYS") for part in given.split(","))
    data_dir.mkdir(parents=True, exist_ok=True)
    path = data_dir / KEY_FILE
    if not path.exists():
        _make(path)
    return (_read(path),)


def _make(path: Path) -> None:
    """A key file that is whole as soon as it is there; where another start was first, its stays."""
    seed = Ed25519PrivateKey.generate().private_bytes_raw()
    handle, unfinished = tempfile.mkstemp(prefix=f"{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w") as file:
            file.write(base64.b64encode(seed).decode() + "\n")
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            path.hardlink_to(unfinished)
    finally:
        Path(unfinished).unlink()
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _read(path: Path) -> Ed25519PrivateKey:
    with path.open() as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        if mode & OTHERS:
            raise SettingsError(
                f"{path} has mode {mode:o}, so other accounts can read the key: run "
                f"`chmod 600 {path}`"
            )
        return _key(file.read().strip(), str(path))


def register(connection: sa.Connection, keys: Sequence[Ed25519PrivateKey], now: datetime) -> None:
    """Have these keys sign the database's bundles; every program that publishes says so at start.

    Edges take a bundle that one trusted key has signed, so new keys come beside one that stands.

    Raises:
        SettingsError: None of them is among those that sign now.
    """
    own = [key_id(key.public_key()) for key in keys]
    standing = read_signers(connection)
    if standing and standing.isdisjoint(own):
        raise SettingsError(
            f"this process signs with {_listed(own)}, the bundles in the database are signed with "
            f"{_listed(standing)}, and edges trust only those: set POINTSMAN_SIGNING_KEYS to the "
            "same keys on every host (to change them, give the old and the new together); if the "
            "old key is lost, empty the table signers and tell every edge the new public key"
        )
    if standing != set(own):
        replace_signers(connection, own, now)


def _listed(key_ids: Iterable[str]) -> str:
    return ", ".join(sorted(key_ids))


def public_keys(keys: Sequence[Ed25519PrivateKey]) -> str:
    """What an edge takes as ``POINTSMAN_EDGE_TRUSTED_KEYS``."""
    raw = [key.public_key().public_bytes_raw() for key in keys]
    return ",".join(base64.b64encode(part).decode() for part in raw)


def _key(text: str, place: str) -> Ed25519PrivateKey:
    try:
        seed = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise SettingsError(f"{place} is not base64: give the base64 of 32 bytes") from error
    if len(seed) != _SEED_BYTES:
        raise SettingsError(f"{place} holds {len(seed)} bytes: give the base64 of 32 bytes")
    return Ed25519PrivateKey.from_private_bytes(seed)
