"""Files that say `-- migrate: no-transaction`: statement by statement, beside a session that holds
the lock.
"""

import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from lib import runner
from lib.errors import DatabaseUnavailable, FilesError, PartlyApplied
from lib.events import Event, Retry
from lib.postgres.no_transaction import require_no_session_state
from lib.source.migration import load
from tests.conftest import Cli, Database, Server
from tests.kit import (
    HEAD,
    LOCK,
    SETTLED,
    Events,
    Write,
    cause_of,
    config_of,
    history,
    login,
    nothing_is_left_running,
    read,
    role,
    run,
    run_fails,
    tables,
    until,
)
from tests.proxy import Hold, Message, Proxy

HOLDER = (
    "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ExclusiveLock'"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)


def indexes(database: Database) -> list[tuple[Any, ...]]:
    """The indexes of the user's tables: table, name, whether valid."""
    return database.execute(
        "SELECT indrelid::regclass::text, indexrelid::regclass::text, indisvalid FROM pg_index"
        " JOIN pg_class c ON c.oid = indrelid WHERE relnamespace::regnamespace::text !~ "
        "'^(pg_|information_schema)'"
        " AND relname <> 'schema_migrations' ORDER BY 1, 2"
    )


def node(database: Database, index: str) -> Any:
    """What changes when an index is built again."""
    return database.execute(f"SELECT '{index}'::regclass::oid")


def fails(
    database: Database, directory: Path, events: Events | None = None, **environ: str
) -> PartlyApplied:
    with run_fails(PartlyApplied) as caught:
        run(database, directory, events, **environ)
    assert caught.value.exit_code == 7
    assert "not recorded" in caught.value.state
    return caught.value


# Two sessions.


@pytest.mark.slow
def test_a_role_with_one_connection_is_told_that_such_a_file_needs_two(
    server: Server, database: Database, migrations: Write
) -> None:
    directory = migrations(
        {"001-plain.sql": "CREATE TABLE a ()", "002-index.sql": HEAD + "CREATE TABLE b ()"}
    )
    with login(server, database, "CONNECTION LIMIT 1") as single:
        database.execute(f"GRANT CREATE ON SCHEMA public TO {role(single)}")
        with run_fails(DatabaseUnavailable) as caught:
            runner.run(
                config_of(single, directory),
                lambda _: None,
                deadline=time.monotonic() + runner.SHUTDOWN_MARGIN_SECONDS + 4,
            )
        assert "too many connections for role" in caught.value.message
        assert caught.value.next_step.startswith(
            "A no-transaction file needs two connections at a time: "
        )
        assert (tables(database), history(database)) == (["a"], ["001-plain"])
        database.execute(f"ALTER ROLE {role(single)} CONNECTION LIMIT 2")
        run(single, directory)
        assert (tables(database), history(database)) == (["a", "b"], ["001-plain", "002-index"])


@pytest.mark.parametrize(
    ("sql", "refused"),
    [
        ("CREATE TEMP TABLE one ()", True),
        ("CREATE LOCAL TEMPORARY TABLE one ()", True),
        ("CREATE OR REPLACE TEMP VIEW one AS SELECT 1", True),
        ("CREATE UNIQUE INDEX CONCURRENTLY temp ON one (i)", False),
        ("CREATE TABLE one ()", False),
    ],
)
def test_what_is_temporary_needs_a_direct_connection_and_a_name_does_not(
    sql: str, refused: bool
) -> None:
    migration = read(f"{HEAD}{sql};")
    if not refused:
        require_no_session_state([migration])
        return
    with pytest.raises(FilesError, match=r"001-x\.sql:2: CREATE would reach other clients"):
        require_no_session_state([migration])


@pytest.mark.parametrize(
    "stays", ["SET lock_timeout = '1s'", "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"]
)
@pytest.mark.parametrize(
    "ends",
    [
        *(
            "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE",
            "SET LOCAL TRANSACTION READ ONLY",
            "SET LOCAL work_mem = 64",
        ),
        *(
            "set session transaction read only",
            "SET transaction_isolation = serializable",
            "SET CONSTRAINTS ALL DEFERRED",
        ),
        "SET SESSION transaction_read_only TO on",
    ],
)
def test_what_ends_with_its_transaction_needs_no_direct_connection(
    database: Database, migrations: Write, ends: str, stays: str
) -> None:
    text = f"{HEAD}BEGIN;\n{ends};\nSELECT 1;\nCOMMIT;\n"
    directory = migrations({"001-block.sql": text})
    require_no_session_state(load(directory))
    with pytest.raises(FilesError, match=r"001-block\.sql:7: SET would reach other clients"):
        require_no_session_state(load(migrations({"001-block.sql": f"{text}\n{stays};"})))
    migrations({"001-block.sql": text})
    state = (
        "SELECT current_setting('transaction_isolation'), current_setting('transaction_read_only')"
    )
    with psycopg.connect(database.url, autocommit=True) as session:
        before = session.execute(state).fetchall()
        for statement in text.splitlines()[1:]:
            session.execute(statement.encode())
        assert session.execute(state).fetchall() == before
    run(database, directory)
    assert history(database) == ["001-block"]


# Statement by statement.


