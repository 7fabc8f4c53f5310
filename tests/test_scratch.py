"""What files make of an empty database, by the run loop, in one that is thrown away."""

from collections.abc import Callable
from typing import Any

import pytest

from lib.errors import FilesError, MigrationFailed
from lib.scratch import made_by
from tests.conftest import Server
from tests.kit import HEAD, file, read, target_of

Listed = Callable[[], list[tuple[Any, ...]]]


def test_the_objects_are_what_the_files_make_and_not_the_history(
    server: Server, scratch_databases: Listed
) -> None:
    files = [
        file("001-one", "CREATE TABLE one (id int);"),
        file("002-index", "CREATE INDEX one_id ON one (id);"),
    ]
    made = made_by(target_of(server.admin), files, None)
    assert made.objects["column public.one.id"] == "integer"
    assert "index public.one_id" in made.objects
    assert not [name for name in made.objects if "schema_migrations" in name]
    assert scratch_databases() == []


def test_a_file_without_a_transaction_runs_as_in_a_run(server: Server) -> None:
    sql = f"{HEAD}CREATE TABLE one (id int);\nCREATE INDEX CONCURRENTLY one_id ON one (id);\n"
    assert "index public.one_id" in made_by(target_of(server.admin), [read(sql)], None).objects


def test_a_file_that_fails_is_named_and_the_database_is_gone(
    server: Server, scratch_databases: Listed
) -> None:
    files = [file("001-one", "CREATE TABLE one (id int);"), file("002-two", "DROP TABLE nothing;")]
    with pytest.raises(MigrationFailed, match="002-two failed"):
        made_by(target_of(server.admin), files, None)
    assert scratch_databases() == []


def test_a_draft_is_refused(server: Server, scratch_databases: Listed) -> None:
    with pytest.raises(FilesError, match="still a draft"):
        made_by(target_of(server.admin), [read("-- migrate: draft\nSELECT 1;\n")], None)
    assert scratch_databases() == []


def test_the_history_may_be_in_a_schema_of_its_own(server: Server) -> None:
    made = made_by(target_of(server.admin), [file("001-one", "CREATE TABLE one ();")], "onward")
    assert {name for name in made.objects if name.startswith(("schema", "table"))} == {
        "schema onward",
        "schema public",
        "table public.one",
    }
