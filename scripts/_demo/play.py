"""The demo from beginning to end.

Exit codes: 0 every check held, 1 one did not, 2 it cannot run here, 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import sys
import time
from types import FrameType

import requests
from proof import prove_removed, prove_restored, prove_within_limits, state_of, write_blocklist
from stage import PLACE, ROOT, Blow, Stage
from telling import Teller

from handlers.sandbox.seed import seed_track_id
from jobqueue.delivery.queue import JobQueue
from jobqueue.errors import ConflictError, JobQueueError
from jobqueue.model.job import JobStatus

BLOCKED = 400
ABSENT = 5
# Requests to remove tracks that must have arrived before the kill.
KILL_AFTER = 10
ENQUEUE = ROOT / "scripts" / "enqueue.py"
# A demo has its own servers and settings, whatever the shell says.
FOREIGN = ("JOBQUEUE_", "RQ_", "REDIS_URL", "DATABASE_URL")


def main() -> int:
    """Run the demo; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="scripts/demo", description="Show the whole way of a job on this machine alone."
    )
    parser.add_argument("--keep", action="store_true", help="leave everything running until Ctrl-C")
    parser.add_argument("--verbose", action="store_true", help="write the processes' lines here, not into files")
    arguments = parser.parse_args()
    for name in [name for name in os.environ if name.startswith(FOREIGN)]:
        del os.environ[name]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    tell = Teller()
    try:
        with Stage(is_verbose=arguments.verbose) as stage:
            try:
                _run(tell, stage, is_kept=arguments.keep)
            finally:
                # Closing is bounded; should it be killed all the same, the processes' keepers do the rest.
                for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                    signal.signal(number, signal.SIG_IGN)
    except KeyboardInterrupt:
        print("\ninterrupted; everything it started is gone")
        return 130
    except ConflictError as error:
        print(f"\nError: {error}", file=sys.stderr)
        return 2
    except (JobQueueError, subprocess.CalledProcessError) as error:
        print(f"\nError: {error}\n  What the processes wrote is in {PLACE / 'logs'}.", file=sys.stderr)
        return 2
    return 1 if tell.has_failed else 0


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _run(tell: Teller, stage: Stage, *, is_kept: bool) -> None:
    started_s = time.monotonic()
    dashboard, queue = _start(tell, stage)
    before = state_of(stage.sandbox)
    job_id = _remove(tell, stage, queue, before)
    _put_back(tell, stage, queue, job_id, before)
    tell.step("The dashboard")
    answer = requests.get(dashboard, timeout=10)
    tell.check(answer.ok and "RQ" in answer.text, f"rq-dashboard answers at {dashboard}")
    took = f"{time.monotonic() - started_s:.0f} s"
    tell.remark("")
    if tell.has_failed:
        tell.remark(f"NOT every check held, after {took}; the processes' lines are in {stage.logs}", "bold red")
    else:
        tell.remark(f"every check held, after {took}", "bold green")
    if is_kept:
        tell.remark(f"all of it runs on: {dashboard}, and from another shell:")
        tell.command(
            f"cd {shlex.quote(str(PLACE))} && PATH={shlex.quote(str(ROOT / '.venv/bin'))}:$PATH && jobqueue list"
        )
        tell.remark("Ctrl-C ends it")
        try:
            while True:
                signal.pause()
        except KeyboardInterrupt:
            return
    tell.remark("stopping everything (scripts/demo --keep would leave it running, with the dashboard)")


def _start(tell: Teller, stage: Stage) -> tuple[str, JobQueue]:
    """Bring everything up; the dashboard's address and a client."""
    tell.step("Servers: an embedded Valkey and Postgres, for this demo alone")
    settings = stage.start_servers()
    ports = [url.rsplit("@", 1)[1].partition("/")[0] for url in (settings.redis_url, settings.database_url)]
    queue = JobQueue(settings)
    with queue:
        applied = queue.migrate()
    tell.remark(f"Valkey at {ports[0]}, Postgres at {ports[1]}, {len(applied)} migrations applied")
    tell.step("The provider: Spotify as a local server, with limits, a ledger and a library")
    sandbox = stage.start_provider()
    tell.remark(f"{sandbox.base_url}, 100 requests in any 60 s; above that it answers 429")
    tell.step("Two workers, the scheduler, the dashboard")
    commands = stage.start_processes()
    dashboard = commands.pop("dashboard")
    for name, command in commands.items():
        tell.remark(f"{name:<10}{command}")
    tell.remark(f"{'dashboard':<10}{dashboard}")
    return dashboard, stage.open_queue()


def _remove(tell: Teller, stage: Stage, queue: JobQueue, before: dict[str, object]) -> int:
    """Remove blocked tracks while a worker is killed, and prove what happened; the job's id."""
    tell.step(f"A job: remove {BLOCKED} blocked tracks, and kill a worker in the middle")
    tracks = [seed_track_id(number * 7) for number in range(BLOCKED)]
    absent = [seed_track_id(10_000_000 + number) for number in range(ABSENT)]
    write_blocklist(PLACE / "blocklist.csv", [*tracks, *absent, tracks[0]])
    arguments = ["--provider", "spotify", "--account", "demo", "--operation", "unsave_tracks"]
    job_id = _enqueue(tell, stage, queue, "enforcement", *arguments, "--items", "blocklist.csv", "--priority", "high")

    def on_kill(name: str, died: list[int]) -> None:
        done = queue_for_kill.get_job_status(job_id)
        horses = ", ".join(map(str, died[1:]))
        tell.remark(
            f"⚡ SIGKILL: {name} (process {died[0]}) and its horse ({horses}),"
            f" {done.in_flight} requests in flight, {done.remaining} items to go",
            "bold yellow",
        )

    # A queue belongs to one thread.
    with JobQueue(stage.settings) as queue_for_kill:
        blow = Blow(stage, at_least=KILL_AFTER, on_kill=on_kill)
        blow.start()
        progress = tell.follow(queue, job_id)
        blow.join(5)
    tell.step("The proof: the provider's ledger against the database")
    tell.check(bool(blow.victims), f"a worker and its horse were killed: processes {', '.join(map(str, blow.victims))}")
    tell.check(progress.job.status is JobStatus.SUCCEEDED, f"job {job_id} ended: {progress.job.status}")
    prove_removed(tell, queue, stage.sandbox, progress, before=before, absent=ABSENT, deaths=1)
    return job_id


def _put_back(tell: Teller, stage: Stage, queue: JobQueue, job_id: int, before: dict[str, object]) -> None:
    tell.step("Roll it back, and compare the library with the one before, item by item")
    rollback_id = _enqueue(tell, stage, queue, "rollback", str(job_id))
    progress = tell.follow(queue, rollback_id)
    tell.check(progress.job.status is JobStatus.SUCCEEDED, f"job {rollback_id} ended: {progress.job.status}")
    prove_restored(tell, stage.sandbox, before)
    prove_within_limits(tell, stage.sandbox)


def _enqueue(tell: Teller, stage: Stage, queue: JobQueue, *arguments: str) -> int:
    """Run the real ``scripts/enqueue.py`` in the demo's folder; the new job's id."""
    tell.command(shlex.join(["scripts/enqueue.py", *arguments]))
    command = [sys.executable, str(ENQUEUE), *arguments]
    environment = stage.settings.child_environment()
    done = subprocess.run(command, cwd=PLACE, env=environment, capture_output=True, text=True, check=False)
    for line in (done.stdout + done.stderr).splitlines():
        tell.remark(line)
    done.check_returncode()
    return int(queue.list_jobs(count=1)[0]["id"])