def test_an_index_is_built_concurrently_beside_other_statements(
    server: Server, database: Database, migrations: Write
) -> None:
    sql = (
        "CREATE TABLE t (i int);\nCREATE INDEX CONCURRENTLY t_i ON t (i);\n"
        "INSERT INTO t VALUES (1);\n"
    )
    directory = migrations(
        {"001-before.sql": "SELECT 1", "002-index.sql": HEAD + sql, "003-after.sql": "SELECT 1"}
    )
    assert run(database, directory).applied == ["001-before", "002-index", "003-after"]
    assert indexes(database) == [("t", "t_i", True)]
    assert database.execute("SELECT * FROM t") == [(1,)]
    assert history(database) == ["001-before", "002-index", "003-after"]
    query = (
        "SELECT execution_time_ms >= 0, length(checksum), applied_by FROM schema_migrations"
        " WHERE version = '002-index'"
    )
    assert database.execute(query) == [(True, 64, "cli")]
    nothing_is_left_running(server, database)


@pytest.mark.slow
def test_a_failure_in_the_second_of_three_is_told_and_a_rerun_completes(
    server: Server, database: Database, cli: Cli, migrations: Write
) -> None:
    sql = (
        "CREATE TABLE IF NOT EXISTS a ();\nINSERT INTO b\n  VALUES (1 / {});\nCREATE TABLE c ();\n"
    )
    migrations({"001-parts.sql": HEAD + sql.format(0), "002-after.sql": "CREATE TABLE after ()"})
    database.execute("CREATE TABLE b (i int)")
    result = cli(url=database.url, env=SETTLED)
    assert result.code == 7
    for words in (
        "001-parts.sql   statement 2 of 3, which begins on line 3",
        "ERROR 22012",
        "statement 1 was applied and remains; the file is not recorded",
        "Not applied: 001-parts, 002-after.",
        "starts over at its first statement",
    ):
        assert words in result.err
    assert (tables(database), history(database)) == (["a", "b"], [])
    nothing_is_left_running(server, database)

    migrations({"001-parts.sql": HEAD + sql.format(1)})
    assert cli(url=database.url, env=SETTLED).code == 0
    assert (tables(database), history(database)) == (
        ["a", "after", "b", "c"],
        ["001-parts", "002-after"],
    )


def test_an_error_is_placed_in_the_whole_file_and_not_in_the_statement(
    database: Database, migrations: Write
) -> None:
    sql = (
        HEAD
        + "CREATE TABLE a (); -- 🐘\r\n\r\nCREATE TABLE b ();\r\n  SELECT '🐘', wrong FROM a;\r\n"
    )
    failure = fails(database, migrations({"001-parts.sql": sql})).failure
    assert (failure.line, failure.column, failure.statement) == (5, 15, "statement 3 of 3")
    assert tables(database) == ["a", "b"]


def test_vacuum_and_its_like_work_on_the_whole_database(
    database: Database, migrations: Write
) -> None:
    reindex = f'REINDEX DATABASE "{database.name}"; REINDEX SCHEMA CONCURRENTLY public;'
    sql = f"VACUUM FULL; {reindex} VACUUM ANALYZE t; CLUSTER;"
    directory = migrations(
        {"001-table.sql": "CREATE TABLE t (i int PRIMARY KEY)", "002-vacuum.sql": HEAD + sql}
    )
    query = (
        "SELECT relfilenode FROM pg_class WHERE relname IN ('t', 't_pkey', 'schema_migrations')"
        " ORDER BY relname"
    )
    database.execute("CREATE TABLE unrelated ()")
    with run_fails(FilesError):
        run(database, migrations({"002-vacuum.sql": sql}))
    migrations({"002-vacuum.sql": HEAD + "SELECT 1"})
    run(database, directory)
    before = database.execute(query)
    migrations({"003-vacuum.sql": HEAD + sql})
    run(database, directory)
    assert not set(before) & set(database.execute(query)), "all of them were written anew"
    assert history(database) == ["001-table", "002-vacuum", "003-vacuum"]


def test_settings_of_such_a_file_hold_to_its_end_and_do_not_reach_the_next(
    database: Database, migrations: Write
) -> None:
    look = "INSERT INTO seen VALUES (current_setting('work_mem'), current_setting('search_path'))"
    directory = migrations(
        {
            "001-look.sql": f"CREATE TABLE seen (memory text, path text); {look}",
            "002-sets.sql": f"{HEAD}SET work_mem = '77MB'; SET search_path = public, pg_temp; "
            f"{look}",
            "003-look.sql": look,
            "004-look.sql": HEAD + look,
        }
    )
    run(database, directory)
    usual, changed, after, last = database.execute("SELECT * FROM seen")
    assert changed == ("77MB", "public, pg_temp")
    assert usual == after == last != changed
    assert len(history(database)) == 4


def test_what_the_server_says_before_such_a_file_fails_is_shown(
    database: Database, migrations: Write
) -> None:
    sql = (
        "DO $$BEGIN RAISE NOTICE 'so far'; END$$; CREATE TABLE a ();"
        " SELECT 1 / 0; DO $$BEGIN RAISE NOTICE '-'; END$$"
    )
    events = Events()
    fails(database, migrations({"001-talks.sql": HEAD + sql}), events)
    assert events.notices == ["NOTICE: so far"]
    assert (tables(database), history(database)) == (["a"], [])


# A transaction of the file's own.


def test_a_transaction_of_the_files_own_runs_as_it_is_written(
    database: Database, migrations: Write
) -> None:
    sql = """
        CREATE TABLE t (i int);
        INSERT INTO t VALUES (1);
        BEGIN;
        INSERT INTO t VALUES (2);
        INSERT INTO t VALUES (3);
        COMMIT;
        START TRANSACTION;
        INSERT INTO t VALUES (4);
        ROLLBACK;
    """
    run(database, migrations({"001-own.sql": HEAD + sql}))
    (one, first), (two, second), (three, third) = database.execute(
        "SELECT i, xmin::text FROM t ORDER BY i"
    )
    assert (one, two, three) == (1, 2, 3)
    assert first != second == third
    assert history(database) == ["001-own"]


