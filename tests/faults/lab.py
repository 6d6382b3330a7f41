"""A crash laboratory: a real job on literal workers, faults on a seeded schedule, and an account of what the provider saw.

Run by hand for the long form::

    python tests/faults/lab.py --items 5000 --kills 20 --workers 3
    python tests/faults/lab.py --items 5000 --flushes 10 --no-scheduler

The account is taken from the provider's ledger and the database; it shares no code with the engine.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import psycopg
import redis

from handlers.sandbox.launch import SandboxProcess, start_sandbox
from handlers.sandbox.ledger import effects_by_item, max_in_any_window, read_ledger, repeated_calls
from handlers.sandbox.seed import seed_track_id
from jobqueue.delivery.queue import JobQueue
from jobqueue.engine.intake import Rows
from jobqueue.local import ephemeral_stack
from jobqueue.model.job import JobRequest
from jobqueue.settings import Settings
from jobqueue.store.migrate import migrate

BIN = Path(sys.executable).parent
IN_FLIGHT = 4
LONGEST_CALL_S = 13.0
ACCOUNT = "demo"


@dataclass
class Kill:
    """One SIGKILL: when, and what died."""

    at_ns: int
    what: str


@dataclass
class Account:
    """What a run did, counted twice: in the database and in the ledger."""

    items: int
    outcomes: int
    outcomes_by_status: dict[str, int]
    counters: dict[str, int]
    ledger_calls: int
    items_with_effect: int
    repeated: int
    unexplained: list[str]
    quarantined: int
    refused: int
    most_in_a_window: int
    kills: int
    flushes: int
    elapsed_s: float
    stalls_s: list[float] = field(default_factory=list)

    @property
    def violations(self) -> list[str]:
        """Everything that must not be; empty after an honest run."""
        found = []
        if self.outcomes != self.items or self.counters.get("total") != self.items:
            found.append(f"{self.outcomes} outcomes and {self.counters} counted for {self.items} items")
        if self.outcomes_by_status != {"succeeded": self.items}:
            found.append(f"not all succeeded: {self.outcomes_by_status}")
        if self.items_with_effect != self.items:
            found.append(f"{self.items_with_effect} items had their effect at the provider")
        if self.unexplained:
            found.append(f"calls repeated without a crash: {self.unexplained}")
        if self.quarantined:
            found.append(f"{self.quarantined} innocent items quarantined")
        if self.refused:
            found.append(f"{self.refused} requests refused with 429")
        return found


class Lab:
    """Literal workers, a scheduler and a sandbox on the given servers."""

    def __init__(
        self,
        redis_url: str,
        database_url: str,
        sandbox: SandboxProcess,
        *,
        workers: int,
        has_scheduler: bool,
        logs: Path,
    ) -> None:
        self.redis_url = redis_url
        self.database_url = database_url
        self.sandbox = sandbox
        self.kills: list[Kill] = []
        self.flushed_ns: list[int] = []
        self._logs = logs
        self._has_scheduler = has_scheduler
        self._environment = os.environ | {
            "REDIS_URL": redis_url,
            "DATABASE_URL": database_url,
            "JOBQUEUE_SPOTIFY_BASE_URL": sandbox.base_url,
            "JOBQUEUE_SPOTIFY_ACCESS_TOKEN": f"sandbox-{ACCOUNT}",
        }
        self.settings = Settings.from_environ(self._environment)
        self.workers: list[subprocess.Popen[bytes]] = [self._start_worker(i) for i in range(workers)]
        self.scheduler = self._start_scheduler() if has_scheduler else None

    def _start(self, name: str, argv: Sequence[str | Path]) -> subprocess.Popen[bytes]:
        with (self._logs / f"{name}.log").open("ab") as log:
            return subprocess.Popen(argv, env=self._environment, stdout=log, stderr=log, start_new_session=True)

    def _start_worker(self, index: int) -> subprocess.Popen[bytes]:
        return self._start(f"worker{index}", [BIN / "rq", "worker", "high", "default", "low"])

    def _start_scheduler(self) -> subprocess.Popen[bytes]:
        return self._start("scheduler", [BIN / "jobqueue", "scheduler"])

    def kill(self, what: str, index: int) -> bool:
        """SIGKILL worker *index*, its horse, or both; False when there is no horse to kill. A dead worker is replaced."""
        worker = self.workers[index]
        horses = []
        with suppress(psutil.NoSuchProcess):
            horses = psutil.Process(worker.pid).children()
        if what != "worker" and not horses:
            return False
        self.kills.append(Kill(time.time_ns(), what))
        if what in ("worker", "both"):
            worker.kill()
        if what in ("horse", "both"):
            for horse in horses:
                with suppress(psutil.NoSuchProcess):
                    horse.kill()
        if what in ("worker", "both"):
            worker.wait()
            self.workers[index] = self._start_worker(index)
        return True

    def flush(self) -> None:
        """FLUSHALL."""
        with redis.Redis.from_url(self.redis_url) as client:
            client.flushall()
        self.flushed_ns.append(time.time_ns())

    def revive(self) -> None:
        """Start workers and scheduler again that ended, as a service manager does; from now on, too, see `wait`."""
        for index, worker in enumerate(self.workers):
            if worker.poll() is not None:
                self.workers[index] = self._start_worker(index)
        if self.scheduler is not None and self.scheduler.poll() is not None:
            self.scheduler = self._start_scheduler()

    def wait(self, queue: JobQueue, job_id: int, *, timeout_s: float) -> None:
        """Until the job has ended."""
        until_s = time.monotonic() + timeout_s
        while not (progress := queue.get_job_status(job_id)).job.status.is_terminal:
            if time.monotonic() > until_s:
                raise TimeoutError(f"{progress.as_dict()}; logs in {self._logs}")
            self.revive()
            time.sleep(0.05)

    def close(self) -> None:
        """End every process, orphaned horses too."""
        processes = [worker.pid for worker in self.workers] + ([self.scheduler.pid] if self.scheduler else [])
        mark = self.redis_url
        victims = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.pid in processes or (
                    process.pid != os.getpid()
                    and process.environ().get("REDIS_URL") == mark
                    and "rq" in process.cmdline()[1]
                ):
                    victims.append(process)
        for process in victims:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        for worker in self.workers:
            worker.wait()
        if self.scheduler:
            self.scheduler.wait()
        psutil.wait_procs(victims, timeout=5)


def account(lab: Lab, job_id: int, items: int, started_s: float) -> Account:
    """Count what the run did."""
    with psycopg.connect(lab.database_url) as connection:
        by_status = dict(
            connection.execute(
                "SELECT status, count(*) FROM item_outcomes WHERE job_id = %s GROUP BY 1", [job_id]
            ).fetchall()
        )
        row = connection.execute(
            "SELECT sum(succeeded), sum(skipped), sum(failed), sum(unconfirmed) FROM batch_checkpoints WHERE job_id = %s",
            [job_id],
        ).fetchone()
        letters = connection.execute("SELECT count(*) FROM dead_letters WHERE job_id = %s", [job_id]).fetchone()
    assert row is not None
    assert letters is not None
    entries = list(read_ledger(lab.sandbox.ledger_path))
    effects = effects_by_item(entries)
    changed = sum(any(effect.is_changed for effect in of_item) for of_item in effects.values())
    repeated = repeated_calls(entries)
    counted = [entry for entry in entries if entry.is_counted]
    return Account(
        items=items,
        outcomes=sum(by_status.values()),
        outcomes_by_status={str(status): int(count) for status, count in by_status.items()},
        counters={"total": int(sum(row)), "succeeded": int(row[0])},
        ledger_calls=len(entries),
        items_with_effect=changed,
        repeated=sum(call.extra for call in repeated),
        unexplained=unexplained(repeated, lab.kills),
        quarantined=int(letters[0]),
        refused=sum(entry.decision == "refused" for entry in entries),
        most_in_a_window=max_in_any_window(counted, 60.0),
        kills=len(lab.kills),
        flushes=len(lab.flushed_ns),
        elapsed_s=round(time.monotonic() - started_s, 1),
    )


def unexplained(repeated: Sequence[Any], kills: Sequence[Kill]) -> list[str]:
    """Repeated calls for which no kill hit the call before while it was in flight; a kill explains one call a thread."""
    used = dict.fromkeys(range(len(kills)), 0)
    left = []
    for call in repeated:
        if not call.is_verbatim:
            left.append(f"{call.key}: not verbatim")
        for earlier, later in zip(call.entries, call.entries[1:], strict=False):
            fitting = [
                index
                for index, kill in enumerate(kills)
                if earlier.at_ns - 1e9 <= kill.at_ns <= later.at_ns
                and kill.at_ns - earlier.at_ns <= LONGEST_CALL_S * 1e9
                and used[index] < IN_FLIGHT
            ]
            if not fitting:
                left.append(f"{call.key}: {earlier.seq} -> {later.seq}")
            else:
                used[fitting[0]] += 1
    return left


def run(
    lab: Lab,
    *,
    items: int,
    kills: int,
    flushes: int,
    seed: int,
    timeout_s: float,
    gap_s: float = 1.5,
    say: Any = lambda line: None,
) -> Account:
    """Enqueue, disturb, wait, count."""
    rng = random.Random(seed)
    started_s = time.monotonic()
    with JobQueue(lab.settings) as queue:
        request = JobRequest(type="enforcement", provider="spotify", account=ACCOUNT, operation="unsave_tracks")
        job = queue.enqueue_job(request, Rows([seed_track_id(n) for n in range(items)]))
        schedule = [("kill", None)] * kills + [("flush", None)] * flushes
        rng.shuffle(schedule)
        next_at_s = time.monotonic() + rng.uniform(0.2, 0.7) * gap_s
        seen = -1
        moved_s = time.monotonic()
        stalls = []
        while True:
            progress = queue.get_job_status(job.job_id)
            now_s = time.monotonic()
            if progress.done != seen:
                if seen >= 0 and now_s - moved_s > 5:
                    stalls.append(round(now_s - moved_s, 1))
                seen, moved_s = progress.done, now_s
                say(f"{now_s - started_s:6.1f} s  {progress.done}/{progress.total}  kills {len(lab.kills)}")
            if progress.job.status.is_terminal:
                break
            if now_s - started_s > timeout_s:
                raise TimeoutError(f"{progress.as_dict()}; logs in {lab._logs}")
            # Faults only hit while there is work to hit: not while every part waits for its quota.
            if schedule and now_s >= next_at_s and (progress.in_flight or flushes):
                what, _ = schedule[-1]
                if what == "flush":
                    lab.flush()
                    is_done = True
                else:
                    is_done = lab.kill(
                        rng.choice(["horse", "horse", "worker", "both"]), rng.randrange(len(lab.workers))
                    )
                if is_done:
                    schedule.pop()
                    next_at_s = now_s + rng.uniform(0.1, 1.0) * gap_s
            time.sleep(0.02)
        result = account(lab, job.job_id, items, started_s)
        result.stalls_s = stalls
        return result


@contextmanager
def laboratory(
    redis_url: str,
    database_url: str,
    *,
    workers: int = 3,
    has_scheduler: bool = True,
    items: int = 5000,
    **sandbox_options: Any,
) -> Iterator[Lab]:
    """A lab on running servers; everything it started is gone afterwards, the logs stay when something went wrong."""
    with ExitStack() as stack:
        logs = Path(tempfile.mkdtemp(prefix="jobqueue-lab-"))
        sandbox = stack.enter_context(start_sandbox(logs / "sandbox", seed_library=items, **sandbox_options))
        lab = Lab(redis_url, database_url, sandbox, workers=workers, has_scheduler=has_scheduler, logs=logs)
        stack.callback(lab.close)
        yield lab


def main() -> int:
    """The long form."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=5000)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--flushes", type=int, default=0)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--no-scheduler", action="store_true")
    parser.add_argument("--latency-ms", type=int, default=200)
    parser.add_argument("--limit", default="100/60")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--timeout-s", type=float, default=900)
    args = parser.parse_args()
    with ephemeral_stack() as servers:
        migrate(servers.database_url)
        with laboratory(
            servers.redis_url,
            servers.database_url,
            workers=args.workers,
            has_scheduler=not args.no_scheduler,
            items=args.items,
            latency_ms=args.latency_ms,
            limit=args.limit,
        ) as lab:
            result = run(
                lab,
                items=args.items,
                kills=args.kills,
                flushes=args.flushes,
                seed=args.seed,
                timeout_s=args.timeout_s,
                say=lambda line: print(line, file=sys.stderr),
            )
    print(json.dumps(result.__dict__ | {"violations": result.violations}, indent=1))
    return 1 if result.violations else 0


if __name__ == "__main__":
    sys.exit(main())
