"""One connection to Postgres: opened when first used, in autocommit, reopened when it breaks.

Every statement is its own transaction unless `transaction` says otherwise, so nothing stays open across a request to a
provider.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib import resources
from types import TracebackType
from typing import Any

import psycopg
from psycopg.rows import DictRow, dict_row

from jobqueue.errors import DatabaseNotMigratedError, ServerUnavailableError

# A peer that vanished without a word is noticed after idle + interval * count seconds, inside a lease.
_KEEPALIVES: dict[str, Any] = {"keepalives": 1, "keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3}
_TCP_USER_TIMEOUT_MS = 12_000
_OPTIONS = "-c idle_in_transaction_session_timeout=30s -c lock_timeout=10s -c timezone=UTC"
_CONNECT_TIMEOUT_S = 5


@cache
def query(name: str) -> str:
    """The text of ``queries/<name>.sql``."""
    return resources.files("jobqueue.store").joinpath("queries", f"{name}.sql").read_text("utf-8")


@cache
def _is_look(name: str) -> bool:
    """Whether the statement only reads; those that write start with another word, or with WITH."""
    lines = [line for line in query(name).splitlines() if line.strip() and not line.startswith("--")]
    return lines[0].startswith("SELECT")


class Database:
    """A lazily opened connection; belongs to one thread of one process. Open it after a fork, never before.

    Args:
        url: A Postgres URL or keyword string.
        name: Shown as ``application_name`` in ``pg_stat_activity``.
    """

    def __init__(self, url: str, *, name: str = "jobqueue") -> None:
        self._url = url
        self._name = name
        self._connection: psycopg.Connection[DictRow] | None = None
        self._is_in_transaction = False

    def __enter__(self) -> Database:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def url(self) -> str:
        """Where it connects to, password included: for opening another connection, never for showing."""
        return self._url

    @property
    def connection(self) -> psycopg.Connection[DictRow]:
        """The open connection; opens it if need be.

        Raises:
            ServerUnavailableError: Postgres cannot be reached or refuses the login.
        """
        if self._connection is None or self._connection.closed or self._connection.broken:
            self.close()
            try:
                self._connection = psycopg.connect(
                    self._url,
                    autocommit=True,
                    row_factory=dict_row,
                    connect_timeout=_CONNECT_TIMEOUT_S,
                    application_name=self._name,
                    options=_OPTIONS,
                    tcp_user_timeout=_TCP_USER_TIMEOUT_MS,
                    **_KEEPALIVES,
                )
            except psycopg.OperationalError as error:
                raise unavailable(error) from None
        return self._connection

    def close(self) -> None:
        """Close the connection if it is open."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def rows(self, name: str, params: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """Run the statement of that name and return all its rows.

        Raises:
            ServerUnavailableError: The connection broke; whether the statement took effect is not known.
            DatabaseNotMigratedError: A table or column it needs is missing.
        """
        try:
            return self._rows(name, params)
        except ServerUnavailableError:
            # A look may be repeated: most often only this old connection was cut, by a restart or an idle timeout.
            if self._is_in_transaction or not _is_look(name):
                raise
            return self._rows(name, params)

    def _rows(self, name: str, params: Mapping[str, Any] | None) -> list[dict[str, Any]]:
        with self.translated():
            cursor = self.connection.execute(query(name), params)
            return cursor.fetchall() if cursor.description else []

    def row(self, name: str, params: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
        """The first row of that statement, or None."""
        rows = self.rows(name, params)
        return rows[0] if rows else None

    def stream(self, name: str, params: Mapping[str, Any], *, size: int = 2000) -> Iterator[dict[str, Any]]:
        """The statement's rows through a server-side cursor, *size* at a time, in one read-only snapshot."""
        with self.translated(), self.connection.transaction(), self.connection.cursor(name="stream") as cursor:
            cursor.itersize = size
            cursor.execute(query(name), params)
            yield from cursor

    @contextmanager
    def transaction(self) -> Iterator[psycopg.Connection[DictRow]]:
        """Several statements as one transaction."""
        with self.translated(), self.connection.transaction():
            was_in_transaction, self._is_in_transaction = self._is_in_transaction, True
            try:
                yield self.connection
            finally:
                self._is_in_transaction = was_in_transaction

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Turn psycopg's errors into ours."""
        try:
            yield
        except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn) as error:
            raise DatabaseNotMigratedError(
                f"the database lacks what this version needs ({str(error).splitlines()[0]}).",
                remedy="Run: jobqueue migrate",
            ) from None
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            if not isinstance(error, psycopg.errors.LockNotAvailable):
                self.close()
            raise unavailable(error) from None


def unavailable(error: Exception) -> ServerUnavailableError:
    """*error* in our words; psycopg's message names host and port and never the password."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return ServerUnavailableError(
        f"Postgres cannot be reached: {lines[0]}", remedy="Check DATABASE_URL, or start the local stack: jobqueue up"
    )
