"""Servers for the tests: one throwaway stack a session, an empty Redis and a fresh, migrated database a test."""

from __future__ import annotations

import itertools
import os
import secrets
from collections.abc import Iterator
from contextlib import suppress
from urllib.parse import urlsplit, urlunsplit

import psutil
import psycopg
import pytest
import redis
from psycopg import sql

from jobqueue.local import LocalStack, ephemeral_stack
from jobqueue.store.migrate import migrate

RUN_VARIABLE = "JOBQUEUE_TEST_RUN"
TEMPLATE = "template_migrated"
_numbers = itertools.count(1)


@pytest.fixture(scope="session", autouse=True)
def _no_process_is_left() -> Iterator[None]:
    """Fail the run if a process that it started outlives it, wherever that process moved to."""
    # Inherited by every process that a test starts with this environment, so that orphans are found too.
    run_id = secrets.token_hex(8)
    os.environ[RUN_VARIABLE] = run_id
    yield
    left = _processes_of(run_id)
    _, alive = psutil.wait_procs(left, timeout=5)
    described = []
    for process in alive:
        with suppress(psutil.NoSuchProcess):
            described.append(f"{process.pid}: {' '.join(process.cmdline())[:200] or process.name()}")
            process.kill()
    assert not described, "left over after the run:\n" + "\n".join(described)


@pytest.fixture(scope="session")
def stack(_no_process_is_left: None) -> Iterator[LocalStack]:
    """Valkey and Postgres for the whole session; a test that kills one restarts it."""
    with ephemeral_stack() as running:
        yield running


@pytest.fixture
def redis_url(stack: LocalStack) -> str:
    """An empty Redis."""
    with redis.Redis.from_url(stack.redis_url) as client:
        client.flushall()
    return stack.redis_url


@pytest.fixture(scope="session")
def _template_database(stack: LocalStack) -> str:
    """A migrated database to copy from: migrating takes longer than copying."""
    with psycopg.connect(stack.database_url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(TEMPLATE)))
    migrate(database_address(stack.database_url, TEMPLATE))
    return TEMPLATE


@pytest.fixture
def database_url(stack: LocalStack, _template_database: str) -> Iterator[str]:
    """A fresh, migrated database, dropped after the test."""
    name = f"test_{next(_numbers)}"
    with psycopg.connect(stack.database_url, autocommit=True) as connection:
        connection.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(_template_database))
        )
    yield database_address(stack.database_url, name)
    with psycopg.connect(stack.database_url, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def database_address(url: str, name: str) -> str:
    """Return *url* with the database *name* in place of its own."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


def _processes_of(run_id: str) -> list[psutil.Process]:
    """Return our descendants, and whoever else carries this run's mark."""
    found = {process.pid: process for process in psutil.Process().children(recursive=True)}
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get(RUN_VARIABLE) == run_id:
                found[process.pid] = process
    return list(found.values())
