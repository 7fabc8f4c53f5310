"""What is expected of a schema, and what differs from it: without a database."""

import json
from pathlib import Path
from typing import Any

import pytest

from lib.drift import (
    Difference,
    Drift,
    Mark,
    Schema,
    Verdict,
    holder_of,
    judge,
    judge_against,
    load_schema,
    mark_of,
    mark_text,
    normal,
    packed,
    require_acceptable,
    require_no_drift,
    require_refreshable,
    schema_document,
    summary,
    unpacked,
    with_begun,
)
from lib.errors import FilesError, SchemaDrift
from lib.history import AppliedMigration, History
from tests.kit import HISTORY

AT = "2026-11-26T12:00:00.123+00:00"
BASE = Schema(18, {"table public.a": "", "column public.a.id": "integer"})


def with_(schema: Schema, **columns: str | None) -> Schema:
    """The schema with other columns of the table; None drops one."""
    objects = dict(schema.objects)
    for name, definition in columns.items():
        objects.pop(f"column public.a.{name}", None)
        if definition is not None:
            objects[f"column public.a.{name}"] = definition
    return schema._replace(objects=objects)


def history(*marks: str | None) -> History:
    """A history whose rows have these marks."""
    rows = (
        AppliedMigration(number, f"00{number}-x", "X", drift=mark)
        for number, mark in enumerate(marks, 1)
    )
    return HISTORY._replace(rows=tuple(rows))


# What is expected


def test_what_a_run_has_changed_is_expected_after_it() -> None:
    before = with_(BASE, old="text", kept="text")
    after = with_(before, old=None, new="text", id="bigint")
    expected = before.plus(before, after)
    assert expected.objects == after.objects
    assert judge(expected, after) == Verdict(Drift.NONE)


def test_what_was_changed_by_hand_before_a_run_is_still_named_after_it() -> None:
    before = with_(BASE, by_hand="text")
    after = with_(before, by_migration="text")
    verdict = judge(BASE.plus(before, after), after)
    assert verdict == Verdict(Drift.FOUND, (Difference("column public.a.by_hand", None, "text"),))


def test_a_migration_that_changes_the_same_object_takes_it_in() -> None:
    before = with_(BASE, id="bigint")
    after = with_(before, id="bigint NOT NULL")
    assert judge(BASE.plus(before, after), after) == Verdict(Drift.NONE)


# What is found


def test_each_difference_says_what_was_and_what_is() -> None:
    found = with_(BASE, id="bigint", extra="text")._replace(postgres=18)
    objects = {name: text for name, text in found.objects.items() if not name.startswith("table")}
    assert judge(BASE, found._replace(objects=objects)).differences == (
        Difference("column public.a.extra", None, "text"),
        Difference("column public.a.id", "integer", "bigint"),
        Difference("table public.a", "", None),
    )


@pytest.mark.parametrize("kind", ["owner of", "privileges on", "comment on"])
def test_owners_privileges_and_comments_count_strictly_only(kind: str) -> None:
    found = BASE._replace(objects={**BASE.objects, f"{kind} public.a": "other"})
    assert judge(BASE, found).drift is Drift.NONE
    assert judge(BASE, found, strict=True).drift is Drift.FOUND
    assert BASE.hash == found.hash


@pytest.mark.parametrize(
    ("expected", "reason"),
    [
        (None, "no run has stored what the schema should be"),
        (BASE._replace(postgres=14), "stored by PostgreSQL 14, and this is PostgreSQL 18"),
        (BASE._replace(rules=0), "stored by another version of Onward"),
        (BASE._replace(gap="003-c"), "what this and later migrations changed was not stored"),
    ],
)
def test_what_cannot_be_compared_is_unknown_and_fails_nothing(
    expected: Schema | None, reason: str
) -> None:
    verdict = judge(expected, with_(BASE, extra="text"))
    assert verdict.drift is Drift.UNKNOWN
    assert verdict.reason.startswith(reason)
    assert verdict.since == (expected.gap if expected else "")
    require_no_drift(verdict)
    require_refreshable(verdict)
    with pytest.raises(SchemaDrift, match="drift --accept does not apply") as caught:
        require_acceptable(verdict)
    assert caught.value.next_step.endswith("scripts/migrate.py drift --refresh")