def test_a_transaction_that_is_left_open_is_rolled_back_and_an_error(
    server: Server, database: Database, migrations: Write
) -> None:
    error = fails(
        database,
        migrations({"001-open.sql": HEAD + "CREATE TABLE a (); BEGIN; CREATE TABLE b ();"}),
    )
    assert "leaves a transaction open" in error.failure.server.message
    assert error.state.startswith(
        "statement 1 was applied and remains, the transaction that the file began after that was "
        "rolled"
    )
    nothing_is_left_running(server, database)
    assert (tables(database), history(database)) == (["a"], [])


def test_a_failed_statement_in_a_files_own_transaction_undoes_the_others(
    server: Server, database: Database, migrations: Write
) -> None:
    sql = "CREATE TABLE a (); CREATE TABLE b (); BEGIN; CREATE TABLE c (); SELECT 1 / 0; COMMIT;"
    error = fails(database, migrations({"001-open.sql": HEAD + sql}))
    assert error.state.startswith(
        "statements 1 to 2 were applied and remain, the transaction that the file began after that "
        "was"
    )
    assert error.failure.statement.startswith("statement 5 of 6")
    nothing_is_left_running(server, database)
    assert (tables(database), history(database)) == (["a", "b"], [])


# The session that holds the lock.


def test_the_session_that_holds_the_lock_holds_nothing_else(
    server: Server, database: Database, migrations: Write
) -> None:
    look = f"""
        CREATE TABLE holder AS
            SELECT state, backend_xmin, backend_xid, pid <> pg_backend_pid() AS other,
            (SELECT jsonb_agg(DISTINCT locktype) FROM pg_locks l WHERE l.pid = a.pid) AS locks
        FROM pg_stat_activity a WHERE pid = ({HOLDER})
    """
    run(database, migrations({"001-before.sql": "SELECT 1", "002-look.sql": HEAD + look}))
    assert database.execute("TABLE holder") == [
        ("idle in transaction", None, None, True, ["advisory", "virtualxid"])
    ]
    assert history(database) == ["001-before", "002-look"]
    nothing_is_left_running(server, database)


@pytest.mark.parametrize(
    ("rest", "left"), [("CREATE TABLE b ();", ["a"]), ("", ["a"])], ids=["midway", "at the end"]
)
def test_a_run_whose_lock_is_lost_stops_and_records_nothing(
    server: Server, database: Database, migrations: Write, rest: str, left: list[str]
) -> None:
    kill = f"SELECT pg_terminate_backend(pid) FROM ({HOLDER}) holder;"
    directory = migrations(
        {"001-kills.sql": f"{HEAD}CREATE TABLE a (); {kill} {rest}", "002-next.sql": "SELECT 1"}
    )
    with run_fails(PartlyApplied) as caught:
        run(database, directory)
    assert "holds the run lock is gone" in caught.value.failure.server.message
    assert caught.value.state.startswith("statements 1 to 2 were applied")
    assert caught.remaining == ["001-kills", "002-next"]
    nothing_is_left_running(server, database)
    assert (tables(database), history(database)) == (left, [])


@pytest.mark.slow
def test_the_session_that_holds_the_lock_may_stand_idle_for_any_time(
    proxy: Proxy, database: Database, migrations: Write
) -> None:
    """The minute that the other transactions may stand idle would be a tenth of a second here."""

    async def shortened(message: Message) -> None:
        limit = b"idle_in_transaction_session_timeout = "
        await replace(
            message, data=message.data.replace(limit + b"'60000ms'", limit + b"'00100ms'")
        ).pass_on()

    opening = proxy.when("'held'", shortened)
    through = Database(database.name, proxy.url(database.url))
    run(through, migrations({"001-long.sql": HEAD + "SELECT pg_sleep(1); CREATE TABLE a ();"}))
    assert (opening.hits, tables(database), history(database)) == (1, ["a"], ["001-long"])


def test_a_lock_that_is_lost_by_a_block_does_not_make_it_half_done(
    database: Database, migrations: Write
) -> None:
    kill = f"DO $$ BEGIN PERFORM pg_terminate_backend(({HOLDER})); COMMIT; END $$;"
    error = fails(database, migrations({"001-kills.sql": f"{HEAD}CREATE TABLE a (); {kill}"}))
    assert "holds the run lock is gone" in error.failure.server.message
    assert error.state == "statements 1 to 2 were applied and remain; the file is not recorded"
    assert (tables(database), history(database)) == (["a"], [])


def test_another_run_does_not_start_meanwhile(
    server: Server, database: Database, migrations: Write
) -> None:
    look = f"CREATE TABLE free AS SELECT pg_try_advisory_xact_lock({LOCK}) AS free"
    run(database, migrations({"001-look.sql": HEAD + look}))
    assert database.execute("TABLE free") == [(False,)]
    nothing_is_left_running(server, database)


@pytest.mark.parametrize(
    "sql",
    ["DELETE FROM schema_migrations", "DROP TABLE schema_migrations", "TRUNCATE schema_migrations"],
)
def test_such_a_file_that_destroys_the_history_is_not_called_rolled_back(
    database: Database, migrations: Write, sql: str
) -> None:
    directory = migrations(
        {"001-before.sql": "SELECT 1", "002-destroys.sql": f"{HEAD}CREATE TABLE a (); {sql};"}
    )
    error = fails(database, directory)
    assert error.state.startswith("all statements of this file were applied and remain")
    assert tables(database) == ["a"]
    (table,) = database.execute("SELECT to_regclass('schema_migrations')")
    assert table == (None,) or history(database) == []


