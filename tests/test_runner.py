"""Whole runs against a real Postgres: what is there afterwards, and what is not."""

import hashlib
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import psycopg
import pytest

from lib import events, runner
from lib.errors import (
    FilesError,
    HistoryConflict,
    LockBusy,
    MigrationFailed,
    MigrationResult,
    PartlyApplied,
    TableBusy,
)
from lib.events import Event, Retry, Started
from lib.history import RESTORE_COLUMNS, SCHEMA_COLUMNS
from lib.postgres.executor import Executor
from lib.postgres.session import MIN_FILE_SECONDS
from lib.report.text import next_step_text
from tests.conftest import ROOT, Cli, Database, Server
from tests.kit import (
    LOCK,
    OURS,
    SETTLED,
    Events,
    Write,
    config_of,
    history,
    login,
    nothing_is_left_running,
    role,
    run,
    run_fails,
    tables,
    until,
)

SHAPE = """
SELECT 'column', attname::text, format_type(atttypid, atttypmod) || ' ' || attnotnull::text,
       pg_get_expr(adbin, adrelid)
FROM pg_attribute LEFT JOIN pg_attrdef ON (adrelid, adnum) = (attrelid, attnum)
WHERE attrelid = 'schema_migrations'::regclass AND attnum > 0
UNION ALL
SELECT 'constraint', conname, pg_get_constraintdef(oid), NULL
FROM pg_constraint WHERE conrelid = 'schema_migrations'::regclass
UNION ALL
SELECT 'index', indexrelid::regclass::text, pg_get_indexdef(indexrelid), NULL
FROM pg_index WHERE indrelid = 'schema_migrations'::regclass
UNION ALL
SELECT 'sequence', pg_get_serial_sequence('schema_migrations', 'id'), NULL, NULL
ORDER BY 1, 2
"""


# A fresh database, and one that is current.


def test_a_fresh_database_gets_every_file_and_a_full_record_of_each(
    database: Database, cli: Cli
) -> None:
    (before,) = database.execute(
        "SELECT clock_timestamp(), system_identifier FROM pg_control_system()"
    )
    environ = {
        "MIGRATION_DIR": str(ROOT / "migrations"),
        "MIGRATION_ENV": "staging",
        "CI": "1",
        "GITHUB_SHA": "f00d",
    }
    result = cli(url=database.url, env=environ)
    assert (result.code, result.err) == (0, "")
    assert [line for line in result.out.splitlines() if line.startswith("✅")] == [
        *(f"✅ Applied: {version} ({database_ms(database, version)}ms)" for version in OURS),
        "✅ 3 migrations applied successfully",
    ]
    rows = database.execute("SELECT * FROM schema_migrations ORDER BY id")
    identity = f"{before[1]}/{database.name}"
    for row, version in zip(rows, OURS, strict=True):
        number, stem, name, applied_at, milliseconds, checksum, *audit = row[:10]
        assert (number, stem) == (OURS.index(version) + 1, version)
        assert name == version[4:].replace("-", " ").title()
        assert before[0] < applied_at
        assert milliseconds >= 0
        assert (
            checksum
            == hashlib.sha256((ROOT / "migrations" / f"{version}.sql").read_bytes()).hexdigest()
        )
        assert audit == ["staging", identity, "f00d", "build"]
    assert tables(database) == ["sessions", "users"]
    assert database.execute("SELECT reset_token_hash, reset_token_expires_at FROM users") == []


def database_ms(database: Database, version: str) -> int:
    ((milliseconds,),) = database.execute(
        "SELECT execution_time_ms FROM schema_migrations WHERE version = %s", [version]
    )
    assert isinstance(milliseconds, int)
    return milliseconds


def test_the_first_file_makes_the_same_table_as_the_runner(
    server: Server, database: Database, migrations: Write
) -> None:
    run(database, migrations({"000-nothing.sql": "SELECT 1"}), MIGRATION_DRIFT="off")
    by_runner = [row for row in database.execute(SHAPE) if row[1] not in RESTORE_COLUMNS]
    other = server.create()
    try:
        other.execute((ROOT / "migrations" / "000-create-migration-table.sql").read_text())
        assert other.execute(SHAPE) == by_runner, "but for the columns that runs add"
        assert (
            len(by_runner) == 10 + 2 + 2 + 1 + sum(row[0] == "constraint" for row in by_runner) - 2
        )
    finally:
        server.drop(other)


def test_the_first_file_can_be_run_by_hand_before_and_after_the_runner(database: Database) -> None:
    by_hand = (ROOT / "migrations" / "000-create-migration-table.sql").read_text()
    database.execute(by_hand)
    assert run(database, ROOT / "migrations").applied == OURS
    database.execute(by_hand)
    assert history(database) == OURS


def test_a_second_run_writes_nothing_and_takes_no_lock(migrated: Database) -> None:
    before = migrated.execute("SELECT xmin::text, s.* FROM schema_migrations s ORDER BY id")
    migrated.execute(f'ALTER DATABASE "{migrated.name}" SET default_transaction_read_only = on')
    with psycopg.connect(migrated.url) as other:
        other.execute("SET TRANSACTION READ WRITE")
        other.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK])
        other.execute("LOCK TABLE schema_migrations, users IN EXCLUSIVE MODE")
        events = run(migrated, ROOT / "migrations", MIGRATION_WAIT="0")
    assert [type(event) for event in events.all] == [Started]
    assert migrated.execute("SELECT xmin::text, s.* FROM schema_migrations s ORDER BY id") == before


@pytest.mark.slow
def test_a_role_that_may_only_read_can_look_and_run_nothing(
    server: Server, migrated: Database, cli: Cli
) -> None:
    with login(server, migrated) as reader:
        migrated.execute(f"GRANT SELECT ON schema_migrations TO {role(reader)}")
        environ = {"MIGRATION_DIR": str(ROOT / "migrations")}
        results = [
            cli(*words, url=reader.url, env=environ)
            for words in ((), ("status", "--check"), ("validate",))
        ]
        assert [result.code for result in results] == [0, 0, 0]
        assert "Database is up to date" in results[0].out
        assert history(migrated) == OURS


# A file that fails.


