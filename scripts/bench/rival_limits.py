"""The work done with the `limits` library: its moving window in Redis before each request, Retry-After after a 429."""

from __future__ import annotations

import json
import multiprocessing as mp
import os
import threading
import time
from collections.abc import Sequence
from typing import Any

import redis
import requests
from limits import RateLimitItem, parse_many
from limits.storage import storage_from_string
from limits.strategies import MovingWindowRateLimiter

KEY = "provider"
SHORTEST_WAIT_S = 0.001
REDIS_AWAY_S = 0.1


def main() -> None:
    """Start the processes and wait for them."""
    work = json.loads(os.environ["BENCH_WORK"])
    context = mp.get_context("spawn")
    left = context.Value("i", work["calls"])
    processes = []
    for number in range(work["processes"]):
        os.environ["BENCH_CLOCK_SKEW_S"] = str(work["skew_s"] * (-1) ** number)
        processes.append(context.Process(target=serve, args=(work, left)))
        processes[-1].start()
    for process in processes:
        process.join()


def serve(work: dict[str, Any], left: Any) -> None:
    """One process: its threads share a limiter, as the library allows."""
    limiter = MovingWindowRateLimiter(storage_from_string(work["redis_url"]))
    items = parse_many(work["limits"])
    threads = [threading.Thread(target=call_all, args=(work, left, limiter, items)) for _ in range(work["threads"])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def call_all(work: dict[str, Any], left: Any, limiter: MovingWindowRateLimiter, items: Sequence[RateLimitItem]) -> None:
    """One thread: takes a call while any is left and makes it until it is served."""
    session = requests.Session()
    session.trust_env = False
    session.headers["Authorization"] = f"Bearer {work['token']}"
    while take(left):
        while True:
            admit(limiter, items)
            answer = session.get(work["url"], timeout=30)
            if answer.status_code != requests.codes.too_many_requests:
                answer.raise_for_status()
                break
            time.sleep(float(answer.headers["Retry-After"]))


def take(left: Any) -> bool:
    """Take one of the calls left."""
    with left.get_lock():
        left.value -= 1
        return bool(left.value >= 0)


def admit(limiter: MovingWindowRateLimiter, items: Sequence[RateLimitItem]) -> None:
    """Return once every limit has counted the request.

    A hit counts at once, so of several limits all are tested first, and then the shortest is hit first: what it lost in
    vain is soon free again.
    """
    shortest_first = sorted(items, key=lambda item: item.get_expiry())
    while True:
        try:
            full = [item for item in items if not limiter.test(item, KEY)] if len(items) > 1 else []
            if not full:
                refusing = next((item for item in shortest_first if not limiter.hit(item, KEY)), None)
                full = [] if refusing is None else [refusing]
            if not full:
                return
            waits = [limiter.get_window_stats(item, KEY) for item in full]
        except (redis.ConnectionError, redis.TimeoutError):
            time.sleep(REDIS_AWAY_S)
            continue
        free_at_s = max((stats.reset_time for stats in waits if not stats.remaining), default=0.0)
        time.sleep(max(SHORTEST_WAIT_S, free_at_s - time.time()))


if __name__ == "__main__":
    main()
