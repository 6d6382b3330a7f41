"""Many processes that call a limiter at once, block by block, and the ratio of two calls taken in turn in one process.

The blocks of all subjects alternate in the same processes, in an order that moves on with each round, behind a barrier:
each subject has the server to itself, and none has a better moment than the others. The collector of garbage is off
while a block is measured.
"""

from __future__ import annotations

import gc
import multiprocessing as mp
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier
from typing import Any

import redis
from limits import parse
from limits.storage import storage_from_string
from limits.strategies import MovingWindowRateLimiter
from subjects import NAMES, full_limiter, reserve_one, settle_one, subject

from jobqueue.model.limit import Scope

BARRIER_S = 120.0
WARM_ROUNDS = 1


@dataclass(frozen=True, slots=True)
class Load:
    """What the callers do.

    Attributes:
        limit: Such as ``100 per 1 minute``.
        callers: Processes at once.
        rounds: Measured ones; one more goes before them.
        operations: Of each caller in one block.
        per_scope: After so many a caller goes to its next scope; 0 keeps all callers at the scope ``shared``.
    """

    limit: str
    callers: int
    rounds: int
    operations: int
    per_scope: int


@contextmanager
def without_collector() -> Iterator[None]:
    """Nothing is collected meanwhile."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def timed_ns(call: Callable[[], object]) -> int:
    """How long *call* takes."""
    started_ns = time.perf_counter_ns()
    call()
    return time.perf_counter_ns() - started_ns


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least *share* of all values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]


def measure(url: str, load: Load) -> dict[str, dict[str, float]]:
    """For each subject: operations/s, p50 and p99 in microseconds, each the median over the rounds."""
    # Spawned: a forked process would share connections and locks with this one.
    context = mp.get_context("spawn")
    barrier = context.Barrier(load.callers)
    answers: Any = context.Queue()
    processes = [
        context.Process(target=_call, args=(url, load, number, barrier, answers), daemon=True)
        for number in range(load.callers)
    ]
    for process in processes:
        process.start()
    blocks: defaultdict[tuple[str, int], list[tuple[int, int, list[int]]]] = defaultdict(list)
    for _ in range(load.callers):
        found = answers.get(timeout=BARRIER_S * (load.rounds + 1))
        if isinstance(found, str):
            raise SystemExit(f"a caller failed: {found}")
        for name, number, *block in found:
            blocks[name, number].append(block)
    for process in processes:
        process.join()
    return {name: _medians([blocks[name, number] for number in range(load.rounds)]) for name in NAMES}


def _medians(rounds: Sequence[Sequence[tuple[int, int, list[int]]]]) -> dict[str, float]:
    rates, middles, tails = [], [], []
    for blocks in rounds:
        took_ns = max(ended for _, ended, _ in blocks) - min(started for started, _, _ in blocks)
        latencies = [latency for _, _, of_caller in blocks for latency in of_caller]
        rates.append(len(latencies) / (took_ns / 1e9))
        middles.append(percentile(latencies, 0.50) / 1000)
        tails.append(percentile(latencies, 0.99) / 1000)
    found = {"operations_per_s": rates, "p50_us": middles, "p99_us": tails}
    return {name: statistics.median(values) for name, values in found.items()}


def _call(url: str, load: Load, number: int, barrier: Barrier, answers: Any) -> None:
    try:
        answers.put(_blocks(url, load, number, barrier))
    except BaseException as error:
        barrier.abort()
        answers.put(f"{type(error).__name__}: {error}")
        raise


def _blocks(url: str, load: Load, number: int, barrier: Barrier) -> list[tuple[str, int, int, int, list[int]]]:
    subjects = {name: subject(name, url, load.limit) for name in NAMES}
    found = []
    for round_ in range(-WARM_ROUNDS, load.rounds):
        for turn in range(len(NAMES)):
            name = NAMES[(turn + round_) % len(NAMES)]
            one = subjects[name]
            scopes = _scopes(load, number, round_)
            one.prepare(scopes)
            each = load.per_scope or load.operations
            latencies = [0] * load.operations
            with without_collector():
                barrier.wait(BARRIER_S)
                started_ns = before_ns = time.perf_counter_ns()
                for index in range(load.operations):
                    one.once(scopes[index // each])
                    now_ns = time.perf_counter_ns()
                    latencies[index] = now_ns - before_ns
                    before_ns = now_ns
            if round_ >= 0:
                found.append((name, round_, started_ns, before_ns, latencies))
            barrier.wait(BARRIER_S)
    return found


def _scopes(load: Load, number: int, round_: int) -> list[str]:
    if not load.per_scope:
        return ["shared"]
    return [f"s{load.callers}-{number}-{round_}-{n}" for n in range(-(-load.operations // load.per_scope))]


def ratio(url: str, windows: str, limit: str, *, rounds: int, pairs: int, scopes: int) -> dict[str, Any]:
    """Reserve of three *windows*, breaker and concurrency against one moving-window hit of *limit*, in turn.

    Args:
        url: An empty server.
        windows: Three; wide enough that none binds.
        limit: What the hit counts; wide enough as well.
        rounds: Measured ones; one more goes before them.
        pairs: Of one round.
        scopes: They take turns, so that each is used more slowly than its shortest window allows.

    Returns:
        Medians over the rounds: ``ours_p50_us``, ``theirs_p50_us`` and so on with p99, and their ratios by round.
    """
    moving, item = MovingWindowRateLimiter(storage_from_string(url)), parse(limit)
    figures: defaultdict[str, list[float]] = defaultdict(list)
    for number in range(-WARM_ROUNDS, rounds):
        names = [f"r{number}-{n}" for n in range(scopes)]
        limiter = full_limiter(url, windows, names)
        ours: list[int] = []
        theirs: list[int] = []
        with without_collector():
            for index in range(pairs):
                _pair(limiter, Scope(names[index % scopes]), moving, item, index, ours, theirs)
        limiter.close()
        if number < 0:
            continue
        for what, share in (("p50", 0.50), ("p99", 0.99)):
            mine, other = percentile(ours, share) / 1000, percentile(theirs, share) / 1000
            figures[f"ours_{what}_us"].append(mine)
            figures[f"theirs_{what}_us"].append(other)
            figures[f"ratio_{what}"].append(mine / other)
    medians: dict[str, Any] = {name: statistics.median(values) for name, values in figures.items()}
    return medians | {"rounds": {name: figures[name] for name in ("ratio_p50", "ratio_p99")}}


def _pair(
    limiter: Any,
    scope: Scope,
    moving: MovingWindowRateLimiter,
    item: Any,
    index: int,
    ours: list[int],
    theirs: list[int],
) -> None:
    """One call of each, the first one in turn; the answer is settled after both, unmeasured."""
    slots: list[Any] = []

    def reserve() -> None:
        slots.append(reserve_one(limiter, scope))

    def hit() -> None:
        if not moving.hit(item, scope.name):
            raise SystemExit(f"{scope.name}: the hit was refused")

    if index % 2:
        theirs.append(timed_ns(hit))
        ours.append(timed_ns(reserve))
    else:
        ours.append(timed_ns(reserve))
        theirs.append(timed_ns(hit))
    settle_one(limiter, slots[0])


def memory_bytes(url: str, name: str, limit: str, count: int) -> int:
    """What one scope filled to *limit* occupies: MEMORY USAGE over every key there is; the server is emptied first."""
    with redis.Redis.from_url(url) as client:
        client.flushall()
        one = subject(name, url, limit)
        one.prepare(["m"])
        one.fill("m", count)
        return sum(int(client.memory_usage(key, samples=0) or 0) for key in client.scan_iter(count=1000))
