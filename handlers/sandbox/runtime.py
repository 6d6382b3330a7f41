"""Open a sandbox on its data folder: seed, replay the ledger, take the limiter up where it was."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from handlers.sandbox import spotify
from handlers.sandbox.clock import LedgerClock, boot_id
from handlers.sandbox.counters import Counters
from handlers.sandbox.faults import FaultPlan, FaultRule
from handlers.sandbox.headers import HeaderPlan
from handlers.sandbox.ledger import read_ledger, read_lines
from handlers.sandbox.ledger_file import LedgerFile
from handlers.sandbox.limiter import Limit, Limiter, WindowKind
from handlers.sandbox.pipeline import Latency, Pipeline
from handlers.sandbox.provider import Provider, SeedOptions
from handlers.sandbox.state import State
from jobqueue.errors import ConfigurationError

LEDGER_NAME = "ledger.jsonl"
PROVIDERS: dict[str, Callable[[frozenset[str]], Provider]] = {"spotify": spotify.create}


@dataclass(frozen=True, slots=True)
class SandboxOptions:
    """How a sandbox behaves; `seed` decides faults and latencies, `library` what accounts start with."""

    provider: str
    limits: tuple[Limit, ...]
    window: WindowKind
    library: SeedOptions
    latency_s: float = 0.05
    latency_jitter: float = 0.5
    seed: str = "0"
    quirks: frozenset[str] = frozenset()
    fault_rules: tuple[FaultRule, ...] = ()
    headers: HeaderPlan = field(default_factory=HeaderPlan)


@dataclass(slots=True)
class _Past:
    """What the ledger says about earlier processes."""

    last_seq: int = 0
    last_ns: int = 0
    last_epoch_ns: int = 0
    last_boot: str = ""
    admitted_ns: list[int] = field(default_factory=list)


def open_sandbox(data: Path, options: SandboxOptions) -> Pipeline:
    """Open or continue the sandbox in *data*.

    Raises:
        ConfigurationError: The ledger there belongs to another provider or another seed library.
        ConflictError: Another sandbox runs there.
        ValueError: A quirk is unknown.
    """
    data.mkdir(parents=True, exist_ok=True)
    provider = PROVIDERS[options.provider](options.quirks)
    ledger = LedgerFile(data / LEDGER_NAME)
    state, counters, clock = State(), Counters(), LedgerClock()
    provider.seed(state, options.library)
    identity = {
        "provider": options.provider,
        "library": {**asdict(options.library), "accounts": list(options.library.accounts)},
    }
    past = _replay(ledger.path, state, counters, identity)
    same_boot = past.last_boot == boot_id()
    clock.continue_from(last_ns=past.last_ns, last_epoch_ns=past.last_epoch_ns, same_boot=same_boot)
    limiter = Limiter(options.limits, kind=options.window, clock=clock.now_ns)
    limiter.restore(past.admitted_ns)
    start = {"kind": "start", "at_ns": time.time_ns(), "mono_ns": clock.now_ns(), "boot_id": boot_id(), **identity}
    limits = [[limit.requests, limit.window_s] for limit in options.limits]
    ledger.sync(ledger.append({**start, "limits": limits, "window": options.window}))
    faults = FaultPlan(options.seed)
    for rule in options.fault_rules:
        faults.add(rule)
    return Pipeline(
        provider=provider,
        state=state,
        limiter=limiter,
        faults=faults,
        ledger=ledger,
        counters=counters,
        latency=Latency(options.latency_s, options.latency_jitter, options.seed),
        headers=options.headers,
        first_seq=past.last_seq + 1,
    )


def _replay(path: Path, state: State, counters: Counters, identity: dict[str, Any]) -> _Past:
    past = _Past()
    for line in read_lines(path):
        kind = line["kind"]
        past.last_ns = max(past.last_ns, line["mono_ns"])
        past.last_epoch_ns = max(past.last_epoch_ns, line["at_ns"])
        if kind == "start":
            _check_identity(path, line, identity)
            past.last_boot = line["boot_id"]
            continue
        past.last_seq = max(past.last_seq, line.get("seq", 0))
        if kind in ("request", "control"):
            for change in line["changes"]:
                state.apply(line["account"], change)
    for entry in read_ledger(path):
        counters.replay(entry)
        if entry.is_counted and entry.decision != "refused":
            past.admitted_ns.append(entry.mono_ns)
    return past


def _check_identity(path: Path, line: dict[str, Any], identity: dict[str, Any]) -> None:
    for name, value in identity.items():
        if line[name] != value:
            raise ConfigurationError(
                f"ledger {path} was begun with {name} {line[name]}, not {value}.",
                remedy="Start with the same options, or give another --data folder.",
            )
