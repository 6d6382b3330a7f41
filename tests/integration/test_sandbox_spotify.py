"""The sandbox's Spotify library, following, tokens and ledger, over real HTTP."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from handlers.sandbox.launch import SandboxProcess, start_sandbox
from handlers.sandbox.ledger import read_ledger
from handlers.sandbox.seed import seed_added_at, seed_artist_id, seed_playlist_id, seed_track_id

LIBRARY = 120
ARTISTS = 7


def track(n: int) -> str:
    """Name seed track *n*."""
    return f"spotify:track:{seed_track_id(n)}"


def artist(n: int) -> str:
    """Name seed artist *n*."""
    return f"spotify:artist:{seed_artist_id(n)}"


@pytest.fixture
def sandbox(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[SandboxProcess]:
    """Run a small sandbox without limits that matter."""
    options = {
        "limit": "10000/60",
        "latency_ms": 0,
        "accounts": "demo,guest",
        "seed_library": LIBRARY,
        "seed_artists": ARTISTS,
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


def saved_ids(sandbox: SandboxProcess) -> list[str]:
    """Return the saved tracks, the latest first."""
    return [row["id"] for row in sandbox.control("state", account="demo")["tracks"]]


def error_of(response: requests.Response) -> tuple[int, str]:
    """Return status and message of an error body that agrees with its status line."""
    error = response.json()["error"]
    assert error["status"] == response.status_code
    return error["status"], error["message"]


def test_library_removes_and_saves_tracks_and_artists(sandbox, spotify):
    """DELETE and PUT /me/library change saved tracks and followed artists alike and answer 200 with no body."""
    uris = ",".join([track(0), track(5), artist(1)])

    removed = spotify("DELETE", "/me/library", params={"uris": uris})
    after_removal = spotify("GET", "/me/library/contains", params={"uris": f"{uris},{track(1)}"})
    saved = spotify("PUT", "/me/library", params={"uris": uris})
    after_saving = spotify("GET", "/me/library/contains", params={"uris": uris})

    assert (removed.status_code, removed.content, saved.status_code) == (200, b"", 200)
    assert after_removal.json() == [False, False, False, True]
    assert after_saving.json() == [True, True, True]
    assert set(saved_ids(sandbox)[:2]) == {seed_track_id(0), seed_track_id(5)}, "a new save is the latest"


def test_library_takes_forty_uris_and_refuses_the_forty_first(sandbox, spotify):
    """Beyond 40 URIs the whole request is refused with 400 and nothing changes."""
    forty = [track(n) for n in range(40)]

    too_many = spotify("DELETE", "/me/library", params={"uris": ",".join([*forty, track(40)])})
    untouched = len(saved_ids(sandbox))
    largest = spotify("DELETE", "/me/library", params={"uris": ",".join(forty)})

    assert error_of(too_many) == (400, "Too many uris requested")
    assert untouched == LIBRARY
    assert largest.status_code == 200
    assert len(saved_ids(sandbox)) == LIBRARY - 40


@pytest.mark.parametrize(
    ("uris", "message"),
    [
        ("", "Missing required field: uris"),
        ("spotify:track:short", "invalid id"),
        (f"spotify:track:{'é' * 22}", "invalid id"),
        (seed_track_id(1), "Invalid URI format"),
        (f"spotify:galaxy:{seed_track_id(1)}", "Unsupported URI type: galaxy"),
    ],
)
def test_library_refuses_what_is_no_uri(sandbox, spotify, uris, message):
    """One malformed URI refuses the whole batch with 400, the good ones in it too."""
    batch = f"{track(0)},{uris}" if uris else ""

    assert error_of(spotify("DELETE", "/me/library", params={"uris": batch})) == (400, message)
    assert len(saved_ids(sandbox)) == LIBRARY


def test_saved_tracks_come_in_pages_latest_first(spotify):
    """GET /me/tracks pages by limit and offset, with distinct added_at dates falling."""
    rows, url = [], "/me/tracks?limit=50"
    offsets = []
    while url:
        page = spotify("GET", url).json()
        offsets.append(page["offset"])
        rows += page["items"]
        url = page["next"] and page["next"].partition("/v1")[2]

    dates = [row["added_at"] for row in rows]
    assert offsets == [0, 50, 100]
    assert [row["track"]["id"] for row in rows] == [seed_track_id(n) for n in reversed(range(LIBRARY))]
    assert dates == sorted(set(dates), reverse=True)
    assert dates[-1] == seed_added_at(0)
    assert page["total"] == LIBRARY


@pytest.mark.parametrize("query", ["limit=0", "limit=51", "limit=x", "offset=-1"])
def test_pages_refuse_numbers_out_of_range(spotify, query):
    """Limits outside 1 to 50 and negative offsets are 400."""
    assert error_of(spotify("GET", f"/me/tracks?{query}"))[0] == 400


def test_older_tracks_endpoints_take_ids_of_query_or_body(sandbox, spotify):
    """DELETE, PUT and contains on /me/tracks take ids in the query; the body's count only without them."""
    ids = [seed_track_id(3), seed_track_id(4)]

    assert spotify("DELETE", "/me/tracks", params={"ids": ",".join(ids)}).status_code == 200
    assert spotify("GET", "/me/tracks/contains", params={"ids": ",".join(ids)}).json() == [False, False]
    assert spotify("PUT", "/me/tracks", json={"ids": ids}).status_code == 200
    assert spotify("DELETE", "/me/tracks", params={"ids": ids[0]}, json={"ids": ids}).status_code == 200
    assert spotify("GET", "/me/tracks/contains", params={"ids": ",".join(ids)}).json() == [False, True]


