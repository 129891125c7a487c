"""Postgres and Redis without installing either: child processes, sockets, one directory of data.

Nothing listens on TCP. Local connections are trusted, because only this account (and root) can
enter the directories that hold the sockets.
"""

import fcntl
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from storage.embedded_postgres import start_postgres
from storage.embedded_process import Child, EmbeddedError
from storage.embedded_redis import redis_client_url, start_redis

__all__ = ["Embedded", "EmbeddedError", "Services", "default_data_dir", "redis_client_url"]


@dataclass(frozen=True, slots=True)
class Services:
    """Where to connect; empty for a service that was not asked for.

    ``redis_url`` is in Celery's form: :func:`redis_client_url` gives redis-py's.
    """

    database_url: str
    redis_url: str


class Embedded:
    """The embedded services of one data directory.

    They end when the thread that called :meth:`start` ends, however it ends: call it from the main
    thread. As a context manager it gives the :class:`Services`.
    """

    def __init__(self, data_dir: Path, *, postgres: bool = True, redis: bool = True) -> None:
        self._data_dir = Path(data_dir).expanduser().absolute()
        self._postgres = postgres
        self._redis = redis
        self._lock: DirectoryLock | None = None
        self._children: list[Child] = []

    def start(self) -> Services:
        """Start what was asked for and wait until it answers.

        Raises:
            EmbeddedError: Another process holds the directory, or a service does not start.
        """
        if self._lock is not None:
            raise EmbeddedError(f"{self._data_dir} is started already: stop it first")
        try:
            prepare(self._data_dir)
            self._lock = DirectoryLock(self._data_dir)
            return self._start_children()
        except OSError as error:
            self.stop()
            raise EmbeddedError(
                f"cannot use {self._data_dir}: {error}; choose another directory with "
                "POINTSMAN_DATA_DIR, or give the URLs of your own Postgres and Redis"
            ) from error
        except BaseException:
            self.stop()
            raise

    def _start_children(self) -> Services:
        logs = self._data_dir / "logs"
        database_url = redis_url = ""
        if self._postgres:
            child, database_url = start_postgres(self._data_dir, logs / "postgres.log")
            self._children.append(child)
        if self._redis:
            child, redis_url = start_redis(self._data_dir, logs / "redis.log")
            self._children.append(child)
        return Services(database_url, redis_url)

    def check(self) -> None:
        """Raise an EmbeddedError that names the service that has died, and its log."""
        for child in self._children:
            child.check()

    def stop(self) -> None:
        """Stop the services in order, the last one started first; does nothing when none runs."""
        while self._children:
            self._children[-1].stop()
            self._children.pop()
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> Services:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()


class DirectoryLock:
    """At most one process runs a directory's services; the lock is gone when the process is."""

    def __init__(self, data_dir: Path) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self._fd = os.open(data_dir / "lock", flags, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(self._fd, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(self._fd)
            raise EmbeddedError(
                f"{data_dir} is in use by process {holder}: stop that process, or choose another "
                "directory with POINTSMAN_DATA_DIR"
            ) from error
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        os.ftruncate(self._fd, 0)
        os.close(self._fd)


def default_data_dir(environ: Mapping[str, str]) -> Path:
    """POINTSMAN_DATA_DIR, else ``pointsman`` in the user's data directory.

    Raises:
        EmbeddedError: Neither is set, and the account has no home directory.
    """
    chosen = environ.get("POINTSMAN_DATA_DIR")
    if chosen:
        return Path(chosen).expanduser()
    shared = Path(environ.get("XDG_DATA_HOME", ""))
    if shared.is_absolute():  # the standard has relative ones ignored
        return shared / "pointsman"
    try:
        home = Path(environ.get("HOME") or "~").expanduser()
    except RuntimeError as error:
        raise EmbeddedError(
            f"account {os.geteuid()} has no home directory: name one with POINTSMAN_DATA_DIR"
        ) from error
    return home / ".local" / "share" / "pointsman"


def prepare(data_dir: Path) -> None:
    """Make the directory, closed to others; root's can be passed through, for root's Postgres.

    Raises:
        EmbeddedError: It belongs to another account.
    """
    if not data_dir.exists():
        data_dir.mkdir(parents=True)
        data_dir.chmod(0o711 if os.geteuid() == 0 else 0o700)
    owner = data_dir.stat().st_uid
    if owner != os.geteuid():
        raise EmbeddedError(
            f"{data_dir} belongs to account {owner}, and this is account {os.geteuid()}: run as "
            "that account, or choose another directory with POINTSMAN_DATA_DIR"
        )
