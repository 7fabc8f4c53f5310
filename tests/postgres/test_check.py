"""Checks that fail without PL/pgSQL."""

import pytest

from lib.errors import MigrationFailed, ServerError
from lib.postgres.check import NOT_STORED, OTHER_TABLE, Case, check, own_error
from tests.conftest import Database
from tests.kit import Write, recorded, run, run_fails, session_of


def test_a_check_fails_with_its_code_and_its_own_words(database: Database) -> None:
    with session_of(database) as session:
        error = session.send(check(Case(OTHER_TABLE, "1 = 1"))).failure
    assert (error.sqlstate, error.message) == (
        OTHER_TABLE,
        "schema_migrations is not the table that was planned with",
    )


def test_a_check_that_passes_returns_no_row(database: Database) -> None:
    with session_of(database) as session:
        reply = session.send(check(Case(OTHER_TABLE, "1 = 2")))
    assert (reply.failed, reply.rows) == (False, [])


@pytest.mark.parametrize(
    "message",
    [
        'invalid input syntax for type integer: "OW003 4711"',
        "ungültige Eingabesyntax für Typ integer: »OW003 4711«",
        '型integerの入力構文が不正です: "OW003 4711"',
    ],
)
def test_a_code_is_found_in_the_server_s_words_of_any_language(message: str) -> None:
    assert own_error(ServerError("22P02", message)).sqlstate == NOT_STORED


@pytest.mark.parametrize(
    ("sqlstate", "text"),
    [
        ("22P02", "x"),
        ("23505", "x"),
        ("P0001", "OW003 4711"),
        ("22P02", "OW003"),
        (None, "OW003 1"),
    ],
)
def test_another_error_stays_as_it_is(sqlstate: str | None, text: str) -> None:
    error = ServerError(sqlstate, f'invalid input syntax for type integer: "{text}"')
    assert own_error(error) is error


def test_a_file_that_fails_with_such_words_is_not_taken_for_a_check(
    database: Database, migrations: Write
) -> None:
    directory = migrations({"001-cast.sql": "SELECT CAST('OW001 1' AS integer);"})
    with run_fails(MigrationFailed) as ended:
        run(database, directory)
    error = ended.value.failure.server
    assert (error.sqlstate, "OW001 1" in error.message) == ("22P02", True)
    assert recorded(database) == []