# Indexes that are not there as they should be.


def test_an_invalid_index_that_a_broken_build_left_behind_is_built_again(
    server: Server, database: Database, migrations: Write
) -> None:
    sql = "CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS t_i ON t (i);"
    directory = migrations(
        {"001-table.sql": "CREATE TABLE t (i int); INSERT INTO t VALUES (1), (1)"}
    )
    run(database, directory)
    migrations({"002-index.sql": HEAD + sql})
    assert fails(database, directory).failure.server.sqlstate == "23505"
    assert indexes(database) == [("t", "t_i", False)]

    assert fails(database, directory).failure.server.sqlstate == "23505", (
        "it was not passed off as there"
    )
    database.execute("DELETE FROM t WHERE ctid = '(0,1)'")
    left = node(database, "t_i")
    events = run(database, directory)
    assert events.notices == ["dropped the invalid index public.t_i to build it again"]
    assert indexes(database) == [("t", "t_i", True)]
    assert node(database, "t_i") != left
    assert history(database) == ["001-table", "002-index"]
    nothing_is_left_running(server, database)


def test_a_valid_index_that_is_there_already_stays(database: Database, migrations: Write) -> None:
    database.execute("CREATE TABLE t (i int); CREATE INDEX t_i ON t (i)")
    before = node(database, "t_i")
    run(
        database,
        migrations(
            {"001-index.sql": HEAD + "CREATE INDEX CONCURRENTLY IF NOT EXISTS t_i ON t (i);"}
        ),
    )
    assert node(database, "t_i") == before
    assert history(database) == ["001-index"]


@pytest.mark.parametrize(
    ("table", "index", "sql"),
    [
        ("t", "t_i", 'create unique index concurrently "t_i" on only public.t (i)'),
        (
            '"Odd . table"',
            '"odd ""index"',
            'CREATE INDEX CONCURRENTLY "odd ""index" ON "Odd . table" (i)',
        ),
        (
            'app."ON x"',
            '"ON y"',
            'CREATE INDEX CONCURRENTLY IF NOT EXISTS "ON y" ON app . "ON x" USING btree (i)',
        ),
        ("app.t", "mixed", "CREATE INDEX CONCURRENTLY /* ON a */ MiXed -- b\n ON app.T(i)"),
        ('"größe"', '"größe_i"', "CREATE INDEX CONCURRENTLY größe_i ON größe(i)"),
    ],
    ids=["lower case", "quotes", "schema", "comments", "beyond ascii"],
)
def test_an_invalid_index_is_found_by_whatever_name_it_is_called(
    database: Database, migrations: Write, table: str, index: str, sql: str
) -> None:
    schema = "app." if table.startswith("app") else ""
    database.execute(
        f"CREATE SCHEMA app; CREATE TABLE {table} (i int); CREATE INDEX {index} ON {table} (i)"
    )
    database.execute(
        f"UPDATE pg_index SET indisvalid = false WHERE indexrelid = '{schema}{index}'::regclass"
    )
    before = node(database, schema + index.replace("'", "''"))
    run(database, migrations({"001-index.sql": HEAD + sql}))
    ((_, _, valid),) = indexes(database)
    assert valid
    assert node(database, schema + index) != before
    assert history(database) == ["001-index"]


@pytest.mark.parametrize("exists", ["", "IF NOT EXISTS "])
def test_an_index_of_that_name_on_another_table_is_an_error_and_stays(
    database: Database, migrations: Write, exists: str
) -> None:
    database.execute("CREATE TABLE t (i int); CREATE TABLE u (i int); CREATE INDEX name ON u (i)")
    database.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'name'::regclass")
    fails(
        database,
        migrations({"001-index.sql": f"{HEAD}CREATE INDEX CONCURRENTLY {exists}name ON t (i)"}),
    )
    assert indexes(database) == [("u", "name", False)]
    assert history(database) == []


def test_a_partitioned_tables_index_that_waits_for_its_partitions_stays(
    database: Database, migrations: Write
) -> None:
    database.execute(
        "CREATE TABLE t (i int) PARTITION BY RANGE (i); CREATE TABLE p PARTITION OF t DEFAULT"
    )
    database.execute("CREATE INDEX t_i ON ONLY t (i)")
    error = fails(
        database, migrations({"001-index.sql": HEAD + "CREATE INDEX CONCURRENTLY t_i ON t (i)"})
    )
    assert error.state.startswith("no statement was applied in this run")
    assert indexes(database) == [("t", "t_i", False)]


def test_an_index_that_another_session_is_just_building_is_left_alone(
    database: Database, migrations: Write
) -> None:
    database.execute("CREATE TABLE t (i int); INSERT INTO t VALUES (1)")
    directory = migrations(
        {"001-index.sql": HEAD + "CREATE INDEX CONCURRENTLY IF NOT EXISTS t_i ON t (i);"}
    )
    with psycopg.connect(database.url) as writer:
        writer.execute("UPDATE t SET i = 2")
        builder = threading.Thread(
            target=database.execute, args=["CREATE INDEX CONCURRENTLY t_i ON t (i)"]
        )
        builder.start()
        until(
            lambda: database.execute(
                "SELECT 1 FROM pg_stat_progress_create_index WHERE index_relid <> 0"
            )
        )
        assert indexes(database) == [("t", "t_i", False)]
        building = node(database, "t_i")
        fails(database, directory, MIGRATION_LOCK_TIMEOUT="50ms", MIGRATION_RETRY="0")
        assert node(database, "t_i") == building
    builder.join()
    assert indexes(database) == [("t", "t_i", True)]
    assert node(database, "t_i") == building

    run(database, directory)
    assert node(database, "t_i") == building
    assert history(database) == ["001-index"]


