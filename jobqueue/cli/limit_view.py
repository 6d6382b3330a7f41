"""Limits in words: what is configured, and of where it stands only what is worth a line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jobqueue.cli.output import clean, counted, duration, say, table
from jobqueue.model.window import UNLIMITED

_MOST_OVERRIDES = 20
_MOST_WAITING = 10


def describe_configured(provider: str, view: Mapping[str, Any]) -> None:
    """The levels of *provider*, of a thousand overrides only the first."""
    for level, config in view["configured"].items():
        say(f"{clean(provider)}, each {level}: {_config(config)}")
    for override in view["overrides"][:_MOST_OVERRIDES]:
        say(f"{clean(override['level'])}: {_config(override['limits'])}")
    if len(view["overrides"]) > _MOST_OVERRIDES:
        say(f"and {counted(len(view['overrides']) - _MOST_OVERRIDES, 'more override')}: --json lists them all")
    for kind, policy in view["configured"].get("provider", {}).get("backoff", {}).items():
        say(f"backoff after {kind}: {backoff_words(policy)}")
    if not view["configured"]:
        say(f"{clean(provider)}: no limits")


def describe_state(view: Mapping[str, Any]) -> None:
    """How far the windows are used up, what holds requests back, who waits, what was learned."""
    if view["is_rebuilding"]:
        say("what was sent is being counted again: nothing else is known until that is done")
        return
    _windows(view["windows"])
    for pause in view["cooldowns"]:
        say(f"pause of {clean(pause['scope'])}: {clean(pause['reason'])}, lifts in {duration(pause['remaining_s'])}")
    for breaker in view["breakers"]:
        say(f"breaker of {clean(breaker['scope'])}: {_breaker(breaker)}")
    _learned(view)
    _waiting(view["waiting"])
    for scope, margin_s in view["eager_margins_s"].items():
        say(f"eager windows of {clean(scope)} count a request {_milliseconds(margin_s)} after its sending")
    if view["latency_s"]:
        say(f"answers take {_milliseconds(view['latency_s'])} on average")
    if view["malformed_headers"]:
        say(f"{counted(view['malformed_headers'], 'rate-limit header')} could not be read and were ignored")
    for operation, health in view["batch_health"].items():
        if health < 1:
            say(f"batches of {clean(operation)} are cut to {round(100 * health)} % because large ones failed")


def backoff_words(policy: Mapping[str, Any]) -> str:
    """A backoff, such as ``full jitter from 1.0 s up to 5 min``."""
    tries = f", {policy['max_attempts']} tries" if "max_attempts" in policy else ""
    return f"{policy['jitter']} jitter from {duration(policy['base_s'])} up to {duration(policy['cap_s'])}{tries}"


def _config(config: Mapping[str, Any]) -> str:
    words = [config["windows"] or "any number of requests"]
    if config["unit_windows"]:
        words.append(f"{config['unit_windows']} units")
    if config["max_concurrency"]:
        words.append(f"{config['max_concurrency']} at once")
    return clean(f"{', '.join(words)} ({config['mode']})")


def _windows(windows: list[dict[str, Any]]) -> None:
    if not windows:
        return
    columns = {"scope": "SCOPE", "window": "WINDOW", "used": "USED", "in_flight": "IN FLIGHT"}
    if any(window["foreign"] for window in windows):
        columns["foreign"] = "BY OTHERS"
    columns |= {"remaining": "LEFT", "resets": "ALL FREE IN"}
    rows = [row | {"resets": duration(row["resets_in_s"]) if row["resets_in_s"] else "-"} for row in windows]
    table(rows, columns, right=("used", "in_flight", "foreign", "remaining"))


def _breaker(breaker: Mapping[str, Any]) -> str:
    words = [breaker["state"].replace("_", "-")]
    if breaker["opens"] > 1:
        words.append(f"opened {breaker['opens']} times in a row")
    if breaker["open_remaining_s"]:
        words.append(f"probes in {duration(breaker['open_remaining_s'])}")
    if breaker["slow_start_remaining_s"]:
        words.append(f"slow start for {duration(breaker['slow_start_remaining_s'])} more")
    shares = [
        f"{breaker[count]:,} {verb} ({round(100 * breaker[rate])} %)"
        for count, verb, rate in (("failures", "failed", "failure_rate"), ("slow", "took too long", "slow_rate"))
        if breaker[count]
    ]
    if shares:
        words.append(f"of {counted(breaker['calls'], 'call')} {' and '.join(shares)}")
    return ", ".join(words)


def _learned(view: Mapping[str, Any]) -> None:
    configured = {(window["scope"], window["window"]): window["limit"] for window in view["windows"]}
    for limit in view["learned"]:
        # What was learned is kept for a while after it has ceased to hold anything back.
        if limit["limit"] < configured.get((limit["scope"], limit["window"]), UNLIMITED):
            say(
                f"learned of {clean(limit['scope'])}, {limit['window']}: {limit['limit']:,} may be sent now,"
                f" {limit['known']:,} are known to pass, throttled {duration(limit['throttled_ago_s'])} ago"
            )


def _waiting(waiters: list[dict[str, Any]]) -> None:
    if not waiters:
        return
    rows = [
        waiter
        | {
            "who": waiter["owner"] if waiter["job_id"] is None else f"job {waiter['job_id']}",
            "asks": duration(waiter["asks_in_s"]) if waiter["asks_in_s"] else "now",
            "waited": duration(waiter["waited_s"]),
        }
        for waiter in waiters[:_MOST_WAITING]
    ]
    columns = {"who": "WAITING", "scope": "SCOPE", "priority": "PRIORITY", "wants": "WANTS", "asks": "ASKS IN"}
    table(rows, columns | {"waited": "HAS WAITED"}, right=("wants",))
    if len(waiters) > _MOST_WAITING:
        say(f"and {len(waiters) - _MOST_WAITING:,} more: --json lists 32 of each scope")


def _milliseconds(duration_s: float) -> str:
    return f"{duration_s * 1000:,.0f} ms"