def test_known_differences_are_accepted_never_refreshed() -> None:
    verdict = judge(BASE, with_(BASE, extra="text"))
    require_acceptable(verdict)
    with pytest.raises(SchemaDrift, match="not as the migrations left it") as caught:
        require_refreshable(verdict)
    assert caught.value.next_step.endswith("scripts/migrate.py drift --accept")
    with pytest.raises(SchemaDrift, match="and MIGRATION_DRIFT is fail"):
        require_no_drift(verdict)


def test_the_summary_names_the_first_differences_and_counts_the_others() -> None:
    found = with_(BASE, **{f"x{number}": "text" for number in range(7)})
    assert summary(judge(BASE, found)).endswith("public.a.x3, column public.a.x4 and 2 more")


# What is stored


def test_a_schema_is_read_as_it_was_packed() -> None:
    schema = with_(BASE, umlaut="text DEFAULT 'ä'")._replace(gap="003-c")
    assert packed(schema).isascii()
    assert unpacked(packed(schema)) == schema


@pytest.mark.parametrize("text", [None, "", "x", "ä", "{}", "0" * 99])
def test_what_was_not_packed_is_nothing(text: str | None) -> None:
    assert unpacked(text) is None


def test_the_newest_rows_mark_is_what_is_known() -> None:
    mark = mark_text(Drift.FOUND, BASE, AT)
    found = mark_of(history(None, mark))
    assert (found.drift, found.hash) == (Drift.FOUND, BASE.hash)
    assert found.as_of and found.as_of.isoformat(timespec="milliseconds") == AT


def test_a_row_behind_the_document_makes_it_unknown() -> None:
    found = mark_of(history(mark_text(Drift.NONE, BASE, AT), None))
    assert (found.drift, found.hash) == (Drift.UNKNOWN, BASE.hash)


def test_a_file_that_was_begun_and_has_no_row_makes_it_unknown() -> None:
    mark = with_begun(mark_text(Drift.NONE, BASE, AT), "002-index")
    found = mark_of(history(mark))
    assert (found.drift, found.hash, found.begun) == (Drift.UNKNOWN, BASE.hash, "002-index")
    assert holder_of(history(mark, None))[1] == "002-index"
    assert with_begun("x", "002-index") == "x"


@pytest.mark.parametrize(
    "mark", [None, "", "x", "[]", "{}", '{"drift": "x"}', '{"drift": "none", "asOf": 5, "hash": 1}']
)
def test_a_mark_that_is_none_is_unknown(mark: str | None) -> None:
    assert mark_of(history(mark)) == Mark(Drift.UNKNOWN)


# A saved schema


def saved(directory: Path, document: Any) -> str:
    path = directory / "schema.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return str(path)


def test_a_saved_schema_is_what_others_are_compared_with(tmp_path: Path) -> None:
    file = saved(tmp_path, {"schema": schema_document(BASE)})
    found = with_(BASE, extra="text")
    verdict = judge_against(load_schema(file), found, file, strict=False)
    assert verdict.differences == (Difference("column public.a.extra", None, "text"),)
    assert judge_against(load_schema(file), BASE, file, strict=True) == Verdict(Drift.NONE)


@pytest.mark.parametrize("document", ["", "{", [], {}, {"schema": []}, {"schema": {"objects": 1}}])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, document: Any) -> None:
    with pytest.raises(FilesError, match="is not what `drift --json` prints"):
        load_schema(saved(tmp_path, document))


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FilesError, match="cannot be read: no such file"):
        load_schema(str(tmp_path / "none.json"))


def test_a_schema_of_another_major_version_is_refused() -> None:
    with pytest.raises(FilesError, match="stored by PostgreSQL 14, and this is"):
        judge_against(BASE._replace(postgres=14), BASE, "s.json", strict=False)


# One form of a definition


def test_in_lists_over_varchar_have_one_form() -> None:
    written = (
        "CHECK (((v)::text = ANY ((ARRAY['a'::character varying, 'it''s'::character varying])"
        "::text[])))"
    )
    restored = (
        "CHECK (((v)::text = ANY (ARRAY[('a'::character varying)::text, "
        "('it''s'::character varying)::text])))"
    )
    assert normal(written) == normal(restored) != written
