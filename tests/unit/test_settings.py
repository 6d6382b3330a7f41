"""The environment, and nothing else, decides; what is wrong in it is named, and no password shows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import redis
from psycopg.conninfo import conninfo_to_dict

from jobqueue.dsn import mask_url, postgres_dsn, redis_dsn
from jobqueue.errors import ConfigurationError
from jobqueue.settings import ProviderOverride, Settings, process_start_id

GIVEN = {"REDIS_URL": "redis://host/", "DATABASE_URL": "postgresql://host/db"}
# Every bad address below carries this, and no message may.
SECRET = "hunter2"

GOOD_REDIS = {
    "redis://host/": {"host": "host", "port": 6379, "db": 0},
    "redis://host": {"host": "host", "port": 6379, "db": 0},
    "  redis://host:6380/2\n": {"host": "host", "port": 6380, "db": 2},
    "REDIS://host": {"host": "host", "port": 6379, "db": 0},
    "redis://:p%40ss@host:6380/2": {"host": "host", "port": 6380, "db": 2, "password": "p@ss"},
    "redis://:p@ss@host": {"host": "host", "port": 6379, "db": 0, "password": "p@ss"},
    "redis://:p@@@host": {"host": "host", "port": 6379, "db": 0, "password": "p@@"},
    "redis://:100%@host": {"host": "host", "port": 6379, "db": 0, "password": "100%"},
    "redis://:p%@%zz@host": {"host": "host", "port": 6379, "db": 0, "password": "p%@%zz"},
    "redis://:a:b@host": {"host": "host", "port": 6379, "db": 0, "password": "a:b"},
    "redis://:a%2Fb%3F%23@host": {"host": "host", "port": 6379, "db": 0, "password": "a/b?#"},
    "redis://:pässwörd@host": {"host": "host", "port": 6379, "db": 0, "password": "pässwörd"},
    "redis://user:pw@host": {"host": "host", "port": 6379, "db": 0, "username": "user", "password": "pw"},
    "redis://user@host": {"host": "host", "port": 6379, "db": 0, "username": "user"},
    "redis://@host": {"host": "host", "port": 6379, "db": 0},
    "redis://[::1]:6379/0": {"host": "::1", "port": 6379, "db": 0},
    "redis://:pw@[fe80::1]": {"host": "fe80::1", "port": 6379, "db": 0, "password": "pw"},
    "redis://my_service:6379": {"host": "my_service", "port": 6379, "db": 0},
    "redis://host?db=3": {"host": "host", "port": 6379, "db": 3},
    "redis://host/3?db=3": {"host": "host", "port": 6379, "db": 3},
    "redis://host/?client_name=a@b": {"host": "host", "port": 6379, "db": 0, "client_name": "a@b"},
    "redis://host/1?password=p%25q": {"host": "host", "port": 6379, "db": 1, "password": "p%q"},
    "unix:///run/redis.sock?db=3": {"path": "/run/redis.sock", "db": 3},
    "unix:///run/redis.sock": {"path": "/run/redis.sock"},
    "unix://:p@ss@/run/my redis.sock": None,
    "unix://:p@ss@/run/my%20redis.sock?db=1": {"path": "/run/my redis.sock", "db": 1, "password": "p@ss"},
}
BAD_REDIS = {
    "localhost:6379": "scheme",
    f"user:{SECRET}@host:6379": "scheme",
    f"http://:{SECRET}@host": "scheme",
    f"valkey://:{SECRET}@host": "scheme",
    f"redis://:{SECRET}@host:port": "port",
    f"redis://:{SECRET}@host:0": "port",
    f"redis://:{SECRET}@host:65536": "port",
    f"redis://:{SECRET}@host:-1": "port",
    f"redis://:{SECRET}@host/db": "database number",
    f"redis://:{SECRET}@host/-1": "database number",
    f"redis://:{SECRET}@host/1/2": "database number",
    f"redis://:{SECRET}@host?db=x": "database number",
    f"redis://:{SECRET}@host/1?db=2": "database number",
    f"redis://:{SECRET}@": "host",
    f"redis://:{SECRET}@:6379": "host",
    "redis://": "host",
    "redis:///0": "host",
    f"redis://:{SECRET}@::1:6379": "host",
    f"redis://:{SECRET}@[::1:6379": "host",
    f"redis://:{SECRET}@[::zz]": "host",
    f"redis://:{SECRET}@[::1]6379": "host",
    f"redis://:{SECRET}@ho%73t": "host",
    f"redis://:{SECRET}%41%@host": "user info",
    f"redis://:{SECRET}%ff@host": "user info",
    f"redis://:{SECRET}/x@host": "user info",
    f"redis://:x/{SECRET}@host": "user info",
    f"redis://:x?{SECRET}@host/0": "user info",
    f"redis://:x#{SECRET}@host/0": "user info",
    f"redis://user:{SECRET}": "port",
    f"redis://:{SECRET}": "port",
    f"redis://user:1/{SECRET}@host": "user info",
    f"redis://:{SECRET} x@host": "address",
    f"redis://:{SECRET}@host?socket_timout=1": "option socket_timout",
    f"redis://host?passwort={SECRET}": "option passwort",
    f"redis://:{SECRET}@host?db": "query",
    f"redis://:{SECRET}@host?decode_responses=true": "option decode_responses",
    f"unix://:{SECRET}@run/redis.sock": "socket path",
    "unix://": "socket path",
    "unix://run/redis.sock": "socket path",
}
GOOD_POSTGRES = {
    "postgresql://host/db": {"host": "host", "dbname": "db"},
    "postgres://host/db": {"host": "host", "dbname": "db"},
    "postgresql://host:5433": {"host": "host", "port": "5433"},
    "postgresql://u:p@ss@host/db": {"user": "u", "password": "p@ss", "host": "host", "dbname": "db"},
    "postgresql://u:100%@host/db": {"user": "u", "password": "100%", "host": "host", "dbname": "db"},
    "postgresql://u:p%40s%25@host/db": {"user": "u", "password": "p@s%", "host": "host", "dbname": "db"},
    "postgresql://u@corp:pw@host/db": {"user": "u", "password": "pw", "host": "host", "dbname": "db"},
    "postgresql://u@host/db": {"user": "u", "host": "host", "dbname": "db"},
    "postgresql://[::1]:5433/db": {"host": "::1", "port": "5433", "dbname": "db"},
    "postgresql://u:pw@[::1]/db": {"user": "u", "password": "pw", "host": "::1", "dbname": "db"},
    "postgresql:///db": {"dbname": "db"},
    "postgresql://": {},
    "postgresql:///db?host=/run/postgresql": {"host": "/run/postgresql", "dbname": "db"},
    "postgresql://u:pw@/db?host=/run/postgresql&port=5433": {
        "user": "u",
        "password": "pw",
        "host": "/run/postgresql",
        "port": "5433",
        "dbname": "db",
    },
    "postgresql://%2Frun%2Fpostgresql/db": {"host": "/run/postgresql", "dbname": "db"},
    "postgresql://a:1,b:2/db?target_session_attrs=read-write": {
        "host": "a,b",
        "port": "1,2",
        "dbname": "db",
        "target_session_attrs": "read-write",
    },
    "postgresql://host/my%20db?sslmode=require": {"host": "host", "dbname": "my db", "sslmode": "require"},
    "postgresql://host?dbname=db": {"host": "host", "dbname": "db"},
    "postgresql://host/db?options=-c%20geqo%3Doff": {"host": "host", "dbname": "db", "options": "-c geqo=off"},
    "host=h dbname=db": {"host": "h", "dbname": "db"},
    r"host=/run/pg password='a b\'c' port=5433": {"host": "/run/pg", "password": "a b'c", "port": "5433"},
    r"password=a\ b@% user = u": {"password": "a b@%", "user": "u"},
    "dbname=''": {},
}
BAD_POSTGRES = {
    "host": "scheme",
    f"u:{SECRET}@host/db": "scheme",
    f"mysql://u:{SECRET}@host/db": "scheme",
    f"postgresql+psycopg://u:{SECRET}@host/db": "scheme",
    f"postgresql://u:{SECRET}@host:x/db": "port",
    f"postgresql://u:{SECRET}@host:99999/db": "port",
    f"postgresql://u:{SECRET}@/db?port=x": "port",
    f"postgresql://u:{SECRET}": "port",
    f"postgresql://u:{SECRET}@[::1/db": "host",
    f"postgresql://u:{SECRET}@::1/db": "host",
    f"postgresql://u:{SECRET}@a,/db": "host",
    f"postgresql://u:{SECRET}@h!st/db": "host",
    f"postgresql://u:{SECRET}%41%@host/db": "user info",
    f"postgresql://u:{SECRET}%ff@host/db": "user info",
    f"postgresql://u:{SECRET}/x@host/db": "user info",
    f"postgresql://u:x?{SECRET}@host/db": "user info",
    f"postgresql://u:x#{SECRET}@host/db": "user info",
    f"postgresql://u:{SECRET}@host/d#b": "database name",
    f"postgresql://u:{SECRET}@host/d%zz%41": "database name",
    f"postgresql://u:{SECRET}@host/db?sslmod=require": "option sslmod",
    f"host=h pasword={SECRET}": "option pasword",
    f"host=h password='{SECRET}": "keyword string",
    f"host=h password='{SECRET}'x": "keyword string",
    f"host=h password={SECRET} port=x": "port",
    f"host=h password={SECRET} db": "keyword string",
}


@pytest.mark.parametrize(("raw", "expected"), [(raw, expected) for raw, expected in GOOD_REDIS.items() if expected])
def test_redis_client_reads_what_was_meant(raw, expected):
    """Odd but sound Redis addresses reach redis-py's parser as what their writer meant."""
    read = redis.connection.parse_url(redis_dsn(raw))
    read.pop("connection_class", None)
    assert read == expected


