"""Clients of one limiter under a clock that stands still: who asks when, who is served, how often."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

from ratelimit_world import SPOTIFY, Clock

from jobqueue.model.job import Priority
from jobqueue.model.limit import Granted, Slot, SlotResult
from jobqueue.ratelimit.limiter import Limiter

LATENCY_S = (0.1, 0.3)


@dataclass
class Client:
    """One job: asks when it is told to, keeps up to *in_flight* requests under way, is never out of work."""

    name: str
    priority: Priority = Priority.DEFAULT
    in_flight: int = 4
    begins_s: float = 0.0
    items: int | None = None
    wakes_within_s: float = 0.1
    under_way: int = 0
    is_asking: bool = False
    granted_at_us: list[int] = field(default_factory=list)
    denied_at_us: list[int] = field(default_factory=list)

    @property
    def is_done(self) -> bool:
        """Whether it has had all its items."""
        return self.items is not None and len(self.granted_at_us) >= self.items


def play(limiter: Limiter, clock: Clock, clients: Sequence[Client], *, for_s: float, seed: int = 1) -> int:
    """Let *clients* work for *for_s* seconds; how often they asked."""
    random, events, calls = Random(seed), [], 0
    began_us = clock.now_us

    def at(time_us: float, do: Callable[[], None]) -> None:
        heapq.heappush(events, (round(time_us), random.random(), do))

    def ask_at(client: Client, time_us: float) -> None:
        if not client.is_asking:
            client.is_asking = True
            at(time_us, lambda: ask(client))

    def ask(client: Client) -> None:
        nonlocal calls
        client.is_asking = False
        free = client.in_flight - client.under_way
        if client.items is not None:
            free = min(free, client.items - len(client.granted_at_us))
        if free <= 0:
            return
        calls += 1
        decision = limiter.reserve(SPOTIFY, want=free, owner=client.name, priority=client.priority)
        if not isinstance(decision, Granted):
            client.denied_at_us.append(clock.now_us)
            late_s = random.random() * client.wakes_within_s if decision.retry_after_s > 2 else 0.002
            ask_at(client, clock.now_us + (decision.retry_after_s + late_s) * 1_000_000)
            return
        for slot in decision.slots:
            client.under_way += 1
            client.granted_at_us.append(clock.now_us)
            answer_in(client, slot, random.uniform(*LATENCY_S))

    def answer_in(client: Client, slot: Slot, latency_s: float) -> None:
        def answer() -> None:
            client.under_way -= 1
            limiter.settle([SlotResult(slot, latency_s=latency_s)])
            ask_at(client, clock.now_us + 1000)

        at(clock.now_us + latency_s * 1_000_000, answer)

    for client in clients:
        ask_at(client, began_us + (client.begins_s + random.random() / 10) * 1_000_000)
    while events and events[0][0] <= began_us + for_s * 1_000_000:
        time_us, _, do = heapq.heappop(events)
        clock.now_us = max(clock.now_us, time_us)
        do()
    return calls


def fairness(clients: Sequence[Client]) -> float:
    """Jain's index of what each was granted: 1 when all got the same, 1/n when one got all."""
    counts = [len(client.granted_at_us) for client in clients]
    return sum(counts) ** 2 / (len(counts) * sum(count * count for count in counts))
