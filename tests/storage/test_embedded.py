import os
import pwd
import shutil
import signal
import site
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
import sqlalchemy as sa
from kombu.connection import Connection as CeleryConnection

from storage import embedded_postgres
from storage.embedded import Embedded, EmbeddedError, Services, default_data_dir, redis_client_url
from storage.embedded_postgres import copy_binaries, find_binaries, find_place
from storage.embedded_process import (
    Account,
    Child,
    Command,
    account_below_root,
    can_enter,
    environment,
    wait_for,
)
from storage.embedded_redis import server_path

WAIT_S = 30.0
ROOT = Path(__file__).parent.parent.parent
PACKAGES = [Path(path) for path in site.getsitepackages()]
HOLD = """
import sys, time
from pathlib import Path
from storage.embedded import Embedded
with Embedded(Path(sys.argv[1])) as services:
    print(services.database_url, services.redis_url, flush=True)
    time.sleep(600)
"""
ONCE = HOLD.replace("    time.sleep(600)\n", "")

only_root = pytest.mark.skipif(os.geteuid() != 0, reason="another account needs root")
only_linux = pytest.mark.skipif(sys.platform != "linux", reason="uses /proc and PDEATHSIG")


def query(services: Services, statement: str) -> list[tuple[object, ...]]:
    return query_at(sa.make_url(services.database_url), statement)


def query_at(url: sa.URL, statement: str) -> list[tuple[object, ...]]:
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        result = connection.execute(sa.text(statement))
        return [tuple(row) for row in result] if result.returns_rows else []


def keep(services: Services, number: int) -> None:
    query(services, f"DROP TABLE IF EXISTS kept; CREATE TABLE kept AS SELECT {number} AS n")


def kept(services: Services) -> list[tuple[object, ...]]:
    return query(services, "SELECT n FROM kept")


def redis_pid(services: Services) -> int:
    with redis.Redis.from_url(redis_client_url(services.redis_url)) as client:
        return int(client.info("server")["process_id"])