@pytest.mark.slow
def test_a_file_that_fails_on_its_last_statement_leaves_nothing_behind(
    database: Database, cli: Cli, migrations: Write
) -> None:
    good = (
        "CREATE TABLE a (i int);\nCREATE TABLE b (i int);\nINSERT INTO a VALUES (1);\n"
        "CREATE INDEX ON b (i);\n"
    )
    directory = migrations(
        {
            "001-before.sql": "CREATE TABLE before (i int)",
            "002-fails.sql": good + "INSERT INTO nowhere VALUES (1);",
            "003-after.sql": "CREATE TABLE after (i int)",
        }
    )
    result = cli(url=database.url, env=SETTLED)
    assert result.code == 1
    for words in (
        "002-fails.sql:5:13   statement 5 of 5",
        "ERROR 42P01",
        "Applied in this run: 001-before.",
        "Not applied: 002-fails, 003-after.",
    ):
        assert words in result.err
    assert tables(database) == ["before"]
    assert history(database) == ["001-before"]

    migrations({"002-fails.sql": good})
    assert cli(url=database.url, env=SETTLED).code == 0
    assert tables(database) == ["a", "after", "b", "before"]
    assert history(database) == ["001-before", "002-fails", "003-after"]
    assert directory.is_dir()


def test_a_deferred_constraint_that_fails_at_the_end_undoes_the_file(
    server: Server, database: Database, cli: Cli, migrations: Write
) -> None:
    migrations(
        {
            "001-before.sql": "CREATE TABLE t (i int UNIQUE DEFERRABLE INITIALLY DEFERRED)",
            "002-twice.sql": "CREATE TABLE kept (i int); INSERT INTO t VALUES (1), (1)",
        }
    )
    result = cli(url=database.url, env=SETTLED)
    assert result.code == 1
    assert "23505" in result.err
    assert "deferred constraints" in result.err
    assert "Applied: 002" not in result.out
    assert tables(database) == ["t"]
    assert database.execute("SELECT * FROM t") == []
    assert history(database) == ["001-before"]
    nothing_is_left_running(server, database)


def test_deferred_triggers_run_with_the_settings_of_their_file(
    database: Database, migrations: Write
) -> None:
    directory = migrations(
        {
            "001-trigger.sql": """
                CREATE SCHEMA app;
                SET search_path = app;
                CREATE TABLE t (i int);
                CREATE TABLE log (i int);
                CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
                    $$ BEGIN INSERT INTO log VALUES (new.i); RETURN NULL; END $$;
                CREATE CONSTRAINT TRIGGER note AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED
                    FOR EACH ROW EXECUTE FUNCTION note();
                INSERT INTO t VALUES (7);
            """
        }
    )
    run(database, directory)
    assert database.execute("SELECT * FROM app.log") == [(7,)]
    assert history(database) == ["001-trigger"]


def test_a_temporary_table_with_deferred_constraints_is_no_obstacle(
    database: Database, migrations: Write
) -> None:
    sql = (
        "CREATE TEMP TABLE t (i int UNIQUE DEFERRABLE INITIALLY DEFERRED); INSERT INTO t"
        " VALUES (1), (1), (2);"
    )
    directory = migrations({"001-temp.sql": sql + "DELETE FROM t WHERE i = 1"})
    run(database, directory)
    assert history(database) == ["001-temp"]


# A file that ends its transaction, or changes its session.

WRAPPED = [
    "CREATE TABLE a (); COMMIT",
    "CREATE TABLE a (); ROLLBACK",
    "BEGIN; CREATE TABLE a (); COMMIT",
    "CREATE TABLE a (); COMMIT; BEGIN; CREATE TABLE b ()",
    "CREATE TABLE a (); COMMIT AND CHAIN; CREATE TABLE b ()",
    "START TRANSACTION; CREATE TABLE a (); END",
    "CREATE TABLE a (); ABORT",
    "CREATE TABLE a (); PREPARE TRANSACTION 'a'",
]


@pytest.mark.parametrize("sql", WRAPPED)
def test_a_file_with_transaction_control_is_refused_before_any_file_runs(
    database: Database, migrations: Write, sql: str
) -> None:
    directory = migrations({"001-fine.sql": "CREATE TABLE fine ()", "002-wrapped.sql": sql})
    with run_fails(FilesError, match=r"002-wrapped\.sql:1: .* transaction .*remove it") as caught:
        run(database, directory)
    assert (caught.value.exit_code, caught.applied) == (2, [])
    assert tables(database) == []
    assert database.execute("SELECT to_regclass('schema_migrations')") == [(None,)]


LEFT_TO_THE_SERVER = {
    "REINDEX with options": "REINDEX (CONCURRENTLY) TABLE events",
    "CLUSTER without a table": "CLUSTER",
    "DETACH PARTITION CONCURRENTLY": "ALTER TABLE events DETACH PARTITION events_1 CONCURRENTLY",
    "CREATE SUBSCRIPTION": "CREATE SUBSCRIPTION s CONNECTION 'dbname=nowhere' PUBLICATION p",
    "ALTER DATABASE SET TABLESPACE": "ALTER DATABASE postgres SET TABLESPACE pg_default",
}


