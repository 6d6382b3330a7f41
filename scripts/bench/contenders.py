"""Who does the work: this project, and what one would else use. Each with as many processes and requests in flight."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import redis
from case import Case
from servers import own_valkey
from trial import HERE, START_S, TOKEN, Contender, Plan, Site

from jobqueue.delivery.queue import JobQueue
from jobqueue.engine.intake import Rows
from jobqueue.errors import ConfigurationError
from jobqueue.local import LocalStack, ProcessSpec, ephemeral_stack
from jobqueue.local.valkey import Valkey
from jobqueue.model.job import JobRequest
from jobqueue.model.window import WindowMode
from jobqueue.settings import Settings

PROVIDER = "bench"
REQUEST = JobRequest(type="enforcement", provider=PROVIDER, account="demo", operation="look")
WORKER = ("rq", "worker", "high", "default", "low")


class Ours:
    """Literal ``rq worker`` processes and the scheduler, on one job."""

    name = "jobqueue"

    def __init__(self) -> None:
        self._stack: LocalStack | None = None
        self._queue: JobQueue | None = None
        self._job_id = 0

    @contextmanager
    def servers(self, place: Path) -> Iterator[Valkey]:
        """Postgres too, durable as in earnest."""
        with ephemeral_stack(is_durable=True) as self._stack:
            yield self._stack.valkey

    def specs(self, site: Site, valkey: Valkey) -> list[ProcessSpec]:
        """The workers, and one scheduler in true time."""
        settings = self._settings(site)
        common = {
            name: text
            for name, text in settings.child_environment().items()
            if name in ("REDIS_URL", "RQ_REDIS_URL", "RQ_DASHBOARD_REDIS_URL", "DATABASE_URL")
        }
        # As the operations guide and `jobqueue up` run workers: handlers are loaded before the fork.
        common["RQ_CONFIG"] = "jobqueue.delivery.rq_config"
        common["JOBQUEUE_IN_FLIGHT"] = str(site.plan.in_flight)
        common["JOBQUEUE_BENCH_ACCESS_TOKEN"] = TOKEN
        specs = [
            ProcessSpec(f"worker{number}", WORKER, env=site.environment(number, **common), cwd=site.place)
            for number in range(site.plan.workers)
        ]
        true_time = {name: text for name, text in site.environment(0, **common).items() if name != "BENCH_CLOCK_SKEW_S"}
        return [*specs, ProcessSpec("scheduler", ("jobqueue", "scheduler"), env=true_time, cwd=site.place)]

    def begin(self, site: Site, valkey: Valkey, log: Path) -> None:
        """Wait until all workers listen, then enqueue one job."""
        with redis.Redis.from_url(valkey.url) as client:
            _wait_until(lambda: client.scard("rq:workers") == site.plan.workers, "the workers did not start", log)
        assert self._queue is not None
        rows = Rows(f"call-{number}" for number in range(site.plan.calls))
        self._job_id = self._queue.enqueue_job(REQUEST, rows).job_id

    def is_over(self) -> bool:
        """Whether the job has ended."""
        assert self._queue is not None
        return self._queue.get_job_status(self._job_id).job.status.is_terminal

    def close(self) -> None:
        """Close the queue."""
        if self._queue is not None:
            self._queue.close()

    def _settings(self, site: Site) -> Settings:
        """Migrate and configure; before any worker reads it."""
        assert self._stack is not None
        stack, case = self._stack, site.plan.case
        settings = Settings.from_environ(
            {**os.environ, "REDIS_URL": stack.redis_url, "DATABASE_URL": stack.database_url}
        )
        self._queue = JobQueue(settings)
        self._queue.migrate()
        self._queue.set_provider(PROVIDER, base_url=site.sandbox.base_url)
        # Said in any case: the default is auto.
        self._queue.set_limits(PROVIDER, windows=case.expressions, mode=case.mode)
        return settings


class _Rival:
    """What the rivals have in common: a Redis, and work that is known to be done by the ledger alone."""

    name: str

    @contextmanager
    def servers(self, place: Path) -> Iterator[Valkey]:
        """A Redis is all they need."""
        with own_valkey() as valkey:
            yield valkey

    def begin(self, site: Site, valkey: Valkey, log: Path) -> None:
        """They begin by themselves."""

    def is_over(self) -> bool:
        """What the ledger says is enough."""
        return True

    def close(self) -> None:
        """Nothing is open."""


class LimitsLibrary(_Rival):
    """`rival_limits`: processes with threads, the library's moving window, Retry-After honoured."""

    name = "limits"

    def specs(self, site: Site, valkey: Valkey) -> list[ProcessSpec]:
        """One process that starts the others, which share a count of what is left to do."""
        work = {
            "redis_url": valkey.url,
            "url": f"{site.sandbox.base_url}/me",
            "token": TOKEN,
            "limits": site.plan.case.expressions,
            "calls": site.plan.calls,
            "processes": site.plan.workers,
            "threads": site.plan.in_flight,
            "skew_s": site.plan.disturbance.clock_skew_s,
        }
        environment = site.environment(0, BENCH_WORK=json.dumps(work))
        argv = (sys.executable, str(HERE / "rival_limits.py"))
        return [ProcessSpec("limits", argv, env=environment, restart=False, cwd=site.place)]


