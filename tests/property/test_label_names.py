"""Labels made from templates, and what no label may be."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobqueue.errors import InvalidInputError
from jobqueue.model.job import JobRequest
from jobqueue.model.label import LONGEST_LABEL, ConcurrencyLimit, Label

REQUEST = JobRequest(
    type="enforcement", provider="spotify", account="demo", operation="unsave", owner="me", options={"playlist": "p1"}
)
VALUES: Mapping[str, object] = REQUEST.label_values(7)
PRINTABLE = st.text(st.characters(categories=("L", "N", "P", "S")), min_size=1, max_size=40)


@pytest.mark.parametrize(
    ("template", "label"),
    [
        ("rechunk", "rechunk"),
        ("rechunk:{account}", "rechunk:demo"),
        ("{provider}/{account}/{type}/{operation}/{owner}", "spotify/demo/enforcement/unsave/me"),
        ("only {job}", "only 7"),
        ("{playlist}", "p1"),
        ("{{{account}}}", "{demo}"),
    ],
)
def test_a_template_becomes_a_label(template: str, label: str) -> None:
    """The job's own fields and its options stand for themselves; doubled braces are braces."""
    assert ConcurrencyLimit(template, capacity=2).label(VALUES).name == label


def test_an_option_does_not_hide_a_field_of_the_job() -> None:
    """An option called account cannot move a job out of its account's line."""
    request = JobRequest(type="t", provider="p", account="real", options={"account": "forged"})
    assert ConcurrencyLimit("{account}").label(request.label_values(1)).name == "real"


@pytest.mark.parametrize(
    ("template", "message", "remedy"),
    [
        ("x:{acount}", "the placeholder 'acount' is unknown", r"Did you mean \{account\}\?.*playlist"),
        ("x:{zzz}", "the placeholder 'zzz' is unknown", "Known here: account, job, operation"),
    ],
)
def test_an_unknown_placeholder_is_refused_with_the_known_ones(template: str, message: str, remedy: str) -> None:
    """A slip of the pen must not become a label that everybody shares."""
    with pytest.raises(InvalidInputError, match=message) as caught:
        ConcurrencyLimit(template).label(VALUES)
    caught.match(remedy)
    assert caught.value.field == "concurrency"


def test_a_placeholder_that_stands_for_nothing_is_refused() -> None:
    """Jobs without an account would otherwise share the label ``x:``."""
    with pytest.raises(InvalidInputError, match="this job has no account"):
        ConcurrencyLimit("x:{account}").label(JobRequest(type="t", provider="p").label_values(1))


@pytest.mark.parametrize(
    "name", ["", " ", "{", "}", "a{", "{}", "{0}", "{account.x}", "{account!r}", "{account:>9}", "{a b}"]
)
def test_a_name_that_cannot_be_read_is_refused_when_it_is_declared(name: str) -> None:
    """Before any job is there: when the handler is loaded or the command is read."""
    with pytest.raises(InvalidInputError) as caught:
        ConcurrencyLimit(name)
    assert caught.value.remedy


@pytest.mark.parametrize(
    "numbers",
    [
        {"capacity": 0},
        {"capacity": -1},
        {"capacity": 10_001},
        {"capacity": True},
        {"capacity": 1.5},
        {"max_sleep_s": 0},
        {"max_sleep_s": math.nan},
        {"max_sleep_s": 1e9},
        {"expiry_s": 19.9},
        {"expiry_s": 3601},
        {"expiry_s": math.inf},
        {"expiry_s": "20"},
    ],
)
def test_numbers_out_of_range_are_refused_by_name(numbers: dict[str, Any]) -> None:
    """Capacity, longest wait and expiry have bounds; the message names the one that is broken."""
    with pytest.raises(InvalidInputError, match=f"{next(iter(numbers))} .* is out of range"):
        ConcurrencyLimit("x", **numbers)


@given(PRINTABLE)
def test_any_value_ends_up_in_the_label_as_it_is(value: str) -> None:
    """Braces, percent signs and quotes in an account are text, never another placeholder."""
    assert ConcurrencyLimit("x:{account}").label({"account": value}).name == f"x:{value}"


@given(PRINTABLE)
def test_a_label_given_on_to_another_job_stays_the_same(name: str) -> None:
    """What a rollback takes over from the job it undoes: the very label, whatever characters it holds."""
    label = Label(name, 3, 60.0, 30.0)
    assert label.as_limit().label({}) == label
    assert Label.from_dict(label.as_dict()) == label


@given(st.text(max_size=2 * LONGEST_LABEL))
def test_a_label_is_bounded_and_printable_or_refused(value: str) -> None:
    """Whatever an account is called, what is stored can be shown in one line."""
    try:
        name = ConcurrencyLimit("{account}").label({"account": value}).name
    except InvalidInputError:
        return
    assert name == value
    assert 0 < len(name) <= LONGEST_LABEL
    assert name.isprintable()