@pytest.mark.parametrize("sql", LEFT_TO_THE_SERVER.values(), ids=LEFT_TO_THE_SERVER)
def test_the_server_refuses_in_a_transaction_what_the_rules_leave_to_it(
    database: Database, migrations: Write, sql: str
) -> None:
    events = "CREATE TABLE events (at int PRIMARY KEY) PARTITION BY RANGE (at)"
    partition = "CREATE TABLE events_1 PARTITION OF events FOR VALUES FROM (1) TO (2)"
    directory = migrations(
        {"001-events.sql": f"{events}; {partition}", "002-rare.sql": f"CREATE TABLE a (); {sql}"}
    )
    with run_fails(MigrationFailed) as caught:
        run(database, directory)
    assert (caught.value.exit_code, caught.value.failure.server.sqlstate) == (1, "25001")
    assert caught.value.state.startswith("rolled back")
    assert "`-- migrate: no-transaction`" in caught.value.next_step
    assert (tables(database), history(database)) == (["events", "events_1"], ["001-events"])


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TABLE a (); DO $$ BEGIN CREATE TABLE b (); COMMIT; END $$",
        "CREATE TABLE a (); DO $$ BEGIN CREATE TABLE b (); ROLLBACK; END $$",
        "CREATE TABLE a (); CREATE PROCEDURE p() LANGUAGE plpgsql AS 'BEGIN COMMIT; END'; CALL p()",
        "CREATE TABLE a (); DO $$ BEGIN EXECUTE 'COMMIT'; END $$",
        "CREATE TABLE a (); SAVEPOINT s; CREATE TABLE b (); ROLLBACK TO s; SELECT 1 / 0",
    ],
)
def test_a_block_or_procedure_that_commits_keeps_and_records_nothing(
    server: Server, database: Database, migrations: Write, sql: str
) -> None:
    directory = migrations({"001-before.sql": "CREATE TABLE before ()", "002-commits.sql": sql})
    with run_fails(MigrationFailed) as caught:
        run(database, directory)
    assert (caught.value.exit_code, caught.applied) == (1, ["001-before"])
    assert "no change of this file was kept" in caught.value.state
    assert tables(database) == ["before"]
    assert database.execute("SELECT proname FROM pg_proc WHERE proname = 'p'") == []
    assert history(database) == ["001-before"]
    nothing_is_left_running(server, database)


def test_the_remedy_for_set_transaction_gives_the_isolation_that_was_meant(
    database: Database, migrations: Write
) -> None:
    level = "SELECT current_setting('transaction_isolation') AS level"
    text = f"SET TRANSACTION ISOLATION LEVEL SERIALIZABLE;\nCREATE TABLE seen AS {level};\n"
    with run_fails(FilesError) as caught:
        run(database, migrations({"001-seen.sql": text}))
    assert "001-seen.sql:1: SET TRANSACTION changes the transaction" in caught.value.message
    own = re.search(
        (
            r"or add `(-- .*)` to the leading comment: .* own (BEGIN;) SET TRANSACTION \.\.\.; "
            r"(COMMIT;)"
        ),
        str(caught.value),
    )
    assert own
    run(database, migrations({"001-seen.sql": f"{own[1]}\n{own[2]}\n{text}{own[3]}\n"}))
    assert database.execute("SELECT level FROM seen") == [("serializable",)]
    assert history(database) == ["001-seen"]


def test_savepoints_are_the_files_own_business(database: Database, migrations: Write) -> None:
    sql = (
        "SAVEPOINT a; CREATE TABLE undone (); ROLLBACK TO a; CREATE TABLE done (); RELEASE a; "
        "SAVEPOINT left_open"
    )
    run(database, migrations({"001-savepoints.sql": sql}))
    assert tables(database) == ["done"]
    assert history(database) == ["001-savepoints"]


LEFTOVERS = [
    "SELECT pg_catalog.set_config('search_path', '', false)",
    "SET search_path = pg_catalog",
    "SET ROLE pg_monitor",
    "SET SESSION AUTHORIZATION pg_monitor",
    "SET statement_timeout = 1",
    "SET lock_timeout = 1",
    "SET standard_conforming_strings = off",
    "SET client_encoding = 'LATIN1'",
    "SET TimeZone = 'Asia/Tokyo'",
    "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
    "SET default_transaction_isolation = 'serializable'",
    "SET session_replication_role = replica",
    "SET my.own = 'setting'",
    "SET LOCAL search_path = ''",
    "CREATE TEMP TABLE schema_migrations (LIKE public.schema_migrations); CREATE TEMP SEQUENCE t",
    "LISTEN channel",
    'PREPARE a AS SELECT 1; PREPARE "B c" AS SELECT 2',
    "DECLARE held CURSOR WITH HOLD FOR SELECT 1; DECLARE open CURSOR FOR SELECT 1",
    "SELECT pg_advisory_lock(1), pg_advisory_lock_shared(2, 3)",
    f"SELECT pg_advisory_lock({LOCK})",
    "SELECT nextval('public.numbers')",
    "LOCK TABLE public.schema_migrations IN ACCESS EXCLUSIVE MODE",
]
LOOK = """
INSERT INTO public.seen SELECT jsonb_build_object(
    'current_user', current_user, 'session_user', session_user,
    'path', current_setting('search_path'),
    'settings', (SELECT jsonb_object_agg(name, setting) FROM pg_settings
        WHERE source = 'session' AND name <> 'application_name'),
    'isolation', current_setting('transaction_isolation'),
    'own', nullif(current_setting('my.own', true), ''),
    'temporary', (SELECT jsonb_agg(relname) FROM pg_class WHERE relnamespace = pg_my_temp_schema()),
    'listening', (SELECT jsonb_agg(c) FROM pg_listening_channels() c),
    'prepared', (SELECT jsonb_agg(name) FROM pg_prepared_statements),
    'cursors', (SELECT jsonb_agg(name) FROM pg_cursors),
    'locks', (SELECT count(*) FROM pg_locks
        WHERE locktype = 'advisory' AND pid = pg_backend_pid()));
DO $$ BEGIN
    PERFORM currval('public.numbers');
    RAISE 'the sequence is known';
EXCEPTION WHEN object_not_in_prerequisite_state THEN NULL;
END $$
"""


@pytest.mark.parametrize("sql", LEFTOVERS)
def test_what_a_file_sets_reaches_neither_its_row_nor_the_next_file(
    server: Server, database: Database, migrations: Write, sql: str
) -> None:
    directory = migrations(
        {
            "000-look.sql": "CREATE SEQUENCE numbers; CREATE TABLE seen (session jsonb);" + LOOK,
            "001-leaves.sql": sql,
            "002-look.sql": LOOK,
        }
    )
    run(database, directory)
    (before,), (after,) = database.execute("SELECT session FROM seen")
    assert after == before
    assert history(database) == ["000-look", "001-leaves", "002-look"]
    nothing_is_left_running(server, database)


def test_a_schema_beyond_ascii_holds_the_history_in_any_client_encoding(
    database: Database, migrations: Write
) -> None:
    database.execute('CREATE SCHEMA "größe\\ 📏"')
    directory = migrations(
        {"001-latin.sql": "SET client_encoding = 'LATIN1'", "002-next.sql": "CREATE TABLE t ()"}
    )
    run(database, directory, MIGRATION_SCHEMA="größe\\ 📏")
    assert history(database, '"größe\\ 📏".schema_migrations') == ["001-latin", "002-next"]


