"""Taking items in: checked one by one, duplicates collapsed, ready for COPY, in bounded memory."""

from __future__ import annotations

import errno
import json
import random
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from jobqueue.engine import distinct, spool
from jobqueue.engine.distinct import SPILL_ABOVE, Distinct
from jobqueue.engine.intake import CsvFile, Rows, RowSource
from jobqueue.engine.spool import SKIPPED_KEPT, Spooled, take_in
from jobqueue.errors import ConfigurationError, InvalidInputError
from jobqueue.handler import BaseHandler, Operation
from jobqueue.model.job import JobRequest

REQUEST = JobRequest(type="number", provider="test")
OPERATION = Operation(name="count", columns=("number", "note"), max_size=10)


class Numbers(BaseHandler):
    """Items are whole numbers, in any spelling."""

    job_type = "number"

    def read_item(
        self, request: JobRequest, operation: Operation, row: Mapping[str, str]
    ) -> tuple[str, dict[str, Any]]:
        text = row["number"]
        if text == "blank":
            return "", {}
        try:
            key = str(int(text))
        except ValueError:
            raise InvalidInputError(f"number {text!r} is none.", remedy="Use digits.", field="number") from None
        return key, {"note": row["note"]} if row.get("note") else {}


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A temporary directory of the test's own, which must be empty again in the end."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    yield place
    place.chmod(0o700)
    assert not list(place.iterdir())


def spooled(source: RowSource, **options: Any) -> Spooled:
    """Take *source* in."""
    return take_in(source, handler=Numbers(), request=REQUEST, operation=OPERATION, **options)


def digest(*items: str | dict[str, object]) -> str:
    """The digest of *items*."""
    with spooled(Rows(items)) as taken:
        return taken.items_digest


def test_rows_are_ready_for_copy_and_numbered_over_parts() -> None:
    """Part and seq lead each line; key and payload are escaped as COPY wants them; reading twice gives the same."""
    items = ["5", {"number": "6", "note": 'tab\t back\\slash "quote"\nline'}, "07"]
    with spooled(Rows(items)) as taken:
        lines = list(taken.rows(2))
        assert lines == list(taken.rows(2))
    assert lines[0] == b"0\t0\t5\t\\N\n"
    assert lines[2] == b"1\t2\t7\t\\N\n"
    part, seq, key, payload = lines[1].rstrip(b"\n").split(b"\t")
    assert (part, seq, key) == (b"0", b"1", b"6")
    assert json.loads(payload.replace(b"\\\\", b"\\")) == {"note": items[1]["note"]}  # type: ignore[index]


def test_equal_keys_collapse_into_the_first() -> None:
    """Keys are compared in canonical form; the first row's payload counts; the rest are counted."""
    items: list[Any] = ["1", {"number": "2", "note": "first"}, "01", {"number": "+2", "note": "second"}, "3"]
    with spooled(Rows(items)) as taken:
        assert [line.split(b"\t")[1:3] for line in taken.rows(100)] == [[b"0", b"1"], [b"1", b"2"], [b"2", b"3"]]
        assert b"first" in b"".join(taken.rows(100))
        assert (taken.item_count, taken.duplicate_count) == (3, 2)


def test_the_digest_depends_on_items_and_not_on_their_order() -> None:
    """The same items in any order and with duplicates have one digest; another item or payload another."""
    assert digest("1", "2", "3") == digest("3", "1", "2", "1")
    assert digest("1", "2") != digest("1", "3")
    assert digest("1", "2") != digest("1")
    assert digest("1", {"number": "2", "note": "a"}) != digest("1", {"number": "2", "note": "b"})


@pytest.mark.parametrize("spill_above", [SPILL_ABOVE, 1000, 40])
def test_far_duplicates_are_found_beyond_the_memory_threshold(
    monkeypatch: pytest.MonkeyPatch, spill_above: int
) -> None:
    """120,000 rows with near and far duplicates come out as a set would, however often the files are divided."""
    row_count = 120_000 if spill_above == SPILL_ABOVE else 30_000
    monkeypatch.setattr(spool, "Distinct", lambda place: Distinct(place, spill_above=spill_above))
    chance = random.Random(1)
    numbers = [number if chance.random() < 0.8 else chance.randrange(number + 1) for number in range(row_count)]
    numbers += numbers[:200]
    expected = list(dict.fromkeys(numbers))
    assert len(expected) > spill_above
    with spooled(Rows(map(str, numbers))) as taken:
        keys = [int(line.split(b"\t")[2]) for line in taken.rows(1000)]
        assert keys == expected
        assert taken.item_count == len(expected)
        assert taken.duplicate_count == len(numbers) - len(expected)
        in_memory = taken.items_digest
    monkeypatch.setattr(spool, "Distinct", lambda place: Distinct(place, spill_above=10**9))
    chance.shuffle(numbers)
    assert digest(*map(str, numbers)) == in_memory


