"""Measure what a no-op item costs and print it beside the numbers to hold; ``scripts/bench/items`` starts it."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import psycopg
import redis
from measure import as_items, as_plain_rq, processes, submit_large, submit_small, work

from jobqueue.delivery.queue import JobQueue
from jobqueue.local import ephemeral_stack
from jobqueue.settings import Settings
from jobqueue.version import VERSION

# What is measured, its unit, and the number to hold: at least (+) or at most (-) for a job of a million items.
FIGURES: dict[str, tuple[str, str, float | None]] = {
    "items_per_s": ("no-op items, durable, two workers", "items/s", 30_000),
    "items_per_s_by_client": ("the same between 10 % and 90 %, on our clock", "items/s", None),
    "items_a_batch": ("items of one batch", "items", None),
    "submit_s": ("submit of the whole job by the command line", "s", -15),
    "submit_rss_mb": ("submitter's peak RSS", "MB", -150),
    "submit_100_ms": ("submit of 100 items, p50", "ms", -20),
    "worker_rss_mb": ("worker's peak RSS", "MB", -120),
    "horse_rss_mb": ("horse's peak RSS", "MB", -120),
    "horse_growth_mb": ("horse's growth from 10 % to 90 %", "MB", -5),
    "items_s": ("the plain tasks as items of one job", "s", None),
    "plain_rq_s": ("the plain tasks as one RQ job each", "s", None),
    "ratio": ("plain RQ takes so many times as long", "×", None),
}
WHOLE = 1_000_000
FOREIGN = ("JOBQUEUE_", "RQ_", "REDIS_URL", "DATABASE_URL")


def main() -> int:
    """Measure and print; returns the exit code: 0 however slow it was, because a figure is no test."""
    parser = argparse.ArgumentParser(prog="scripts/bench/items", description=__doc__)
    parser.add_argument("--items", type=int, default=WHOLE, help="items of the large job (default: %(default)s)")
    parser.add_argument("--plain", type=int, default=5000, help="tasks to compare with plain RQ, 0 for none (5000)")
    parser.add_argument("--runs", type=int, default=3, help="runs, each on new servers (default: %(default)s)")
    parser.add_argument("--json", action="store_true", dest="is_json", help="one JSON document, nothing else")
    arguments = parser.parse_args()
    if arguments.items < 1 or arguments.runs < 1 or arguments.plain < 0:
        parser.error("--items and --runs must be at least 1, --plain at least 0")
    for name in [name for name in os.environ if name.startswith(FOREIGN)]:
        del os.environ[name]
    say = sys.stderr if arguments.is_json else sys.stdout
    runs: list[dict[str, float]] = []
    machine: dict[str, Any] = {}
    try:
        for number in range(1, arguments.runs + 1):
            print(f"run {number} of {arguments.runs} …", file=say, flush=True)
            figures, machine = _run(arguments.items, arguments.plain)
            runs.append(figures)
    except KeyboardInterrupt:
        return 130
    medians = {
        name: statistics.median(found) for name in FIGURES if (found := [run[name] for run in runs if name in run])
    }
    if arguments.is_json:
        document = {"machine": machine, "items": arguments.items, "plain": arguments.plain}
        print(json.dumps(document | {"medians": medians, "runs": runs}, indent=2))
    else:
        _print(arguments.items, machine, medians, runs)
    return 0


def _run(items: int, plain: int) -> tuple[dict[str, float], dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="jobqueue-bench-") as name, ephemeral_stack(is_durable=True) as servers:
        place = Path(name)
        settings = Settings.from_environ(
            {**os.environ, "REDIS_URL": servers.redis_url, "DATABASE_URL": servers.database_url}
        )
        with JobQueue(settings) as queue:
            queue.migrate()
        machine = _machine(settings)
        figures = {"submit_100_ms": submit_small(settings)}
        job_id, figures["submit_s"], figures["submit_rss_mb"] = submit_large(settings, place, items)
        with processes(settings, place) as supervisor:
            figures |= work(settings, supervisor, job_id)
            if plain:
                figures["items_s"] = as_items(settings, plain)
                figures["plain_rq_s"] = as_plain_rq(settings, plain)
                figures["ratio"] = figures["plain_rq_s"] / figures["items_s"]
        return figures, machine


def _machine(settings: Settings) -> dict[str, Any]:
    with psycopg.connect(settings.database_url) as connection, redis.Redis.from_url(settings.redis_url) as client:
        postgres = connection.info.parameter_status("server_version")
        server: dict[str, Any] = client.info("server")
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "load_before": round(os.getloadavg()[0], 2),
        "jobqueue": VERSION,
        "python": platform.python_version(),
        "rq": version("rq"),
        "redis-py": version("redis"),
        "psycopg": version("psycopg"),
        "server": f"{server.get('server_name', 'redis')} {server.get('valkey_version', server['redis_version'])}",
        "postgres": postgres,
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _print(items: int, machine: dict[str, Any], medians: dict[str, float], runs: list[dict[str, float]]) -> None:
    print("\n" + " · ".join(f"{name} {value}" for name, value in machine.items()))
    if machine["load_before"] > 0.5:
        print(f"the machine was busy with other things (load {machine['load_before']}): expect worse than the truth")
    scaled = "" if items == WHOLE else f"; the numbers to hold are for {WHOLE:,}"
    print(f"{items:,} items, medians of {len(runs)}{scaled}\n")
    for name, median in medians.items():
        what, unit, hold = FIGURES[name]
        found = [run[name] for run in runs if name in run]
        verdict = "" if hold is None else _verdict(hold, median, found)
        every = ", ".join(f"{figure:,.1f}" for figure in found)
        print(f"{what:<46}{median:>12,.1f} {unit:<8}{verdict:<34}({every})")


def _verdict(hold: float, median: float, found: list[float]) -> str:
    """Whether the median holds, and whether every run did: on a busy machine a median can be luck."""
    word, sign = ("at least", 1) if hold > 0 else ("at most", -1)
    if sign * median < hold:
        return f"MISSES {word} {abs(hold):,g}"
    is_always = all(sign * figure >= hold for figure in found)
    return f"holds {word} {abs(hold):,g}" + ("" if is_always else ", not always")


if __name__ == "__main__":
    sys.exit(main())