# A file that lays hands on the history.


@pytest.mark.parametrize(
    "sql",
    [
        "DROP TABLE schema_migrations",
        "ALTER TABLE schema_migrations RENAME TO elsewhere",
        "ALTER TABLE schema_migrations SET SCHEMA app",
        "ALTER TABLE schema_migrations DROP COLUMN identity",
        "TRUNCATE schema_migrations",
        "TRUNCATE schema_migrations RESTART IDENTITY",
        "DELETE FROM schema_migrations",
        "DELETE FROM schema_migrations WHERE version = '001-before'",
        "DROP SCHEMA public CASCADE; CREATE SCHEMA public",
    ],
)
def test_a_file_that_destroys_the_history_is_undone(
    database: Database, migrations: Write, sql: str
) -> None:
    directory = migrations(
        {
            "001-before.sql": "CREATE SCHEMA app; CREATE TABLE before ()",
            "002-destroys.sql": f"CREATE TABLE a (); {sql}",
            "003-after.sql": "CREATE TABLE after ()",
        }
    )
    with run_fails(MigrationFailed) as caught:
        run(database, directory)
    assert caught.value.exit_code == 1
    assert (caught.applied, caught.remaining) == (
        ["001-before"],
        ["002-destroys", "003-after"],
    )
    assert "must not change schema_migrations" in caught.value.next_step
    assert tables(database) == ["before"]
    assert history(database) == ["001-before"]


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO schema_migrations (version, name) VALUES ('003-next', 'Next')",
        "INSERT INTO schema_migrations (version, name) VALUES ('002-writes', 'Writes')",
        "UPDATE schema_migrations SET checksum = 'f'",
        "UPDATE schema_migrations SET environment = 'production'",
        "DELETE FROM schema_migrations",
        "WITH gone AS (DELETE FROM schema_migrations RETURNING *) INSERT INTO schema_migrations "
        "(version, name)"
        " SELECT version || 'x', name FROM gone",
        "TRUNCATE schema_migrations",
        "DROP TABLE schema_migrations",
        "DROP TABLE schema_migrations; CREATE TABLE schema_migrations (id serial, version varchar "
        "UNIQUE, name varchar,"
        " applied_at timestamptz, execution_time_ms int, checksum varchar, environment text, "
        "identity text,"
        " git_commit text, applied_by text); INSERT INTO schema_migrations (version, name) VALUES "
        "('001-one', 'One')",
    ],
)
@pytest.mark.parametrize(
    "head", ["", "-- migrate: no-transaction\n"], ids=["transaction", "no transaction"]
)
def test_a_file_that_changes_more_of_the_history_than_its_row_is_refused(
    database: Database, migrations: Write, head: str, sql: str
) -> None:
    directory = migrations({"001-one.sql": "CREATE TABLE one ()"})
    run(database, directory)
    before = database.execute("SELECT * FROM schema_migrations")
    migrations(
        {
            "002-writes.sql": f"{head}{sql};\nCREATE TABLE two ();\n",
            "003-next.sql": "CREATE TABLE three ()",
        }
    )
    with run_fails(PartlyApplied if head else MigrationFailed) as caught:
        run(database, directory)
    assert "A migration must not change schema_migrations" in caught.value.next_step
    if head:
        assert tables(database) == ["one", "two"]
    else:
        assert (tables(database), database.execute("SELECT * FROM schema_migrations")) == (
            ["one"],
            before,
        )


# As pg_dump writes it, of a database that Onward looks after.
DUMP = """SELECT pg_catalog.set_config('search_path', '', false);
CREATE TABLE public.orders (id integer);
CREATE TABLE public.schema_migrations (id integer NOT NULL, \
version character varying(255) NOT NULL);
CREATE SEQUENCE public.schema_migrations_id_seq AS integer START WITH 1;
ALTER SEQUENCE public.schema_migrations_id_seq OWNED BY public.schema_migrations.id;
INSERT INTO public.schema_migrations VALUES (1, '000-old');
SELECT pg_catalog.setval('public.schema_migrations_id_seq', 1, true);
ALTER TABLE ONLY public.schema_migrations ADD CONSTRAINT schema_migrations_pkey PRIMARY KEY (id);
"""


@pytest.mark.parametrize("first", [2, 3])
def test_a_dump_with_the_history_in_it_is_told_how_to_be_without(
    database: Database, migrations: Write, first: int
) -> None:
    lines = DUMP.splitlines()
    with run_fails(MigrationFailed) as caught:
        run(database, migrations({"001-dump.sql": "\n".join([*lines[:2], *lines[first:]])}))
    assert caught.value.failure.server.sqlstate == "42P07"
    assert "remove what names it from the file" in caught.value.next_step
    assert "`pg_dump --exclude-table='*.schema_migrations*'`" in caught.value.next_step
    assert (tables(database), history(database)) == ([], [])
    run(
        database,
        migrations(
            {"001-dump.sql": "\n".join(line for line in lines if "schema_migrations" not in line)}
        ),
    )
    assert (tables(database), history(database)) == (["orders"], ["001-dump"])


def test_another_table_that_is_there_already_is_not_taken_for_the_history(
    database: Database, migrations: Write
) -> None:
    database.execute("CREATE TABLE old_schema_migrations ()")
    with run_fails(MigrationFailed) as caught:
        run(
            database,
            migrations({"001-old.sql": "CREATE TABLE old_schema_migrations ();"}),
            MIGRATION_ALLOW_NONEMPTY="1",
        )
    assert "--exclude-table" not in caught.value.next_step
    assert history(database) == []


# What is sent, and what comes back.


