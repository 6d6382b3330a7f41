"""Measure what a no-op item costs and print it beside the numbers to hold; ``scripts/bench/items`` starts it."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from machine import describe_machine, forget_surroundings, heading
from measure import as_items, as_plain_rq, processes, submit_large, submit_small, work

from jobqueue.delivery.queue import JobQueue
from jobqueue.local import ephemeral_stack
from jobqueue.settings import Settings

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
    forget_surroundings()
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
        machine = describe_machine(
            redis_url=servers.redis_url, database_url=servers.database_url, packages=("rq", "redis", "psycopg")
        )
        figures = {"submit_100_ms": submit_small(settings)}
        job_id, figures["submit_s"], figures["submit_rss_mb"] = submit_large(settings, place, items)
        with processes(settings, place) as supervisor:
            figures |= work(settings, supervisor, job_id)
            if plain:
                figures["items_s"] = as_items(settings, plain)
                figures["plain_rq_s"] = as_plain_rq(settings, plain)
                figures["ratio"] = figures["plain_rq_s"] / figures["items_s"]
        return figures, machine


def _print(items: int, machine: dict[str, Any], medians: dict[str, float], runs: list[dict[str, float]]) -> None:
    print("\n" + heading(machine))
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