def test_no_more_digests_are_held_than_the_threshold(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Memory stays bounded however many different keys come."""
    largest = 0

    class Watched(Distinct):
        def add(self, key_digest: bytes, item_digest: bytes) -> bool:
            nonlocal largest
            is_new = super().add(key_digest, item_digest)
            largest = max(largest, len(self._seen))
            return is_new

    monkeypatch.setattr(spool, "Distinct", lambda place: Watched(place, spill_above=100))
    with spooled(Rows(map(str, range(5000)))) as taken:
        assert taken.item_count == 5000
    assert 0 < largest <= 100


def test_the_first_wrong_row_refuses_the_source(tmp_path: Path, temporary: Path) -> None:
    """File, line and value are in the message, the way out in the remedy, and nothing is left behind."""
    path = tmp_path / "numbers.csv"
    path.write_text("number\n" + "".join(f"{n}\n" for n in range(729)) + "seven\neight\n")
    with pytest.raises(InvalidInputError) as caught:
        spooled(CsvFile(path))
    assert caught.value.message == f"{path}, line 731: number 'seven' is none."
    assert caught.value.remedy == "Use digits. Or leave such rows out: --skip-invalid"
    assert (caught.value.field, caught.value.line) == ("number", 731)


def test_wrong_rows_are_skipped_when_asked(tmp_path: Path) -> None:
    """They are reported by line and value, the rows of a wrong width among them; the others are taken."""
    path = tmp_path / "numbers.csv"
    path.write_text("number,note\n1,a\nx,b\n2,c,d\nblank,\n3,\n")
    with spooled(CsvFile(path), skip_invalid=True) as taken:
        assert (taken.item_count, taken.skipped_count) == (2, 3)
        assert [(row.line, row.value) for row in taken.skipped] == [(3, "x"), (4, ""), (5, "blank")]
        assert taken.skipped[0].message == "number 'x' is none."
        assert "3 columns" in taken.skipped[1].message
        assert taken.skipped[2].message == "number is empty."


def test_only_the_first_skipped_rows_are_kept_and_all_are_counted() -> None:
    """A file full of rubbish does not fill the memory."""
    with spooled(Rows(["1", *["x" * 5000] * 250]), skip_invalid=True) as taken:
        assert (taken.skipped_count, len(taken.skipped)) == (250, SKIPPED_KEPT)
        assert max(len(row.value) for row in taken.skipped) <= 200


def test_a_source_without_a_right_row_is_refused() -> None:
    """Skipping everything would make a job without items."""
    with pytest.raises(
        InvalidInputError, match=r"items: none of 2 rows is right; the first, item 1: number 'a' is none"
    ):
        spooled(Rows(["a", "b"]), skip_invalid=True)


def test_progress_is_told_every_ten_thousand_rows() -> None:
    """A caller can show how far a long reading is."""
    seen: list[int] = []
    with spooled(Rows(map(str, range(25_000))), on_progress=seen.append):
        assert seen == [10_000, 20_000]


def test_a_missing_temporary_directory_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The error names TMPDIR, not mkdtemp."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(ConfigurationError, match="TMPDIR"):
        spooled(Rows(["1"]))


def test_a_full_disk_is_told_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Running out of room while spilling is an error with a remedy; the temporary files go."""

    def full(self: Any, index: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(distinct._Buckets, "_flush", full)
    monkeypatch.setattr(spool, "Distinct", lambda place: Distinct(place, spill_above=10))
    with pytest.raises(ConfigurationError, match=r"No space left on device.*TMPDIR"):
        spooled(Rows(map(str, range(100))))


def test_an_error_of_the_callers_own_iterable_passes_unchanged() -> None:
    """What the caller's generator raises is not mistaken for ours, and the temporary files go."""

    def items() -> Iterator[str]:
        yield "1"
        raise OSError("the caller's")

    with pytest.raises(OSError, match="the caller's"):
        spooled(Rows(items()))
