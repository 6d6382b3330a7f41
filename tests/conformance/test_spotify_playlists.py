"""Spotify's playlists: long ones, repeated tracks, and what somebody else changes in between."""

from __future__ import annotations

import json

import pytest
import requests
from conformance_cases import PLAYLIST_ITEMS, TOKEN, snapshot

from handlers.providers.spotify import SpotifyProvider
from handlers.sandbox.launch import SandboxProcess
from handlers.sandbox.seed import seed_playlist_id, seed_track_id
from jobqueue.errors import InvalidInputError, ItemRejected, OutcomeUnknown, ProviderUnavailable
from jobqueue.model.item import ItemStatus

PLAYLIST = seed_playlist_id(0)
OPTIONS = {"playlist": PLAYLIST}
HEADERS = {"Authorization": f"Bearer {TOKEN}"}


def uris(sandbox: SandboxProcess) -> list[str]:
    """What the playlist holds now."""
    return snapshot(sandbox)["playlists"][PLAYLIST]


def somebody_adds(sandbox: SandboxProcess, numbers: list[int], position: int) -> None:
    """Another client of the account inserts tracks."""
    body = {"uris": [f"spotify:track:{seed_track_id(n)}" for n in numbers], "position": position}
    url = f"{sandbox.base_url}/playlists/{PLAYLIST}/items"
    requests.post(url, json=body, headers=HEADERS, timeout=5).raise_for_status()


def somebody_removes(sandbox: SandboxProcess, gone: list[str]) -> None:
    """Another client of the account removes tracks."""
    url = f"{sandbox.base_url}/playlists/{PLAYLIST}/items"
    for at in range(0, len(gone), 100):
        body = {"items": [{"uri": uri} for uri in gone[at : at + 100]]}
        requests.delete(url, json=body, headers=HEADERS, timeout=5).raise_for_status()


def removal(runner, found: list[str], options=OPTIONS):
    """The removal of *found*, to be observed."""
    items = runner.items("remove_from_playlist", rows(found), options)
    return runner.call("remove_from_playlist", items, options)


def rows(found: list[str]) -> list[dict[str, str]]:
    """Input rows, each URI once."""
    return [{"track": uri} for uri in dict.fromkeys(found)]


def test_reading_a_long_playlist_is_one_request_a_step_and_its_carry_is_json(start) -> None:
    """130 items are three steps; a step can be taken up from a stored carry, by another process."""
    sandbox, runner = start(SpotifyProvider())
    call = removal(runner, uris(sandbox)[:7])
    carry: dict = {}

    for step in range(1, 4):
        reading = runner.enforcement.observe_step(call, carry)
        assert sandbox.control("stats")["arrivals"] == step
        assert (reading.states is None) == (step < 3)
        carry = json.loads(json.dumps(reading.carry))

    before = uris(sandbox)
    for item, state in zip(call.items, reading.states, strict=True):
        assert state["positions"] == [at for at, uri in enumerate(before) if uri == item.key]


def test_a_playlist_that_changes_between_pages_is_read_anew(start) -> None:
    """Positions of two versions are never mixed."""
    sandbox, runner = start(SpotifyProvider())
    wanted = uris(sandbox)[120]
    call = removal(runner, [wanted])
    reading = runner.enforcement.observe_step(call, {})
    somebody_adds(sandbox, [8000], 0)

    while reading.states is None:
        reading = runner.enforcement.observe_step(call, reading.carry)

    assert reading.states[0]["positions"] == [at for at, uri in enumerate(uris(sandbox)) if uri == wanted]


def test_a_playlist_that_keeps_changing_is_given_up_for_now(start) -> None:
    """After three fresh starts it is the provider's unavailability, which the engine retries later."""
    sandbox, runner = start(SpotifyProvider())
    call = removal(runner, uris(sandbox)[:1])
    carry: dict = {}

    def never_still() -> None:
        nonlocal carry
        for number in range(20):
            carry = dict(runner.enforcement.observe_step(call, carry).carry)
            somebody_adds(sandbox, [8000 + number], 0)

    with pytest.raises(ProviderUnavailable, match="keeps changing"):
        never_still()


def test_rollback_survives_items_added_and_removed_elsewhere_by_somebody(start) -> None:
    """Everything moved; each removed copy still goes back between its own neighbours, and nothing else is touched."""
    sandbox, runner = start(SpotifyProvider())
    before = uris(sandbox)
    run = runner.enforce("remove_from_playlist", rows(before[40:120:9]), OPTIONS, batch_size=5)
    somebody_adds(sandbox, [8001, 8002, 8003], 0)
    somebody_adds(sandbox, [8004], len(uris(sandbox)))

    undone = runner.roll_back(run)

    assert undone.statuses == {ItemStatus.SUCCEEDED}
    added = {f"spotify:track:{seed_track_id(n)}" for n in range(8001, 8005)}
    assert [uri for uri in uris(sandbox) if uri not in added] == before


