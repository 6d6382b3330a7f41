"""Reading Spotify's names of things."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.providers.spotify import SpotifyProvider
from handlers.providers.spotify_ids import read_uri
from jobqueue.errors import InvalidInputError

ID = "4iV5W9uYEdYUVa79Axb7Rh"


@pytest.mark.parametrize(
    "text",
    [
        ID,
        f"  {ID}\t",
        f"spotify:track:{ID}",
        f"https://open.spotify.com/track/{ID}",
        f"http://open.spotify.com/track/{ID}/",
        f"https://open.spotify.com/intl-de/track/{ID}?si=0123abc",
        f"https://open.spotify.com/intl-pt-BR/track/{ID}",
        f"open.spotify.com/track/{ID}?si=x&utm=y#frag",
        f"https://OPEN.spotify.com/track/{ID}",
    ],
)
def test_ids_uris_and_links_mean_the_same_uri(text: str) -> None:
    """All forms are one key, so duplicates are found whatever their form."""
    assert read_uri(text, kinds=("track",), field="track") == f"spotify:track:{ID}"


@pytest.mark.parametrize(
    "text",
    [
        "",
        ID[:-1],
        ID + "x",
        ID[:-1] + "-",
        f"spotify:album:{ID}",
        f"spotify:track:{ID}:x",
        f"spotify:track:{ID[:-1]}",
        f"SPOTIFY:track:{ID}",
        f"https://evil.example/track/{ID}",
        f"https://open.spotify.com.evil.example/track/{ID}",
        f"ftp://open.spotify.com/track/{ID}",
        f"https://open.spotify.com/album/{ID}",
        f"https://open.spotify.com/embed/x/y/z/track/{ID}",
        "https://[broken/track/x",
        "x" * 5000,
    ],
)
def test_anything_else_is_refused_with_field_value_and_remedy(text: str) -> None:
    """The message is short however long the value is."""
    with pytest.raises(InvalidInputError) as caught:
        read_uri(text, kinds=("track",), field="track")

    assert caught.value.field == "track"
    assert "22-character id" in caught.value.remedy
    assert text[:20] in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_thing_of_another_kind_is_named() -> None:
    """An album in a column of tracks is no riddle."""
    with pytest.raises(InvalidInputError, match="is a Spotify album, not a track"):
        read_uri(f"https://open.spotify.com/album/{ID}", kinds=("track",), field="track")


def test_an_old_playlist_uri_names_its_owner_and_is_read() -> None:
    """spotify:user:NAME:playlist:ID and its link."""
    for text in (f"spotify:user:me:playlist:{ID}", f"https://open.spotify.com/user/me/playlist/{ID}"):
        assert read_uri(text, kinds=("playlist",), field="playlist") == f"spotify:playlist:{ID}"


@given(st.text(max_size=60))
def test_no_text_gives_anything_but_a_uri_or_the_input_error(text: str) -> None:
    """No traceback, and every accepted key is canonical: reading it again changes nothing."""
    try:
        uri = read_uri(text, kinds=("track", "episode"), field="track")
    except InvalidInputError:
        return
    assert read_uri(uri, kinds=("track", "episode"), field="track") == uri


@pytest.mark.parametrize("position", ["-1", "1.5", "ten", "²", "9999999"])
def test_a_wrong_position_is_refused(position: str) -> None:
    """Field, value and remedy."""
    action = SpotifyProvider.operations["insert_into_playlist"]
    with pytest.raises(InvalidInputError) as caught:
        action.read_item({"track": ID, "position": position})
    assert caught.value.field == "position"


def test_the_same_track_at_two_positions_is_two_items() -> None:
    """A playlist may hold a track twice, so its key has the position; without one it is added once."""
    action = SpotifyProvider.operations["insert_into_playlist"]
    first, _ = action.read_item({"track": ID, "position": "3"})
    second, payload = action.read_item({"track": f"spotify:track:{ID}", "position": "04"})
    assert first != second
    assert payload == {"position": 4}
    assert action.read_item({"track": ID}) == (f"spotify:track:{ID}", {})


def test_every_operation_has_an_inverse_that_leads_back() -> None:
    """`undo` names an operation of the same provider, and its `undo` is the first again."""
    operations = SpotifyProvider.operations
    for name, operation in operations.items():
        assert operation.name == name
        assert operation.undo is not None
        assert operations[operation.undo].undo == name
        assert operation.deadline_s <= 12