def test_sql_arrives_as_it_is_written(database: Database, migrations: Write) -> None:
    said = [
        "100%",
        "%s %(name)s %% %b",
        "$1 :name :'name' ?",
        "{} {0} {name}",
        "back\\slash \\n \\\\",
        "🐘 é ∑ \u202e",
        "two\r\nlines",
        "tab\there",
        "-- not a comment; /* nor this",
        "it's",
    ]
    values = ", ".join("('" + words.replace("'", "''") + "')" for words in said)
    sql = (
        "CREATE TABLE said (words text);\r\nINSERT INTO said"
        f" VALUES {values}, ($$'$1' \\ %$$), (E'\\u00e9\\n');"
    )
    run(database, migrations({"001-said.sql": b"\xef\xbb\xbf" + sql.encode()}))
    assert [words for (words,) in database.execute("SELECT words FROM said")] == [
        *said,
        "'$1' \\ %",
        "é\n",
    ]
    assert history(database) == ["001-said"]


def test_at_most_the_last_hundred_notices_of_a_file_are_shown(
    database: Database, migrations: Write
) -> None:
    sql = "DO $$ BEGIN FOR i IN 1..250 LOOP RAISE NOTICE 'number %', i; END LOOP; END $$"
    events = run(
        database,
        migrations({"001-talks.sql": sql, "002-warns.sql": "DO $$BEGIN RAISE WARNING '🐘'; END$$"}),
    )
    shown = [f"NOTICE: number {number}" for number in range(151, 251)]
    assert events.notices == ["(150 earlier notices not shown)", *shown, "WARNING: 🐘"]
    assert history(database) == ["001-talks", "002-warns"]


def test_the_notices_of_a_failing_file_are_shown_too(database: Database, migrations: Write) -> None:
    events = Events()
    with run_fails(MigrationFailed):
        run(
            database,
            migrations({"001-fails.sql": "DO $$BEGIN RAISE NOTICE 'so far'; END$$; SELECT 1 / 0"}),
            events,
        )
    assert events.notices == ["NOTICE: so far"]
    assert history(database) == []


MEASURE = """
import resource, subprocess, sys
result = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, result.returncode, flush=True)
sys.stdout.buffer.write(result.stdout)
"""
FLOOR = "import psycopg, sys; print(psycopg.connect(sys.argv[1]).execute('SELECT 1').fetchone())"


def peak(*command: str, **environ: str) -> tuple[int, str]:
    """The most memory, in bytes, that a command needed, and its output; it must end well."""
    result = subprocess.run(
        [sys.executable, "-c", MEASURE, sys.executable, *command],
        env={name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ} | environ,
        encoding="utf-8",
        capture_output=True,
        check=True,
    )
    figures, _, output = result.stdout.partition("\n")
    kilobytes, code = map(int, figures.split())
    assert code == 0, output
    return kilobytes * (1 if sys.platform == "darwin" else 1024), output


def peak_of_run(database: Database, cli: Cli) -> tuple[int, str]:
    directory = str(cli.directory / "migrations")
    return peak(str(cli.script), POSTGRES_URL=database.url, MIGRATION_DIR=directory)


@pytest.mark.slow
def test_a_file_of_50_megabytes_needs_no_more_than_five_times_its_size(
    database: Database, cli: Cli, migrations: Write
) -> None:
    row = "INSERT INTO t VALUES ({}, '" + "x" * 440 + "');\n"
    count = 50 * 2**20 // len(row)
    sql = "CREATE TABLE t (i int, words text);\n" + "".join(map(row.format, range(count)))
    migrations({"001-large.sql": sql})
    assert len(sql) > 50 * 2**20
    used, output = peak_of_run(database, cli)
    assert "Applied: 001-large" in output
    assert used <= peak("-c", FLOOR, database.url)[0] + 5 * len(sql)
    assert database.execute("SELECT count(*), max(i) FROM t") == [(count, count - 1)]
    assert history(database) == ["001-large"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("DO $$BEGIN FOR i IN 1..1000000 LOOP RAISE NOTICE 'number %', i; END LOOP; END$$", 101),
        ("SELECT i, repeat('x', 20) FROM generate_series(1, 2000000) i", 0),
    ],
    ids=["notices", "rows"],
)
def test_a_million_notices_or_rows_do_not_grow_memory(
    database: Database, cli: Cli, migrations: Write, sql: str, said: int
) -> None:
    migrations({"001-quiet.sql": "SELECT 1"})
    usual, _ = peak_of_run(database, cli)
    migrations({"002-large.sql": sql})
    used, output = peak_of_run(database, cli)
    assert used <= usual + 4 * 2**20
    assert sum(line.startswith("   002-large: ") for line in output.splitlines()) == said
    assert history(database) == ["001-quiet", "002-large"]


# A database that another runner looked after.

SEED = """
CREATE TABLE schema_migrations (
    id SERIAL PRIMARY KEY,
    version VARCHAR(255) UNIQUE NOT NULL,
    name VARCHAR(255) NOT NULL,
    applied_at TIMESTAMP DEFAULT NOW(),
    execution_time_ms INTEGER,
    checksum VARCHAR(64)
)
"""
ADOPTED: dict[str, str | bytes] = {
    "000-create-migration-table.sql": SEED,
    "001-windows.sql": "CREATE TABLE windows (i int);\r\n-- edited on Windows\r\n",
    "002-unverified.sql": "CREATE TABLE unverified (i int);\n",
    "003-wrapped.sql": "BEGIN;\nCREATE TABLE wrapped (i int);\nCOMMIT;\n",
}


def adopt(database: Database) -> list[tuple[Any, ...]]:
    """The database as a Node runner left it, in a time zone of its own; its rows."""
    database.execute(f"ALTER DATABASE \"{database.name}\" SET timezone = 'Asia/Tokyo'")
    for index, (name, sql) in enumerate(ADOPTED.items()):
        assert isinstance(sql, str)
        database.execute(sql)
        checksum = None if "unverified" in name else hashlib.sha256(sql.encode()).hexdigest()
        database.execute(
            "INSERT INTO schema_migrations (version, name, applied_at, execution_time_ms, checksum)"
            " VALUES (%s, %s, %s, 25, %s)",
            [name.removesuffix(".sql"), f"Name {index}", f"2025-10-25 23:0{index}:17.5", checksum],
        )
    return database.execute("SELECT * FROM schema_migrations ORDER BY id")


def columns(database: Database) -> list[str]:
    query = (
        "SELECT attname FROM pg_attribute WHERE attrelid = 'schema_migrations'::regclass"
        " AND attnum > 0 ORDER BY attnum"
    )
    return [name for (name,) in database.execute(query)]


