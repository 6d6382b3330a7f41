"""Positions in playlists: what a removal records is enough to put everything back, for any playlist and any batches."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handlers.providers.answers import Answer
from handlers.providers.spotify import SpotifyProvider
from handlers.providers.spotify_page import PAGE_SIZE, UNREADABLE, Page, Scan, find_slot, read_page
from handlers.providers.spotify_playlist import MARGIN
from jobqueue.errors import ProviderUnavailable
from jobqueue.model.item import Item, ItemStatus, JournalEntry

REMOVE = SpotifyProvider.operations["remove_from_playlist"]
INSERT = SpotifyProvider.operations["insert_into_playlist"]


def page_of(playlist: list[str], offset: int) -> Page:
    """What the provider shows from *offset* on."""
    return Page(offset, len(playlist), tuple(playlist[offset : offset + PAGE_SIZE]))


def scanned(playlist: list[str], uris: list[str]):
    """The states of *uris*, read page by page through a stored carry."""
    carry: dict = {}
    while True:
        scan = Scan(uris, json.loads(json.dumps(carry)))
        reading = scan.take(page_of(playlist, scan.offset))
        if reading.states is not None:
            return reading.states
        carry = dict(reading.carry)


def remove(playlist: list[str], batches: list[list[str]]) -> list[JournalEntry]:
    """Remove each batch in turn; the journal, in order of effect."""
    journal = []
    for number, batch in enumerate(batches):
        for uri, state in zip(batch, scanned(playlist, batch), strict=True):
            if state["positions"]:
                entry = JournalEntry(0, len(journal), uri, number, len(journal), state, {}, {}, ItemStatus.SUCCEEDED)
                journal.append(entry)
        playlist[:] = [uri for uri in playlist if uri not in batch]
    return journal


def put_back(playlist: list[str], journal: list[JournalEntry]) -> list[bool]:
    """Carry out the rollback; for each run whether it was found to be there already."""
    items = [Item(n, one.key, one.payload) for n, one in enumerate(REMOVE.plan_undo(reversed(journal)))]
    found = []
    while items:
        size = INSERT.fits(items)
        run, items = items[:size], items[size:]
        wanted = run[0].payload["position"]
        slot = find_slot(
            page_of(playlist, max(0, wanted - MARGIN)),
            uris := [item.key.partition("@")[0] for item in run],
            wanted=wanted,
            previous=run[0].payload["previous"],
            following=run[-1].payload["following"],
        )
        assert slot is not None
        found.append(slot.is_there)
        if not slot.is_there:
            playlist[slot.position : slot.position] = uris
    return found


@st.composite
def removals(draw: st.DrawFn) -> tuple[list[str], list[list[str]]]:
    """A playlist with many repetitions, and batches of URIs to remove from it."""
    alphabet = [f"u{n}" for n in range(draw(st.integers(1, 40)))]
    playlist = draw(st.lists(st.sampled_from([*alphabet, UNREADABLE]), max_size=160))
    chosen = draw(st.lists(st.sampled_from(alphabet), unique=True, max_size=30))
    size = draw(st.integers(1, 12))
    return playlist, [chosen[at : at + size] for at in range(0, len(chosen), size)]


@given(removals())
@settings(max_examples=300, deadline=None)
def test_every_removal_can_be_put_back_exactly(case: tuple[list[str], list[list[str]]]) -> None:
    """For any playlist, repetitions and batches: the same order as before."""
    playlist, batches = case
    before = list(playlist)

    journal = remove(playlist, batches)
    found = put_back(playlist, journal)

    assert playlist == before
    assert not any(found)


@given(removals())
@settings(max_examples=200, deadline=None)
def test_putting_back_twice_finds_everything_there(case: tuple[list[str], list[list[str]]]) -> None:
    """The last batch's removal never took place: each of its runs is recognised, nothing is doubled."""
    playlist, batches = case
    before = list(playlist)
    journal = remove(playlist, batches[:1])
    put_back(playlist, journal)

    assert all(put_back(playlist, journal))
    assert playlist == before


@given(removals(), st.integers(0, 8))
@settings(max_examples=200, deadline=None)
def test_items_added_in_front_meanwhile_shift_nothing(case: tuple[list[str], list[list[str]]], added: int) -> None:
    """Unrepeated neighbours are found again a few positions away."""
    playlist, batches = case
    playlist[:] = [f"{uri}-{position}" for position, uri in enumerate(playlist)]
    batches = [[uri for uri in playlist if uri.rpartition("-")[0] in batch] for batch in batches[:1]]
    before = list(playlist)
    journal = remove(playlist, [batch for batch in batches if batch])
    if not playlist:
        return  # no neighbour is left to go by
    playlist[:0] = [f"new-{n}" for n in range(added)]

    put_back(playlist, journal)

    assert [uri for uri in playlist if not uri.startswith("new-")] == before


def test_a_run_without_its_neighbours_has_no_place() -> None:
    """Somebody replaced everything around it."""
    page = Page(0, 5, ("a", "b", "c", "d", "e"))
    assert find_slot(page, ["x"], wanted=2, previous="p", following="f") is None


def test_part_of_a_run_that_stands_there_already_is_a_conflict() -> None:
    """Inserting the whole run would double it."""
    page = Page(0, 3, ("p", "y", "f"))
    assert find_slot(page, ["x", "y"], wanted=1, previous="p", following="f") is None


def test_the_page_end_is_not_the_playlist_end() -> None:
    """A run that belonged at the very end is not put at the end of a page."""
    page = Page(0, 200, tuple(f"u{n}" for n in range(PAGE_SIZE)))
    assert find_slot(page, ["x"], wanted=49, previous="gone", following=None) is None


@pytest.mark.parametrize(
    "body",
    [
        "[]",
        "{}",
        '{"total": 1}',
        '{"total": "1", "items": []}',
        '{"total": true, "items": []}',
        '{"total": -1, "items": []}',
        '{"total": 1, "items": [{}]}',
        '{"total": 1, "items": [null]}',
        '{"total": 1, "items": [{"item": {"id": "x"}}]}',
        '{"total": 1, "items": [{"added_at": "x"}]}',
        "<html>",
    ],
)
def test_a_page_that_cannot_be_read_is_an_error(body: str) -> None:
    """Never an empty page: items would be reported as not in the playlist."""
    with pytest.raises(ProviderUnavailable):
        read_page(Answer(200, {}, body.encode()), offset=0)


def test_items_in_both_forms_and_unreadable_ones_keep_their_positions() -> None:
    """`item`, the deprecated `track`, and null."""
    body = {"total": 3, "items": [{"item": {"uri": "a"}}, {"item": None}, {"track": {"uri": "c"}}]}
    page = read_page(Answer(200, {}, json.dumps(body).encode()), offset=7)
    assert page.uris == ("a", UNREADABLE, "c")
    assert page.end == 10