def postgres_pids(services: Services) -> list[int]:
    """The postmaster's first, then its children's."""
    children = query(services, "SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
    host = Path(str(sa.make_url(services.database_url).query["host"]))
    postmaster = int((host / ".s.PGSQL.5432.lock").read_text().split()[0])
    return [postmaster, *(int(str(pid)) for (pid,) in children)]


def is_gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state == "Z"


def kill(*pids: int) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


@contextmanager
def held_by_another_process(data_dir: Path) -> Iterator[tuple[subprocess.Popen[str], Services]]:
    with subprocess.Popen(
        (sys.executable, "-c", HOLD, str(data_dir)), stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        try:
            yield process, Services(*process.stdout.readline().split())
        finally:
            process.kill()


def test_data_outlives_a_restart(module_path: Path):
    with Embedded(module_path) as services:
        keep(services, 1)
    with Embedded(module_path) as services:
        assert kept(services) == [(1,)]


def test_nothing_listens_on_tcp_and_fsync_is_on(services: Services):
    assert query(services, "SHOW listen_addresses") == [("",)]
    assert query(services, "SHOW fsync") == [("on",)]
    with redis.Redis.from_url(redis_client_url(services.redis_url)) as client:
        assert client.config_get("port", "bind-source-addr") == {
            "port": "0",
            "bind-source-addr": "",
        }


def test_the_role_is_no_superuser(services: Services):
    assert query(services, "SELECT usesuper FROM pg_user WHERE usename = current_user") == [
        (False,)
    ]


def test_sockets_lie_in_directories_that_only_one_account_may_enter(services: Services):
    host = Path(str(sa.make_url(services.database_url).query["host"]))
    socket = Path(redis_client_url(services.redis_url).removeprefix("unix://").partition("?")[0])
    assert [path.stat().st_mode & 0o777 for path in (host, socket.parent)] == [0o700, 0o700]


def test_a_service_that_was_not_asked_for_has_no_url(short_path: Path):
    with Embedded(short_path, postgres=False) as services:
        assert services.database_url == ""
        assert redis_pid(services) > 0
        assert not (short_path / "postgres").exists()


def test_a_second_start_on_the_same_directory_is_refused(short_path: Path):
    with Embedded(short_path, postgres=False) as services:
        refused = f"in use by process {os.getpid()}.*POINTSMAN_DATA_DIR"
        with pytest.raises(EmbeddedError, match=refused):
            Embedded(short_path).start()
        assert redis_pid(services) > 0
    with Embedded(short_path, postgres=False) as services:
        assert redis_pid(services) > 0


def test_starting_twice_is_refused_and_stopping_twice_is_not(short_path: Path):
    embedded = Embedded(short_path, postgres=False)
    embedded.start()
    with pytest.raises(EmbeddedError, match="stop it first"):
        embedded.start()
    embedded.stop()
    embedded.stop()


@only_linux
def test_services_end_with_their_parent_and_start_again(module_path: Path):
    with held_by_another_process(module_path) as (parent, services):
        keep(services, 2)
        children = [*postgres_pids(services), redis_pid(services)]
        parent.kill()
        assert wait_for(lambda: all(map(is_gone, children)), WAIT_S)
    with Embedded(module_path) as services:
        assert kept(services) == [(2,)]


@only_linux
def test_a_start_right_after_the_parent_was_killed_waits_for_its_services(module_path: Path):
    with held_by_another_process(module_path) as (parent, services):
        keep(services, 3)
        parent.kill()
        parent.wait()
        with Embedded(module_path) as again:
            assert kept(again) == [(3,)]


@only_linux
def test_committed_data_survives_a_kill_of_the_whole_process_tree(module_path: Path):
    with held_by_another_process(module_path) as (parent, services):
        keep(services, 4)
        kill(*postgres_pids(services), redis_pid(services), parent.pid)
    with Embedded(module_path) as services:
        assert kept(services) == [(4,)]


@only_linux
def test_a_killed_postmaster_is_named_and_the_next_start_recovers(module_path: Path):
    embedded = Embedded(module_path)
    services = embedded.start()
    keep(services, 5)
    embedded.check()
    kill(postgres_pids(services)[0])
    assert wait_for(lambda: has_died(embedded), WAIT_S)
    with pytest.raises(EmbeddedError, match=r"embedded postgres .* ended with code -9.*log"):
        embedded.check()
    embedded.stop()
    with embedded as services:
        assert kept(services) == [(5,)]


def test_a_killed_redis_is_named_and_the_next_start_recovers(short_path: Path):
    embedded = Embedded(short_path, postgres=False)
    kill(redis_pid(embedded.start()))
    assert wait_for(lambda: has_died(embedded), WAIT_S)
    with pytest.raises(EmbeddedError, match=r"embedded redis .* ended with code -9"):
        embedded.check()
    embedded.stop()
    with embedded as services:
        assert redis_pid(services) > 0


def has_died(embedded: Embedded) -> bool:
    try:
        embedded.check()
    except EmbeddedError:
        return True
    return False


@only_linux
def test_leftovers_of_cut_off_starts_do_not_hinder(short_path: Path):
    place = find_place(short_path)
    (place.home / "data.new" / "base").mkdir(parents=True)
    (place.home / "data.new" / "PG_VERSION").write_text("18\n")
    with Embedded(short_path, redis=False) as services:
        postmaster = postgres_pids(services)[0]
        stale = (place.data / "postmaster.pid").read_text()
    ours = stale.replace(str(postmaster), str(os.getpid()), 1)  # the number went to another program
    (place.data / "postmaster.pid").write_text(ours)
    with Embedded(short_path, redis=False) as services:
        assert query(services, "SELECT 1") == [(1,)]


def test_a_long_path_with_odd_characters_works_for_every_client(
    short_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(short_path))  # the sockets go there
    with Embedded(short_path / ("a b%20c&d" * 12)) as services:
        assert query(services, "SELECT 1") == [(1,)]
        assert len(str(sa.make_url(services.database_url).query["host"])) < 100
        check_redis_clients(services)


def test_odd_characters_in_a_short_path_work_for_every_client(short_path: Path):
    with Embedded(short_path / "a b%20c&d=é") as services:
        assert query(services, "SELECT 1") == [(1,)]
        check_redis_clients(services)


def check_redis_clients(services: Services) -> None:
    assert redis_pid(services) > 0
    with CeleryConnection(services.redis_url) as connection:
        connection.default_channel.client.set("seen", "celery")
    with redis.Redis.from_url(redis_client_url(services.redis_url)) as client:
        assert client.get("seen") == b"celery"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("redis+socket:///run/r.sock?virtual_host=3", "unix:///run/r.sock?db=3"),
        ("redis+socket:///a%20b/r.sock", "unix:///a%20b/r.sock?db=0"),
        ("redis+socket://:pw%40x@/run/r.sock", "unix://:pw%40x@/run/r.sock?db=0"),
        ("redis://h:6379/2", "redis://h:6379/2"),
        ("rediss://h:6379/2", "rediss://h:6379/2"),
    ],
)
def test_celery_urls_are_given_in_the_form_of_redis_py(given: str, expected: str):
    assert redis_client_url(given) == expected