def test_an_older_runners_history_is_taken_over_and_nothing_runs_again(
    database: Database, migrations: Write
) -> None:
    rows = adopt(database)
    directory = migrations(ADOPTED)
    assert run(database, directory, MIGRATION_ENV="production").applied == []
    assert len(columns(database)) == 6, "nothing was pending, so nothing is changed"

    migrations({"004-ours.sql": "CREATE TABLE ours (i int)"})
    (before,) = database.execute("SELECT localtimestamp")
    assert run(database, directory, MIGRATION_ENV="production").applied == ["004-ours"]
    (after,) = database.execute("SELECT localtimestamp")
    audit = ["environment", "identity", "git_commit", "applied_by"]
    assert columns(database)[6:] == [*audit, *RESTORE_COLUMNS, *SCHEMA_COLUMNS]
    *old, new = database.execute("SELECT * FROM schema_migrations ORDER BY id")
    assert old == [(*row, *[None] * 8) for row in rows]
    assert before[0] < new[3] < after[0], "in the server's time zone, as the column's other values"
    assert (new[1], new[6], new[9]) == ("004-ours", "production", "cli")
    assert tables(database) == ["ours", "unverified", "windows", "wrapped"]


@pytest.mark.parametrize(
    "head", ["", "-- migrate: no-transaction\n"], ids=["transaction", "no transaction"]
)
def test_a_file_behind_the_taking_over_leaves_the_new_columns_alone(
    database: Database, migrations: Write, head: str
) -> None:
    adopt(database)
    sql = (
        f"{head}UPDATE schema_migrations SET environment = 'production'"
        " WHERE version = '001-windows';"
    )
    directory = migrations({**ADOPTED, "004-claims.sql": sql})
    with run_fails(PartlyApplied if head else MigrationFailed) as caught:
        run(database, directory)
    assert (
        "other rows of schema_migrations have been changed" in caught.value.failure.server.message
    )
    assert len(columns(database)) == (14 if head else 12)
    assert len(history(database)) == 4


@pytest.mark.parametrize("endings", ["\n", "\r\n"])
def test_an_older_runners_checksums_hold_whatever_the_line_endings(
    database: Database, migrations: Write, endings: str
) -> None:
    adopt(database)
    files = {
        name: str(sql).replace("\r\n", "\n").replace("\n", endings).encode()
        for name, sql in ADOPTED.items()
    }
    assert run(database, migrations(files), MIGRATION_ENV="production").applied == []
    assert len(history(database)) == 4


def test_an_older_runners_times_are_read_in_the_servers_time_zone(
    database: Database, cli: Cli, migrations: Write
) -> None:
    adopt(database)
    migrations(ADOPTED)
    result = cli("status", url=database.url)
    assert result.code == 0
    assert "✅ 003-wrapped                         (2025-10-25 14:03:17 UTC) - 25ms" in result.out
    assert "not verified: 002-unverified" in result.out
    with Executor(config_of(database, cli.directory / "migrations")) as session:
        times = [row.applied_at.isoformat() for row in session.read().rows if row.applied_at]
    assert times == [f"2025-10-25T14:0{index}:17.500000+00:00" for index in range(4)]


# Two at once, and one that is stopped.


def test_two_runs_at_once_on_an_empty_database_apply_each_file_once(
    server: Server, database: Database, cli: Cli, migrations: Write
) -> None:
    database.execute("CREATE TABLE effects (file int)")
    files = {
        f"{number:03}-effect.sql": f"INSERT INTO effects VALUES ({number})" for number in range(8)
    }
    migrations(files)
    waiting = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = %s"
        " AND application_name LIKE 'onward%%'"
    )
    with ThreadPoolExecutor() as pool:
        with psycopg.connect(database.url) as gate:
            gate.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK])
            runs = [pool.submit(cli, url=database.url, env=SETTLED) for _ in range(2)]
            until(lambda: server.admin.execute(waiting, [database.name]) == [(2,)])
        results = [one.result() for one in runs]
    assert [result.code for result in results] == [0, 0]
    assert sum(result.out.count("✅ Applied: ") for result in results) == 8
    assert database.execute("SELECT file FROM effects ORDER BY file") == [
        (number,) for number in range(8)
    ]
    assert history(database) == [name.removesuffix(".sql") for name in files]
    nothing_is_left_running(server, database)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_rolls_back_and_says_what_is_applied(
    server: Server,
    database: Database,
    cli: Cli,
    migrations: Write,
    number: signal.Signals,
    code: int,
) -> None:
    files = {
        "001-done.sql": "CREATE TABLE done ()",
        "002-sleeps.sql": "CREATE TABLE sleeps (); SELECT pg_sleep(600)",
        "003-never.sql": "CREATE TABLE never ()",
    }
    process = start(cli, database, migrations(files))
    until(lambda: sleeping(server, database))
    process.send_signal(number)
    out, err = process.communicate()
    assert process.returncode == code
    assert "✅ Applied: 001-done" in out
    assert "Applied in this run: 001-done." in err
    assert "Not applied: 002-sleeps, 003-never." in err
    nothing_is_left_running(server, database)
    assert tables(database) == ["done"]
    assert history(database) == ["001-done"]


@pytest.mark.slow
def test_an_interrupted_no_transaction_file_says_which_statements_are_done(
    server: Server, database: Database, cli: Cli, migrations: Write
) -> None:
    sql = (
        "-- migrate: no-transaction\nCREATE TABLE a ();\nCREATE TABLE b ();\n"
        "SELECT pg_sleep(600);\nCREATE TABLE c ();"
    )
    process = start(cli, database, migrations({"001-sleeps.sql": sql}))
    until(lambda: sleeping(server, database))
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130
    assert (
        "of 001-sleeps, statements 1 to 2 were applied and remain; the file is not recorded" in err
    )
    nothing_is_left_running(server, database)
    assert tables(database) == ["a", "b"]
    assert history(database) == []


