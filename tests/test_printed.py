"""What a command has printed is read back; a file of any other shape is refused with words."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from lib.drift import load_schema
from lib.errors import OnwardError
from lib.queries import read_queries
from lib.sizes import Size, Sizes, read_sizes

Read = Callable[[Path], Any]
READERS = [read_sizes, read_queries, lambda path: load_schema(str(path))]
ENDLESS = float("inf")
OTHERS: list[Any] = [
    [],
    7,
    {"sizes": [], "schema": [], "queries": [], "format": []},
    {"sizes": {"public.a": [ENDLESS, 1]}},
    {"sizes": {"public.a": [2_000_000, ENDLESS]}},
    {"sizes": {"public.a": [2_000_000, "many"]}},
    {"sizes": {"public.a": [2_000_000]}},
    {"sizes": {}, "asOf": "lately", "format": 1, "queries": []},
    {"sizes": {}, "asOf": 7, "format": 1, "queries": []},
    {"schema": {"postgres": ENDLESS, "rules": 1, "objects": {}}},
    {"schema": {"postgres": 18, "rules": 1, "objects": 5}},
    {"format": 1, "queries": [{"text": "SELECT 1", "callsPerMinute": ENDLESS}]},
]


@pytest.mark.parametrize("read", READERS, ids=["sizes", "queries", "schema"])
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"[" * 200_000,
        *(json.dumps(one).encode() for one in OTHERS),
    ],
)
def test_a_document_of_another_shape_is_refused(tmp_path: Path, read: Read, content: bytes) -> None:
    path = tmp_path / "saved.json"
    path.write_bytes(content)
    with pytest.raises(OnwardError, match=r"saved\.json (is no|is not|has the format)") as caught:
        read(path)
    assert (caught.value.exit_code, caught.value.changed_nothing) == (2, True)
    assert "scripts/migrate.py" in caught.value.next_step


@pytest.mark.parametrize("read", READERS, ids=["sizes", "queries", "schema"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, read: Read) -> None:
    with pytest.raises(OnwardError, match=r"nowhere\.json cannot be read: no such file"):
        read(tmp_path / "nowhere.json")


def test_rows_that_were_never_counted_are_unknown(tmp_path: Path) -> None:
    path = tmp_path / "sizes.json"
    path.write_text('{"sizes": {"public.a": [2000000, null]}}')
    assert read_sizes(path) == Sizes({"public.a": Size(2_000_000, None)})


def test_a_document_may_say_when_it_was_made(tmp_path: Path) -> None:
    path = tmp_path / "saved.json"
    made = datetime(2026, 11, 26, 14, 0, tzinfo=UTC)
    document = {"format": 1, "queries": [], "sizes": {}, "asOf": "2026-11-26T14:00:00.000Z"}
    path.write_text(json.dumps(document))
    assert (read_sizes(path).as_of, read_queries(path)[1]) == (made, made)
    path.write_text(json.dumps({**document, "asOf": None}))
    assert (read_sizes(path).as_of, read_queries(path)[1]) == (None, None)