def test_tls_scheme_is_kept():
    """An address with rediss:// makes redis-py use TLS."""
    read = redis.connection.parse_url(redis_dsn("rediss://:p@ss@host:6380/1"))
    assert read["connection_class"] is redis.SSLConnection
    assert read["password"] == "p@ss"


@pytest.mark.parametrize(("raw", "part"), BAD_REDIS.items())
def test_bad_redis_address_names_the_part(raw, part):
    """A wrong Redis address is refused: the message names variable and part, hides the password."""
    with pytest.raises(ConfigurationError) as caught:
        redis_dsn(raw)
    assert caught.value.message.startswith(f"REDIS_URL: the {part} ")
    assert "redis://[user:password@]host" in caught.value.remedy
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(("raw", "expected"), GOOD_POSTGRES.items())
def test_libpq_reads_what_was_meant(raw, expected):
    """Odd but sound Postgres addresses reach libpq's parser as what their writer meant."""
    read = conninfo_to_dict(postgres_dsn(raw))
    assert {key: value for key, value in read.items() if value != ""} == (
        expected | ({"user": "u@corp"} if "@corp" in raw else {})
    )


@pytest.mark.parametrize(("raw", "part"), BAD_POSTGRES.items())
def test_bad_postgres_address_names_the_part(raw, part):
    """A wrong Postgres address is refused: the message names variable and part, hides the password."""
    with pytest.raises(ConfigurationError) as caught:
        postgres_dsn(raw)
    assert caught.value.message.startswith(f"DATABASE_URL: the {part} ")
    assert "postgresql://" in caught.value.remedy
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("dsn", [redis_dsn, postgres_dsn])
@pytest.mark.parametrize("raw", ["", " ", "redis://ho\x00st", "postgresql://ho\nst"])
def test_empty_or_unprintable_address_is_refused(dsn, raw):
    """An empty address, or one with a control character, is refused as such."""
    with pytest.raises(ConfigurationError, match=r"the address (is empty|holds a control character)"):
        dsn(raw)