def start(cli: Cli, database: Database, directory: Path) -> subprocess.Popen[str]:
    environ = {
        "PATH": os.environ["PATH"],
        "POSTGRES_URL": database.url,
        "MIGRATION_DIR": str(directory),
    }
    return subprocess.Popen(
        [sys.executable, str(cli.script)],
        env=environ,
        encoding="utf-8",
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def sleeping(server: Server, database: Database) -> list[tuple[Any, ...]]:
    query = "SELECT pid FROM pg_stat_activity WHERE datname = %s AND wait_event = 'PgSleep'"
    return server.admin.execute(query, [database.name])


# Examples of the documentation.


@pytest.mark.parametrize(("suffix", "made"), [("_test", []), ("_live", ["usage_stats"])])
def test_the_documented_migration_that_acts_by_the_databases_name_does(
    server: Server, database: Database, migrations: Write, suffix: str, made: list[str]
) -> None:
    page = (ROOT / "docs" / "writing-migrations.md").read_text(encoding="utf-8")
    (example,) = (
        block
        for block in re.findall(r"```sql\n(.*?)```", page, re.DOTALL)
        if "current_database()" in block
    )
    named = server.create(name=database.name + suffix)
    try:
        run(named, migrations({"001-example.sql": example}))
        assert tables(named) == made
        assert history(named) == ["001-example"]
    finally:
        server.drop(named)


def test_a_run_that_waits_in_vain_names_the_holder_and_how_to_end_it(
    database: Database, migrations: Write
) -> None:
    with psycopg.connect(database.url, application_name="onward 0.0.0 elsewhere") as holder:
        holder.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK])
        with run_fails(LockBusy) as caught:
            run(database, migrations({"001-one.sql": "CREATE TABLE one ()"}), MIGRATION_WAIT="0")
        pid = holder.info.backend_pid
        assert re.search(rf"pid {pid}, onward 0\.0\.0 elsewhere, for \d+ s$", caught.value.message)
        assert caught.value.next_step.endswith(f"SELECT pg_terminate_backend({pid}).")
    assert tables(database) == []
    assert run(database, migrations({"001-one.sql": "CREATE TABLE one ()"})).applied == ["001-one"]


def test_what_was_applied_is_told_when_the_history_cannot_be_read_again(
    database: Database, migrations: Write
) -> None:
    directory = migrations(
        {"001-a.sql": "CREATE TABLE a ()", "002-b.sql": "-- migrate: no-transaction\nSELECT 1"}
    )

    def spoil(event: events.Event) -> None:
        if isinstance(event, MigrationResult):
            database.execute(
                "INSERT INTO schema_migrations (version, name) VALUES ('009-other', 'Other')"
            )
            database.execute("ALTER TABLE schema_migrations RENAME COLUMN checksum TO other")

    with run_fails(HistoryConflict, match="it has other columns") as caught:
        runner.run(config_of(database, directory), spoil)
    assert (caught.applied, caught.remaining) == (["001-a"], ["002-b"])
    assert (tables(database), history(database)) == (["a"], ["001-a", "009-other"])


# Busy tables, and how long they are tried again.


def test_a_busy_table_is_not_tried_again_beyond_the_time_that_is_left(
    database: Database, migrations: Write
) -> None:
    """Over HTTP, a 409 in time: the pause of three lock timeouts would be longer than that."""
    database.execute("CREATE TABLE busy ()")
    directory = migrations({"001-busy.sql": "CREATE TABLE a (); LOCK TABLE busy NOWAIT"})
    config = config_of(database, directory, MIGRATION_LOCK_TIMEOUT="10s", MIGRATION_RETRY="1h")

    def emit(event: events.Event) -> None:
        if isinstance(event, Retry):
            pytest.fail("it waits")

    with psycopg.connect(database.url) as other:
        other.execute("LOCK TABLE busy")
        left = runner.SHUTDOWN_MARGIN_SECONDS + MIN_FILE_SECONDS + 29
        with run_fails(TableBusy) as caught:
            runner.run(config, emit, deadline=time.monotonic() + left)
    assert (caught.value.http_status, caught.remaining) == (409, ["001-busy"])
    assert (tables(database), history(database)) == (["busy"], [])


@pytest.mark.slow
def test_each_pause_is_three_lock_timeouts_at_least_and_they_grow(
    database: Database, migrations: Write
) -> None:
    database.execute("CREATE TABLE busy ()")
    directory = migrations({"001-busy.sql": "LOCK TABLE busy NOWAIT"})
    begun: list[float] = []
    pauses: list[float] = []
    with psycopg.connect(database.url) as other:
        other.execute("LOCK TABLE busy")

        def emit(event: events.Event) -> None:
            if isinstance(event, Retry):
                begun.append(time.monotonic())
                pauses.append(event.pause)
                if len(begun) == 4:
                    other.rollback()

        runner.run(config_of(database, directory, MIGRATION_LOCK_TIMEOUT="50ms"), emit)
    assert pauses[0] >= 3 * 0.05
    assert all(longer > 1.15 * pause for pause, longer in pairwise(pauses))
    assert all(
        after - before >= pause
        for before, after, pause in zip(begun, begun[1:], pauses, strict=False)
    )
    assert history(database) == ["001-busy"]


def test_a_history_that_is_locked_for_a_moment_is_waited_for(
    database: Database, migrations: Write
) -> None:
    directory = migrations({"001-one.sql": "CREATE TABLE one ()"})
    run(database, directory)
    migrations({"002-two.sql": "CREATE TABLE two ()"})
    events = Events()
    with psycopg.connect(database.url) as other:
        other.execute("LOCK TABLE schema_migrations")

        def emit(event: Event) -> None:
            events.all.append(event)
            other.rollback()

        runner.run(config_of(database, directory, MIGRATION_LOCK_TIMEOUT="50ms"), emit)
    assert isinstance(events.all[0], Retry)
    assert "the history is locked by another session" in events.all[0].error.message
    assert events.applied == ["002-two"]
    assert history(database) == ["001-one", "002-two"]


def test_an_error_behind_an_applied_file_does_not_say_that_nothing_changed(
    database: Database, migrations: Write
) -> None:
    directory = migrations(
        {"001-a.sql": "CREATE TABLE a ()", "002-b.sql": "-- migrate: no-transaction\nSELECT 1"}
    )

    def spoil(event: events.Event) -> None:
        if isinstance(event, MigrationResult):
            database.execute("UPDATE schema_migrations SET checksum = repeat('0', 64)")

    with run_fails(HistoryConflict, match="001-a") as caught:
        runner.run(config_of(database, directory), spoil)
    assert next_step_text(caught.failed).startswith("Nothing more was changed. ")
    assert (caught.applied, caught.remaining) == (["001-a"], ["002-b"])
    assert (tables(database), history(database)) == (["a"], ["001-a"])


