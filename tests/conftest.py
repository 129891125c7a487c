"""Real services for tests: they start once a session, and each test gets a database of its own.

Tests marked ``external`` use the servers that ``POINTSMAN_DATABASE_URL`` and
``POINTSMAN_REDIS_URL`` name instead.
"""

import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psycopg
import pytest
import redis
import sqlalchemy as sa

from storage.embedded import Embedded, Services, redis_client_url
from storage.engine import connect, normalise
from storage.migrate import migrate
from tests.ground import Ground, lay
from tests.spare import Spare

HERE = Path(__file__).parent
PROGRAMS = ("loop", "workers", "controlplane/test_up.py")
UNCOMPILED = "PYTHONDONTWRITEBYTECODE"

REDIS_DATABASES = 16

DROP_TRIES = 50


def pytest_configure(config: pytest.Config) -> None:
    """Let the many programs that tests start read their modules compiled, not compile them each.

    Where the environment forbids that beside the sources, the cache of pytest holds them.
    """
    if config.pluginmanager.hasplugin("cacheprovider") and os.environ.pop(UNCOMPILED, ""):
        os.environ["PYTHONPYCACHEPREFIX"] = str(config.cache.mkdir("bytecode"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: many tests wait for programs that they have started."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files that start whole programs first: begun last, a long one is waited for alone."""
    items.sort(key=lambda item: not any(item.path.is_relative_to(HERE / one) for one in PROGRAMS))


@pytest.fixture(scope="session")
def services() -> Iterator[Services]:
    """Embedded Postgres and Redis, the same for the whole session."""
    with short_dir() as data_dir, Embedded(data_dir) as started:
        yield started


@pytest.fixture
def short_path() -> Iterator[Path]:
    """Like ``tmp_path``, but short enough for a socket and, as root, open to Postgres's account."""
    with short_dir() as path:
        yield path


@pytest.fixture(scope="module")
def module_path() -> Iterator[Path]:
    """Like ``short_path``, and the same for all tests of a module."""
    with short_dir() as path:
        yield path


@pytest.fixture(scope="session")
def template_url(services: Services) -> Iterator[str]:
    """A migrated database that is only copied from."""
    with fresh_database(services.database_url) as url:
        migrate(url)
        yield url


@pytest.fixture(scope="session")
def spare(template_url: str) -> Iterator[Spare]:
    """What lends ``database_url``."""
    found = Spare(partial(fresh_database, template_url, template=True))
    yield found
    found.drop()


@pytest.fixture
def database_url(spare: Spare) -> Iterator[str]:
    """A migrated database of the test's own, without rows."""
    with spare.lend() as url:
        yield url


@pytest.fixture
def empty_database_url(services: Services) -> Iterator[str]:
    """A fresh database without any table."""
    with fresh_database(services.database_url) as url:
        yield url


@pytest.fixture
def engine(database_url: str) -> Iterator[sa.Engine]:
    """An engine on ``database_url``, closed after the test."""
    opened = connect(database_url)
    yield opened
    opened.dispose()


@pytest.fixture
def redis_url(services: Services) -> str:
    """The embedded Redis, empty, in Celery's form; ``redis_client_url`` gives redis-py's."""
    with redis.Redis.from_url(redis_client_url(services.redis_url)) as client:
        client.flushall()
    return services.redis_url


@pytest.fixture
def external_empty_database_url() -> Iterator[str]:
    """A fresh database without any table on the server of ``POINTSMAN_DATABASE_URL``."""
    with fresh_database(from_environment("POINTSMAN_DATABASE_URL")) as url:
        yield url


@pytest.fixture
def external_database_url(external_empty_database_url: str) -> str:
    """A fresh, migrated database on the server of ``POINTSMAN_DATABASE_URL``."""
    migrate(external_empty_database_url)
    return external_empty_database_url


@pytest.fixture
def external_redis_url() -> Iterator[str]:
    """An empty database of the server of ``POINTSMAN_REDIS_URL``, emptied again after the test."""
    given = from_environment("POINTSMAN_REDIS_URL")
    for number in reversed(range(REDIS_DATABASES)):
        with redis.Redis.from_url(redis_client_url(given), db=number) as client:
            if client.dbsize() == 0:
                yield with_redis_database(given, number)
                client.flushdb()
                return
    pytest.skip("each database of POINTSMAN_REDIS_URL holds keys: empty one for the tests")


BOTH = ["embedded", pytest.param("external", marks=pytest.mark.external)]


@pytest.fixture(params=BOTH)
def either_database_url(request: pytest.FixtureRequest) -> str:
    """``database_url``, and with ``-m external`` the same test on ``external_database_url``."""
    prefix = "external_" if request.param == "external" else ""
    return str(request.getfixturevalue(f"{prefix}database_url"))


@pytest.fixture(params=BOTH)
def either_empty_database_url(request: pytest.FixtureRequest) -> str:
    prefix = "external_" if request.param == "external" else ""
    return str(request.getfixturevalue(f"{prefix}empty_database_url"))


@pytest.fixture(params=BOTH)
def either_redis_url(request: pytest.FixtureRequest) -> str:
    prefix = "external_" if request.param == "external" else ""
    return str(request.getfixturevalue(f"{prefix}redis_url"))


@pytest.fixture(scope="session")
def log_engine(template_url: str) -> Iterator[sa.Engine]:
    """One database for many tests: each has a project of its own in it."""
    with fresh_database(template_url, template=True) as url:
        opened = connect(url, pool_size=10)
        yield opened
        opened.dispose()


@pytest.fixture
def ground(log_engine: sa.Engine) -> Ground:
    """A new project with a policy, metrics and a reward."""
    return lay(log_engine)


@contextmanager
def short_dir() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="pm-"))
    if os.geteuid() == 0:
        path.chmod(0o711)
    try:
        yield path
    finally:
        # As root below a closed temporary directory, Postgres's files lie behind a link.
        shutil.rmtree((path / "postgres").resolve(), ignore_errors=True)
        shutil.rmtree(path)