@pytest.mark.parametrize(
    ("raw", "masked"),
    [
        ("redis://host/0", "redis://host/0"),
        ("redis://:pw@host/0", "redis://:***@host/0"),
        ("redis://user:pw@host", "redis://user:***@host"),
        ("redis://user:p@w@host", "redis://user:***@host"),
        ("redis://token@host", "redis://***@host"),
        ("redis://:p/w@host", "redis://:***@host"),
        ("redis://user:pw", "redis://user:***"),
        ("redis://host:6379?ssl_password=pw", "redis://host:6379?ssl_password=***"),
        ("redis://[::1]:6379", "redis://[::1]:6379"),
        ("user:pw@host", "***@host"),
        ("host=h password=pw dbname=d", "host=h password=*** dbname=d"),
        (r"host=h password='p \' w' dbname=d", "host=h password=*** dbname=d"),
        ("host=h password=p w dbname=d", "host=h password=*** *** dbname=d"),
        ("host=h pasword=pw", "host=h pasword=***"),
        ("localhost:6379", "localhost:6379"),
        ("user:pw", "user:***"),
        ("host=h PASSWORD = 'p w", "host=h PASSWORD = ***"),
        ("postgresql://a:1,b:2/db", "postgresql://a:1,b:2/db"),
        ("", ""),
    ],
)
def test_mask_hides_the_password_and_nothing_else(raw, masked):
    """A masked address shows all but the password, and is the same when masked again."""
    assert mask_url(raw) == masked
    assert mask_url(masked) == masked