def test_what_a_try_has_left_in_its_session_does_not_reach_the_next_try(
    database: Database, migrations: Write
) -> None:
    database.execute("CREATE TABLE busy ()")
    locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"
    leaves = (
        "PREPARE own AS SELECT 1; SELECT pg_advisory_lock(7); SET my.own = 'x'; "
        "CREATE TEMP TABLE own ();"
    )
    sql = f"CREATE TABLE seen AS {locks}; {leaves} LOCK TABLE busy NOWAIT;"
    directory = migrations({"001-busy.sql": sql, "002-again.sql": f"INSERT INTO seen {locks}"})
    events = Events()
    with psycopg.connect(database.url) as other:
        other.execute("LOCK TABLE busy")

        def emit(event: Event) -> None:
            events.all.append(event)
            if sum(isinstance(one, Retry) for one in events.all) == 2:
                other.rollback()

        runner.run(config_of(database, directory, MIGRATION_LOCK_TIMEOUT="50ms"), emit)
    assert sum(isinstance(one, Retry) for one in events.all) == 2
    assert database.execute("TABLE seen") == [(1,), (1,)], "the run's own"
    assert history(database) == ["001-busy", "002-again"]


@pytest.mark.slow
def test_all_pauses_together_are_no_longer_than_the_retry_and_are_told(
    database: Database, migrations: Write
) -> None:
    database.execute("CREATE TABLE busy ()")
    directory = migrations({"001-busy.sql": "LOCK TABLE busy NOWAIT"})
    events = Events()
    with psycopg.connect(database.url) as other:
        other.execute("LOCK TABLE busy")
        with run_fails(TableBusy) as caught:
            run(database, directory, events, MIGRATION_LOCK_TIMEOUT="100ms", MIGRATION_RETRY="2s")
    pauses = [event.pause for event in events.all if isinstance(event, Retry)]
    assert pauses
    assert sum(pauses) <= 2
    assert caught.value.message.endswith(f"; tried {len(pauses) + 1} times")
    assert history(database) == []


def test_a_history_that_is_written_while_it_is_changed_is_waited_for(
    database: Database, migrations: Write
) -> None:
    """Columns are added to an older runner's; who writes to it meanwhile does not keep it from
    being read.
    """
    adopt(database)
    directory = migrations({**ADOPTED, "004-ours.sql": "CREATE TABLE ours ()"})
    events = Events()
    with psycopg.connect(database.url) as other:
        other.execute("LOCK TABLE schema_migrations IN ROW EXCLUSIVE MODE")

        def emit(event: Event) -> None:
            events.all.append(event)
            if isinstance(event, Retry):
                other.rollback()

        runner.run(config_of(database, directory, MIGRATION_LOCK_TIMEOUT="50ms"), emit)
    assert sum(isinstance(event, Retry) for event in events.all) == 1
    assert events.applied == ["004-ours"]
    assert len(columns(database)) == 14
    assert history(database)[-1] == "004-ours"


@pytest.mark.slow
def test_a_file_that_lifts_its_limit_is_cancelled_at_the_deadline(
    database: Database, migrations: Write
) -> None:
    sql = "CREATE TABLE a (); SET statement_timeout = 0; SELECT pg_sleep(30);"
    directory = migrations({"001-long.sql": sql, "002-next.sql": "SELECT 1"})
    with run_fails(MigrationFailed) as caught:
        runner.run(
            config_of(database, directory),
            print,
            deadline=time.monotonic() + runner.SHUTDOWN_MARGIN_SECONDS + MIN_FILE_SECONDS + 6,
        )
    assert caught.value.failure.server.message == "canceling statement due to user request"
    assert caught.remaining == ["001-long", "002-next"]
    assert (tables(database), history(database)) == ([], [])


# Extensions that the server lacks


LACKING = {
    "001-one.sql": "CREATE TABLE one ();\n",
    "002-two.sql": "CREATE TABLE two ();\nCREATE EXTENSION no_such_one;\n",
    "003-three.sql": 'CREATE EXTENSION IF NOT EXISTS plpgsql;\n\nCREATE EXTENSION "no-such-two";\n',
}


def test_extensions_that_the_server_lacks_are_named_before_anything_runs(
    cli: Cli, database: Database, migrations: Write
) -> None:
    migrations(LACKING)
    result = cli(url=database.url)
    assert (result.code, tables(database)) == (5, [])
    assert (
        "❌ the server lacks extensions that pending migrations create:\n"
        "  migrations/002-two.sql:2: no_such_one\n"
        "  migrations/003-three.sql:3: no-such-two\n"
    ) in result.err
    assert "Nothing was changed." in result.err
    assert '  scripts/sandbox --url "$URL"' in result.err
    assert database.execute("SELECT to_regclass('schema_migrations')") == [(None,)]


def test_a_role_that_may_not_list_extensions_runs_files_that_create_them(
    server: Server, database: Database, migrations: Write
) -> None:
    directory = migrations({"001-one.sql": "CREATE EXTENSION IF NOT EXISTS plpgsql;\n"})
    database.execute("REVOKE EXECUTE ON FUNCTION pg_available_extensions() FROM PUBLIC")
    with login(server, database) as theirs:
        database.execute(f"GRANT CREATE ON SCHEMA public TO {role(theirs)}")
        assert run(theirs, directory).applied == ["001-one"]
        assert history(database) == ["001-one"]


def test_a_missing_extension_in_a_block_is_answered_with_the_same_advice(
    database: Database, migrations: Write
) -> None:
    directory = migrations({"001-one.sql": "DO $$ BEGIN CREATE EXTENSION pgcrypt; END $$;\n"})
    with run_fails(MigrationFailed) as caught:
        run(database, directory)
    assert "POSTGRES_BIN=" in caught.value.next_step
    assert (tables(database), history(database)) == ([], [])
