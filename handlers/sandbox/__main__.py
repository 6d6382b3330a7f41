"""``python -m handlers.sandbox``: run a provider sandbox until SIGTERM or SIGINT.

Prints one line of JSON when it is ready and writes it to ``sandbox.json`` in the data folder. Exit codes: 0 stopped, 2
bad usage.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import sys
import threading
from pathlib import Path

from handlers.sandbox.faults import parse_rates
from handlers.sandbox.headers import FAMILIES, RESETS, RETRY_AFTERS, HeaderPlan
from handlers.sandbox.limiter import parse_limits
from handlers.sandbox.provider import SeedOptions
from handlers.sandbox.runtime import PROVIDERS, SandboxOptions, open_sandbox
from handlers.sandbox.server import SandboxServer
from jobqueue.errors import JobQueueError

_PARENT_POLL_S = 0.2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m handlers.sandbox", description="A provider as a local HTTP server."
    )
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder of the ledger; continued when it has one")
    add("--port", type=_count, default=0, help="TCP port on 127.0.0.1; 0 takes a free one")
    add("--provider", choices=sorted(PROVIDERS), default="spotify")
    add("--limit", default="100/60", help="requests/seconds, several with commas (default: 100/60)")
    add("--window", choices=("rolling", "fixed"), default="rolling")
    add("--headers", choices=FAMILIES, default="none", help="rate-limit headers on every answer")
    add("--reset", choices=RESETS, default="delta_seconds", help="how they write the reset")
    add("--retry-after", choices=RETRY_AFTERS, default="seconds", help="how a 429 writes Retry-After")
    add("--date-offset-s", type=float, default=0.0, help="how far the server's Date is ahead")
    add("--latency-ms", type=_amount, default=50.0)
    add("--latency-jitter", type=_amount, default=0.5, help="share of the latency it swings by (default: 0.5)")
    add("--accounts", default="demo", help="names, with commas (default: demo)")
    add("--seed-library", type=_count, default=3000, help="saved tracks of each account")
    add("--seed-artists", type=_count, default=60, help="followed artists of each account")
    add("--seed-playlists", type=_count, default=3, help="playlists of each account")
    add("--seed-playlist-items", type=_count, default=120, help="entries of each playlist, a third of them repeated")
    add("--fault-rate", default="", help="such as 5xx=0.01,drop=0.01,slow=0.01,429=0.01")
    add("--slow-s", type=_amount, default=2.0, help="how long a slow answer takes")
    add("--quirks", default="", help="spotify: no-library-artists, development-mode")
    add("--seed", default="0", help="decides faults and latencies")
    add("--die-with-parent", type=int, nargs="?", const=0, metavar="PID", help="stop when the parent process is gone")
    return parser


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return number


def _amount(text: str) -> float:
    number = float(text)
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is negative or not finite")
    return number


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _options(args: argparse.Namespace) -> SandboxOptions:
    library = SeedOptions(
        accounts=_names(args.accounts),
        library=args.seed_library,
        artists=args.seed_artists,
        playlists=args.seed_playlists,
        playlist_items=args.seed_playlist_items,
    )
    return SandboxOptions(
        provider=args.provider,
        limits=parse_limits(args.limit),
        window=args.window,
        library=library,
        latency_s=args.latency_ms / 1000,
        latency_jitter=args.latency_jitter,
        seed=args.seed,
        quirks=frozenset(_names(args.quirks)),
        headers=HeaderPlan(args.headers, args.reset, args.retry_after, args.date_offset_s),
        fault_rules=tuple(parse_rates(args.fault_rate, slow_s=args.slow_s)),
    )


def _watch_parent(parent: int, stop: threading.Event) -> None:
    """Stop when *parent* is gone. Polled: PR_SET_PDEATHSIG is Linux only and fires when the starting THREAD ends."""
    while os.getppid() == parent:
        if stop.wait(_PARENT_POLL_S):
            return
    stop.set()


def main() -> int:
    """Run until told to stop; returns the exit code."""
    parser = _parser()
    args = parser.parse_args()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        pipeline = open_sandbox(args.data, _options(args))
        server = SandboxServer(args.port, pipeline)
    except (JobQueueError, ValueError, OSError) as error:
        parser.error(str(error))
    if args.die_with_parent is not None:
        parent = args.die_with_parent or os.getppid()
        threading.Thread(target=_watch_parent, args=(parent, stop), daemon=True).start()
    serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    serving.start()
    ready = {
        "base_url": server.origin + pipeline.provider.base_path,
        "token_url": server.origin + pipeline.provider.token_path,
        "control_url": server.origin + "/_control",
        "ledger": str(pipeline.ledger.path.resolve()),
        "pid": os.getpid(),
    }
    (args.data / "sandbox.json").write_text(json.dumps(ready) + "\n", encoding="utf-8")
    print(json.dumps(ready), flush=True)
    stop.wait()
    pipeline.stopping.set()
    pipeline.faults.remove()
    server.shutdown()
    server.server_close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
