"""Following artists: servers differ in the form they take, and each process learns which."""

from __future__ import annotations

import pytest

from handlers.providers.spotify import SpotifyProvider
from handlers.providers.spotify_library import FORMS, Form
from handlers.sandbox.ledger import read_ledger
from handlers.sandbox.seed import seed_artist_id
from jobqueue.errors import BatchRejected, ItemRejected, ProviderUnavailable
from jobqueue.model.item import ItemStatus

ROWS = [{"artist": seed_artist_id(n)} for n in range(4)]


def prepared(runner):
    """An unfollowing that is ready to be sent."""
    return runner.prepared("unfollow_artists", runner.items("unfollow_artists", ROWS, {}), {})


def test_a_refused_form_is_learned_at_the_price_of_one_request(start) -> None:
    """The refused request was certainly not taken; from then on the older form is sent at once."""
    sandbox, runner = start(SpotifyProvider(), quirks="no-library-artists")
    call = prepared(runner)

    with pytest.raises(ProviderUnavailable) as caught:
        runner.enforcement.apply(call)
    assert not caught.value.was_sent
    assert [one.status for one in runner.enforcement.apply(call)] == [ItemStatus.SUCCEEDED] * 4

    sent = [entry.operation for entry in read_ledger(sandbox.ledger_path) if entry.is_mutation]
    assert sent == ["remove_library", "unfollow_artists"]


def test_requests_in_flight_while_the_form_is_learned_are_sent_again_not_refused(start) -> None:
    """Two requests meet the refusal; neither takes it for a bad item."""
    _, runner = start(SpotifyProvider(), quirks="no-library-artists")
    call = prepared(runner)
    with pytest.raises(ProviderUnavailable):
        runner.enforcement.apply(call)
    assert FORMS.refuse(call.endpoint.base_url, "write", Form.LIBRARY), "the late one is told to try the other form too"


def test_a_server_that_takes_neither_form_refuses_the_items(start) -> None:
    """Both forms refused: the newer one's 400 is about the items; no endless change between the two."""
    sandbox, runner = start(SpotifyProvider(), quirks="no-library-artists,development-mode")
    call = prepared(runner)
    for _ in range(2):
        with pytest.raises(ProviderUnavailable):
            runner.enforcement.apply(call)

    with pytest.raises(BatchRejected):
        runner.enforcement.apply(call)
    with pytest.raises(BatchRejected):
        runner.enforcement.apply(call)
    assert sandbox.control("stats")["by_status"]["403"] == 1


def test_a_bad_artist_is_blamed_although_the_form_was_in_doubt(start) -> None:
    """A 400 of both forms ends with the item, and later artists pass."""
    sandbox, runner = start(SpotifyProvider())
    call = prepared(runner)
    sandbox.control("faults", {"kind": "status", "status": 400, "message": "invalid id", "times": 2})

    with pytest.raises(ProviderUnavailable):
        runner.enforcement.apply(call)
    with pytest.raises((BatchRejected, ItemRejected), match="invalid id"):
        runner.enforcement.apply(call)
    assert [one.status for one in runner.enforcement.apply(call)] == [ItemStatus.SUCCEEDED] * 4
