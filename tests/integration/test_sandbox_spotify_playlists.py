"""The sandbox's Spotify playlists: positions, copies, snapshots, over real HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from handlers.sandbox.launch import SandboxProcess, start_sandbox
from handlers.sandbox.seed import FOREIGN_OWNER, seed_playlist_id, seed_track_id

LIBRARY = 120


def track(n: int) -> str:
    """Name seed track *n*."""
    return f"spotify:track:{seed_track_id(n)}"


@pytest.fixture
def sandbox(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[SandboxProcess]:
    """Run a small sandbox without limits that matter."""
    options = {
        "limit": "10000/60",
        "latency_ms": 0,
        "accounts": "demo,guest",
        "seed_library": LIBRARY,
        "seed_artists": 0,
        "seed_playlists": 2,
        "seed_playlist_items": 60,
        **getattr(request, "param", {}),
    }
    with start_sandbox(tmp_path, **options) as process:
        yield process


@pytest.fixture
def spotify(sandbox: SandboxProcess) -> Iterator[Any]:
    """Call the API as account demo."""
    with requests.Session() as session:
        session.headers["Authorization"] = "Bearer sandbox-demo"

        def call(method: str, path: str, **options: Any) -> requests.Response:
            return session.request(method, sandbox.base_url + path, timeout=10, **options)

        yield call


def playlist_uris(sandbox: SandboxProcess, n: int = 0) -> list[str]:
    """Return the entries of a playlist by position."""
    return [row["uri"] for row in sandbox.control("state", account="demo")["playlists"][n]["items"]]


def error_of(response: requests.Response) -> tuple[int, str]:
    """Return status and message of an error body that agrees with its status line."""
    error = response.json()["error"]
    assert error["status"] == response.status_code
    return error["status"], error["message"]


def test_playlist_removal_takes_every_copy_whatever_the_snapshot(sandbox, spotify):
    """Removing a repeated track removes all its copies, with an old snapshot too, and moves the snapshot on."""
    path = f"/playlists/{seed_playlist_id(0)}"
    before = playlist_uris(sandbox)
    repeated = sorted({uri for uri in before if before.count(uri) > 1})
    oldest = spotify("GET", path).json()["snapshot_id"]

    first = spotify("DELETE", f"{path}/items", json={"items": [{"uri": repeated[0]}], "snapshot_id": oldest})
    second = spotify("DELETE", f"{path}/items", json={"items": [{"uri": repeated[1]}], "snapshot_id": oldest})
    unknown = spotify("DELETE", f"{path}/items", json={"items": [{"uri": repeated[2]}], "snapshot_id": "nonsense"})

    assert len(repeated) >= 3, "the seed playlist has repeated tracks"
    assert (first.status_code, second.status_code) == (200, 200)
    assert len({oldest, first.json()["snapshot_id"], second.json()["snapshot_id"]}) == 3
    assert spotify("GET", path).json()["snapshot_id"] == second.json()["snapshot_id"]
    assert error_of(unknown) == (400, "Invalid snapshot_id")
    assert playlist_uris(sandbox) == [uri for uri in before if uri not in repeated[:2]]


def test_playlist_is_restored_by_ascending_insertion(sandbox, spotify):
    """Copies removed from many places return to them when inserted in ascending position."""
    path = f"/playlists/{seed_playlist_id(1)}/items"
    before = playlist_uris(sandbox, 1)
    gone = sorted(set(before))[:10]
    spotify("DELETE", path, json={"items": [{"uri": uri} for uri in gone]})
    assert len(playlist_uris(sandbox, 1)) < len(before) - 10

    for position, uri in enumerate(before):
        if uri in gone:
            answer = spotify("POST", path, json={"uris": [uri], "position": position})
            assert (answer.status_code, set(answer.json())) == (201, {"snapshot_id"})

    assert playlist_uris(sandbox, 1) == before


def test_playlist_insertion_places_a_run_and_refuses_beyond_the_end(sandbox, spotify):
    """POST inserts in order at a position, appends without one, and answers 400 beyond the end."""
    path = f"/playlists/{seed_playlist_id(0)}/items"
    before = playlist_uris(sandbox)

    spotify("POST", path, json={"uris": [track(100), track(101)], "position": 2})
    spotify("POST", path, params={"uris": track(102)})
    beyond = spotify("POST", path, json={"uris": [track(1)], "position": len(before) + 4})

    assert playlist_uris(sandbox) == [*before[:2], track(100), track(101), *before[2:], track(102)]
    assert error_of(beyond) == (400, "Index out of bounds.")


def test_playlist_items_are_paged_and_filtered(sandbox, spotify):
    """Items come in pages of at most 50 (100 in the older form) and show only the fields asked for."""
    path = f"/playlists/{seed_playlist_id(0)}"
    uris = playlist_uris(sandbox)

    newer = spotify(
        "GET", f"{path}/items", params={"limit": 50, "offset": 10, "fields": "total,items(added_at,item.uri)"}
    )
    older = spotify("GET", f"{path}/tracks", params={"limit": 100}).json()
    without = spotify("GET", f"{path}/items", params={"fields": "!href,items"}).json()

    assert set(newer.json()) == {"total", "items"}
    assert all(set(row) == {"added_at", "item"} and set(row["item"]) == {"uri"} for row in newer.json()["items"])
    assert [row["item"]["uri"] for row in newer.json()["items"]] == uris[10:]
    assert [row["track"]["uri"] for row in older["items"]] == uris
    assert set(without) == {"limit", "next", "offset", "previous", "total"}
    assert error_of(spotify("GET", f"{path}/items?limit=51")) == (400, "Invalid limit")
    assert error_of(spotify("GET", f"{path}/items?fields=items(uri")) == (400, "Invalid fields: unbalanced parentheses")


def test_older_playlist_endpoints_do_the_same(sandbox, spotify):
    """The /tracks forms of adding and removing work, removal with the key ``tracks``."""
    path = f"/playlists/{seed_playlist_id(0)}/tracks"

    assert spotify("POST", path, json={"uris": [track(110)], "position": 0}).status_code == 201
    assert playlist_uris(sandbox)[0] == track(110)
    assert spotify("DELETE", path, json={"tracks": [{"uri": track(110)}]}).status_code == 200
    assert track(110) not in playlist_uris(sandbox)
    assert error_of(spotify("DELETE", path, json={"items": [{"uri": track(1)}]}))[0] == 400


def test_playlist_requests_are_bounded_by_a_hundred_items(spotify):
    """More than 100 items in one removal or insertion are 400."""
    path = f"/playlists/{seed_playlist_id(0)}/items"
    uris = [track(n) for n in range(101)]

    assert error_of(spotify("DELETE", path, json={"items": [{"uri": uri} for uri in uris]}))[0] == 400
    assert error_of(spotify("POST", path, json={"uris": uris}))[0] == 400
    assert spotify("DELETE", path, json={"items": [{"uri": uri} for uri in uris[:100]]}).status_code == 200


def test_a_playlist_of_somebody_else_is_forbidden(spotify):
    """Items of another owner's playlist answer 403, its summary 200, an unknown playlist 404."""
    foreign, guests = seed_playlist_id(0, FOREIGN_OWNER), seed_playlist_id(0, "guest")

    assert spotify("GET", f"/playlists/{foreign}").json()["owner"]["id"] == FOREIGN_OWNER
    assert error_of(spotify("GET", f"/playlists/{foreign}/items"))[0] == 403
    assert error_of(spotify("POST", f"/playlists/{guests}/items", json={"uris": [track(1)]}))[0] == 403
    assert error_of(spotify("GET", f"/playlists/{seed_playlist_id(9)}"))[0] == 404
    assert [row["id"] for row in spotify("GET", "/me/playlists").json()["items"]] == [
        seed_playlist_id(n) for n in (0, 1)
    ]
