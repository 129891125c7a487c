"""The keys that sign bundles: from the environment, else one file made at the first start."""

import base64
import binascii
import os
from collections.abc import Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from controlplane.errors import SettingsError

KEY_FILE = "signing.key"
_SEED_BYTES = 32


def load_keys(given: str | None, data_dir: Path) -> tuple[Ed25519PrivateKey, ...]:
    """The signing keys; with several, each signs, so that edges can move from one to the next.

    Args:
        given: base64 seeds, comma separated; None for the key file.
        data_dir: holds the key file, readable by this account alone.

    Raises:
        SettingsError: A seed is not the base64 of 32 bytes.
    """
    if given is not None:
        return tuple(_key(part.strip(), "POINTSMAN_SIGNING_KEYS") for part in given.split(","))
    path = data_dir / KEY_FILE
    data_dir.mkdir(parents=True, exist_ok=True)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return (_key(path.read_text().strip(), str(path)),)
    key = Ed25519PrivateKey.generate()
    with os.fdopen(handle, "w") as file:
        file.write(base64.b64encode(key.private_bytes_raw()).decode() + "\n")
        file.flush()
        os.fsync(file.fileno())
    return (key,)


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