def test_timestamped_ids_restore_date_and_place(sandbox, spotify):
    """A track saved again with its old added_at stands where it stood; without it, it is the latest."""
    before = sandbox.control("state", account="demo")["tracks"]
    spotify("DELETE", "/me/tracks", params={"ids": f"{seed_track_id(10)},{seed_track_id(50)}"})
    stamped = [{"id": seed_track_id(n), "added_at": seed_added_at(n)} for n in (50, 10)]

    answer = spotify("PUT", "/me/tracks", json={"timestamped_ids": stamped})

    assert answer.status_code == 200
    assert sandbox.control("state", account="demo")["tracks"] == before
    bad_date = spotify(
        "PUT", "/me/tracks", json={"timestamped_ids": [{"id": seed_track_id(1), "added_at": "yesterday"}]}
    )
    assert error_of(bad_date) == (400, "Invalid timestamp")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"json": {"ids": []}}, "Missing required field: ids"),
        ({"params": {"ids": "nope"}}, "invalid id"),
        ({"params": {"ids": ",".join(seed_track_id(n) for n in range(51))}}, "Too many ids requested"),
        ({"data": "{", "headers": {"Content-Type": "application/json"}}, "Error parsing JSON."),
        ({"json": [1]}, "Error parsing JSON."),
    ],
)
def test_older_tracks_endpoint_refuses_bad_input(sandbox, spotify, options, message):
    """Empty, invalid, too many or malformed ids are 400 and change nothing."""
    assert error_of(spotify("DELETE", "/me/tracks", **options)) == (400, message)
    assert len(saved_ids(sandbox)) == LIBRARY


def test_followed_artists_come_by_cursor_though_artists_go(spotify):
    """GET /me/following goes on after its cursor even when that artist was unfollowed in between."""
    first = spotify("GET", "/me/following", params={"type": "artist", "limit": 3}).json()["artists"]
    cursor = first["cursors"]["after"]
    spotify("DELETE", "/me/following", params={"type": "artist", "ids": cursor})

    rest = spotify("GET", "/me/following", params={"type": "artist", "limit": 50, "after": cursor}).json()["artists"]

    got = [row["id"] for row in first["items"] + rest["items"]]
    assert sorted(got) == sorted(seed_artist_id(n) for n in range(ARTISTS))
    assert (rest["next"], rest["cursors"]["after"], rest["total"]) == (None, None, ARTISTS - 1)


def test_following_changes_answer_204(sandbox, spotify):
    """PUT and DELETE /me/following answer 204 with no body, and contains tells the difference."""
    query = {"type": "artist", "ids": f"{seed_artist_id(0)},{seed_artist_id(1)}"}

    unfollowed = spotify("DELETE", "/me/following", params=query)
    between = spotify("GET", "/me/following/contains", params=query).json()
    followed = spotify("PUT", "/me/following", params={"type": "artist", "ids": seed_artist_id(1)})

    assert (unfollowed.status_code, unfollowed.content, followed.status_code) == (204, b"", 204)
    assert between == [False, False]
    assert spotify("GET", "/me/following/contains", params=query).json() == [False, True]
    assert error_of(spotify("PUT", "/me/following", params={"ids": seed_artist_id(1)}))[0] == 400


