"""What a run stores of the schema, and what the next one makes of it."""

import json
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from lib import runner
from lib.drift import Drift, Verdict, mark_of, packed, unpacked
from lib.errors import MigrationFailed, MigrationResult, PartlyApplied, SchemaDrift
from lib.events import Event, Started
from lib.history import SCHEMA_COLUMNS
from lib.postgres.executor import Executor
from lib.postgres.schema_watch import SchemaWatch
from tests.conftest import Cli, Database, Server
from tests.kit import (
    HEAD,
    ONE,
    TWO,
    Events,
    Write,
    config_of,
    contents,
    environment,
    history,
    holding,
    login,
    role,
    run,
    run_fails,
    tables,
    until,
)

pytestmark = pytest.mark.slow

THREE = {**TWO, "003-three.sql": "CREATE TABLE three (id int);\n"}
SLEEP = "SELECT pg_sleep(60)"
ASLEEP = (
    "SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()"
)
NOT_STORED = "what the schema should be was not stored"


def verdict(database: Database) -> Verdict:
    """What `drift` finds."""
    with Executor(config_of(database, Path("migrations"))) as executor:
        executor.read()
        return executor.schema.compare()[1]


def names(database: Database) -> list[str]:
    return [one.name for one in verdict(database).differences]


def stored(database: Database) -> list[tuple[str, Drift | None]]:
    """The rows with a document, and what their marks say."""
    rows = database.execute(
        "SELECT version, drift FROM schema_migrations WHERE schema_state IS NOT NULL ORDER BY id"
    )
    return [(version, Drift(json.loads(mark)["drift"])) for version, mark in rows]


def known(database: Database) -> tuple[Drift, bool]:
    """What the status knows, and whether it knows since when."""
    with Executor(config_of(database, Path("migrations"))) as executor:
        mark = mark_of(executor.read())
    return mark.drift, mark.as_of is not None


