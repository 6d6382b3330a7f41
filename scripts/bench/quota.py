"""Measure how much of a quota real work uses, and its 429s; ``scripts/bench/quota`` starts it.

Quota used = (⌈calls ÷ limit⌉ − 1) windows ÷ elapsed: calls are the served requests and elapsed goes from the first to
the last arrival, both by the provider's ledger; of several limits it is the one that takes the longest by itself.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from case import CASES, HOLD, Case, parse_case
from contenders import CONTENDERS, why_not
from machine import describe_machine, forget_surroundings, heading
from servers import own_valkey
from trial import HERE, Disturbance, Plan, Result, run

from jobqueue.errors import JobQueueError

KINDS = ("rolling", "fixed")
DEFAULT_WORKERS, DEFAULT_IN_FLIGHT = 4, 4


@dataclass(slots=True)
class Line:
    """One contender on one case and kind of window."""

    case: Case
    kind: str
    contender: str
    windows: int
    why_not: str = ""
    results: list[Result] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @property
    def median(self) -> float | None:
        """Of the quota used."""
        used = [result.figures.quota_used for result in self.results]
        return statistics.median(used) if used else None

    def as_dict(self) -> dict[str, Any]:
        """As JSON values."""
        named = {"case": str(self.case), "window": self.kind, "contender": self.contender, "windows": self.windows}
        runs = [result.as_dict() for result in self.results]
        return named | {"why_not": self.why_not, "quota_used": self.median, "runs": runs, "errors": self.errors}


def main() -> int:
    """Measure and print; returns the exit code: 0 however little was used, 1 when a run failed."""
    arguments = _arguments()
    forget_surroundings()
    # `registry` looks for the provider here too, where the job is enqueued.
    sys.path.insert(0, str(HERE / "quota_package"))
    with own_valkey() as valkey:
        machine = describe_machine(redis_url=valkey.url, packages=("rq", "limits", "celery", "redis", "psycopg"))
    say = sys.stderr if arguments.is_json else sys.stdout
    lines = _lines(arguments)
    try:
        _measure(lines, arguments, say)
    except KeyboardInterrupt:
        return 130
    if arguments.is_json:
        options = {name: value for name, value in vars(arguments).items() if name != "is_json"}
        print(
            json.dumps({"machine": machine, "options": options, "lines": [line.as_dict() for line in lines]}, indent=2)
        )
    else:
        _print(lines, machine, arguments)
    return 1 if any(line.errors for line in lines) else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench/quota",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n  scripts/bench/quota --case '60/6s strict' --window rolling\n"
        "  scripts/bench/quota --case '60/6s strict' --clock-skew 60 --only jobqueue,limits\n"
        "  scripts/bench/quota --case '60/6s strict' --halve-after 10 --halve-for 6",
    )
    add = parser.add_argument
    add("--case", action="append", metavar="TEXT", help=f"one of {', '.join(CASES)}, or alike; may be repeated")
    add("--window", choices=(*KINDS, "both"), default="both", help="the provider's windows (default: both)")
    add("--runs", type=int, default=3, help="runs, each on new servers (default: 3)")
    add("--windows", type=int, metavar="N", help="windows of a run (default: 10, more where they are short)")
    add("--only", default=",".join(CONTENDERS), metavar="NAMES", help="contenders, with commas (default: %(default)s)")
    add("--workers", type=int, default=DEFAULT_WORKERS, help="processes (default: 4)")
    add("--in-flight", type=int, default=DEFAULT_IN_FLIGHT, help="requests in flight of each (default: 4)")
    add("--latency-ms", type=float, default=200.0, help="the provider's answers take so long, ± 50 %% (default: 200)")
    add("--side-by-side", type=int, default=1, metavar="N", help="runs at once, each on its own servers (default: 1)")
    add("--clock-skew", type=float, default=0.0, metavar="S", help="workers' clocks are ahead and behind, in turn")
    add("--flush-every", type=float, default=0.0, metavar="S", help="FLUSHALL in mid-run")
    add("--restart-redis-every", type=float, default=0.0, metavar="S", help="kill -9 and restart Redis in mid-run")
    add("--halve-after", type=int, default=5, metavar="W", help="windows before half the quota goes (default: 5)")
    add("--halve-for", type=int, default=0, metavar="W", help="windows for which it is gone; 0 for never")
    add("--halve-by", choices=("client", "limit"), default="client", help="who takes it (default: another client)")
    add("--json", action="store_true", dest="is_json", help="one JSON document, nothing else")
    arguments = parser.parse_args()
    try:
        arguments.case = [str(parse_case(text)) for text in arguments.case or CASES]
    except JobQueueError as error:
        parser.error(str(error))
    unknown = set(arguments.only.split(",")) - set(CONTENDERS)
    if unknown:
        parser.error(f"--only: {sorted(unknown)[0]!r} is not one of {', '.join(CONTENDERS)}")
    least = min(arguments.runs, arguments.workers, arguments.in_flight, arguments.side_by_side)
    if least < 1 or (arguments.windows is not None and arguments.windows < 1):
        parser.error("--runs, --windows, --workers, --in-flight and --side-by-side must be at least 1")
    if min(arguments.flush_every, arguments.restart_redis_every, arguments.halve_for, arguments.latency_ms) < 0:
        parser.error("--flush-every, --restart-redis-every, --halve-for and --latency-ms must not be negative")
    if arguments.halve_for and arguments.halve_after < 1:
        parser.error("--halve-after must be at least 1")
    return arguments


def _lines(arguments: argparse.Namespace) -> list[Line]:
    kinds = KINDS if arguments.window == "both" else (arguments.window,)
    lines = []
    for case in map(parse_case, arguments.case):
        least = arguments.halve_after + arguments.halve_for + 4 if arguments.halve_for else 0
        windows = max(least, arguments.windows or case.default_windows)
        for kind in kinds:
            for name in arguments.only.split(","):
                lines.append(Line(case, kind, name, windows, why_not(name, case)))
    return lines


def _measure(lines: Sequence[Line], arguments: argparse.Namespace, say: Any) -> None:
    disturbance = Disturbance(
        clock_skew_s=arguments.clock_skew,
        flush_every_s=arguments.flush_every,
        restart_redis_every_s=arguments.restart_redis_every,
        halve_after=arguments.halve_after if arguments.halve_for else 0,
        halve_for=arguments.halve_for,
        is_by_client=arguments.halve_by == "client",
    )

    stop = threading.Event()

    def one(line: Line, number: int) -> None:
        words = f"{line.case}, {line.kind}, {line.contender}, run {number} of {arguments.runs}"
        plan = Plan(
            case=line.case,
            kind=line.kind,
            windows=line.windows,
            workers=arguments.workers,
            in_flight=arguments.in_flight,
            latency_ms=arguments.latency_ms,
            seed=number,
            disturbance=disturbance,
        )
        print(f"{words}: {plan.calls} calls, {line.windows} windows …", file=say, flush=True)
        try:
            with tempfile.TemporaryDirectory(prefix="jobqueue-bench-") as place:
                result = run(CONTENDERS[line.contender](), plan, Path(place), stop)
        except JobQueueError as error:
            line.errors.append(str(error))
            print(f"{words}: {error}", file=say, flush=True)
            return
        line.results.append(result)
        print(f"{words}: {_words(result)}", file=say, flush=True)

    with ThreadPoolExecutor(arguments.side_by_side) as pool:
        work = [(line, number) for number in range(1, arguments.runs + 1) for line in lines if not line.why_not]
        futures = [pool.submit(one, line, number) for line, number in work]
        try:
            for future in futures:
                future.result()
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _words(result: Result) -> str:
    found = result.figures
    lost = f", {result.lost} calls never made" if result.lost else ""
    return f"{found.quota_used:.1%} used, {found.refused} 429s, {found.calls} calls in {found.elapsed_s:.1f} s{lost}"


def _print(lines: Sequence[Line], machine: dict[str, Any], arguments: argparse.Namespace) -> None:
    print("\n" + heading(machine))
    print(
        f"{arguments.workers} processes × {arguments.in_flight} requests in flight, latency {arguments.latency_ms:g} ms"
        f" ± 50 %, {arguments.runs} runs, {arguments.side_by_side} at once\nquota used = (⌈calls ÷ limit⌉ − 1) windows"
        " ÷ time from the first to the last arrival in the ledger\n"
    )
    print(f"{'case':<24}{'window':<9}{'':<10}{'N':>3} {'used':>7}  {'429s':<10}{'most in a window':<20}runs")
    for line in lines:
        head = f"{line.case!s:<24}{line.kind:<9}{line.contender:<10}{line.windows:>3}"
        if line.median is None:
            print(f"{head}  not run: {line.why_not or '; '.join(line.errors)}")
            continue
        results = line.results
        refused = ", ".join(str(result.figures.refused) for result in results)
        most = ", ".join("+".join(str(count) for count in result.figures.most_arrivals.values()) for result in results)
        every = ", ".join(f"{result.figures.quota_used:.1%}" for result in results)
        print(f"{head} {line.median:>7.1%}  {refused:<10}{most:<20}({every}){_verdict(line, arguments)}")
        for result in results:
            _print_more(result)


def _print_more(result: Result) -> None:
    found = result.figures
    if result.disturbed:
        print(f"{'':<10}Redis was disturbed {result.disturbed} times")
    if result.lost:
        print(f"{'':<10}{result.lost} calls were never made")
    if found.rows:
        for row in found.rows:
            print(
                f"{'':<10}window {row.index:>3}: {row.arrivals:>4} arrivals, {row.refused:>3} 429s, {row.served:>4} of"
                f" {row.available:.0f} served ({row.used:.0%})"
            )
        back = "never" if found.recovery_windows is None else f"{found.recovery_windows:g} windows after it ended"
        print(f"{'':<10}back at 95 %: {back}")


def _verdict(line: Line, arguments: argparse.Namespace) -> str:
    is_plain = (arguments.workers, arguments.in_flight, arguments.latency_ms) == (4, 4, 200.0)
    if line.contender != "jobqueue" or str(line.case) not in HOLD or not is_plain or arguments.halve_for:
        return ""
    least, most_refused = HOLD[str(line.case)]
    median = line.median or 0.0
    is_quiet = all(result.figures.refused <= most_refused * result.figures.calls for result in line.results)
    words = []
    if not (arguments.flush_every or arguments.restart_redis_every):
        words.append(f"{'holds' if median >= least else 'MISSES'} at least {least:.0%}")
    words.append(f"{'holds' if is_quiet else 'MISSES'} 429s {'none' if not most_refused else 'at most 1 in 300'}")
    return "  " + ", ".join(words)


if __name__ == "__main__":
    sys.exit(main())