def test_data_of_another_major_version_is_refused_with_what_to_do(short_path: Path):
    place = find_place(short_path)
    place.data.mkdir()
    (place.data / "PG_VERSION").write_text("17\n")
    with pytest.raises(EmbeddedError, match=r"written by PostgreSQL 17.*18.*restore"):
        Embedded(short_path).start()


def test_a_data_directory_that_is_a_file_is_refused(short_path: Path):
    (short_path / "file").write_text("")
    with pytest.raises(EmbeddedError, match=r"cannot use .*file.*POINTSMAN_DATA_DIR"):
        Embedded(short_path / "file").start()


def test_a_program_that_cannot_be_run_is_named(short_path: Path):
    log = short_path / "logs" / "x.log"
    child = Child(
        Command("postgres", ("/no/such/program",), short_path, log, ((signal.SIGTERM, 1.0),))
    )
    with pytest.raises(EmbeddedError, match="cannot run /no/such/program"):
        child.wait_until(lambda: False, WAIT_S)
    child.stop()


def test_settings_of_the_users_shell_do_not_reach_a_service(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PGPORT", "1")
    monkeypatch.setenv("LD_PRELOAD", "/x.so")
    assert sorted(environment()) == ["LC_ALL", "PATH", "TZ"]


def test_the_data_directory_is_chosen_by_the_environment():
    home = {"HOME": "/home/ada"}
    assert default_data_dir({"POINTSMAN_DATA_DIR": "/srv/p", **home}) == Path("/srv/p")
    assert default_data_dir({"XDG_DATA_HOME": "/xdg", **home}) == Path("/xdg/pointsman")
    assert default_data_dir({"XDG_DATA_HOME": "xdg", **home}) == default_data_dir(home)
    assert default_data_dir(home) == Path("/home/ada/.local/share/pointsman")


@only_root
def test_a_directory_of_another_account_is_refused(short_path: Path):
    os.chown(short_path, 65534, -1)
    with pytest.raises(EmbeddedError, match=r"belongs to account 65534, and this is account 0"):
        Embedded(short_path).start()


@only_root
def test_roots_postgres_runs_as_another_account_where_its_parents_are_closed(
    short_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(embedded_postgres, "SYSTEM_HOME", short_path / "system")
    closed = short_path / "closed"
    closed.mkdir(mode=0o700)
    with Embedded(closed / "data", redis=False) as services:
        data = data_directory(services)
        keep(services, 1)
    assert data.is_relative_to(short_path / "system")
    assert data.stat().st_uid == account_below_root().uid
    with Embedded(closed / "data", redis=False) as services:
        assert kept(services) == [(1,)]
    shutil.rmtree(short_path / "system")
    with pytest.raises(EmbeddedError, match="which is gone"):
        Embedded(closed / "data").start()


def data_directory(services: Services) -> Path:
    url = sa.make_url(services.database_url).set(username="postgres", database="postgres")
    ((found,),) = query_at(url, "SHOW data_directory")
    return Path(str(found))


@only_root
def test_copied_binaries_run_as_an_account_that_cannot_reach_the_package(short_path: Path):
    place = find_place(short_path)
    package = find_binaries(place).parent.parent
    binaries = copy_binaries(package, place.home)
    ran = subprocess.run(
        (binaries / "postgres", "--version"),
        user=65534,
        group=65534,
        capture_output=True,
        check=True,
    )
    assert ran.stdout.startswith(b"postgres (PostgreSQL) 18")
    assert copy_binaries(package, place.home) == binaries


@only_root
def test_an_ordinary_account_without_a_home_starts_both_services(short_path: Path):
    entry = pwd.getpwnam("nobody")
    nobody = Account(entry.pw_name, entry.pw_uid, entry.pw_gid)
    data_dir = short_path / "own"
    data_dir.mkdir()
    os.chown(data_dir, nobody.uid, nobody.gid)
    ran = subprocess.run(
        (python_for(nobody), "-B", "-c", ONCE, str(data_dir)),
        cwd="/",
        env={"PATH": os.defpath, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, *PACKAGES)))},
        user=nobody.uid,
        group=nobody.gid,
        extra_groups=[],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.stdout.startswith("postgresql+psycopg://"), ran.stderr
    assert (data_dir / "postgres" / "data").stat().st_uid == nobody.uid


def python_for(account: Account) -> str:
    """This Python, or one of the same version that the account can run."""
    named = shutil.which(f"python3.{sys.version_info.minor}", path=os.defpath)
    for python in (sys.executable, named):
        if python and can_enter(Path(python), account) and can_enter(PACKAGES[0], account):
            return python
    pytest.skip(f"the account {account.name} can run no Python of this version here")


def test_the_server_of_this_machine_is_found():
    assert server_path().is_file()
