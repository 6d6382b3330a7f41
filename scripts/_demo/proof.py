"""The proof: what the provider recorded against what the database says, and its state before against after."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from telling import Teller

from handlers.sandbox.launch import SandboxProcess
from handlers.sandbox.ledger import effects_by_item, read_ledger, repeated_calls
from jobqueue.delivery.queue import JobQueue
from jobqueue.model.progress import JobProgress

PAGE = 1000
MOST_IN_FLIGHT = 4
URI = "spotify:track:"
State = dict[str, Any]


def state_of(sandbox: SandboxProcess) -> State:
    """Everything the account has at the provider."""
    state: State = sandbox.control("state", account="demo")
    return state


def prove_removed(
    tell: Teller,
    queue: JobQueue,
    sandbox: SandboxProcess,
    progress: JobProgress,
    *,
    before: State,
    absent: int,
    deaths: int,
) -> None:
    """Compare ledger, database and library after the job.

    Args:
        absent: How many items of the blocklist are not in the library.
        deaths: How many workers were killed.
    """
    job_id = progress.job.id
    entries = [entry for entry in read_ledger(sandbox.ledger_path) if entry.account == "demo"]
    changes = {item: sum(effect.is_changed for effect in effects) for item, effects in effects_by_item(entries).items()}
    removed = {item for item, count in changes.items() if count}
    succeeded = set(_keys(queue, job_id, "succeeded"))
    skipped = set(_keys(queue, job_id, "skipped"))
    tell.check(
        removed == succeeded and bool(removed),
        f"provider's ledger: {len(removed)} tracks removed; database: {len(succeeded)} succeeded; the same ones",
    )
    tell.check(all(count == 1 for count in changes.values() if count), "no track was removed twice")
    tell.check(
        len(skipped) == absent and not skipped & changes.keys(),
        f"{len(skipped)} tracks that the library does not have were skipped; no call to remove them was made",
    )
    tell.check(
        progress.done == progress.total == len(succeeded) + len(skipped),
        f"each of the {progress.total} items has exactly one outcome",
    )
    repeated = repeated_calls(entries)
    extra = sum(call.extra for call in repeated)
    tell.check(
        extra <= deaths * MOST_IN_FLIGHT and all(call.is_verbatim for call in repeated),
        f"calls repeated because of the kill: {extra} (at most the {MOST_IN_FLIGHT} it had in flight), word for word",
    )
    prove_within_limits(tell, sandbox)
    has = _ids(state_of(sandbox))
    had = _ids(before)
    tell.check(
        had - has == {item.removeprefix(URI) for item in succeeded} and has <= had,
        f"library: {len(had)} tracks before, {len(has)} now; nothing else is missing",
    )


def prove_within_limits(tell: Teller, sandbox: SandboxProcess) -> None:
    """Show how close the calls came to the provider's limit."""
    judged = sandbox.control("violations")
    refused = sandbox.control("stats")["refused"]
    worst = [f"{row['max_arrivals']} of {row['limit']} in any {row['window_s']:g} s" for row in judged["limits"]]
    is_kept = refused == 0 and not any(row["is_violated"] for row in judged["limits"])
    tell.check(is_kept, f"answers 429: {refused}; most calls: {', '.join(worst)}")


def prove_restored(tell: Teller, sandbox: SandboxProcess, before: State) -> None:
    """Compare the provider's state with the one before the job, item by item."""
    after = state_of(sandbox)
    tell.check(
        _ids(after) == _ids(before) and len(after["tracks"]) == len(before["tracks"]),
        f"library: {len(after['tracks'])} tracks, item by item those of before",
    )
    others = [name for name in before if name != "tracks"]
    tell.check(
        all(after.get(name) == before[name] for name in others),
        f"untouched: {len(before['artists'])} artists, {len(before['playlists'])} playlists with all their entries",
    )
    dates = {track["id"]: track["added_at"] for track in before["tracks"]}
    new_dates = sum(dates.get(track["id"]) != track["added_at"] for track in after["tracks"])
    if new_dates:
        tell.remark(f"({new_dates} tracks are back with today's date: Spotify's current call takes none)", "dim")


def write_blocklist(file: Path, keys: list[str]) -> None:
    """Write the CSV that the job reads."""
    file.write_text("track\n" + "".join(f"{key}\n" for key in keys))


def _ids(state: State) -> set[str]:
    return {track["id"] for track in state["tracks"]}


def _keys(queue: JobQueue, job_id: int, status: str) -> Iterator[str]:
    after = ""
    while True:
        page = queue.items(job_id, status=status, after=after, count=PAGE)
        yield from (str(row["key"]) for row in page.rows)
        after = page.next
        if not after:
            return