@pytest.mark.parametrize(
    ("raw", "dsn"),
    [*((raw, redis_dsn) for raw, v in GOOD_REDIS.items() if v), *((raw, postgres_dsn) for raw in GOOD_POSTGRES)],
)
def test_normalising_twice_changes_nothing(raw, dsn):
    """What was normalised may be handed on by the environment and read again."""
    assert dsn(dsn(raw)) == dsn(raw)


def test_environment_alone_is_enough(tmp_path):
    """With both addresses set no local stack is looked for, and the rest has its defaults."""
    settings = Settings.from_environ(GIVEN, cwd=tmp_path)
    assert settings == Settings(redis_url="redis://host:6379/0", database_url="postgresql://host/db")
    assert settings.source == "environment"
    assert (settings.slice_s, settings.lease_s, settings.heartbeat_s, settings.sweep_s) == (20, 20, 5, 2)
    assert (settings.in_flight, settings.owner, settings.retention_h) == (None, "", 24)


def test_every_variable_is_read(tmp_path):
    """Each documented variable reaches its field."""
    environ = GIVEN | {
        "JOBQUEUE_IN_FLIGHT": "7",
        "JOBQUEUE_SLICE_S": "1.5",
        "JOBQUEUE_LEASE_S": "15",
        "JOBQUEUE_HEARTBEAT_S": "1",
        "JOBQUEUE_SWEEP_S": "0.5",
        "JOBQUEUE_LOG_LEVEL": "debug",
        "JOBQUEUE_LOG_FORMAT": "JSON",
        "JOBQUEUE_OWNER": "me",
        "JOBQUEUE_RETENTION_H": "48",
    }
    settings = Settings.from_environ(environ, cwd=tmp_path)
    assert (settings.in_flight, settings.slice_s, settings.lease_s, settings.heartbeat_s) == (7, 1.5, 15, 1)
    assert (settings.sweep_s, settings.log_level, settings.log_format) == (0.5, "DEBUG", "json")
    assert (settings.owner, settings.retention_h) == ("me", 48)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("JOBQUEUE_IN_FLIGHT", "0"),
        ("JOBQUEUE_IN_FLIGHT", "many"),
        ("JOBQUEUE_IN_FLIGHT", "65"),
        ("JOBQUEUE_SLICE_S", "30.1"),
        ("JOBQUEUE_LEASE_S", "12"),
        ("JOBQUEUE_LEASE_S", "18.9"),
        ("JOBQUEUE_SLICE_S", "0"),
        ("JOBQUEUE_SLICE_S", "nan"),
        ("JOBQUEUE_LEASE_S", "inf"),
        ("JOBQUEUE_HEARTBEAT_S", "11"),
        ("JOBQUEUE_LOG_LEVEL", "loud"),
        ("JOBQUEUE_LOG_FORMAT", "xml"),
        ("JOBQUEUE_RETENTION_H", "-1"),
        ("JOBQUEUE_SPOTIFY_BASE_URL", "ftp://host"),
        ("JOBQUEUE_SPOTIFY_BASE_URL", "host:80"),
        ("JOBQUEUE_SPOTIFY_TOKEN_URL", "http://host:port"),
    ],
)
def test_wrong_value_names_its_variable(tmp_path, name, text):
    """A value out of range is refused with the variable's name and what to give instead."""
    with pytest.raises(ConfigurationError, match=name) as caught:
        Settings.from_environ(GIVEN | {name: text}, cwd=tmp_path)
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("JOBQUEUE_INFLIGHT", "JOBQUEUE_IN_FLIGHT"),
        ("JOBQUEUE_LEASE", "JOBQUEUE_LEASE_S"),
        ("JOBQUEUE_SPOTIFY_BASEURL", "JOBQUEUE_SPOTIFY_BASE_URL"),
        ("JOBQUEUE_APPLE_MUSIC_TOKENS_URL", "JOBQUEUE_APPLE_MUSIC_TOKEN_URL"),
    ],
)
def test_misspelt_variable_is_refused(tmp_path, wrong, right):
    """A variable that is almost one of ours is refused, with the name that was meant."""
    with pytest.raises(ConfigurationError, match=f"{wrong} is not a setting. Did you mean {right}"):
        Settings.from_environ(GIVEN | {wrong: "1"}, cwd=tmp_path)


