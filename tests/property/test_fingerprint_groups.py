"""Failures that mean the same share a fingerprint."""

from __future__ import annotations

import string

from hypothesis import given
from hypothesis import strategies as st

from jobqueue.model.fingerprint import fingerprint
from jobqueue.model.item import ItemError

ids = st.text(string.ascii_letters + string.digits, min_size=5, max_size=22).filter(
    lambda text: any(char.isdigit() for char in text)
)


@given(ids, ids, st.sampled_from(["invalid id {}", "no track '{}' here", 'playlist "{}" is gone', "{} is gone"]))
def test_messages_that_differ_in_an_id_fall_into_one_group(first: str, second: str, words: str) -> None:
    """Ids with a digit in them and quoted values do not tell failures apart."""
    one, other = (fingerprint(ItemError("gone", words.format(value))) for value in (first, second))
    assert one == other


@given(st.integers(), st.integers())
def test_numbers_do_not_tell_failures_apart(first: int, second: int) -> None:
    """Status codes, seconds and counts vary; the words say what failed."""
    assert fingerprint(ItemError("slow", f"took {abs(first)} s")) == fingerprint(
        ItemError("slow", f"took {abs(second)} s")
    )


def test_other_codes_and_other_words_are_other_groups() -> None:
    """What was meant differently stays apart."""
    errors = [
        ItemError("gone", "no such track"),
        ItemError("lost", "no such track"),
        ItemError("gone", "no such album"),
    ]
    assert len({fingerprint(error) for error in errors}) == 3


@given(st.text(max_size=500), st.text(max_size=500))
def test_a_fingerprint_is_one_short_line(code: str, message: str) -> None:
    """At most 120 characters, whatever the provider said."""
    found = fingerprint(ItemError(code, message))
    assert len(found) <= 120
    assert "\n" not in found.removeprefix(code[:120])


def test_ids_without_a_digit_but_in_quotes_are_replaced() -> None:
    """A provider that quotes what it refuses needs no digit in it."""
    assert fingerprint(ItemError("invalid_id", "Invalid id: 'abcdef'")) == "invalid_id: Invalid id: …"
