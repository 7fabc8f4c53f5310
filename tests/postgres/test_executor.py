"""What the server itself stops, should the lexer ever let it through."""

from pathlib import Path

import pytest

from lib.errors import MigrationFailed, PartlyApplied
from lib.postgres.executor import Executor
from lib.retry import Backoff
from lib.source.migration import load
from tests.conftest import Database, Server
from tests.kit import Write, config_of, history, nothing_is_left_running, run, run_fails, tables


def apply_alone(database: Database, directory: Path) -> None:
    """Apply the first file without the checks that come before a run."""
    with Executor(config_of(database, directory)) as session:
        session.read()
        session.changes.prepare()
        session.apply(load(directory)[0], None, Backoff(0.0, first=1.0))


@pytest.mark.parametrize(
    ("sql", "kept"),
    [
        ("CREATE TABLE a (); COMMIT; CREATE TABLE b ()", ["a", "b"]),
        ("CREATE TABLE a (); COMMIT; BEGIN; CREATE TABLE b ()", ["a"]),
        ("CREATE TABLE a (); COMMIT AND CHAIN; CREATE TABLE b ()", ["a"]),
        ("CREATE TABLE a (); ROLLBACK; CREATE TABLE b ()", ["b"]),
        ("BEGIN; CREATE TABLE a (); COMMIT", ["a"]),
        ("CREATE TABLE a (); COMMIT; SELECT 1 / 0", ["a"]),
        ("CREATE TABLE a (); COMMIT; DELETE FROM schema_migrations", ["a"]),
    ],
)
def test_a_file_that_ends_its_transaction_is_not_recorded_or_called_undone(
    server: Server, database: Database, migrations: Write, sql: str, kept: list[str]
) -> None:
    with pytest.raises(PartlyApplied) as caught:
        apply_alone(database, migrations({"001-ends.sql": sql}))
    assert (caught.value.exit_code, "a part of its changes was kept" in caught.value.state) == (
        7,
        True,
    )
    assert tables(database) == kept
    assert history(database) == []
    nothing_is_left_running(server, database)


@pytest.mark.parametrize("sql", ["COPY a FROM STDIN", "COPY a TO STDOUT"])
def test_copy_with_the_client_ends_the_session_and_keeps_nothing(
    server: Server, database: Database, migrations: Write, sql: str
) -> None:
    with pytest.raises(MigrationFailed, match="001-copies failed") as caught:
        apply_alone(
            database,
            migrations({"001-copies.sql": f"CREATE TABLE a (i int); {sql}; CREATE TABLE b ()"}),
        )
    assert caught.value.failure.server.sqlstate == "0A000"
    nothing_is_left_running(server, database)
    assert (tables(database), history(database)) == ([], [])


def test_a_file_that_ends_its_own_session_keeps_nothing(
    server: Server, database: Database, migrations: Write
) -> None:
    directory = migrations(
        {"001-ends.sql": "CREATE TABLE a (); SELECT pg_terminate_backend(pg_backend_pid())"}
    )
    with run_fails(MigrationFailed, match="001-ends failed") as caught:
        run(database, directory)
    assert (caught.value.exit_code, caught.value.next_step) == (1, "It is safe to run again.")
    nothing_is_left_running(server, database)
    assert (tables(database), history(database)) == ([], [])