def test_an_invalid_leftover_that_cannot_be_dropped_is_the_files_error(
    server: Server, database: Database, migrations: Write
) -> None:
    database.execute("CREATE TABLE t (i int); CREATE INDEX t_i ON t (i)")
    database.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 't_i'::regclass")
    directory = migrations(
        {"001-index.sql": f"{HEAD}CREATE TABLE a (); CREATE INDEX CONCURRENTLY t_i ON t (i);"}
    )
    with psycopg.connect(database.url) as other:
        other.execute("LOCK TABLE t IN SHARE MODE")
        error = fails(database, directory, MIGRATION_LOCK_TIMEOUT="50ms", MIGRATION_RETRY="0")
    assert error.failure.server.sqlstate == "55P03"
    assert error.state.startswith("statement 1 was applied and remains")
    assert error.failure.line is None, "it is no position in the file"
    nothing_is_left_running(server, database)
    assert indexes(database) == [("t", "t_i", False)]
    assert (tables(database), history(database)) == (["a", "t"], [])


@pytest.mark.parametrize(
    ("meanwhile", "there", "recorded"),
    [
        ("REINDEX INDEX t_i", [("t", "t_i", True)], True),
        (
            "ALTER INDEX t_i RENAME TO old_i; CREATE TABLE u (i int); CREATE INDEX t_i ON u (i)",
            [("t", "old_i", False), ("u", "t_i", True)],
            False,
        ),
    ],
    ids=["is valid", "has another name"],
)
def test_an_index_is_not_dropped_that_is_not_what_was_found(
    proxy: Proxy,
    database: Database,
    migrations: Write,
    meanwhile: str,
    there: list[Any],
    recorded: bool,
) -> None:
    """Between the look and the drop another session was there."""
    database.execute("CREATE TABLE t (i int); CREATE INDEX t_i ON t (i)")
    database.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 't_i'::regclass")
    directory = migrations(
        {"001-index.sql": HEAD + "CREATE INDEX CONCURRENTLY IF NOT EXISTS t_i ON t (i);"}
    )
    found = node(database, "t_i")
    dropping = Hold()
    proxy.when("DROP INDEX", dropping)
    through = Database(database.name, proxy.url(database.url))
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run, through, directory)
        until(dropping.reached.is_set)
        database.execute(meanwhile)
        dropping.release()
        error = cause_of(running)
    assert indexes(database) == there
    assert node(database, there[0][1]) == found
    assert (error is None, history(database)) == (recorded, ["001-index"] if recorded else [])
    if error:
        assert isinstance(error, PartlyApplied)
        assert "has changed since it was looked up" in error.failure.server.message


def test_a_prepared_transaction_that_is_left_open_is_not_called_applied(
    database: Database, migrations: Write
) -> None:
    text = "BEGIN;\nCREATE TABLE two ();\nPREPARE TRANSACTION 'left-open';\n"
    directory = migrations({"001-prepares.sql": HEAD + text})
    with run_fails(PartlyApplied, match="001-prepares failed") as caught:
        run(database, directory)
    assert "COMMIT PREPARED E'left-open'" in caught.value.failure.server.message
    assert (tables(database), history(database)) == ([], [])
    database.execute("ROLLBACK PREPARED 'left-open'")
    migrations({"001-prepares.sql": f"{HEAD}{text}COMMIT PREPARED 'left-open';\n"})
    assert run(database, directory).applied == ["001-prepares"]
    assert tables(database) == ["two"]


def test_a_prepared_transaction_from_before_is_not_the_files(
    database: Database, migrations: Write
) -> None:
    name = f"older-{database.name}"
    database.execute(f"BEGIN; CREATE TABLE older (); PREPARE TRANSACTION '{name}'")
    try:
        run(
            database,
            migrations(
                {"001-one.sql": f"{HEAD}-- prepared and to stay: {name}\nCREATE TABLE one ();"}
            ),
        )
        assert (tables(database), history(database)) == (["one"], ["001-one"])
    finally:
        database.execute(f"ROLLBACK PREPARED '{name}'")


# Statements that run several transactions.

BLOCK = "DO $$ BEGIN FOR i IN 1..3 LOOP INSERT INTO items VALUES (i); COMMIT; END LOOP; END $$;"
PROCEDURE = BLOCK.replace("DO $$", "CREATE PROCEDURE fill() LANGUAGE plpgsql AS $$")
EVENTS = """
CREATE TABLE events (at int) PARTITION BY RANGE (at);
CREATE TABLE events_1 PARTITION OF events FOR VALUES FROM (1) TO (9);
CREATE INDEX events_1_at ON events_1 (at);
INSERT INTO events VALUES (1), (1);
"""
DETACH = "ALTER TABLE events DETACH PARTITION events_1 CONCURRENTLY;"


@pytest.mark.parametrize("statement", [BLOCK, "CALL fill();"])
@pytest.mark.parametrize("before", ["", "CREATE TABLE IF NOT EXISTS a ();"])
def test_a_statement_that_commits_as_it_goes_on_is_not_called_undone(
    database: Database, migrations: Write, before: str, statement: str
) -> None:
    database.execute(f"CREATE TABLE items (i int CHECK (i < 3)); {PROCEDURE}")
    error = fails(database, migrations({"001-fill.sql": f"{HEAD}{before}\n{statement}"}))
    done = "statement 1 was applied and remains; statement 2" if before else "statement 1"
    part = "runs in several transactions, so a part of its work may remain"
    assert error.state == f"{done} {part}; the file is not recorded"
    assert database.execute("SELECT count(*) FROM items") == [(2,)]
    assert history(database) == []