def test_foreign_variable_is_ignored(tmp_path):
    """A variable of somebody's own handler is left alone although it shares our prefix."""
    Settings.from_environ(GIVEN | {"JOBQUEUE_PLUGIN_COLOUR": "red", "JOBQUEUE_TEST_RUN": "1"}, cwd=tmp_path)


def test_provider_override(tmp_path):
    """A provider's addresses and token come from its own variables, whatever its name is made of."""
    environ = GIVEN | {
        "JOBQUEUE_APPLE_MUSIC_BASE_URL": "http://127.0.0.1:1/v1",
        "JOBQUEUE_APPLE_MUSIC_TOKEN_URL": "https://host/token",
        "JOBQUEUE_APPLE_MUSIC_ACCESS_TOKEN": SECRET,
    }
    settings = Settings.from_environ(environ, cwd=tmp_path)
    expected = ProviderOverride("http://127.0.0.1:1/v1", "https://host/token", SECRET)
    assert settings.provider_override("apple_music") == settings.provider_override("apple-music") == expected
    assert settings.provider_override("spotify") == ProviderOverride()


def test_secrets_are_in_no_repr(tmp_path):
    """Neither passwords nor tokens show when settings are printed."""
    environ = {
        "REDIS_URL": f"redis://:{SECRET}@host",
        "DATABASE_URL": f"host=h password={SECRET}",
        "JOBQUEUE_SPOTIFY_ACCESS_TOKEN": SECRET,
    }
    settings = Settings.from_environ(environ, cwd=tmp_path)
    assert SECRET in settings.redis_url
    assert SECRET not in repr(settings)
    assert "access_token='***'" in repr(settings)