def test_tokens_name_the_account_and_expire(sandbox, spotify):
    """Missing, unknown and expired tokens are 401; a refresh brings one that works, until it is revoked."""

    def status_with(token: str) -> int:
        headers = {"Authorization": token}
        return requests.get(f"{sandbox.base_url}/me", headers=headers, timeout=10).status_code

    def refresh(**form: str) -> requests.Response:
        form = {"grant_type": "refresh_token", "refresh_token": "refresh-demo", "client_id": "app", **form}
        return requests.post(sandbox.token_url, data=form, timeout=10)

    assert spotify("GET", "/me").json()["id"] == "demo"
    assert [status_with(token) for token in ("", "Bearer x", "Bearer sandbox-nobody", "Bearer sandbox-demo.9")] == [
        401
    ] * 4
    sandbox.control("expire_token", {"account": "demo"})
    assert error_of(spotify("GET", "/me")) == (401, "The access token expired")
    assert status_with("Bearer sandbox-guest") == 200
    answer = refresh().json()
    assert (answer["token_type"], answer["expires_in"], "refresh_token" in answer) == ("Bearer", 3600, False)
    assert status_with(f"Bearer {answer['access_token']}") == 200
    sandbox.control("expire_token", {"account": "demo", "refresh": True})
    assert status_with(f"Bearer {answer['access_token']}") == 401
    assert (refresh().status_code, refresh().json()["error_description"]) == (400, "Refresh token revoked")


def test_token_endpoint_wants_a_client_and_a_grant(sandbox):
    """A confidential client authenticates by Basic, a public one by client_id; all else has an OAuth error."""
    form = {"grant_type": "refresh_token", "refresh_token": "refresh-demo"}
    basic = {"Authorization": "Basic " + base64.b64encode(b"id:secret").decode()}

    def error(data: dict[str, str], headers: dict[str, str] | None = None) -> str:
        answer = requests.post(sandbox.token_url, data=data, headers=headers, timeout=10)
        return answer.json().get("error", "")

    assert error(form, basic) == ""
    assert error(form) == "invalid_client"
    assert error({**form, "grant_type": "password"}, basic) == "unsupported_grant_type"
    assert error({"grant_type": "refresh_token"}, basic) == "invalid_request"
    assert error({**form, "refresh_token": "stolen"}, basic) == "invalid_grant"


def test_the_ledger_names_operation_items_key_and_changes_without_tokens(sandbox, spotify):
    """Each request is recorded with its contents by URI, whatever form it had, and no credential."""
    headers = {"Idempotency-Key": "key-1", "X-Request-Id": "req-1"}
    spotify("DELETE", "/me/tracks", params={"ids": f"{seed_track_id(1)},{'0' * 22}"}, headers=headers)
    spotify("DELETE", f"/playlists/{seed_playlist_id(0)}/items", json={"items": [{"uri": track(2)}]})
    requests.post(sandbox.token_url, data={"grant_type": "refresh_token", "refresh_token": "refresh-demo"}, timeout=10)

    removal, playlist, refresh = read_ledger(sandbox.ledger_path)

    assert (removal.operation, removal.account, removal.items) == (
        "remove_tracks",
        "demo",
        (track(1), f"spotify:track:{'0' * 22}"),
    )
    assert (removal.idempotency_key, removal.request_id, removal.is_applied) == ("key-1", "req-1", True)
    assert [(change["item"], change["was"], change["now"]) for change in removal.changes] == [
        (track(1), {"added_at": seed_added_at(1)}, None)
    ]
    assert (playlist.items, {change["item"] for change in playlist.changes}) == ((track(2),), {track(2)})
    assert (refresh.operation, refresh.account, refresh.is_counted) == ("refresh_token", "demo", False)
    text = sandbox.ledger_path.read_text()
    assert "sandbox-demo" not in text
    assert "refresh-demo" not in text


def test_unknown_paths_and_methods_are_recorded_too(sandbox, spotify):
    """404 and 405 are arrivals like any other."""
    assert error_of(spotify("GET", "/nothing")) == (404, "Service not found")
    assert error_of(spotify("PATCH", "/me/tracks"))[0] == 405
    assert [(entry.operation, entry.status) for entry in read_ledger(sandbox.ledger_path)] == [
        ("unknown", 404),
        ("unknown", 405),
    ]


@pytest.mark.parametrize("sandbox", [{"quirks": "no-library-artists,development-mode"}], indirect=True)
def test_quirks_refuse_what_some_apps_may_not(sandbox, spotify):
    """With quirks the library refuses artists with 400 and the older endpoints answer 403."""
    assert error_of(spotify("DELETE", "/me/library", params={"uris": artist(0)})) == (
        400,
        "Unsupported URI type: artist",
    )
    assert spotify("DELETE", "/me/library", params={"uris": track(0)}).status_code == 200
    assert error_of(spotify("DELETE", "/me/tracks", params={"ids": seed_track_id(0)}))[0] == 403
    assert error_of(spotify("PUT", "/me/following", params={"type": "artist", "ids": seed_artist_id(0)}))[0] == 403