@pytest.mark.parametrize(
    "statement",
    [
        BLOCK.replace("COMMIT; ", ""),
        "INSERT INTO items VALUES (1), (2), (3);",
        "CALL fill(nothing);",
        f"BEGIN; {BLOCK} COMMIT;",
        "CREATE INDEX CONCURRENTLY i ON items (nothing);",
        "REFRESH MATERIALIZED VIEW CONCURRENTLY nothing;",
        DETACH,
    ],
)
def test_a_statement_of_which_nothing_stays_is_not_called_half_done(
    database: Database, migrations: Write, statement: str
) -> None:
    database.execute(f"CREATE TABLE items (i int CHECK (i < 3)); {PROCEDURE}")
    error = fails(database, migrations({"001-fill.sql": HEAD + statement}))
    assert re.fullmatch(
        "no statement was applied in this run(, the transaction .* was rolled back)?; the file is "
        "not recorded",
        error.state,
    )
    assert database.execute("SELECT count(*) FROM items") == [(0,)]
    assert history(database) == []


@pytest.mark.slow
def test_a_detaching_that_was_broken_off_is_told_and_a_rerun_finishes_it(
    database: Database, migrations: Write
) -> None:
    database.execute(EVENTS)
    directory = migrations({"001-detach.sql": HEAD + DETACH})
    with psycopg.connect(database.url) as reader:
        reader.execute("SELECT FROM events")
        error = fails(database, directory, MIGRATION_RETRY="200ms")
    finalize = "ALTER TABLE public.events DETACH PARTITION public.events_1 FINALIZE;"
    assert error.state == (
        "no statement was applied in this run; the file is not recorded; the partition "
        "public.events_1 of public.events is pending "
        f"detach, and the next run finishes that, as does {finalize}"
    )
    assert database.execute(
        "SELECT inhdetachpending FROM pg_inherits WHERE inhrelid = 'events_1'::regclass"
    ) == [(True,)]
    assert history(database) == []

    events = run(database, directory)
    assert events.notices == [
        f"finished the interrupted detaching: {finalize.replace('public.', '')[:-1]}"
    ]
    assert database.execute(
        "SELECT count(*) FROM pg_inherits WHERE inhrelid = 'events_1'::regclass"
    ) == [(0,)]
    assert (tables(database), history(database)) == (["events", "events_1"], ["001-detach"])


@pytest.mark.slow
def test_the_command_that_finishes_a_detaching_does(database: Database, migrations: Write) -> None:
    database.execute(f'CREATE SCHEMA "o\'d d"; SET search_path = "o\'d d"; {EVENTS}')
    sql = f'{HEAD}SET search_path = "o\'d d"; {DETACH}'
    with psycopg.connect(database.url) as reader:
        reader.execute('SELECT FROM "o\'d d".events')
        error = fails(database, migrations({"001-detach.sql": sql}), MIGRATION_RETRY="200ms")
    database.execute(error.state.partition("as does ")[2])
    assert database.execute("SELECT count(*) FROM pg_inherits WHERE inhdetachpending") == [(0,)]
    assert history(database) == []


def test_a_detaching_that_a_busy_table_breaks_off_is_finished_by_the_next(
    database: Database, migrations: Write
) -> None:
    database.execute(EVENTS)
    events = Events()
    with psycopg.connect(database.url) as reader:
        reader.execute("SELECT FROM events")
        sql = f"{HEAD}SET lock_timeout = '50ms'; {DETACH}"
        running = threading.Thread(
            target=run,
            args=[database, migrations({"001-detach.sql": sql}), events],
            kwargs={"MIGRATION_LOCK_TIMEOUT": "50ms"},
        )
        running.start()
        until(lambda: [event for event in events.all if isinstance(event, Retry)])
    running.join()
    assert any("finished the interrupted detaching" in notice for notice in events.notices)
    assert database.execute(
        "SELECT count(*) FROM pg_inherits WHERE inhrelid = 'events_1'::regclass"
    ) == [(0,)]
    assert history(database) == ["001-detach"]


@pytest.mark.slow
def test_a_finish_of_a_detaching_that_meets_a_busy_table_is_tried_again(
    database: Database, migrations: Write
) -> None:
    database.execute(EVENTS)
    directory = migrations({"001-detach.sql": f"{HEAD}SET lock_timeout = '50ms'; {DETACH}"})
    events = Events()
    with psycopg.connect(database.url) as reader:
        reader.execute("SELECT FROM events")

        def emit(event: Event) -> None:
            events.all.append(event)
            if sum(isinstance(one, Retry) for one in events.all) == 3:
                reader.rollback()

        runner.run(config_of(database, directory, MIGRATION_LOCK_TIMEOUT="50ms"), emit)
    assert sum(isinstance(one, Retry) for one in events.all) >= 3
    assert any("finished the interrupted detaching" in notice for notice in events.notices)
    assert database.execute(
        "SELECT count(*) FROM pg_inherits WHERE inhrelid = 'events_1'::regclass"
    ) == [(0,)]
    assert history(database) == ["001-detach"]


