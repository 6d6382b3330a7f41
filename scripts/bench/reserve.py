"""Measure what a reservation costs beside the `limits` library's strategies; ``scripts/bench/reserve`` starts it."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

import redis
from callers import Load, measure, memory_bytes, ratio
from machine import describe_machine, forget_surroundings, heading
from servers import own_valkey
from subjects import NAMES, subject

# By name: as `limits` writes it, units of a window, and after how many operations a caller turns to a fresh scope.
LIMITS = {"100/minute": ("100 per 1 minute", 100, 100), "1,000,000/hour": ("1000000 per 1 hour", 1_000_000, 0)}
SHARED_FILL = 500_000
# By name: our three windows, the hit's one, and how many scopes take turns so that no window binds.
RATIOS = {
    "exact entries": ("100 per 1 second; 1000 per 1 minute; 2000 per 1 hour", "1000 per 1 minute", 40),
    "sub-buckets": ("20000 per 1 second; 200000 per 1 minute; 1000000 per 1 hour", "1000000 per 1 hour", 1),
}
MOST_RATIO = 1.5
FEWEST_ROUNDS = 5


def main() -> int:
    """Measure and print; returns the exit code: 0 however slow it was, because a figure is no test."""
    parser = argparse.ArgumentParser(prog="scripts/bench/reserve", description=__doc__)
    parser.add_argument("--callers", default="1,8,32", help="processes at once, with commas (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=FEWEST_ROUNDS, help="measured rounds (default: %(default)s)")
    parser.add_argument("--operations", type=int, default=2000, help="of all callers in one block (%(default)s)")
    parser.add_argument("--pairs", type=int, default=2000, help="pairs of one round of the ratio (%(default)s)")
    parser.add_argument("--limit", choices=LIMITS, action="append", help="one of them alone; may be repeated")
    parser.add_argument("--json", action="store_true", dest="is_json", help="one JSON document, nothing else")
    arguments = parser.parse_args()
    callers = [int(text) for text in arguments.callers.split(",") if text.strip().isdigit()]
    if not callers or min(callers) < 1 or min(arguments.rounds, arguments.operations, arguments.pairs) < 1:
        parser.error("--callers must be numbers such as 1,8,32; --rounds, --operations and --pairs at least 1")
    most = max(scopes for _, _, scopes in RATIOS.values()) * 100
    if arguments.pairs > most:
        parser.error(f"--pairs must be at most {most}: more would not fit the windows")
    forget_surroundings()
    try:
        with own_valkey() as valkey:
            document = _document(valkey.url, callers, arguments)
    except KeyboardInterrupt:
        return 130
    if arguments.is_json:
        print(json.dumps(document, indent=2))
    else:
        _print(document)
    return 0


def _document(url: str, callers: list[int], arguments: argparse.Namespace) -> dict[str, Any]:
    machine = describe_machine(redis_url=url, packages=("limits", "redis"))
    say = sys.stderr if arguments.is_json else sys.stdout
    calls: dict[str, dict[str, Any]] = {}
    limits = {name: LIMITS[name] for name in arguments.limit or LIMITS}
    for limit_name, (limit, _, per_scope) in limits.items():
        for count in callers:
            print(f"{limit_name}, {count} callers …", file=say, flush=True)
            _empty(url)
            operations = -(-arguments.operations // count)
            if per_scope:
                operations = -(-operations // per_scope) * per_scope
            else:
                _fill_shared(url, limit)
            load = Load(limit, count, arguments.rounds, operations, per_scope)
            calls.setdefault(limit_name, {})[str(count)] = measure(url, load)
    ratios = {}
    for name, (windows, limit, scopes) in RATIOS.items():
        print(f"ratio, {name} …", file=say, flush=True)
        _empty(url)
        ratios[name] = ratio(url, windows, limit, rounds=arguments.rounds, pairs=arguments.pairs, scopes=scopes) | {
            "windows": windows,
            "hit": limit,
        }
    print("memory …", file=say, flush=True)
    memory = {
        name: {limit_name: memory_bytes(url, name, limit, count) for limit_name, (limit, count, _) in limits.items()}
        for name in NAMES
    }
    return {"machine": machine, "rounds": arguments.rounds, "calls": calls, "ratios": ratios, "memory_bytes": memory}


def _empty(url: str) -> None:
    with redis.Redis.from_url(url) as client:
        client.flushall()


def _fill_shared(url: str, limit: str) -> None:
    """Half of the large window is used already, as in the middle of a long run."""
    for name in NAMES:
        one = subject(name, url, limit)
        one.prepare(["shared"])
        one.fill("shared", SHARED_FILL)


def _print(document: dict[str, Any]) -> None:
    print("\n" + heading(document["machine"]))
    print(
        f"callers are processes on {document['machine']['cores']} cores, the server among them: with more callers than"
        f" cores they wait for a core too\nmedians of {document['rounds']} rounds; a hit counts and is done, a reserve"
        " is settled by a second call\n"
    )
    print(f"{'limit':<16}{'callers':>8}  {'':<32}{'operations/s':>13}{'p50 µs':>9}{'p99 µs':>9}")
    for limit_name, by_callers in document["calls"].items():
        for count, by_name in by_callers.items():
            for name, found in by_name.items():
                print(
                    f"{limit_name:<16}{count:>8}  {name:<32}{found['operations_per_s']:>13,.0f}"
                    f"{found['p50_us']:>9,.0f}{found['p99_us']:>9,.0f}"
                )
    print("\nreserve of three windows + breaker + concurrency ÷ one moving-window hit, in turn in one process")
    for name, found in document["ratios"].items():
        for what in ("p50", "p99"):
            middle = found[f"ratio_{what}"]
            verdict = "holds" if middle <= MOST_RATIO else "MISSES"
            every = ", ".join(f"{one:.2f}" for one in found["rounds"][f"ratio_{what}"])
            print(
                f"{name:<16}{what}  {found[f'ours_{what}_us']:>7,.0f} µs ÷ {found[f'theirs_{what}_us']:>6,.0f} µs ="
                f" {middle:5.2f}  {verdict} at most {MOST_RATIO:g}  ({every})"
            )
    print("\nRedis memory of one scope filled to its limit, all keys, bytes")
    for name, by_limit in document["memory_bytes"].items():
        words = "".join(f"{limit_name:>18} {size:>11,}" for limit_name, size in by_limit.items())
        print(f"{name:<32}{words}")


if __name__ == "__main__":
    sys.exit(main())
