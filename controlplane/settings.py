"""What a control-plane process reads from its environment, once, at its entry point."""

import os
from functools import cached_property
from pathlib import Path

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from controlplane.errors import SettingsError
from storage.embedded import default_data_dir


class Settings(BaseSettings):
    """Environment variables ``POINTSMAN_…``; without URLs the embedded services are used."""

    model_config = SettingsConfigDict(env_prefix="POINTSMAN_", frozen=True, extra="ignore")

    database_url: SecretStr | None = None
    redis_url: SecretStr | None = None
    data_dir: Path | None = None
    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=0, le=65535)
    edge_port: int = Field(default=8081, ge=0, le=65535)
    """Of the edge that `pointsman up` starts."""
    edge_policies: str = "chat"
    """What that edge serves, comma separated."""
    database_connections: int = Field(default=10, ge=1, le=1_000)
    signing_keys: SecretStr | None = None
    """Base64 of 32-byte Ed25519 seeds, comma separated; else a key file in the data directory."""
    bundle_ttl_s: float = Field(default=7 * 86_400.0, ge=60)
    log_level: str = "info"

    @cached_property
    def data(self) -> Path:
        """Where this installation keeps its files."""
        return (self.data_dir or default_data_dir(os.environ)).expanduser().absolute()


def read_settings(data_dir: Path | None = None) -> Settings:
    """The settings of the environment; ``data_dir`` goes before its own.

    Raises:
        SettingsError: A variable cannot be used, by its name.
    """
    try:
        return Settings() if data_dir is None else Settings(data_dir=data_dir)
    except ValidationError as error:
        first = error.errors()[0]
        name = f"POINTSMAN_{'_'.join(str(part) for part in first['loc'])}".upper()
        raise SettingsError(f"{name} is {first['input']!r}: {first['msg']}") from error
