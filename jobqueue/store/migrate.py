"""Forward-only migrations: checksummed, and safe to start from ten processes at once.

An advisory lock lets one process migrate; the others wait and find nothing left to do. A migration is one transaction
together with its row in ``schema_migrations``.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from importlib import resources

from jobqueue.errors import DatabaseNotMigratedError, DatabaseTooNewError, MigrationError
from jobqueue.store.database import Database

# An arbitrary constant; it only has to differ from other users of advisory locks in the same database.
_LOCK = 7_203_518_442
_NAME = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")


@dataclass(frozen=True, slots=True)
class Migration:
    """One file of the ``migrations`` folder."""

    version: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        """SHA-256 of the file; line endings do not count."""
        return hashlib.sha256(self.sql.replace("\r\n", "\n").encode()).hexdigest()


def migrations() -> list[Migration]:
    """All migrations of this code, in order."""
    found = []
    for file in resources.files("jobqueue.migrations").iterdir():
        if match := _NAME.fullmatch(file.name):
            found.append(Migration(int(match[1]), file.name.removesuffix(".sql"), file.read_text("utf-8")))
    return sorted(found, key=lambda migration: migration.version)


def migrate(database_url: str) -> list[str]:
    """Apply what is missing and return the names of what was applied.

    Raises:
        DatabaseTooNewError: The database has migrations this code does not know.
        MigrationError: An applied migration's file was changed since.
        ServerUnavailableError: Postgres cannot be reached.
    """
    applied = []
    with Database(database_url, name="jobqueue-migrate") as database:
        with database.translated():
            # Waiting for another process's migrations is no error, however long they take.
            database.connection.execute("SET lock_timeout = 0")
            database.connection.execute("SELECT pg_advisory_lock(%s)", [_LOCK])
            database.connection.execute(
                "CREATE TABLE IF NOT EXISTS schema_migrations (version integer PRIMARY KEY, name text NOT NULL,"
                " checksum text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
            )
        for migration in _missing(database):
            with database.transaction() as connection:
                connection.execute(migration.sql.encode())
                connection.execute(
                    "INSERT INTO schema_migrations (version, name, checksum) VALUES (%s, %s, %s)",
                    [migration.version, migration.name, migration.checksum],
                )
            applied.append(migration.name)
    return applied


def check_migrated(database: Database) -> None:
    """Make sure the schema is the one this code was written for.

    Raises:
        DatabaseNotMigratedError: Migrations are missing.
        DatabaseTooNewError: The database is ahead of this code.
    """
    if database.row("schema_migrations_exist") is None:
        raise DatabaseNotMigratedError("the database is empty.", remedy="Run: jobqueue migrate")
    missing = _missing(database)
    if missing:
        names = ", ".join(migration.name for migration in missing)
        raise DatabaseNotMigratedError(f"the database lacks: {names}.", remedy="Run: jobqueue migrate")


def _missing(database: Database) -> list[Migration]:
    known = {migration.version: migration for migration in migrations()}
    rows = database.rows("schema_migrations")
    for row in rows:
        migration = known.pop(row["version"], None)
        if migration is None:
            raise DatabaseTooNewError(
                f"the database has migration {row['name']}, which this version of jobqueue does not know.",
                remedy="Install the newer version of jobqueue that brought it.",
            )
        if migration.checksum != row["checksum"]:
            raise MigrationError(
                f"migration {row['name']} was changed after it had been applied.",
                remedy="Restore its file; put the change into a new migration.",
            )
    return list(known.values())
