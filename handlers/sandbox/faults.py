"""Faults on order: by rule, one request or many, at random with a seed, or until told otherwise.

A random rule decides by a hash of the seed, the rule and the request's contents and count, not by drawing in turn: the
same request meets the same fate in every run, however threads interleave.
"""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from handlers.sandbox.provider import Call

# kind -> the moments it may strike: before the effect, after it, or half-way through the answer.
KINDS: Mapping[str, tuple[str, ...]] = {
    "status": ("before", "after"),
    "drop": ("before", "after", "midway"),
    "slow": ("before", "after"),
    "hold": ("before", "after"),
    "throttle": ("before",),
}
_RATE_KINDS = {"5xx": "status", "drop": "drop", "slow": "slow", "429": "throttle"}


@dataclass(slots=True)
class FaultRule:
    """One order.

    Args:
        kind: ``status`` answers `status`; ``drop`` cuts the connection; ``slow`` waits `delay_s`; ``hold`` waits until
            the rule is removed (at most `delay_s`, by default 60); ``throttle`` answers 429 with `retry_after`.
        when: ``before`` the effect, ``after`` it, ``midway`` through the answer, or ``either``: before or after, by the
            seed.
        method: Only this method.
        operation: Only this operation.
        account: Only this account.
        contains: Only requests with this item: a poison.
        skip: Let this many matching requests pass first.
        times: Strike this often; None until removed.
        rate: Strike with this probability.
        status: For ``status``.
        message: The error's words.
        retry_after: The Retry-After header, verbatim; also sent with ``status`` when set.
        enforce: After a ``throttle`` of n seconds really refuse everything for n seconds.
        delay_s: Seconds.
    """

    kind: str
    when: str = "before"
    method: str = ""
    operation: str = ""
    account: str = ""
    contains: str = ""
    skip: int = 0
    times: int | None = None
    rate: float = 1.0
    status: int = 503
    message: str = "Service unavailable"
    retry_after: str = ""
    enforce: bool = False
    delay_s: float | None = None
    rule_id: str = ""
    struck: int = 0
    released: threading.Event = field(default_factory=threading.Event, repr=False)

    def matches(self, call: Call, operation: str, items: list[str]) -> bool:
        """True when the rule is about this request, whatever its counts say."""
        return (
            self.method in ("", call.method)
            and self.operation in ("", operation)
            and self.account in ("", call.account)
            and (not self.contains or self.contains in items)
        )

    def as_json(self) -> dict[str, Any]:
        """Return the rule's values."""
        return {one.name: getattr(self, one.name) for one in fields(self) if one.name != "released"}


@dataclass(frozen=True, slots=True)
class Strike:
    """A rule that strikes this request, and when."""

    rule: FaultRule
    when: str

    def wait_s(self) -> float:
        """Return the seconds a ``slow`` takes or a ``hold`` takes at most."""
        if self.rule.delay_s is not None:
            return self.rule.delay_s
        return 60.0 if self.rule.kind == "hold" else 2.0


def parse_rule(values: Mapping[str, Any]) -> FaultRule:
    """Read a rule.

    Raises:
        ValueError: A field is unknown or its value is not possible; the message names both.
    """
    known = {one.name for one in fields(FaultRule)} - {"rule_id", "struck", "released"}
    unknown = sorted(set(values) - known)
    if unknown or "kind" not in values:
        raise ValueError(
            f"fault: unknown field {unknown}" if unknown else f"fault: kind is missing; one of {sorted(KINDS)}"
        )
    rule = FaultRule(**values)
    moments = KINDS.get(rule.kind)
    if moments is None:
        raise ValueError(f"fault: kind {rule.kind!r} is not one of {sorted(KINDS)}")
    if rule.when not in (*moments, *(("either",) if "after" in moments else ())):
        raise ValueError(f"fault: when {rule.when!r} is not possible for {rule.kind}; one of {list(moments)}")
    if rule.kind == "throttle":
        rule.status, rule.retry_after = 429, str(rule.retry_after or 1)
        if rule.enforce and not rule.retry_after.isdigit():
            raise ValueError(f"fault: enforce needs retry_after in whole seconds, not {rule.retry_after!r}")
    return rule


def parse_rates(text: str, *, slow_s: float) -> list[FaultRule]:
    """Read ``5xx=0.01,drop=0.01,slow=0.01,429=0.01`` into random rules.

    Raises:
        ValueError: A name is unknown or a probability lies outside 0 to 1.
    """
    rules = []
    for part in filter(None, text.split(",")):
        name, _, rate = part.strip().partition("=")
        if name not in _RATE_KINDS:
            raise ValueError(f"fault rate {name!r} is not one of {sorted(_RATE_KINDS)}")
        if not 0 <= float(rate or "nan") <= 1:
            raise ValueError(f"fault rate {part.strip()!r} is not between 0 and 1")
        kind = _RATE_KINDS[name]
        when = "before" if kind == "throttle" else "either"
        rules.append(parse_rule({"kind": kind, "when": when, "rate": float(rate), "delay_s": slow_s}))
    return rules


def fraction(*parts: object) -> float:
    """Return a number in [0, 1) that depends on nothing but *parts*."""
    digest = hashlib.sha256("|".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


class FaultPlan:
    """The rules in force, tried in the order they came; the first that strikes wins.

    Args:
        seed: Decides all random rules.
    """

    def __init__(self, seed: str) -> None:
        self._lock = threading.Lock()
        self._seed = seed
        self._rules: list[FaultRule] = []
        self._matched: Counter[str] = Counter()
        self._seen: Counter[str] = Counter()
        self._next_id = 1

    def add(self, rule: FaultRule) -> str:
        """Put a rule in force; returns its id."""
        with self._lock:
            rule.rule_id = f"fault-{self._next_id}"
            self._next_id += 1
            self._rules.append(rule)
            return rule.rule_id

    def remove(self, rule_id: str = "") -> int:
        """Withdraw one rule, or all; requests it holds go on. Returns how many were withdrawn."""
        with self._lock:
            gone = [rule for rule in self._rules if rule_id in ("", rule.rule_id)]
            self._rules = [rule for rule in self._rules if rule not in gone]
        for rule in gone:
            rule.released.set()
        return len(gone)

    def as_json(self) -> list[dict[str, Any]]:
        """Return the rules in force."""
        with self._lock:
            return [rule.as_json() for rule in self._rules]

    def choose(self, call: Call, operation: str, items: list[str]) -> Strike | None:
        """Return what strikes this request, or None, and count it."""
        with self._lock:
            seen = self._seen[call.digest]
            if any(rule.rate < 1 for rule in self._rules):
                self._seen[call.digest] += 1
            for rule in self._rules:
                if rule.matches(call, operation, items) and self._strikes(rule, call.digest, seen):
                    return Strike(rule, self._moment(rule, call.digest, seen))
        return None

    def _strikes(self, rule: FaultRule, digest: str, seen: int) -> bool:
        self._matched[rule.rule_id] += 1
        if self._matched[rule.rule_id] <= rule.skip or (rule.times is not None and rule.struck >= rule.times):
            return False
        if rule.rate < 1 and fraction(self._seed, rule.rule_id, digest, seen) >= rule.rate:
            return False
        rule.struck += 1
        return True

    def _moment(self, rule: FaultRule, digest: str, seen: int) -> str:
        if rule.when != "either":
            return rule.when
        return "before" if fraction(self._seed, "moment", rule.rule_id, digest, seen) < 0.5 else "after"
