"""`pointsman up`: Postgres, Redis, API, worker, schedule and an edge, in one terminal."""

import argparse
import json
import os
import shlex
import signal
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType, TracebackType

import sqlalchemy as sa

from controlplane import keys
from controlplane.errors import ControlPlaneError
from controlplane.processes import Process, Program, whole
from controlplane.settings import Settings, read_settings
from controlplane.signing import agree, public_keys
from learners.ids import ENTROPY_BYTES, uuid7
from storage import projects
from storage.embedded import Embedded, EmbeddedError
from storage.engine import connect
from storage.migrate import SchemaError, migrate
from storage.reach import UnreachableError, check_database, check_redis

EDGE_KEY_FILE = "edge.key"
RUNNING_FILE = "running.json"
"""Says where the database is while it runs, for `pointsman keys` in another terminal."""
NOT_FOR_EDGES = ("POINTSMAN_DATABASE_URL", "POINTSMAN_REDIS_URL", "POINTSMAN_SIGNING_KEYS")
"""Secrets of the control plane: an edge meets the world, and works without them."""
LOOK_S = 0.25


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where everything listens, and the admin key when it is new."""

    api: str
    edge: str
    admin_key: str | None
    data: Path
    notes: tuple[str, ...] = ()


class Stack:
    """All processes of an installation; as a context manager it gives their addresses."""

    def __init__(self, settings: Settings, *, policies: Sequence[str] = ("chat",)) -> None:
        self._settings = settings
        self._policies = tuple(policies)
        self._processes: list[Process] = []
        self._embedded: Embedded | None = None
        self._stopping = False
        self._notes: list[str] = []

    def start(self) -> Addresses:
        """Start what is not given by URL, migrate, then start every program in order.

        Raises:
            EmbeddedError: A service does not start, or another process uses the data.
            UnreachableError: A service that was given by URL does not answer.
            ControlPlaneError: A program does not start, or a port is taken.
        """
        settings = self._settings
        database, redis = self._services()
        migrate(database)
        self._say_where(database)
        trusted, admin, edge_key = self._keys(database)
        logs = settings.data / "logs"
        logs.mkdir(exist_ok=True)
        shared = {
            "POINTSMAN_DATABASE_URL": database,
            "POINTSMAN_REDIS_URL": redis,
            "POINTSMAN_DATA_DIR": str(settings.data),
        }
        api = self._spawn_server(Program("api", "controlplane.api.app", (), shared), settings.port)
        self._spawn(Program("worker", "workers.cli", ("worker",), shared))
        self._spawn(Program("beat", "workers.cli", ("beat",), shared))
        self._wait_ready()
        edge = self._spawn_server(
            Program(
                "edge",
                "edge.cli",
                (),
                {
                    **dict.fromkeys(NOT_FOR_EDGES),
                    "POINTSMAN_EDGE_CONTROL_PLANE_URL": api,
                    "POINTSMAN_EDGE_API_KEY": edge_key,
                    "POINTSMAN_EDGE_TRUSTED_KEYS": trusted,
                    "POINTSMAN_EDGE_POLICIES": ",".join(self._policies),
                    "POINTSMAN_EDGE_DATA_DIR": str(settings.data / "edge"),
                    "POINTSMAN_EDGE_HOST": settings.host,
                },
            ),
            settings.edge_port,
        )
        self._wait_ready()
        return Addresses(api, edge, admin, settings.data, tuple(self._notes))

    def check(self) -> list[str]:
        """Restart what has ended by itself; returns a line for each.

        Raises:
            EmbeddedError: Postgres or Redis has died.
            ControlPlaneError: A program ends again and again.
        """
        if self._embedded is not None:
            self._embedded.check()
        lines = []
        for process in self._processes:
            code = process.ended()
            if code is not None and not self._stopping:
                process.restart()
                lines.append(f"{process.program.name} ended with code {code}: started again")
        return lines

    def stop(self) -> None:
        """Stop everything: the edge first, which reports what it still holds; then the rest."""
        self._stopping = True
        if self._processes:
            self._processes.pop().stop()
        for process in self._processes:
            process.terminate()
        while self._processes:
            self._processes.pop().stop()
        if self._embedded is not None:
            (self._settings.data / RUNNING_FILE).unlink(missing_ok=True)
            self._embedded.stop()
            self._embedded = None

    def __enter__(self) -> Addresses:
        """Start; what has started is stopped again when something does not."""
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop."""
        self.stop()

    def _services(self) -> tuple[str, str]:
        settings = self._settings
        database = settings.database_url.get_secret_value() if settings.database_url else ""
        redis = settings.redis_url.get_secret_value() if settings.redis_url else ""
        if database:
            check_database(database)
        if redis:
            check_redis(redis)
        # It starts what no URL is given for, and keeps a second `up` off the data in any case.
        embedded = Embedded(settings.data, postgres=not database, redis=not redis)
        found = embedded.start()
        self._embedded = embedded
        return database or found.database_url, redis or found.redis_url

    def _say_where(self, database: str) -> None:
        """For the embedded database alone: a given URL holds a password, and is its giver's."""
        path = self._settings.data / RUNNING_FILE
        if self._settings.database_url is None:
            write_private(path, json.dumps({"database_url": database}))
        else:
            path.unlink(missing_ok=True)

    def _keys(self, database: str) -> tuple[str, str | None, str]:
        """What edges trust, the admin key if it is new, and the edge's key."""
        engine = connect(database, pool_size=1)
        now = datetime.now(UTC)
        try:
            signers = agree(self._settings, engine, now)
            with engine.begin() as connection:
                first = keys.first_admin(connection, now)
                edge_key = self._edge_key(connection, now)
        finally:
            engine.dispose()
        return public_keys(signers), first.token if first else None, edge_key

    def _edge_key(self, connection: sa.Connection, now: datetime) -> str:
        """The edge's own key: kept in a file, made anew when that is gone or revoked."""
        path = self._settings.data / EDGE_KEY_FILE
        if path.exists():
            token = path.read_text().strip()
            if keys.verify(connection, token) is not None:
                return token
        project = projects.ensure_project(
            connection, uuid7(now, os.urandom(ENTROPY_BYTES)), keys.DEFAULT_PROJECT, now
        )
        minted = keys.mint(
            connection, project, name="edge of pointsman up", scopes=("edge",), now=now
        )
        write_private(path, minted.token)
        return minted.token

    def _spawn(self, program: Program) -> None:
        with whole():
            self._processes.append(Process(program, self._settings.data / "logs"))

    def _wait_ready(self) -> None:
        for process in self._processes:
            process.wait_ready()

    def _spawn_server(self, program: Program, wanted: int) -> str:
        """Run a server on the port that was asked for; a default one may give way to a free one."""
        host = self._settings.host
        field = "edge_port" if program.name == "edge" else "port"
        name = f"POINTSMAN_{field.upper()}"
        port = free_port(host, wanted)
        if wanted not in {0, port}:
            if field in self._settings.model_fields_set:
                raise ControlPlaneError(
                    f"{name} is {wanted}, and another program listens there: free it, or give "
                    "another port (0: any free one)"
                )
            self._notes.append(f"port {wanted} is taken: the {program.name} listens on {port}")
        fixed = Program(
            program.name, program.module, program.args, {**program.environment, name: str(port)}
        )
        self._spawn(fixed)
        return f"http://{host}:{port}"


