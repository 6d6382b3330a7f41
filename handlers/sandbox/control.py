"""The control API under ``/_control/``: look at the state, order faults, change limits, judge. No limit counts it.

GET    state?account=demo          everything the account has
GET    faults                      rules in force
POST   faults                      one rule or a list of them (see `faults.FaultRule`) -> their ids
DELETE faults, faults/{id}         withdraw; what a rule holds goes on
POST   limits                      {"limits": "50/60", "window": "rolling"} | {"factor": 0.5, "for_s": 30}
                                   | {"competitor_per_s": 1, "for_s": 30} | {"share_taken": 0.5, "for_s": 30}
                                   | {"block_s": 30}
GET    limits                      limits, window, and when (ledger time) the client of "share_taken" took its slots
POST   headers                     {"family": "draft10", "reset": "epoch_seconds", "retry_after": "http_date",
                                   "date_offset_s": 3600}, any of them; see `headers.HeaderPlan`
POST   latency                     {"latency_ms": 50, "jitter": 0.5}
POST   expire_token                {"account": "demo", "refresh": false}: with refresh the refresh token is revoked too
GET    stats                       arrivals, served, refused (429 by the limit), faults; by operation and status
GET    wait?counter=served&at_least=5&operation=&timeout_s=10    answers when the count is reached, 408 when time is up
GET    violations                  for each limit the most requests in any window, recomputed from the ledger
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from handlers.sandbox.faults import parse_rule
from handlers.sandbox.ledger import max_in_any_window, max_in_fixed_windows, read_ledger
from handlers.sandbox.limiter import parse_limits
from handlers.sandbox.pipeline import Pipeline

Reply = tuple[int, Any]


class Control:
    """Answers the control API of one pipeline."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._routes: dict[tuple[str, str], Callable[[Mapping[str, str], Any], Reply]] = {
            ("GET", "state"): self._state,
            ("GET", "faults"): lambda _query, _body: (200, self._pipeline.faults.as_json()),
            ("POST", "faults"): self._add_faults,
            ("GET", "limits"): lambda _query, _body: (200, _limits_of(self._pipeline)),
            ("POST", "limits"): self._limits,
            ("POST", "headers"): self._headers,
            ("POST", "latency"): self._latency,
            ("POST", "expire_token"): self._expire_token,
            ("GET", "stats"): lambda _query, _body: (200, self._pipeline.counters.as_json()),
            ("GET", "wait"): self._wait,
            ("GET", "violations"): lambda _query, _body: (200, violations(self._pipeline)),
        }

    def handle(self, method: str, path: str, query: Mapping[str, str], body: Any) -> Reply:
        """Answer one call; *path* is what follows ``/_control/``. A wrong value is 400 with its name."""
        try:
            if method == "DELETE" and path.partition("/")[0] == "faults":
                return 200, {"removed": self._pipeline.faults.remove(path.partition("/")[2])}
            route = self._routes.get((method, path))
            return (404, {"error": f"no control {method} {path}"}) if route is None else route(query, body)
        except (ValueError, TypeError, KeyError) as error:
            return 400, {"error": f"{type(error).__name__}: {error}"}

    def _state(self, query: Mapping[str, str], _body: Any) -> Reply:
        with self._pipeline.state.lock:
            return 200, self._pipeline.state.dump(query.get("account", "demo"))

    def _add_faults(self, _query: Mapping[str, str], body: Any) -> Reply:
        rules = [parse_rule(values) for values in (body if isinstance(body, list) else [body])]
        return 200, {"ids": [self._pipeline.faults.add(rule) for rule in rules]}

    def _limits(self, _query: Mapping[str, str], body: Any) -> Reply:
        limiter, unknown = (
            self._pipeline.limiter,
            set(body) - {"limits", "window", "factor", "competitor_per_s", "share_taken", "block_s", "for_s"},
        )
        if unknown:
            raise ValueError(f"limits: unknown field {sorted(unknown)}")
        if body.get("window") not in (None, "rolling", "fixed"):
            raise ValueError(f"limits: window {body['window']!r} is not rolling or fixed")
        if "limits" in body or "window" in body:
            limiter.configure(parse_limits(body["limits"]) if "limits" in body else limiter.limits, body.get("window"))
        if "factor" in body:
            limiter.scale(float(body["factor"]), for_s=float(body["for_s"]))
        if "competitor_per_s" in body:
            limiter.compete(float(body["competitor_per_s"]), for_s=float(body["for_s"]))
        if "share_taken" in body:
            limiter.share(float(body["share_taken"]), for_s=float(body["for_s"]))
        if "block_s" in body:
            limiter.block(for_s=float(body["block_s"]))
        self._record("limits", "", body, [])
        return 200, {}

    def _headers(self, _query: Mapping[str, str], body: Any) -> Reply:
        self._pipeline.headers = self._pipeline.headers.changed(body)
        self._record("headers", "", body, [])
        return 200, {}

    def _latency(self, _query: Mapping[str, str], body: Any) -> Reply:
        latency = self._pipeline.latency
        latency.base_s = float(body["latency_ms"]) / 1000
        latency.jitter = float(body.get("jitter", latency.jitter))
        return 200, {}

    def _expire_token(self, _query: Mapping[str, str], body: Any) -> Reply:
        state, account = self._pipeline.state, str(body.get("account", "demo"))
        with state.lock:
            change = self._pipeline.provider.expire_token(account, state, also_refresh=bool(body.get("refresh")))
            state.apply(account, change)
            ticket = self._record("expire_token", account, body, [change])
        self._pipeline.ledger.sync(ticket)
        return 200, {}

    def _record(self, action: str, account: str, body: Any, changes: list[Any]) -> int:
        at = {"at_ns": time.time_ns(), "mono_ns": self._pipeline.limiter.stamp().at_ns}
        line = {"kind": "control", **at, "action": action, "account": account, "body": body, "changes": changes}
        return self._pipeline.ledger.append(line)

    def _wait(self, query: Mapping[str, str], _body: Any) -> Reply:
        is_reached = self._pipeline.counters.wait(
            query["counter"],
            int(query["at_least"]),
            operation=query.get("operation", ""),
            timeout_s=float(query.get("timeout_s", "10")),
        )
        return (200 if is_reached else 408), self._pipeline.counters.as_json()


def _limits_of(pipeline: Pipeline) -> dict[str, Any]:
    limiter = pipeline.limiter
    limits = [{"limit": limit.requests, "window_s": limit.window_s} for limit in limiter.limits]
    return {"window": limiter.kind, "limits": limits, "shared_ns": limiter.shared_ns()}


def violations(pipeline: Pipeline) -> dict[str, Any]:
    """Scan the ledger for the most requests in any window of each limit's length.

    ``is_violated`` is about all arrivals, refused ones included: what a careful client sent. With fixed windows it is
    about these, since twice the limit may rightly lie around a boundary.
    """
    entries = list(read_ledger(pipeline.ledger.path))
    served = [entry for entry in entries if entry.decision != "refused"]
    is_rolling = pipeline.limiter.kind == "rolling"
    scan = max_in_any_window if is_rolling else max_in_fixed_windows
    limits = []
    for limit in pipeline.limiter.limits:
        arrivals = scan(entries, limit.window_s)
        row = {"limit": limit.requests, "window_s": limit.window_s, "max_served": scan(served, limit.window_s)}
        limits.append({**row, "max_arrivals": arrivals, "is_violated": arrivals > limit.requests})
    return {"window": pipeline.limiter.kind, "limits": limits, "refused": len(entries) - len(served)}