def test_child_environment_names_redis_for_rq_too(tmp_path):
    """RQ's own programs, which know other names, are led to the same Redis; this Python's programs come first."""
    environment = Settings.from_environ(GIVEN, cwd=tmp_path).child_environment()
    names = ("REDIS_URL", "RQ_REDIS_URL", "RQ_DASHBOARD_REDIS_URL")
    assert {environment[name] for name in names} == {"redis://host:6379/0"}
    assert environment["DATABASE_URL"] == "postgresql://host/db"
    assert environment["PATH"].startswith(str(Path(sys.executable).parent))


def write_stack(directory: Path, *, pid: int, start_id: str | None) -> None:
    """Write what a local stack in *directory* would."""
    (directory / ".jobqueue").mkdir()
    addresses = {"redis_url": "redis://:pw@127.0.0.1:1/0", "database_url": "postgresql://127.0.0.1:2/postgres"}
    content = {"pid": pid, "start_id": start_id} | addresses
    (directory / ".jobqueue" / "stack.json").write_text(json.dumps(content))


def test_running_stack_supplies_what_is_missing(tmp_path):
    """The live stack of a directory above supplies the missing address; the one that is set wins."""
    write_stack(tmp_path, pid=os.getpid(), start_id=process_start_id(os.getpid()))
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    settings = Settings.from_environ({"REDIS_URL": "redis://mine"}, cwd=below)
    assert settings.redis_url == "redis://mine:6379/0"
    assert settings.database_url == "postgresql://127.0.0.1:2/postgres"
    assert settings.source == "local stack"


@pytest.mark.parametrize("start_id", ["1", None])
def test_stack_of_another_process_is_not_used(tmp_path, start_id):
    """A stack file whose process id now belongs to another process is stale."""
    write_stack(tmp_path, pid=os.getpid(), start_id=start_id)
    with pytest.raises(ConfigurationError, match="is not running any more"):
        Settings.from_environ({}, cwd=tmp_path)


def test_stack_of_an_ended_process_is_not_used(tmp_path):
    """A stack file whose process has ended, even if nobody collected it yet, is stale."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    start_id = process_start_id(process.pid)
    assert start_id is not None
    write_stack(tmp_path, pid=process.pid, start_id=start_id)
    assert Settings.from_environ({}, cwd=tmp_path).source == "local stack"
    assert process.stdin is not None
    process.stdin.close()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises(ConfigurationError, match="is not running any more"):
        Settings.from_environ({}, cwd=tmp_path)
    process.wait()


def test_damaged_stack_file_is_named(tmp_path):
    """A stack file that cannot be read is named in the error, not a traceback."""
    (tmp_path / ".jobqueue").mkdir()
    (tmp_path / ".jobqueue" / "stack.json").write_text("{")
    with pytest.raises(ConfigurationError, match=r"stack\.json is damaged"):
        Settings.from_environ({}, cwd=tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_stack_file_of_another_user_is_not_trusted(tmp_path):
    """A stack file that another user planted above us does not redirect our jobs."""
    write_stack(tmp_path, pid=os.getpid(), start_id=process_start_id(os.getpid()))
    os.chown(tmp_path / ".jobqueue" / "stack.json", 65534, 65534)
    with pytest.raises(ConfigurationError, match="belongs to another user"):
        Settings.from_environ({}, cwd=tmp_path)


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ({}, "REDIS_URL and DATABASE_URL are"),
        ({"REDIS_URL": "redis://h"}, "DATABASE_URL is"),
        ({**GIVEN, "REDIS_URL": " "}, "REDIS_URL is"),
    ],
)
def test_missing_address_says_how_to_get_one(tmp_path, given, missing):
    """With nothing to connect to, the error names what is missing and both ways to get it."""
    with pytest.raises(ConfigurationError) as caught:
        Settings.from_environ(given, cwd=tmp_path)
    assert str(caught.value).startswith(f"{missing} not set")
    assert "jobqueue up" in caught.value.remedy
    assert "REDIS_URL=redis://host:6379/0" in caught.value.remedy
