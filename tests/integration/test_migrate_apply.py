"""Migrations are applied once, in order, by however many processes; and refused where code and schema do not fit."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator
from subprocess import PIPE, Popen
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from store_world import one
from store_world import sql as run

from jobqueue.errors import DatabaseNotMigratedError, DatabaseTooNewError, MigrationError, ServerUnavailableError
from jobqueue.local import LocalStack
from jobqueue.store.database import Database
from jobqueue.store.migrate import Migration, check_migrated, migrate, migrations

PROCESSES = 10
_numbers = itertools.count(1)


@pytest.fixture
def empty_url(stack: LocalStack) -> Iterator[str]:
    """A database without a single table."""
    name = f"empty_{next(_numbers)}"
    with psycopg.connect(stack.database_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    yield urlunsplit(urlsplit(stack.database_url)._replace(path=f"/{name}"))
    with psycopg.connect(stack.database_url, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


_MIGRATE = """
import json, sys
from jobqueue.store.migrate import migrate
print("ready", flush=True)
sys.stdin.readline()
print(json.dumps(migrate(sys.argv[1])))
"""


def test_ten_processes_at_once_apply_each_migration_exactly_once(empty_url: str) -> None:
    """All ten succeed; together they applied every migration once, and nothing is left to do."""
    workers = [
        Popen([sys.executable, "-c", _MIGRATE, empty_url], stdin=PIPE, stdout=PIPE, text=True) for _ in range(PROCESSES)
    ]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    names = sorted(name for worker in workers for name in json.loads(worker.communicate(timeout=60)[0]))

    assert [worker.returncode for worker in workers] == [0] * PROCESSES
    assert names == [migration.name for migration in migrations()]
    with Database(empty_url) as database:
        check_migrated(database)
        rows = run(database, "SELECT version, name, checksum FROM schema_migrations ORDER BY version")
    assert [(row["version"], row["name"], row["checksum"]) for row in rows] == [
        (migration.version, migration.name, migration.checksum) for migration in migrations()
    ]


def test_migrations_are_numbered_from_one_without_a_gap_and_say_why() -> None:
    """Every file opens with its name and a reason."""
    found = migrations()
    assert [migration.version for migration in found] == list(range(1, len(found) + 1))
    assert all(migration.sql.startswith(f"-- {migration.name}: ") for migration in found)


def test_migrating_twice_does_nothing(database_url: str) -> None:
    """A migrated database stays as it is."""
    assert migrate(database_url) == []


def test_a_checksum_does_not_depend_on_line_endings() -> None:
    """A checkout on Windows is the same migration."""
    unix, windows = (Migration(1, "0001_a", text) for text in ("a\nb\n", "a\r\nb\r\n"))
    assert unix.checksum == windows.checksum
    assert unix.checksum != Migration(1, "0001_a", "a\nc\n").checksum


def test_a_migration_changed_after_it_was_applied_is_refused_by_name(database_url: str) -> None:
    """Neither migrating nor checking passes over it, and the remedy is to put the file back."""
    with Database(database_url) as database:
        run(database, "UPDATE schema_migrations SET checksum = 'other' WHERE version = 1")
        with pytest.raises(MigrationError, match=r"0001_jobs was changed after it had been applied.*Restore its file"):
            check_migrated(database)
    with pytest.raises(MigrationError, match="0001_jobs"):
        migrate(database_url)


def test_a_database_newer_than_the_code_is_refused(database_url: str) -> None:
    """The unknown migration is named; nothing is applied."""
    with Database(database_url) as database:
        run(database, "INSERT INTO schema_migrations VALUES (9999, '9999_tomorrow', 'x')")
        with pytest.raises(DatabaseTooNewError, match=r"9999_tomorrow.*Install the newer version"):
            check_migrated(database)
    with pytest.raises(DatabaseTooNewError):
        migrate(database_url)


def test_an_empty_database_is_refused_with_the_command_that_helps(empty_url: str) -> None:
    """So is a query against it, whichever table it misses."""
    with Database(empty_url) as database:
        with pytest.raises(DatabaseNotMigratedError, match=r"empty.*jobqueue migrate"):
            check_migrated(database)
        with pytest.raises(DatabaseNotMigratedError, match=r"\"jobs\" does not exist.*jobqueue migrate"):
            database.rows("job_state", {"job_id": 1})


def test_a_database_that_lacks_a_migration_names_it(database_url: str) -> None:
    """The check lists what is missing."""
    last = migrations()[-1]
    with Database(database_url) as database:
        run(database, "DELETE FROM schema_migrations WHERE version = %(v)s", {"v": last.version})
        with pytest.raises(DatabaseNotMigratedError, match=f"lacks: {last.name}"):
            check_migrated(database)


def test_a_failing_migration_leaves_nothing_behind(empty_url: str) -> None:
    """It is one transaction with its row: what was created before the error is undone, and a repetition can succeed."""
    with Database(empty_url) as database:
        run(database, "CREATE TABLE circuit_breaker_state (wrong int)")
    with pytest.raises(psycopg.errors.DuplicateTable):
        migrate(empty_url)
    with Database(empty_url) as database:
        assert one(database, "SELECT array_agg(name) FROM schema_migrations") == ["0001_jobs"]
        assert one(database, "SELECT to_regclass('providers')") is None
        run(database, "DROP TABLE circuit_breaker_state")
    assert migrate(empty_url) == [migration.name for migration in migrations()[1:]]


def test_an_unreachable_server_is_named_without_its_password() -> None:
    """The message says where and what to do."""
    with pytest.raises(ServerUnavailableError) as caught:
        migrate("postgresql://someone:hunter2@127.0.0.1:1/nowhere")
    assert "127.0.0.1" in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert "DATABASE_URL" in caught.value.remedy
