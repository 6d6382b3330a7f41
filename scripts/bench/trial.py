"""One run of one contender: its own servers, its own sandbox, its work, what disturbs it, and the ledger's verdict."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import redis
from case import Case
from figures import NS_PER_S, Figures, Shortage, figures

from handlers.sandbox.launch import SandboxProcess, start_sandbox
from handlers.sandbox.ledger import read_ledger, read_lines
from jobqueue.local import ProcessSpec, Supervisor
from jobqueue.local.valkey import Valkey
from jobqueue.settings import child_environment

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
SKEWED = HERE / "skewed"
TOKEN = "sandbox-demo"  # noqa: S105 - what the sandbox takes
POLL_S = 0.2
START_S = 60.0


@dataclass(frozen=True, slots=True)
class Disturbance:
    """What happens meanwhile; 0 for never.

    Attributes:
        clock_skew_s: Workers' wall clocks are ahead and behind by this, in turn.
        flush_every_s: FLUSHALL.
        restart_redis_every_s: kill -9 of the server and a new start.
        halve_after: Windows after the first arrival until half the quota is gone.
        halve_for: For how many windows.
        is_by_client: Another client takes that half; else the provider lowers the limit.
    """

    clock_skew_s: float = 0.0
    flush_every_s: float = 0.0
    restart_redis_every_s: float = 0.0
    halve_after: int = 0
    halve_for: int = 0
    is_by_client: bool = True


@dataclass(frozen=True, slots=True)
class Plan:
    """What a contender is given to do."""

    case: Case
    kind: str
    windows: int
    workers: int
    in_flight: int
    latency_ms: float
    seed: int
    disturbance: Disturbance = field(default_factory=Disturbance)

    @property
    def calls(self) -> int:
        """Requests to make: full windows and one burst more, which is what ends the last of them."""
        requests = self.case.tightest.requests
        return requests * (self.windows + 1) - requests * self.disturbance.halve_for // 2

    @property
    def patience_s(self) -> float:
        """After so long without an arrival the rest counts as lost."""
        # Clocks apart by twice the skew may make a rival wait as long.
        return 3.0 * self.case.tightest.window_s + 45.0 + 3.0 * self.disturbance.clock_skew_s


@dataclass(frozen=True, slots=True)
class Result:
    """What came of it.

    Attributes:
        lost: Requests that were never made.
        disturbed: Flushes and restarts that took place.
        log: The last lines of its processes, where requests were lost.
    """

    figures: Figures
    lost: int
    disturbed: int
    log: str = ""

    def as_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return self.figures.as_dict() | {"lost": self.lost, "disturbed": self.disturbed, "log": self.log}


@dataclass(frozen=True, slots=True)
class Site:
    """Where a contender works."""

    plan: Plan
    place: Path
    sandbox: SandboxProcess

    def environment(self, worker: int, **variables: str) -> dict[str, str]:
        """What worker number *worker* runs in: this checkout's code, and its clock."""
        paths = [str(HERE / "quota_package"), str(HERE), str(ROOT)]
        skew_s = self.plan.disturbance.clock_skew_s
        if skew_s:
            paths.insert(0, str(SKEWED))
            variables["BENCH_CLOCK_SKEW_S"] = str(skew_s if worker % 2 == 0 else -skew_s)
        paths += [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
        return child_environment(PYTHONPATH=os.pathsep.join(paths), **variables)


class Contender(Protocol):
    """Somebody who can do the work."""

    name: str

    def servers(self, place: Path) -> Any:
        """A context manager that starts what it needs and gives the `Valkey` among it."""

    def specs(self, site: Site, valkey: Valkey) -> list[ProcessSpec]:
        """Its processes."""

    def begin(self, site: Site, valkey: Valkey, log: Path) -> None:
        """Wait until the processes are ready, and hand the work in."""

    def is_over(self) -> bool:
        """Whether it, too, says that all is done."""

    def close(self) -> None:
        """Let go of what `begin` opened."""


def run(contender: Contender, plan: Plan, place: Path, stop: threading.Event) -> Result:
    """Let *contender* do the work of *plan* in the empty folder *place*, or as much of it as was done at *stop*."""
    with ExitStack() as stack:
        valkey = stack.enter_context(contender.servers(place))
        sandbox = stack.enter_context(
            start_sandbox(
                place / "sandbox",
                limit=plan.case.for_sandbox,
                window=plan.kind,
                latency_ms=plan.latency_ms,
                latency_jitter=0.5,
                seed=plan.seed,
                seed_library=0,
                seed_artists=0,
                seed_playlists=0,
            )
        )
        site = Site(plan, place, sandbox)
        log = place / "processes.log"
        disturbed = _Disturbed(plan, sandbox, valkey)
        with _processes(contender.specs(site, valkey), log):
            stack.callback(contender.close)
            contender.begin(site, valkey, log)
            _watch(contender, plan, sandbox, disturbed, stop)
        shortage = disturbed.shortage()
    entries = list(read_ledger(sandbox.ledger_path))
    found = figures(entries, plan.case, plan.kind, shortage)
    lost = max(0, plan.calls - found.calls)
    tail = log.read_text(errors="replace")[-1500:] if lost else ""
    return Result(found, lost, disturbed.times, tail)


@contextmanager
def _processes(specs: list[ProcessSpec], log: Path) -> Iterator[None]:
    with log.open("a", buffering=1) as lines:
        supervisor = Supervisor(specs, on_line=lambda name, line: print(name, line, file=lines), grace_s=5.0)
        with supervisor:
            yield


def _watch(
    contender: Contender, plan: Plan, sandbox: SandboxProcess, disturbed: _Disturbed, stop: threading.Event
) -> None:
    """Until all is served, or nothing comes any more."""
    seen, moved_at_s = -1, time.monotonic()
    pause_s = 0.0
    while not stop.wait(pause_s):
        stats = sandbox.control("stats")
        now_s = time.monotonic()
        if stats["arrivals"] != seen:
            seen, moved_at_s = stats["arrivals"], now_s
        if stats["served"] >= plan.calls and contender.is_over():
            return
        if now_s - moved_at_s > plan.patience_s:
            return
        if stats["arrivals"]:
            disturbed.look(now_s)
        pause_s = min(POLL_S, disturbed.due_in_s())


class _Disturbed:
    """Does what the plan's disturbance says, when it is due."""

    def __init__(self, plan: Plan, sandbox: SandboxProcess, valkey: Valkey) -> None:
        self.times = 0
        self._plan = plan
        self._wanted = plan.disturbance
        self._sandbox = sandbox
        self._valkey = valkey
        self._flush_at_s = self._restart_at_s = self._halve_at_s = float("inf")
        self._has_begun = False
        self._halved: tuple[int, int] | None = None

    def look(self, now_s: float) -> None:
        """Called several times a second, from the first arrival on."""
        if not self._has_begun:
            self._begin(now_s)
        if now_s >= self._flush_at_s:
            self._flush_at_s += self._wanted.flush_every_s
            with redis.Redis.from_url(self._valkey.url) as client:
                client.flushall()
            self.times += 1
        if now_s >= self._restart_at_s:
            self._restart_at_s += self._wanted.restart_redis_every_s
            self._valkey.kill()
            self._valkey.restart()
            self.times += 1
        if now_s >= self._halve_at_s:
            self._halve_at_s = float("inf")
            self._halve()

    def due_in_s(self) -> float:
        """Seconds until the next thing is to be done."""
        return max(0.0, min(self._flush_at_s, self._restart_at_s, self._halve_at_s) - time.monotonic())

    def _begin(self, now_s: float) -> None:
        self._has_begun = True
        wanted, window_s = self._wanted, self._plan.case.tightest.window_s
        if wanted.flush_every_s:
            self._flush_at_s = now_s + wanted.flush_every_s
        if wanted.restart_redis_every_s:
            self._restart_at_s = now_s + wanted.restart_redis_every_s
        if wanted.halve_for:
            self._halve_at_s = now_s + wanted.halve_after * window_s
            if self._plan.kind == "fixed":
                # Fixed windows begin at multiples of their length in ledger time, which starts as the wall clock.
                self._halve_at_s += -(time.time() + wanted.halve_after * window_s) % window_s

    def _halve(self) -> None:
        for_s = self._wanted.halve_for * self._plan.case.tightest.window_s
        what = "share_taken" if self._wanted.is_by_client else "factor"
        self._sandbox.control("limits", {what: 0.5, "for_s": for_s})
        # In ledger time, as the sandbox wrote it down.
        start_ns = next(
            int(line["mono_ns"]) for line in read_lines(self._sandbox.ledger_path) if line.get("action") == "limits"
        )
        self._halved = start_ns, start_ns + for_s * NS_PER_S

    def shortage(self) -> Shortage | None:
        """What was taken, in ledger time, once the work is done."""
        if self._halved is None:
            return None
        taken_ns = None
        if self._wanted.is_by_client:
            taken_ns = tuple(int(at_ns) for at_ns in self._sandbox.control("limits")["shared_ns"])
        return Shortage(*self._halved, share=0.5, taken_ns=taken_ns)
