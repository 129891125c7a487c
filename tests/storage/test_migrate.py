import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from storage.engine import connect
from storage.migrate import (
    SchemaError,
    alembic_config,
    is_later,
    migrate,
    migrations_dir,
    newest_revision,
    revision,
)
from storage.partitions import ensure_partitions, first_id, is_partition
from storage.tables import PARTITIONED, metadata

ROOT = Path(__file__).parent.parent.parent
MIGRATE = "import sys; from storage.migrate import migrate; migrate(sys.argv[1])"


@pytest.fixture
def migrated(either_empty_database_url: str) -> Iterator[sa.Engine]:
    """An empty database after one migration; with ``-m external`` on the given server."""
    migrate(either_empty_database_url)
    engine = connect(either_empty_database_url)
    yield engine
    engine.dispose()


def test_an_empty_database_gets_every_table_and_its_partitions(migrated: sa.Engine):
    names = set(sa.inspect(migrated).get_table_names())
    ours = {name for name in names if not is_partition(name)}
    assert ours == {*metadata.tables, "alembic_version"}
    assert {f"{table}_default" for table in PARTITIONED} <= names
    assert {f"{table}_{datetime.now(UTC):%Y%m}" for table in PARTITIONED} <= names


def test_the_migrated_tables_are_those_of_the_models(migrated: sa.Engine):
    assert differences(migrated) == []


def test_a_column_that_only_the_database_has_is_noticed(engine: sa.Engine):
    with engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE decisions ADD COLUMN extra text"))
    assert [change[0] for change in differences(engine)] == ["remove_column"]


def differences(engine: sa.Engine) -> list[tuple[object, ...]]:
    options = {
        "compare_server_default": True,
        "include_name": lambda name, kind, _parents: kind != "table" or not is_partition(name),
    }
    with engine.connect() as connection:
        return list(
            compare_metadata(MigrationContext.configure(connection, opts=options), metadata)
        )


def test_a_second_migration_changes_nothing(migrated: sa.Engine):
    with migrated.begin() as connection:
        connection.execute(
            metadata.tables["projects"].insert(),
            {"id": first_id(datetime.now(UTC)), "name": "kept", "created_at": datetime.now(UTC)},
        )
    before = catalogue(migrated)
    migrate(migrated.url.render_as_string(hide_password=False))
    assert catalogue(migrated) == before
    with migrated.connect() as connection:
        assert connection.scalar(sa.text("SELECT name FROM projects")) == "kept"


def catalogue(engine: sa.Engine) -> list[tuple[object, ...]]:
    """Every relation's identity: a table that was dropped and made again has another."""
    statement = "SELECT oid, relname FROM pg_class WHERE relnamespace = 'public'::regnamespace"
    with engine.connect() as connection:
        return sorted(tuple(row) for row in connection.execute(sa.text(statement)))


def test_migrations_that_start_at_once_all_succeed(either_empty_database_url: str):
    running = [
        subprocess.Popen((sys.executable, "-c", MIGRATE, either_empty_database_url), cwd=ROOT)
        for _ in range(3)
    ]
    assert [process.wait() for process in running] == [0, 0, 0]
    engine = connect(either_empty_database_url)
    assert differences(engine) == []
    engine.dispose()


def test_a_failed_migration_frees_the_lock_and_changes_nothing(empty_database_url: str):
    engine = connect(empty_database_url)
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE projects (id int)"))
    with pytest.raises(sa.exc.ProgrammingError, match="already exists"):
        migrate(empty_database_url)
    assert sa.inspect(engine).get_table_names() == ["projects"]
    with engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE projects"))
    migrate(empty_database_url)
    assert differences(engine) == []
    engine.dispose()


def test_an_older_release_runs_on_a_later_schema_and_leaves_it(engine: sa.Engine):
    set_revision(engine, "9999")
    migrate(engine.url.render_as_string(hide_password=False))
    with engine.connect() as connection:
        assert revision(connection) == "9999"
    assert is_later("9999")
    assert not is_later(newest_revision())
    assert not is_later(None)


def test_another_applications_database_is_refused(engine: sa.Engine):
    set_revision(engine, "ae1027a6acf")
    with pytest.raises(SchemaError, match=r"'ae1027a6acf'.*database of its own"):
        migrate(engine.url.render_as_string(hide_password=False))


def set_revision(engine: sa.Engine, found: str) -> None:
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = :v"), {"v": found})


def test_revisions_are_numbers_that_rise():
    script = ScriptDirectory.from_config(alembic_config("postgresql://unused"))
    found = [one.revision for one in script.walk_revisions()]
    assert found == sorted(found, reverse=True)
    assert all(len(one) == 4 and one.isdigit() for one in found)


def test_a_downgrade_to_nothing_leaves_no_table(engine: sa.Engine):
    url = engine.url.render_as_string(hide_password=False)
    command.downgrade(alembic_config(url), "base")
    assert sa.inspect(engine).get_table_names() == ["alembic_version"]
    migrate(url)
    assert differences(engine) == []


def test_rows_of_the_first_schema_stay_and_its_release_goes_on_writing(empty_database_url: str):
    config = alembic_config(empty_database_url)
    command.upgrade(config, "0001")
    engine = connect(empty_database_url)
    now = datetime.now(UTC)
    write = sa.text(
        "INSERT INTO interactions (decision_id, policy_id, position, reward, reward_version, "
        '"values", revision, joined_at) '
        "VALUES (:id, :id, :n, 1.0, 1, CAST('{}' AS jsonb), 1, :now)"
    )
    with engine.begin() as connection:
        connection.execute(write, {"id": first_id(now), "n": 1, "now": now})
    migrate(empty_database_url)
    with engine.begin() as connection:
        connection.execute(write, {"id": first_id(now.replace(year=2020)), "n": 2, "now": now})
        rows = connection.execute(sa.text("SELECT position, said FROM interactions ORDER BY 1"))
        assert rows.all() == [(1, None), (2, None)]
    assert differences(engine) == []
    engine.dispose()


def test_the_history_has_one_head():
    config = alembic_config("postgresql://unused")
    assert len(ScriptDirectory.from_config(config).get_heads()) == 1


def test_partitions_cover_the_months_around_now_and_are_made_once(engine: sa.Engine):
    december = datetime(2031, 12, 15, tzinfo=UTC)
    with engine.begin() as connection:
        created = ensure_partitions(connection, december)
        assert ensure_partitions(connection, december) == []
    months = ("203111", "203112", "203201", "203202", "203203")
    assert created == [f"{table}_{month}" for table in PARTITIONED for month in months]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("decisions_202601", True),
        ("feedback_default", True),
        ("decisions", False),
        ("decisions_archive", False),
        ("pending_joins", False),
    ],
)
def test_a_partition_is_known_by_its_name(name: str, *, expected: bool):
    assert is_partition(name) is expected


def test_alembic_finds_the_migrations_from_a_checkout(database_url: str):
    ran = alembic("check", {"POINTSMAN_DATABASE_URL": database_url})
    assert "No new upgrade operations" in ran.stdout, ran.stderr
    assert migrations_dir() == ROOT / "migrations"


def test_alembic_without_a_database_says_which_variable_is_missing():
    ran = alembic("current", {})
    assert ran.returncode != 0
    assert "POINTSMAN_DATABASE_URL" in ran.stderr


def alembic(verb: str, environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        (sys.executable, "-m", "alembic", verb),
        cwd=ROOT,
        env={"PATH": os.defpath, **environ},
        capture_output=True,
        text=True,
        check=False,
    )