def test_what_is_refused_and_pending_nowhere_keeps_its_error(
    database: Database, migrations: Write
) -> None:
    database.execute(f"{EVENTS} CREATE TABLE others PARTITION OF events DEFAULT;")
    error = fails(database, migrations({"001-detach.sql": HEAD + DETACH}))
    assert (error.failure.server.sqlstate, "default partition" in error.failure.server.message) == (
        "55000",
        True,
    )
    assert error.state == "no statement was applied in this run; the file is not recorded"
    assert database.execute(
        "SELECT count(*) FROM pg_inherits WHERE inhrelid = 'events_1'::regclass"
    ) == [(1,)]
    assert history(database) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("statement", "left", "command"),
    [
        ("REINDEX INDEX CONCURRENTLY events_1_at;", "events_1_at_ccnew", True),
        ("REINDEX (CONCURRENTLY) TABLE events_1;", "events_1_at_ccnew", True),
        ("CREATE INDEX CONCURRENTLY ON events_1 (at, (at + 1));", "events_1_at_expr_idx", True),
        ("DROP INDEX CONCURRENTLY events_1_at;", "events_1_at", False),
    ],
)
def test_an_index_that_is_left_invalid_is_named_with_what_ends_it(
    database: Database, migrations: Write, statement: str, left: str, command: bool
) -> None:
    database.execute(f"{EVENTS} CREATE TABLE older (i int); CREATE INDEX older_i ON older (i)")
    database.execute(
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'older_i'::regclass"
    )
    directory = migrations({"001-index.sql": HEAD + statement})
    with psycopg.connect(database.url) as writer:
        writer.execute("UPDATE events_1 SET at = 2")
        error = fails(database, directory, MIGRATION_RETRY="200ms")
    assert ("events_1", left, False) in indexes(database)
    assert f"index public.{left} is left" in error.state
    assert "older_i" not in error.state
    assert history(database) == []
    if command:
        (drop,) = re.findall("DROP INDEX .*;", error.state)
        for statement in drop.split("; "):
            database.execute(statement)
    run(database, directory)
    assert not [
        name for table, name, valid in indexes(database) if table == "events_1" and not valid
    ]
    assert history(database) == ["001-index"]


@pytest.mark.parametrize(
    "statement", ["CALL wait();", "CREATE INDEX CONCURRENTLY i ON items (i);", DETACH]
)
def test_what_such_a_statement_did_before_a_cut_is_not_called_undone(
    server: Server, database: Database, migrations: Write, statement: str
) -> None:
    body = "AS $$ BEGIN INSERT INTO items VALUES (1); COMMIT; PERFORM pg_sleep(60); END $$"
    database.execute(
        f"{EVENTS} CREATE TABLE items (i int); CREATE PROCEDURE wait() LANGUAGE plpgsql {body}"
    )
    directory = migrations({"001-lost.sql": HEAD + statement})
    active = (
        "SELECT pid FROM pg_stat_activity WHERE datname = %s AND state = 'active' AND query LIKE %s"
    )
    waits = "AND (wait_event_type = 'Lock' OR wait_event = 'PgSleep')"
    with psycopg.connect(database.url) as other, ThreadPoolExecutor(1) as pool:
        other.execute("UPDATE items SET i = i; SELECT FROM events")
        other.execute("INSERT INTO items VALUES (0)")
        failing = pool.submit(fails, database, directory)
        (pid,) = until(
            lambda: server.admin.execute(f"{active} {waits}", [database.name, f"{statement[:11]}%"])
        )[0]
        server.admin.execute("SELECT pg_terminate_backend(%s)", [pid])
        error = failing.result()
    assert (
        "statement 1 runs in several transactions, so a part of its work may remain" in error.state
    )
    assert history(database) == []


BUSY_AFTER_A_COMMIT = (
    "INSERT INTO items VALUES (1); COMMIT; PERFORM set_config('lock_timeout', '50ms', false); "
    "LOCK other"
)


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        (f"DO $$ BEGIN {BUSY_AFTER_A_COMMIT}; END $$;", "statement 2 runs in several transactions"),
        ("CALL work();", "statement 2 runs in several transactions"),
    ],
)
def test_a_block_that_may_have_committed_is_not_tried_again(
    database: Database, migrations: Write, statement: str, said: str
) -> None:
    database.execute("CREATE TABLE items (i int); CREATE TABLE other ()")
    database.execute(
        f"CREATE PROCEDURE work() LANGUAGE plpgsql AS $$ BEGIN {BUSY_AFTER_A_COMMIT}; END $$"
    )
    directory = migrations({"001-work.sql": f"{HEAD}SELECT 1;\n{statement}"})
    with psycopg.connect(database.url) as holder:
        holder.execute("LOCK other")
        error = fails(database, directory)
    assert error.failure.server.sqlstate == "55P03"
    assert said in error.state
    assert database.execute("SELECT count(*) FROM items") == [(1,)]
    assert history(database) == []


@pytest.mark.slow
def test_a_block_that_cannot_commit_is_tried_again(database: Database, migrations: Write) -> None:
    database.execute("CREATE TABLE items (i int); CREATE TABLE other ()")
    block = (
        "DO $$ BEGIN INSERT INTO items VALUES (1); SET lock_timeout = '50ms'; LOCK other; END $$;"
    )
    events = Events()
    with psycopg.connect(database.url) as holder:
        holder.execute("LOCK other")
        directory = migrations({"001-work.sql": HEAD + block})
        running = threading.Thread(target=run, args=[database, directory, events])
        running.start()
        until(lambda: [event for event in events.all if isinstance(event, Retry)])
    running.join()
    assert database.execute("SELECT count(*) FROM items") == [(1,)]
    assert history(database) == ["001-work"]


# Limits of waiting.


