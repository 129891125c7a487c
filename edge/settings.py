"""What an edge is told at its start: read once from the environment, then passed down as values."""

import base64
import binascii
import re
import socket
from pathlib import Path
from typing import Annotated

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import AnyHttpUrl, Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from learners.bundle import MAX_BUNDLE_BYTES

MIB = 2**20
MAX_TOOLS = 1_024
"""Tools of a request that are ranked: one with more is passed on as it came."""
_POLICY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def _default_id() -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())[:128] or "edge"


def _split(value: object) -> object:
    """``a, b`` → ``("a", "b")``: a list in an environment variable is comma separated."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


class Settings(BaseSettings):
    """Every variable is ``POINTSMAN_EDGE_`` and the field's name in capitals."""

    model_config = SettingsConfigDict(env_prefix="POINTSMAN_EDGE_", frozen=True)

    control_plane_url: AnyHttpUrl
    api_key: SecretStr
    trusted_keys: Annotated[tuple[str, ...], NoDecode]
    policies: Annotated[tuple[str, ...], NoDecode] = ("chat",)
    id: str = Field(default_factory=_default_id, pattern=r"^[A-Za-z0-9._-]{1,128}$")
    data_dir: Path = Path("edge-data")
    host: str = "127.0.0.1"
    port: int = Field(8081, ge=0, le=65535)
    client_keys: Annotated[tuple[SecretStr, ...], NoDecode] = ()
    log_level: str = Field("INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$")

    models: Path | None = None
    providers: Annotated[tuple[str, ...], NoDecode] = ()
    require_provider: str | None = None
    device: int = Field(0, ge=0, le=63)
    half_precision: bool = False
    compiled_dir: Path | None = None
    static_budget_s: float = Field(0.015, ge=0, lt=60)
    encoder_budget_s: float = Field(0.015, ge=0, lt=60)
    reask_budget_s: float = Field(0.008, ge=0, lt=60)
    read_threads: int = Field(1, ge=1, le=64)
    tools_file: Path | None = None
    tools_kept: int = Field(0, ge=0, le=MAX_TOOLS)

    retries: int = Field(2, ge=0, le=5)
    max_requests: int = Field(1024, ge=1)
    max_body_bytes: int = Field(16 * MIB, ge=1024)
    max_answer_bytes: int = Field(64 * MIB, ge=1024)
    max_bundle_bytes: int = Field(MAX_BUNDLE_BYTES, ge=1024, le=MAX_BUNDLE_BYTES)
    max_spool_bytes: int = Field(1024 * MIB, ge=64 * 1024)
    connect_timeout_s: float = Field(5.0, gt=0)
    body_timeout_s: float = Field(30.0, gt=0)
    silence_timeout_s: float = Field(120.0, gt=0)
    request_timeout_s: float = Field(600.0, gt=0)
    poll_wait_s: float = Field(30.0, ge=0, le=120)
    status_interval_s: float = Field(5.0, gt=0)
    upload_interval_s: float = Field(0.5, gt=0)
    backoff_min_s: float = Field(0.5, gt=0)
    backoff_max_s: float = Field(30.0, gt=0)
    shutdown_s: float = Field(10.0, ge=0)

    @field_validator("trusted_keys", "policies", "client_keys", "providers", mode="before")
    @classmethod
    def _lists(cls, value: object) -> object:
        return _split(value)

    @field_validator("trusted_keys")
    @classmethod
    def _check_keys(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("no key is given: an edge believes signed bundles only")
        for text in value:
            public_key(text)
        return value

    @field_validator("policies")
    @classmethod
    def _check_policies(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or len(set(value)) != len(value):
            raise ValueError(f"{list(value)}: name at least one policy, and each once")
        for name in value:
            if not _POLICY.fullmatch(name):
                raise ValueError(f"{name!r}: use letters, digits, '.', '_' and '-'")
        return value


def public_key(text: str) -> Ed25519PublicKey:
    """The key that base64 of its 32 raw bytes spells."""
    try:
        return Ed25519PublicKey.from_public_bytes(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"{text!r} is not base64 of a raw 32-byte Ed25519 public key") from error