def start(cli: Cli, database: Database) -> subprocess.Popen[bytes]:
    """A run in a process of its own."""
    return subprocess.Popen(
        [sys.executable, str(cli.script)],
        env=environment(cli, database.url),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


# A run


def test_a_run_stores_what_it_leaves_in_the_newest_row_only(
    database: Database, migrations: Write
) -> None:
    before = datetime.now(UTC)
    run(database, migrations(TWO))
    assert stored(database) == [("002-two", Drift.NONE)]
    run(database, migrations(THREE))
    assert stored(database) == [("003-three", Drift.NONE)]
    assert verdict(database) == Verdict(Drift.NONE)
    with Executor(config_of(database, Path("migrations"))) as executor:
        as_of = mark_of(executor.read()).as_of
    assert as_of and before < as_of < datetime.now(UTC)


def test_a_change_by_hand_is_still_named_after_the_next_run(
    database: Database, migrations: Write
) -> None:
    run(database, migrations(ONE))
    database.execute("ALTER TABLE one ADD by_hand text")
    events = run(database, migrations(TWO))
    said = "the schema is not as the migrations left it: column public.one.by_hand"
    assert events.notices == [said]
    assert events.applied == ["002-two"]
    assert stored(database) == [("002-two", Drift.FOUND)]
    assert names(database) == ["column public.one.by_hand"]


def test_a_migration_takes_in_what_it_changes_too(database: Database, migrations: Write) -> None:
    run(database, migrations(ONE))
    database.execute("ALTER TABLE one ADD by_hand text")
    run(database, migrations({**ONE, "002-a.sql": "ALTER TABLE one ALTER by_hand SET NOT NULL"}))
    assert stored(database) == [("002-a", Drift.NONE)]
    assert verdict(database) == Verdict(Drift.NONE)


def test_drift_stops_a_run_that_is_to_fail_before_it_changes_anything(
    database: Database, migrations: Write
) -> None:
    run(database, migrations(ONE))
    database.execute("CREATE INDEX by_hand ON one (id)")
    before = contents(database)
    directory = migrations(TWO)
    with run_fails(SchemaDrift, "index public.by_hand") as caught:
        run(database, directory, MIGRATION_DRIFT="fail")
    assert (caught.value.exit_code, caught.value.code) == (3, "schema_drift")
    assert contents(database) == before
    database.execute("DROP INDEX by_hand")
    assert run(database, directory, MIGRATION_DRIFT="fail").notices == []
    assert history(database) == ["001-one", "002-two"]


def test_with_drift_off_a_run_adds_no_column_and_stores_nothing(
    database: Database, migrations: Write
) -> None:
    run(database, migrations(ONE), MIGRATION_DRIFT="off")
    added = "SELECT attname FROM pg_attribute WHERE attrelid = 'schema_migrations'::regclass"
    assert not {name for (name,) in database.execute(added)} & {*SCHEMA_COLUMNS}
    assert known(database) == (Drift.UNKNOWN, False)
    assert history(database) == ["001-one"]


def test_the_files_before_a_failed_one_are_expected(database: Database, migrations: Write) -> None:
    run(database, migrations(ONE))
    migrations({**TWO, "003-wrong.sql": "CREATE TABLE three (); SELECT 1 / 0"})
    directory = migrations({})
    with run_fails(MigrationFailed):
        run(database, directory)
    assert stored(database) == [("002-two", Drift.NONE)]
    assert verdict(database) == Verdict(Drift.NONE)
    assert tables(database) == ["one", "two"]


def test_what_a_partly_applied_file_leaves_is_no_change_by_hand(
    database: Database, migrations: Write
) -> None:
    run(database, migrations(ONE))
    directory = migrations({"002-half.sql": f"{HEAD}CREATE TABLE half (); SELECT 1 / 0;"})
    with run_fails(PartlyApplied):
        run(database, directory)
    assert stored(database) == [("001-one", Drift.NONE)]
    assert verdict(database) == Verdict(Drift.NONE)
    assert tables(database) == ["half", "one"]


def test_a_first_file_that_is_partly_applied_leaves_no_row_to_store_in(
    database: Database, migrations: Write
) -> None:
    directory = migrations({"001-half.sql": f"{HEAD}CREATE TABLE half (); SELECT 1 / 0;"})
    events = Events()
    with run_fails(PartlyApplied):
        run(database, directory, events)
    assert (events.notices, history(database)) == ([], [])
    assert tables(database) == ["half"]


def test_a_no_transaction_file_is_expected_too(database: Database, migrations: Write) -> None:
    run(database, migrations(ONE))
    index = f"{HEAD}CREATE INDEX CONCURRENTLY one_id ON one (id);"
    assert run(database, migrations({**ONE, "002-index.sql": index})).notices == []
    assert stored(database) == [("002-index", Drift.NONE)]
    assert verdict(database) == Verdict(Drift.NONE)


def test_a_history_of_an_older_runner_is_unknown_until_its_next_file(
    database: Database, migrations: Write
) -> None:
    directory = migrations(ONE)
    run(database, directory, MIGRATION_DRIFT="off")
    database.execute("ALTER TABLE one ADD long_ago text")
    assert known(database) == (Drift.UNKNOWN, False)
    assert run(database, directory).applied == []
    assert verdict(database).reason == "no run has stored what the schema should be"
    assert run(database, migrations(TWO), MIGRATION_DRIFT="fail").notices == []
    assert stored(database) == [("002-two", Drift.NONE)]
    assert verdict(database) == Verdict(Drift.NONE)


# Unknown


def test_a_run_that_stored_nothing_makes_drift_unknown_since_its_first_file(
    database: Database, migrations: Write
) -> None:
    run(database, migrations(ONE))
    run(database, migrations(THREE), MIGRATION_DRIFT="off")
    assert known(database) == (Drift.UNKNOWN, True)
    assert verdict(database).since == "002-two"
    events = run(database, migrations({"004-four.sql": "SELECT 1"}), MIGRATION_DRIFT="fail")
    (notice,) = events.notices
    assert notice.startswith("whether the schema has drifted is unknown since 002-two: what this")
    assert stored(database) == [("004-four", Drift.UNKNOWN)]
    assert verdict(database).since == "002-two"
    run(database, migrations({"005-five.sql": "SELECT 1"}), MIGRATION_DRIFT="off")
    assert verdict(database).since == "002-two"


def test_a_run_killed_before_its_document_is_stored_makes_drift_unknown(
    cli: Cli, database: Database, migrations: Write
) -> None:
    run(database, migrations(ONE))
    database.execute(
        "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN PERFORM pg_sleep(60); RETURN NEW; END';"
        "CREATE TRIGGER wait BEFORE UPDATE ON schema_migrations FOR EACH ROW"
        " EXECUTE FUNCTION wait()"
    )
    migrations(TWO)
    process = start(cli, database)
    until(lambda: database.execute(ASLEEP))
    process.kill()
    process.wait()
    database.execute(ASLEEP.replace("pid", "pg_terminate_backend(pid)", 1))
    database.execute("DROP FUNCTION wait CASCADE")
    assert history(database) == ["001-one", "002-two"]
    assert known(database) == (Drift.UNKNOWN, True)
    assert verdict(database).since == "002-two"
    third = {"003-three.sql": "CREATE TABLE three ()"}
    assert run(database, migrations(third), MIGRATION_DRIFT="fail").applied == ["003-three"]
    assert verdict(database).drift is Drift.UNKNOWN


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_no_transaction_file_that_is_killed_makes_drift_unknown(
    cli: Cli, database: Database, migrations: Write, number: signal.Signals
) -> None:
    run(database, migrations(ONE))
    half = f"{HEAD}CREATE TABLE IF NOT EXISTS half (); {SLEEP};"
    migrations({"002-half.sql": half})
    process = start(cli, database)
    until(lambda: database.execute(ASLEEP))
    process.send_signal(number)
    process.wait()
    until(lambda: not database.execute(ASLEEP))
    assert (tables(database), history(database)) == (["half", "one"], ["001-one"])
    assert known(database) == (Drift.UNKNOWN, True)
    assert verdict(database).since == "002-half"
    migrations({"002-half.sql": half.replace(SLEEP, "SELECT 1")})
    directory = migrations({"003-three.sql": "CREATE TABLE three ()"})
    events = run(database, directory, MIGRATION_DRIFT="fail")
    assert events.applied == ["002-half", "003-three"]
    assert stored(database) == [("003-three", Drift.UNKNOWN)]
    assert verdict(database).since == "002-half"


def test_with_drift_off_what_a_partly_applied_file_leaves_is_unknown(
    database: Database, migrations: Write
) -> None:
    run(database, migrations(ONE))
    directory = migrations({"002-half.sql": f"{HEAD}CREATE TABLE half (); SELECT 1 / 0;"})
    with run_fails(PartlyApplied):
        run(database, directory, MIGRATION_DRIFT="off")
    assert (tables(database), history(database)) == (["half", "one"], ["001-one"])
    assert known(database) == (Drift.UNKNOWN, True)
    assert verdict(database).since == "002-half"


def test_of_two_files_that_left_a_part_the_first_one_makes_drift_unknown(
    database: Database, migrations: Write
) -> None:
    run(database, migrations(ONE))
    half = f"{HEAD}CREATE TABLE IF NOT EXISTS half (); SELECT 1 / 0;"
    directory = migrations({"002-half.sql": half})
    with run_fails(PartlyApplied):
        run(database, directory, MIGRATION_DRIFT="off")
    (directory / "002-half.sql").rename(directory / "003-half.sql")
    with run_fails(PartlyApplied):
        run(database, directory, MIGRATION_DRIFT="off")
    assert (tables(database), history(database)) == (["half", "one"], ["001-one"])
    assert verdict(database).since == "002-half"


def test_a_run_that_plans_again_and_cannot_compare_then_stores_nothing(
    database: Database, migrations: Write
) -> None:
    run(database, migrations({"001-view.sql": "CREATE VIEW seen AS SELECT 1 AS one"}))
    directory = migrations({"002-two.sql": "CREATE TABLE two ()"})
    config = config_of(
        database, directory, MIGRATION_ALLOW_OUT_OF_ORDER="1", MIGRATION_LOCK_TIMEOUT="50ms"
    )
    started = []
    row_of_another_run = "INSERT INTO schema_migrations (version, name) VALUES ('099-x', 'X')"
    with holding(database, "SELECT 1") as other:

        def emit(event: Event) -> None:
            if isinstance(event, MigrationResult):
                other.rollback()
            elif isinstance(event, Started):
                started.append(event)
                if len(started) == 1:
                    database.execute(row_of_another_run)
                else:
                    other.execute("LOCK TABLE seen")

        assert not runner.run(config, emit).remaining
    assert len(started) == 2
    assert history(database) == ["001-view", "099-x", "002-two"]
    assert [version for version, _ in stored(database)] == ["001-view"]
    assert verdict(database).drift is Drift.UNKNOWN


def test_a_lock_that_is_held_before_a_run_makes_a_notice(
    database: Database, migrations: Write
) -> None:
    run(database, migrations({"001-view.sql": "CREATE VIEW seen AS SELECT 1 AS one"}))
    directory = migrations({"002-two.sql": "CREATE TABLE two ()"})
    with holding(database, "LOCK TABLE seen"):
        events = run(database, directory, MIGRATION_DRIFT="fail", MIGRATION_LOCK_TIMEOUT="50ms")
    (notice,) = events.notices
    assert notice.startswith("whether the schema has drifted was not checked: its definitions")
    assert events.applied == ["002-two"]
    assert known(database) == (Drift.UNKNOWN, True)
    assert verdict(database).since == "002-two"


def test_a_lock_that_is_held_after_a_run_makes_a_notice(
    database: Database, migrations: Write
) -> None:
    directory = migrations({"001-view.sql": "CREATE VIEW seen AS SELECT 1 AS one"})
    run(database, directory)
    migrations({"002-two.sql": "CREATE TABLE two ()"})
    found = Events()
    with holding(database, "SELECT 1") as other:

        def emit(event: Event) -> None:
            found.all.append(event)
            if found.applied:
                other.execute("LOCK TABLE seen")

        config = config_of(database, directory, MIGRATION_LOCK_TIMEOUT="50ms")
        assert not runner.run(config, emit).remaining
    (notice,) = found.notices
    assert notice.startswith("its definitions cannot be read now")
    assert NOT_STORED in notice
    assert history(database) == ["001-view", "002-two"]
    assert known(database) == (Drift.UNKNOWN, True)


def test_a_role_that_cannot_add_the_columns_gets_a_notice(
    server: Server, database: Database, migrations: Write
) -> None:
    run(database, migrations(ONE), MIGRATION_DRIFT="off")
    with login(server, database) as plain:
        member = role(plain)
        database.execute(
            f"CREATE SCHEMA mine AUTHORIZATION {member};"
            f"GRANT SELECT, INSERT, UPDATE ON schema_migrations TO {member};"
            f"GRANT USAGE ON SEQUENCE schema_migrations_id_seq TO {member}"
        )
        directory = migrations({"002-two.sql": "CREATE TABLE mine.two ()"})
        events = run(plain, directory)
        (notice,) = events.notices
        assert notice.startswith("must be owner of table schema_migrations")
        assert NOT_STORED in notice
        assert events.applied == ["002-two"]
        assert history(database) == ["001-one", "002-two"]
        assert known(database) == (Drift.UNKNOWN, False)


def test_a_document_that_nobody_can_read_is_unknown_and_stays(
    database: Database, migrations: Write
) -> None:
    run(database, migrations(ONE))
    database.execute("UPDATE schema_migrations SET schema_state = 'x', drift = 'y'")
    assert known(database) == (Drift.UNKNOWN, False)
    assert run(database, migrations(TWO), MIGRATION_DRIFT="fail").applied == ["002-two"]
    assert database.execute("SELECT schema_state, drift FROM schema_migrations ORDER BY id") == [
        ("x", "y"),
        (None, None),
    ]


def test_a_document_of_another_major_version_is_unknown_and_stays(
    database: Database, migrations: Write
) -> None:
    run(database, migrations(ONE))
    ((text,),) = database.execute("SELECT schema_state FROM schema_migrations")
    old = unpacked(text)
    assert old
    database.execute(
        "UPDATE schema_migrations SET schema_state = %s", [packed(old._replace(postgres=13))]
    )
    assert verdict(database).drift is Drift.UNKNOWN
    assert run(database, migrations(TWO)).applied == ["002-two"]
    assert [version for version, _ in stored(database)] == ["001-one"]
    assert verdict(database).drift is Drift.UNKNOWN


def test_another_run_that_stored_last_is_not_overwritten(
    database: Database, migrations: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both begin on the same history; the other one's file comes after this one's."""
    run(database, migrations(ONE))
    directory = migrations(TWO)
    end = SchemaWatch.end_run

    def end_after_another(self: SchemaWatch) -> None:
        monkeypatch.setattr(SchemaWatch, "end_run", end)
        run(database, migrations(THREE))
        end(self)

    monkeypatch.setattr(SchemaWatch, "end_run", end_after_another)
    (notice,) = run(database, directory).notices
    assert notice.startswith("another run has changed the history")
    assert stored(database) == [("003-three", Drift.UNKNOWN)]
    assert verdict(database).since == "002-two"


# Accepting


def test_what_was_found_is_accepted_and_no_more(database: Database, migrations: Write) -> None:
    run(database, migrations(ONE))
    database.execute("ALTER TABLE one ADD seen text")
    with Executor(config_of(database, Path("migrations"))) as executor:
        executor.read()
        executor.schema.compare()
        database.execute("ALTER TABLE one ADD later text")
        executor.schema.accept()
    assert stored(database) == [("001-one", Drift.NONE)]
    assert names(database) == ["column public.one.later"]
