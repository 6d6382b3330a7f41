"""The way of one request: arrival, limit, fault, effect and ledger line as one thing, disk, answer."""

from __future__ import annotations

import itertools
import json
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import parse_qsl, unquote

from handlers.sandbox.counters import Counters
from handlers.sandbox.faults import FaultPlan, Strike, fraction
from handlers.sandbox.headers import HeaderPlan
from handlers.sandbox.ledger_file import LedgerFile
from handlers.sandbox.limiter import Admission, Limiter, Standing
from handlers.sandbox.provider import Answer, Call, Provider, Refusal, Route, decode_body, digest_of
from handlers.sandbox.state import State

Cut = Literal["", "drop", "midway"]
_REQUEST_ID_HEADERS = ("x-request-id", "x-correlation-id", "request-id")


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request off the wire; header names in lower case."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Outgoing:
    """What goes back: an answer, whole, cut half-way, or a closed connection instead."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: Cut = ""


@dataclass(slots=True)
class Latency:
    """How long answers take: *base_s* give or take the share *jitter*; the effect comes at a random point of it."""

    base_s: float
    jitter: float
    seed: str

    def split(self, seq: int) -> tuple[float, float]:
        """Return the seconds before and after the effect of request *seq*."""
        swing = 2 * fraction(self.seed, "latency", seq) - 1
        whole_s = max(0.0, self.base_s * (1 + self.jitter * swing))
        before_s = whole_s * fraction(self.seed, "effect", seq)
        return before_s, whole_s - before_s


@dataclass(slots=True)
class _Course:
    """One request under way."""

    call: Call
    route: Route
    line: dict[str, Any]
    standings: tuple[Standing, ...] = ()
    strike: Strike | None = None

    def struck(self, when: str, *kinds: str) -> Strike | None:
        """Return the strike when it is of one of *kinds* at this moment."""
        strike = self.strike
        return strike if strike is not None and strike.when == when and strike.rule.kind in kinds else None


class Pipeline:
    """Decides every request of one provider.

    Args:
        provider: The route table.
        state: What accounts have.
        limiter: The app's limits.
        faults: What goes wrong on order.
        ledger: Where everything is written before it is answered.
        counters: Running counts.
        latency: How long answers take.
        headers: What answers say of the limits.
        first_seq: Number of the first request.
    """

    def __init__(
        self,
        *,
        provider: Provider,
        state: State,
        limiter: Limiter,
        faults: FaultPlan,
        ledger: LedgerFile,
        counters: Counters,
        latency: Latency,
        headers: HeaderPlan,
        first_seq: int,
    ) -> None:
        self.provider = provider
        self.state = state
        self.limiter = limiter
        self.faults = faults
        self.ledger = ledger
        self.counters = counters
        self.latency = latency
        self.headers = headers
        self.stopping = threading.Event()
        self._seqs = itertools.count(first_seq)

    def handle(self, arrival: Arrival) -> Outgoing:
        """Take one request through; returns what to send once the ledger is on the disk."""
        route, params = self._find(arrival)
        admission = self.limiter.admit() if route.is_counted else self.limiter.stamp()
        course = self._course(arrival, route, params, admission)
        self.counters.add("arrivals", route.operation)
        if admission.retry_after_s is not None:
            return self._conclude(course, "refused", self.provider.throttled(str(admission.retry_after_s)))
        course.strike = self.faults.choose(course.call, route.operation, course.line["items"])
        if course.strike is not None:
            course.line["fault"] = course.strike.rule.rule_id
        before_s, after_s = self.latency.split(course.line["seq"])
        if before_s or course.struck("before", "slow", "hold"):
            self.ledger.append({**course.line, "kind": "arrival"})
        self._pause(course, "before", before_s)
        outgoing = self._decide(course)
        self._pause(course, "after", after_s)
        return outgoing

    def _find(self, arrival: Arrival) -> tuple[Route, dict[str, str]]:
        """Return the route and its path's parameters; a path or method nobody serves is a route that says so."""
        is_known_path = False
        for route in self.provider.routes:
            params = route.match(arrival.path)
            if params is not None:
                if route.method == arrival.method:
                    return route, {name: unquote(value) for name, value in params.items()}
                is_known_path = True
        refusal = Refusal(405, "Method not allowed") if is_known_path else Refusal(404, "Service not found")

        def refuse(_call: Call, _state: State) -> Answer:
            raise refusal

        return Route(arrival.method, arrival.path, "unknown", refuse, needs_token=False), {}

    def _course(self, arrival: Arrival, route: Route, params: Mapping[str, str], admission: Admission) -> _Course:
        headers = arrival.headers
        body, is_malformed = decode_body(headers.get("content-type", ""), arrival.body)
        call = Call(
            method=arrival.method,
            path=arrival.path,
            query=dict(parse_qsl(arrival.query, keep_blank_values=True)),
            headers=headers,
            body=body,
            is_malformed=is_malformed,
            params=params,
            account=self.provider.account_of(headers, body),
            at_epoch_ns=time.time_ns(),
            digest=digest_of(arrival.method, arrival.path, arrival.query, arrival.body),
        )
        line = {
            "kind": "request",
            "seq": next(self._seqs),
            "at_ns": call.at_epoch_ns,
            "mono_ns": admission.at_ns,
            "method": call.method,
            "path": call.path,
            "account": call.account,
            "operation": route.operation,
            "items": route.items(call),
            "idempotency_key": headers.get("idempotency-key", ""),
            "request_id": next((headers[name] for name in _REQUEST_ID_HEADERS if name in headers), ""),
            "digest": call.digest,
            "is_counted": route.is_counted,
            "decision": "unfinished",
            "status": 0,
            "fault": "",
            "is_applied": False,
            "changes": [],
        }
        return _Course(call, route, line, admission.standings)

    def _pause(self, course: _Course, when: str, seconds: float) -> None:
        if seconds:
            self.stopping.wait(seconds)
        slow, hold = course.struck(when, "slow"), course.struck(when, "hold")
        if slow:
            self.stopping.wait(slow.wait_s())
        if hold:
            self.counters.add("held", course.route.operation)
            hold.rule.released.wait(hold.wait_s())
            self.counters.add("held", course.route.operation, -1)

    def _decide(self, course: _Course) -> Outgoing:
        early = course.struck("before", "status", "throttle", "drop")
        if early:
            return self._conclude(
                course, "fault", self._fault_answer(early), cut="drop" if early.rule.kind == "drop" else ""
            )
        with self.state.lock:
            answer = self._run(course)
            late = course.struck("after", "status", "drop") or course.struck("midway", "drop")
            course.line["is_applied"] = answer.status < 400
            course.line["changes"] = list(answer.changes)
            for change in answer.changes:
                self.state.apply(course.call.account, change)
            cut: Cut = ""
            if late is not None and late.rule.kind == "drop":
                cut = "midway" if late.when == "midway" else "drop"
            elif late is not None:
                answer = self._fault_answer(late)
            ticket = self._record(course, "fault" if late else "served", answer, cut)
        return self._send(course, ticket, answer, cut)

    def _run(self, course: _Course) -> Answer:
        call = course.call
        try:
            if course.route.needs_token:
                self.provider.authenticate(call.headers, self.state)
            return course.route.handle(call, self.state)
        except Refusal as refusal:
            return self.provider.error(refusal.status, refusal.message)
        except Exception:  # a bug of the sandbox must show as an answer and a traceback, not as a hung client
            traceback.print_exc(file=sys.stderr)
            return self.provider.error(500, "sandbox bug: see its log")

    def _fault_answer(self, strike: Strike) -> Answer:
        rule = strike.rule
        if rule.kind == "throttle":
            if rule.enforce:
                self.limiter.block(for_s=float(rule.retry_after))
            return self.provider.throttled(rule.retry_after)
        return self.provider.error(
            rule.status, rule.message, {"Retry-After": rule.retry_after} if rule.retry_after else None
        )

    def _conclude(self, course: _Course, decision: str, answer: Answer, cut: Cut = "") -> Outgoing:
        """Record and send a decision that has no effect."""
        return self._send(course, self._record(course, decision, answer, cut), answer, cut)

    def _record(self, course: _Course, decision: str, answer: Answer, cut: Cut) -> int:
        course.line.update(decision=decision, status=0 if cut == "drop" else answer.status)
        return self.ledger.append(course.line)

    def _send(self, course: _Course, ticket: int, answer: Answer, cut: Cut) -> Outgoing:
        self.ledger.sync(ticket)
        self.counters.decided(course.line["decision"], course.line["status"], course.route.operation)
        body = b"" if answer.body is None else json.dumps(answer.body).encode()
        headers = self.headers.dress(answer.headers, course.standings, self.limiter.stamp().at_ns)
        return Outgoing(answer.status, body, headers, cut)