def free_port(host: str, wanted: int) -> int:
    """The wanted port where nobody listens on it, else any free one."""
    for port in (wanted, 0):
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                continue
            found: int = probe.getsockname()[1]
            return found
    raise ControlPlaneError(f"no free port on {host}: give another POINTSMAN_HOST")


def write_private(path: Path, text: str) -> None:
    """Write a file that only this account can read."""
    path.unlink(missing_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(text + "\n")


def running_database(data: Path) -> str | None:
    """The database of an installation that runs now; None when it does not answer."""
    path = data / RUNNING_FILE
    if not path.exists():
        return None
    url: str = json.loads(path.read_text())["database_url"]
    engine = connect(url, pool_size=1)
    try:
        with engine.connect():
            return url
    except sa.exc.OperationalError:
        return None
    finally:
        engine.dispose()


def banner(addresses: Addresses, database: str) -> str:
    """What a person needs to go on, in a few lines."""
    admin = addresses.admin_key or "made at the first start (`pointsman keys create` makes another)"
    paste = f"export API={addresses.api} EDGE={addresses.edge}"
    if addresses.admin_key:
        paste += f" KEY={addresses.admin_key}"
    if os.environ.get("POINTSMAN_DATA_DIR"):
        paste += f" POINTSMAN_DATA_DIR={shlex.quote(str(addresses.data))}"
    return "\n".join(
        (
            *(f"  note       {note}" for note in addresses.notes),
            f"  dashboard  {addresses.api}/",
            f"  API        {addresses.api}/v1   (OpenAPI: {addresses.api}/openapi.json)",
            f"  edge       {addresses.edge}/v1   (OpenAI-compatible: model route/<policy>)",
            f"  admin key  {admin}",
            f"  database   {database}",
            f"  data, logs {addresses.data}",
            f"  to paste   {paste}",
        )
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run until Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(prog="pointsman up", description=__doc__)
    parser.add_argument(
        "--policies",
        help="what the edge serves, comma separated; default: POINTSMAN_EDGE_POLICIES, else chat",
    )
    given = parser.parse_args(argv)
    ending = Ending()
    try:
        settings = read_settings()
        wanted = given.policies or settings.edge_policies
        stack = Stack(settings, policies=[n.strip() for n in wanted.split(",") if n.strip()])
        print("starting …", flush=True)
        with stack as addresses:
            ending.wait()
            kind = "by POINTSMAN_DATABASE_URL" if settings.database_url else "embedded"
            print(f"ready\n{banner(addresses, kind)}\nCtrl-C stops all.", flush=True)
            while not ending.asked:
                for line in stack.check():
                    print(line, flush=True)
                time.sleep(LOOK_S)
            print("stopping …", flush=True)
    except TROUBLE as error:
        print(f"pointsman up: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # while it was starting
        print("stopped", flush=True)
        return 130
    print("stopped", flush=True)
    return 0


TROUBLE = (EmbeddedError, SchemaError, UnreachableError, ControlPlaneError)
"""What is told in one line, and not by a traceback."""


class Ending:
    """Whether somebody asked this process to end, by Ctrl-C, SIGTERM or a closed terminal.

    While it starts, that interrupts; after :meth:`wait` it is only noted, once or often.
    """

    def __init__(self) -> None:
        self.asked = False
        self._interrupts = True
        for sent in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(sent, self._ask)

    def wait(self) -> None:
        """From here on somebody looks at ``asked``."""
        self._interrupts = False

    def _ask(self, _signal: int, _frame: FrameType | None) -> None:
        self.asked = True
        if self._interrupts:
            self._interrupts = False  # what has started is stopped in peace
            raise KeyboardInterrupt