class Celery(_Rival):
    """`rival_celery`: worker processes, each with its part of the limit as ``rate_limit``."""

    name = "celery"

    def specs(self, site: Site, valkey: Valkey) -> list[ProcessSpec]:
        """The workers."""
        return [
            ProcessSpec(
                f"celery{number}",
                (
                    *(sys.executable, "-m", "celery", "-A", "rival_celery", "worker", "--pool", "prefork"),
                    *("--concurrency", str(site.plan.in_flight), "-n", f"worker{number}@%h"),
                    *("--loglevel", "WARNING", "--without-gossip", "--without-mingle"),
                ),
                env=self._environment(site, valkey, number),
                cwd=site.place,
            )
            for number in range(site.plan.workers)
        ]

    def begin(self, site: Site, valkey: Valkey, log: Path) -> None:
        """Wait until all workers listen, then send the tasks."""
        environment = self._environment(site, valkey, 0) | {"BENCH_CLOCK_SKEW_S": "0"}
        argv = [sys.executable, str(HERE / "rival_celery.py"), str(site.plan.workers), str(site.plan.calls)]
        done = subprocess.run(argv, env=environment, cwd=site.place, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ConfigurationError(f"Celery did not start: {done.stderr[-800:]} {log.read_text()[-800:]}")

    def _environment(self, site: Site, valkey: Valkey, number: int) -> dict[str, str]:
        work = {"url": f"{site.sandbox.base_url}/me", "token": TOKEN, "rate": celery_rate(site.plan)}
        return site.environment(number, BENCH_WORK=json.dumps(work), BENCH_BROKER_URL=valkey.url)


def celery_rate(plan: Plan) -> str:
    """The tightest limit divided by the workers, as ``rate_limit`` reads it: Celery counts in each worker by itself."""
    limit = plan.case.tightest
    return f"{60 * limit.requests / limit.window_s / plan.workers:g}/m"


CONTENDERS: dict[str, type[Contender]] = {"jobqueue": Ours, "limits": LimitsLibrary, "celery": Celery}


def why_not(name: str, case: Case) -> str:
    """Why *name* cannot run *case* here; empty when it can."""
    if name == "celery" and find_spec("celery") is None:
        return "not installed: pip install 'jobqueue[bench]'"
    if name == "jobqueue" and case.mode not in list(WindowMode):
        return f"this version knows no mode {case.mode!r}"
    return ""


def _wait_until(is_so: object, what: str, log: Path) -> None:
    assert callable(is_so)
    until_s = time.monotonic() + START_S
    while not is_so():
        if time.monotonic() > until_s:
            raise ConfigurationError(f"{what}: {log.read_text(errors='replace')[-1500:]}")
        time.sleep(0.05)