@contextmanager
def fresh_database(url: str, *, template: bool = False) -> Iterator[str]:
    """A new database on the server of ``url``, copied from the database of ``url`` or empty."""
    server = sa.make_url(normalise(url))
    name = f"pointsman_test_{secrets.token_hex(6)}"
    source = server.database if template else "template0"
    maintenance = server.set(database="postgres") if template else server
    admin = sa.create_engine(maintenance, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    execute(admin, f'CREATE DATABASE {name} TEMPLATE "{source}"')
    try:
        yield server.set(database=name).render_as_string(hide_password=False)
    finally:
        drop(admin, name)


def drop(admin: sa.Engine, name: str) -> None:
    """Drop a database, when need be after the autovacuum that only a superuser may end."""
    for _ in range(DROP_TRIES):
        try:
            execute(admin, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        except sa.exc.ProgrammingError as error:
            if not isinstance(error.orig, psycopg.errors.InsufficientPrivilege):
                raise
            time.sleep(0.2)
        else:
            return
    raise RuntimeError(f"{name} is still in use by a process that is not ours")


def execute(admin: sa.Engine, statement: str) -> None:
    with admin.connect() as connection:
        connection.execute(sa.text(statement))


def with_redis_database(url: str, number: int) -> str:
    parts = sa.make_url(url)
    if parts.drivername == "redis+socket":
        return parts.update_query_dict({"virtual_host": str(number)}).render_as_string(
            hide_password=False
        )
    return parts.set(database=str(number)).render_as_string(hide_password=False)


def from_environment(name: str) -> str:
    value = os.environ.get(name, "")
    if not value:
        pytest.skip(f"{name} is not set: give the URL of a server that the tests may use")
    return value