def test_a_rearranged_neighbourhood_is_a_conflict_and_stays_as_it_is(start) -> None:
    """Where nothing is as it was, nothing is inserted: failed with ``changed_since``."""
    sandbox, runner = start(SpotifyProvider())
    run = runner.enforce("remove_from_playlist", rows(uris(sandbox)[100:101]), OPTIONS)
    somebody_removes(sandbox, uris(sandbox))
    somebody_adds(sandbox, list(range(8000, 8080)), 0)
    now = uris(sandbox)

    undone = runner.roll_back(run)

    assert undone.statuses == {ItemStatus.FAILED}
    assert {outcome.error.code for outcome in undone.outcomes.values()} == {"changed_since"}
    assert uris(sandbox) == now


def test_what_somebody_put_back_already_is_not_put_back_twice(start) -> None:
    """The user restored the very place: skipped, already as before."""
    sandbox, runner = start(SpotifyProvider())
    before = uris(sandbox)
    lonely = next(uri for uri in before if before.count(uri) == 1)
    run = runner.enforce("remove_from_playlist", rows([lonely]), OPTIONS)
    number = next(n for n in range(PLAYLIST_ITEMS) if lonely.endswith(seed_track_id(n)))
    somebody_adds(sandbox, [number], before.index(lonely))

    undone = runner.roll_back(run)

    assert undone.statuses == {ItemStatus.SKIPPED}
    assert uris(sandbox) == before


def test_undoing_an_insertion_never_takes_the_users_own_copies(start) -> None:
    """A removal takes all copies, so a track that stood there before cannot be taken out again; that is said."""
    sandbox, runner = start(SpotifyProvider())
    own = uris(sandbox)[0]
    run = runner.enforce("insert_into_playlist", [{"track": own, "position": "9"}], OPTIONS)
    now = uris(sandbox)

    undone = runner.roll_back(run)

    assert [outcome.error.code for outcome in undone.outcomes.values()] == ["changed_since"]
    assert uris(sandbox) == now


def test_a_position_beyond_the_end_fails_without_a_request(start) -> None:
    """`decide` refuses it, in words."""
    _, runner = start(SpotifyProvider())

    run = runner.enforce("insert_into_playlist", [{"track": seed_track_id(8000), "position": "999"}], OPTIONS)

    (outcome,) = run.outcomes.values()
    assert outcome.error.code == "invalid_position"
    assert run.effect_requests == 0


def test_a_probe_of_a_removal_answers_for_a_short_playlist_and_admits_it_cannot_for_a_long_one(start) -> None:
    """One request shows 50 items; more would not be reserved."""
    sandbox, runner = start(SpotifyProvider(), seed_playlist_items=40)
    items = runner.items("remove_from_playlist", rows(uris(sandbox)[:3]), OPTIONS)
    call = runner.prepared("remove_from_playlist", items, OPTIONS)
    sandbox.control("faults", {"kind": "drop", "when": "after", "times": 1, "operation": "remove_playlist_items"})
    with pytest.raises(OutcomeUnknown):
        runner.enforcement.apply(call)
    assert {one.status for one in runner.enforcement.probe(call)} == {ItemStatus.SUCCEEDED}

    somebody_adds(sandbox, list(range(8000, 8060)), 0)

    assert {one.status for one in runner.enforcement.probe(call)} == {ItemStatus.UNCONFIRMED}


def test_a_probe_of_an_insertion_does_not_guess_when_somebody_else_changed_the_list(start) -> None:
    """The total moved, but not by the run: unconfirmed."""
    sandbox, runner = start(SpotifyProvider())
    new = [{"track": seed_track_id(7000 + n), "position": str(20 + n)} for n in range(3)]
    call = runner.prepared("insert_into_playlist", runner.items("insert_into_playlist", new, OPTIONS), OPTIONS)
    somebody_adds(sandbox, [8000], 0)

    assert {one.status for one in runner.enforcement.probe(call)} == {ItemStatus.UNCONFIRMED}


@pytest.mark.parametrize("playlist", [seed_playlist_id(0, "spotify"), "0" * 22])
def test_a_playlist_of_somebody_else_or_none_refuses_every_item(playlist: str, start) -> None:
    """403 and 404 blame the playlist, not an item: no bisection."""
    _, runner = start(SpotifyProvider())
    options = {"playlist": playlist}
    call = removal(runner, ["1" * 22, "2" * 22], options)

    with pytest.raises(ItemRejected) as caught:
        runner.enforcement.observe_step(call, {})

    assert caught.value.code in {"forbidden", "not_found"}


@pytest.mark.parametrize("playlist", ["", "my playlist", "https://open.spotify.com/track/" + "1" * 22])
def test_a_wrong_playlist_option_is_refused_at_submit(playlist: str, start) -> None:
    """The field, the value and the remedy are named before anything is stored."""
    _, runner = start(SpotifyProvider())

    with pytest.raises(InvalidInputError) as caught:
        runner.items("remove_from_playlist", rows(["1" * 22]), {"playlist": playlist})

    assert caught.value.field == "playlist"
    assert caught.value.remedy
