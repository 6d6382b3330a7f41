"""What a worker with our job class runs, and what it refuses."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import redis
from rq import Queue
from rq.job import Job
from rq.serializers import DefaultSerializer, JSONSerializer

from jobqueue.delivery.forgery import ForgedJobError, PlainSerializer, SliceJob

BIN = Path(sys.executable).parent


class Exploit:
    """Unpickling it would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (os.mkdir, (str(self.path),))


def work(redis_url: str, database_url: str) -> str:
    """Run a worker until the queue is empty; what it printed."""
    environment = os.environ | {
        "REDIS_URL": redis_url,
        "DATABASE_URL": database_url,
        "RQ_JOB_CLASS": "jobqueue.delivery.forgery.SliceJob",
    }
    done = subprocess.run(
        [BIN / "rq", "worker", "--burst", "default"], env=environment, check=True, capture_output=True, timeout=60
    )
    return done.stdout.decode()


@pytest.mark.parametrize("func", ["os.mkdir", "subprocess.check_call", "jobqueue.delivery.entry.os._exit"])
def test_a_forged_function_is_never_called(redis_url: str, database_url: str, tmp_path: Path, func: str) -> None:
    """A job naming any importable function but ours fails without calling it."""
    victim = tmp_path / "made-by-a-forgery"
    with redis.Redis.from_url(redis_url) as connection:
        forged = Queue("default", connection=connection).enqueue_call(func, args=(str(victim),))
        work(redis_url, database_url)

        assert not victim.exists()
        assert Job.fetch(forged.id, connection=connection).is_failed


def test_a_forged_pickle_is_never_loaded(redis_url: str, database_url: str, tmp_path: Path) -> None:
    """Objects hidden in a job's arguments, result or meta are refused before they come to life."""
    victim = tmp_path / "made-by-a-pickle"
    with redis.Redis.from_url(redis_url) as connection:
        job = Queue("default", connection=connection).enqueue_call("jobqueue.delivery.entry.run_slice", args=(1,))
        connection.hset(
            job.key, "data", pickle.dumps(("jobqueue.delivery.entry.run_slice", None, (Exploit(victim),), {}))
        )
        connection.hset(job.key, "meta", DefaultSerializer.dumps({"x": Exploit(victim)}))
        work(redis_url, database_url)

    assert not victim.exists()


def test_a_forged_callback_is_never_called(redis_url: str, database_url: str) -> None:
    """Callback names in a job's hash are ignored; print would show its arguments, the connection among them."""
    with redis.Redis.from_url(redis_url) as connection:
        job = Queue("default", connection=connection).enqueue_call("jobqueue.delivery.entry.run_slice", args=(1,))
        connection.hset(job.key, mapping={"success_callback_name": "builtins.print"})

        assert "ConnectionPool" not in work(redis_url, database_url)


def test_a_json_job_is_refused() -> None:
    """Another serializer's data is no plain pickle."""
    with pytest.raises(pickle.UnpicklingError):
        PlainSerializer.loads(JSONSerializer.dumps(("jobqueue.delivery.entry.run_slice", None, [1], {})))


def test_our_own_job_is_read(redis_url: str) -> None:
    """What RQ's default serializer wrote of ours is read as it is."""
    with redis.Redis.from_url(redis_url) as connection:
        made = Queue("default", connection=connection).enqueue_call("jobqueue.delivery.entry.run_slice", args=(7,))
        job = SliceJob.fetch(made.id, connection=connection)

        assert job.func_name == "jobqueue.delivery.entry.run_slice"
        assert job.args == (7,)


def test_the_error_names_the_function(redis_url: str) -> None:
    """The refusal says what was asked for."""
    with redis.Redis.from_url(redis_url) as connection:
        made = Queue("default", connection=connection).enqueue_call("os.mkdir", args=("/nowhere",))
        job = SliceJob.fetch(made.id, connection=connection)
        with pytest.raises(ForgedJobError, match=r"os\.mkdir"):
            _ = job.func_name