def tells(database: Database, setting: str) -> str:
    """A function that says, as a notice, how the session has this set; its name does not name the
    setting.
    """
    name = f"tell_{setting.replace('_', '')}"
    body = f"BEGIN RAISE NOTICE '{setting} %', current_setting('{setting}'); RETURN i; END"
    database.execute(
        f"CREATE FUNCTION public.{name}(i int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ {body} "
        "$$;"
        "CREATE TABLE IF NOT EXISTS t (i int); INSERT INTO t SELECT 1 WHERE NOT EXISTS (SELECT "
        "FROM t)"
    )
    return f"public.{name}"


@pytest.mark.parametrize(
    ("retry", "patience"),
    [("5s", "5s"), ("100ms", "1230ms"), ("0", "1230ms")],
    ids=["longer", "shorter", "none"],
)
def test_only_what_runs_concurrently_waits_longer_than_the_lock_timeout(
    database: Database, migrations: Write, retry: str, patience: str
) -> None:
    tell = tells(database, "lock_timeout")
    sql = f"SELECT {tell}(1); CREATE INDEX CONCURRENTLY t_i ON t ({tell}(i)); SELECT {tell}(1);"
    directory = migrations({"001-index.sql": HEAD + sql})
    events = run(database, directory, MIGRATION_LOCK_TIMEOUT="1230ms", MIGRATION_RETRY=retry)
    told = [notice.removeprefix("NOTICE: lock_timeout ") for notice in events.notices]
    assert (told[0], {*told[1:-1]}, told[-1]) == ("1230ms", {patience}, "1230ms")
    assert indexes(database) == [("t", "t_i", True)]
    assert history(database) == ["001-index"]


def test_the_drop_of_an_invalid_index_waits_for_the_lock_timeout_only(
    database: Database, migrations: Write
) -> None:
    """It is not what runs concurrently: who reads the table queues behind it."""
    tell = tells(database, "lock_timeout")
    database.execute(
        "CREATE INDEX t_i ON t (i); UPDATE pg_index SET indisvalid = false WHERE indrelid = "
        "'t'::regclass"
    )
    look = (
        f"PERFORM {tell}(i) FROM (SELECT count(*)::int i"
        " FROM pg_event_trigger_dropped_objects()) dropped"
    )
    database.execute(
        f"CREATE FUNCTION look() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN {look}; END $$"
    )
    database.execute("CREATE EVENT TRIGGER look ON sql_drop EXECUTE FUNCTION look()")
    directory = migrations({"001-index.sql": HEAD + "CREATE INDEX CONCURRENTLY t_i ON t (i)"})
    events = run(database, directory, MIGRATION_LOCK_TIMEOUT="1230ms", MIGRATION_RETRY="5s")
    dropped = "dropped the invalid index public.t_i to build it again"
    assert events.notices == ["NOTICE: lock_timeout 1230ms", dropped]
    assert indexes(database) == [("t", "t_i", True)]
    assert history(database) == ["001-index"]


def test_a_files_own_lock_timeout_holds_for_what_runs_concurrently(
    database: Database, migrations: Write
) -> None:
    tell = tells(database, "lock_timeout")
    sql = (
        f"SET lock_timeout = '77ms'; CREATE INDEX CONCURRENTLY t_i ON t ({tell}(i));"
        f" SELECT {tell}(1);"
    )
    events = run(database, migrations({"001-index.sql": HEAD + sql}))
    assert set(events.notices) == {"NOTICE: lock_timeout 77ms"}
    assert indexes(database) == [("t", "t_i", True)]
    assert history(database) == ["001-index"]


def test_a_concurrent_build_outwaits_a_writer_beyond_the_lock_timeout(
    server: Server, database: Database, migrations: Write
) -> None:
    database.execute("CREATE TABLE t (i int)")
    directory = migrations({"001-index.sql": HEAD + "CREATE INDEX CONCURRENTLY t_i ON t (i);"})
    waits = (
        "SELECT 1 FROM pg_stat_activity WHERE datname = %s AND query LIKE 'CREATE INDEX%%' AND "
        "wait_event_type = 'Lock'"
        " AND clock_timestamp() - query_start > '500 ms'"
    )
    events = Events()
    with psycopg.connect(database.url) as writer, ThreadPoolExecutor(1) as pool:
        writer.execute("INSERT INTO t VALUES (1)")
        running = pool.submit(run, database, directory, events, MIGRATION_LOCK_TIMEOUT="50ms")
        until(lambda: running.done() or server.admin.execute(waits, [database.name]))
        assert indexes(database) == [("t", "t_i", False)], "it waits for the writer"
        writer.rollback()
        running.result()
    assert [event for event in events.all if isinstance(event, Retry)] == []
    assert indexes(database) == [("t", "t_i", True)]
    assert history(database) == ["001-index"]


@pytest.mark.parametrize("begin", ["BEGIN", "START TRANSACTION"])
def test_a_busy_table_in_a_transaction_of_the_files_own_is_told_at_once(
    server: Server, database: Database, migrations: Write, begin: str
) -> None:
    database.execute("CREATE TABLE busy ()")
    sql = f"CREATE TABLE a (); {begin}; CREATE TABLE b (); LOCK TABLE busy NOWAIT; COMMIT;"
    events = Events()
    with psycopg.connect(database.url) as other:
        other.execute("LOCK TABLE busy")
        error = fails(database, migrations({"001-own.sql": HEAD + sql}), events)
    assert error.failure.server.sqlstate == "55P03"
    assert error.failure.statement.startswith("statement 4 of 5")
    assert [event for event in events.all if isinstance(event, Retry)] == []
    nothing_is_left_running(server, database)
    assert (tables(database), history(database)) == (["a", "busy"], [])
