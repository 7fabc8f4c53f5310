"""The history's table: where it is found, whose it is, what is read and written; and what the
server itself refuses.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest

from lib.errors import (
    DatabaseUnsuitable,
    HistoryConflict,
    LockBusy,
    MigrationFailed,
    PartlyApplied,
    TableBusy,
)
from lib.events import Retry, Started
from lib.postgres.executor import Executor as Session
from lib.retry import Backoff
from lib.source.migration import load
from tests.conftest import Database, Server
from tests.kit import (
    LOCK,
    Events,
    Write,
    config_of,
    history,
    login,
    nothing_is_left_running,
    role,
    run,
    tables,
    until,
)
from tests.proxy import Hold, Proxy

OLD_SHAPE = """(
    id SERIAL PRIMARY KEY, version VARCHAR(255) UNIQUE NOT NULL, name VARCHAR(255) NOT NULL,
    applied_at TIMESTAMP DEFAULT now(), execution_time_ms INTEGER, checksum VARCHAR(64)
)"""
ONE = {"001-one.sql": "CREATE TABLE public.one ()"}
TWO = {**ONE, "002-two.sql": "CREATE TABLE public.two ()"}


def places(database: Database) -> list[str]:
    """The schemas that have something called schema_migrations."""
    rows = database.execute(
        "SELECT relnamespace::regnamespace::text FROM pg_class WHERE relname = 'schema_migrations' "
        "ORDER BY 1"
    )
    return [schema for (schema,) in rows]


# Where the table is found.


def test_the_table_is_found_after_the_search_path_of_the_database_has_changed(
    database: Database, migrations: Write
) -> None:
    directory = migrations(ONE)
    run(database, directory)
    database.execute("CREATE SCHEMA app")
    for path in ("app", "pg_catalog", "nowhere", ""):
        database.execute(f"ALTER DATABASE \"{database.name}\" SET search_path = '{path}'")
        assert run(database, directory).applied == []
    migrations(TWO)
    run(database, directory)
    assert history(database) == ["001-one", "002-two"]
    assert places(database) == ["public"]


def test_it_is_made_in_the_first_schema_of_the_search_path_that_exists(
    database: Database, migrations: Write
) -> None:
    database.execute(
        f'CREATE SCHEMA "My {{App}}"; ALTER DATABASE "{database.name}" SET search_path = x, "My {{App}}"'
    )
    run(database, migrations(TWO))
    assert history(database, '"My {App}".schema_migrations') == ["001-one", "002-two"]
    assert places(database) == ['"My {App}"']


def test_a_users_table_of_that_name_in_another_schema_is_none_of_its_business(
    database: Database, migrations: Write
) -> None:
    directory = migrations(ONE)
    run(database, directory)
    database.execute(
        "CREATE SCHEMA crm; CREATE TABLE crm.schema_migrations (customer text, moved date)"
    )
    database.execute(f'ALTER DATABASE "{database.name}" SET search_path = crm, public')
    migrations(TWO)
    assert run(database, directory).applied == ["002-two"]
    assert history(database) == ["001-one", "002-two"]
    assert database.execute("SELECT * FROM crm.schema_migrations") == []


def test_migration_schema_says_which_schema_counts(database: Database, migrations: Write) -> None:
    directory = migrations({"001-one.sql": "CREATE TABLE IF NOT EXISTS one ()"})
    run(database, directory)
    database.execute("CREATE SCHEMA audit")
    assert run(database, directory, MIGRATION_SCHEMA="audit").applied == ["001-one"]
    assert run(database, directory, MIGRATION_SCHEMA="audit").applied == []
    assert run(database, directory, MIGRATION_SCHEMA="public").applied == []
    assert history(database) == history(database, "audit.schema_migrations") == ["001-one"]


def test_of_several_histories_the_one_on_the_search_path_counts_and_without_one_there_none_is_touched(
    database: Database, migrations: Write
) -> None:
    directory = migrations(ONE)
    run(database, directory)
    database.execute(
        "CREATE SCHEMA copy; CREATE TABLE copy.schema_migrations AS TABLE schema_migrations"
    )
    migrations(TWO)
    database.execute(f'ALTER DATABASE "{database.name}" SET search_path = nowhere')
    with pytest.raises(
        HistoryConflict, match=r"several histories: .* copy, public, none on the"
    ) as caught:
        run(database, directory)
    assert (caught.value.exit_code, "MIGRATION_SCHEMA" in caught.value.next_step) == (3, True)
    assert tables(database) == ["one"]
    database.execute(f'ALTER DATABASE "{database.name}" SET search_path = nowhere, public, copy')
    assert run(database, directory).applied == ["002-two"]
    assert history(database) == ["001-one", "002-two"]
    assert history(database, "copy.schema_migrations") == ["001-one"]


# What is not ours, and what an older runner left.


@pytest.mark.parametrize(
    "foreign",
    [
        "CREATE TABLE schema_migrations (version bigint PRIMARY KEY, inserted_at timestamp)",
        "CREATE TABLE schema_migrations (id int, version bigint, name text, applied_at date, "
        "checksum text)",
        "CREATE TABLE schema_migrations (id text, version text, name text, applied_at timestamp,"
        " execution_time_ms int, checksum text)",
        f"CREATE TABLE real {OLD_SHAPE}; CREATE VIEW schema_migrations AS TABLE real",
        f"CREATE TABLE real {OLD_SHAPE}; CREATE MATERIALIZED VIEW schema_migrations AS TABLE real",
    ],
    ids=["other columns", "a column too few", "other types", "view", "materialized view"],
)
def test_a_table_or_view_of_that_name_with_another_shape_is_refused_and_untouched(
    database: Database, migrations: Write, foreign: str
) -> None:
    database.execute(foreign)
    shape = "SELECT xmin, * FROM pg_attribute WHERE attrelid = 'schema_migrations'::regclass ORDER BY attnum"
    before = database.execute(shape)
    with pytest.raises(
        HistoryConflict, match=r"public\.schema_migrations was created by another tool"
    ) as caught:
        run(database, migrations(ONE))
    assert (caught.value.exit_code, "MIGRATION_SCHEMA" in caught.value.next_step) == (3, True)
    assert database.execute(shape) == before
    assert database.execute("SELECT * FROM schema_migrations") == []
    assert "one" not in tables(database)


@pytest.mark.parametrize(
    "other", ["CREATE SEQUENCE schema_migrations", "CREATE TYPE schema_migrations AS (i int)"]
)
def test_something_else_of_that_name_is_in_the_way_and_stays(
    database: Database, migrations: Write, other: str
) -> None:
    database.execute(other)
    with pytest.raises(
        HistoryConflict, match=r"public\.schema_migrations was created by another tool"
    ):
        run(database, migrations(ONE))
    assert tables(database) == []
    assert database.execute(
        "SELECT count(*) FROM pg_class WHERE relname LIKE 'schema_migrations%'"
    ) == [(1,)]


def test_columns_that_a_team_has_added_stay_as_they_are(
    database: Database, migrations: Write
) -> None:
    database.execute(
        f"CREATE TABLE schema_migrations {OLD_SHAPE}; ALTER TABLE schema_migrations ADD note text "
        "DEFAULT '-'"
    )
    database.execute(
        "INSERT INTO schema_migrations (version, name, note) VALUES ('001-one', 'One', 'by hand')"
    )
    run(database, migrations(TWO), MIGRATION_ENV="development")
    assert database.execute(
        "SELECT version, note, applied_by FROM schema_migrations ORDER BY id"
    ) == [
        ("001-one", "by hand", None),
        ("002-two", "-", "cli"),
    ]


def test_what_is_read_is_what_is_there(database: Database, migrations: Write) -> None:
    database.execute(f"CREATE TABLE schema_migrations {OLD_SHAPE}")
    database.execute(f"ALTER DATABASE \"{database.name}\" SET timezone = 'America/New_York'")
    database.execute(
        "INSERT INTO schema_migrations (id, version, name, applied_at, checksum) VALUES"
        " (9, 'b', '\"🐘'' \\', '2026-01-02 03:04:05.678', 'x'), (7, 'a', '', NULL, NULL)"
    )
    with Session(config_of(database, migrations(ONE))) as session:
        found = session.read()
    first, second = found.rows
    assert (first.id, first.version, first.applied_at, first.checksum, first.identity) == (
        7,
        "a",
        None,
        None,
        None,
    )
    assert (second.name, second.applied_at) == (
        "\"🐘' \\",
        datetime(2026, 1, 2, 8, 4, 5, 678000, UTC),
    )
    assert (found.schema, found.table_id is None, found.obstacle, found.direct) == (
        "public",
        False,
        "",
        True,
    )
    assert found.fingerprint == (2, 9)
    ((system, version),) = database.execute(
        "SELECT system_identifier, version() FROM pg_control_system()"
    )
    assert found.identity == f"{system}/{database.name}"
    assert found.version in version
    assert len(history(database)) == 2


# Who may read and write it.


@contextmanager
def public_role(server: Server, database: Database) -> Iterator[Database]:
    """A role like a host's `anon`, which every new table and sequence is handed to."""
    with login(server, database) as anon:
        database.execute(
            f"GRANT USAGE ON SCHEMA public TO {role(anon)};"
            f"ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO {role(anon)}, PUBLIC;"
            f"ALTER DEFAULT PRIVILEGES GRANT ALL ON SEQUENCES TO {role(anon)}, PUBLIC"
        )
        yield anon


def test_a_role_that_is_handed_every_new_table_is_not_handed_the_history(
    server: Server, database: Database, migrations: Write
) -> None:
    with public_role(server, database) as anon:
        run(database, migrations({"001-open.sql": "CREATE TABLE open (i int)"}))
        anon.execute("INSERT INTO open VALUES (1)")
        for sql in (
            "TABLE schema_migrations",
            "DELETE FROM schema_migrations",
            "INSERT INTO schema_migrations (version, name) VALUES ('x', 'X')",
            "SELECT nextval('schema_migrations_id_seq')",
            "SELECT setval('schema_migrations_id_seq', 99)",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                anon.execute(sql)
        query = "SELECT relacl FROM pg_class WHERE relname IN ('schema_migrations', 'schema_migrations_id_seq')"
        for (privileges,) in database.execute(query):
            assert len(privileges) == 1, "the owner's own"
        assert history(database) == ["001-open"]


def test_a_role_without_a_place_for_the_table_is_told_which_grant_it_lacks(
    server: Server, database: Database, migrations: Write
) -> None:
    database.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    with login(server, database) as plain:
        directory = migrations({"001-one.sql": "CREATE TABLE one ()"})
        with pytest.raises(DatabaseUnsuitable) as caught:
            run(plain, directory)
        assert caught.value.exit_code == 5
        grant = caught.value.message.partition("its owner can run:")[2]
        assert grant.strip() == f'GRANT USAGE, CREATE ON SCHEMA "public" TO {role(plain)};'
        assert (tables(database), places(database)) == ([], [])

        database.execute(grant)
        run(plain, directory)
        assert history(database) == ["001-one"]


@pytest.mark.parametrize("granted", ["SELECT", "SELECT, INSERT"])
def test_a_role_that_may_not_write_the_history_is_refused_before_a_file_runs_and_told_the_grant(
    server: Server, database: Database, migrations: Write, granted: str
) -> None:
    directory = migrations({"001-one.sql": "CREATE TABLE one ()"})
    run(database, directory)
    with login(server, database) as plain:
        database.execute(f"GRANT {granted} ON schema_migrations TO {role(plain)}")
        database.execute(f"GRANT CREATE ON SCHEMA public TO {role(plain)}")
        migrations({"002-two.sql": "CREATE TABLE two ()"})
        with pytest.raises(DatabaseUnsuitable) as caught:
            run(plain, directory)
        assert caught.value.exit_code == 5
        assert (tables(database), history(database)) == (["one"], ["001-one"])

        database.execute(caught.value.message.partition("its owner can run:")[2])
        run(plain, directory)
        assert history(database) == ["001-one", "002-two"]


def test_a_role_that_may_not_read_the_history_is_refused(
    server: Server, database: Database, migrations: Write
) -> None:
    directory = migrations(ONE)
    run(database, directory)
    with login(server, database) as plain:
        with pytest.raises(
            DatabaseUnsuitable, match="permission denied for table schema_migrations"
        ) as caught:
            run(plain, directory)
        assert caught.value.exit_code == 5
    assert "Grant" in caught.value.next_step


def test_a_session_that_is_read_only_by_default_is_refused_before_anything_is_written(
    database: Database, migrations: Write
) -> None:
    database.execute(f'ALTER DATABASE "{database.name}" SET default_transaction_read_only = on')
    with pytest.raises(DatabaseUnsuitable, match="read-only") as caught:
        run(database, migrations(ONE))
    assert caught.value.exit_code == 5
    assert (tables(database), places(database)) == ([], [])


@pytest.mark.parametrize(
    ("path", "environ", "says"),
    [
        ("public", {"MIGRATION_SCHEMA": "audit"}, "there is no schema audit"),
        ("nowhere", {}, "no schema of the search path exists"),
    ],
)
def test_a_schema_that_is_missing_is_named(
    database: Database, migrations: Write, path: str, environ: dict[str, str], says: str
) -> None:
    database.execute(f'ALTER DATABASE "{database.name}" SET search_path = {path}')
    with pytest.raises(DatabaseUnsuitable, match=says) as caught:
        run(database, migrations(ONE), None, **environ)
    assert caught.value.exit_code == 5
    assert (tables(database), places(database)) == ([], [])


# Locks of others.


def test_a_run_that_cannot_get_the_lock_gives_up_and_changes_nothing(
    server: Server, database: Database, migrations: Write
) -> None:
    with psycopg.connect(database.url) as other:
        other.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK])
        with pytest.raises(LockBusy, match="another run holds the lock") as caught:
            run(database, migrations(ONE), MIGRATION_WAIT="1ms")
    assert caught.value.exit_code == 4
    assert (tables(database), places(database)) == ([], [])
    nothing_is_left_running(server, database)


def test_a_run_that_waits_for_another_one_stands_in_no_transaction(
    server: Server, database: Database, migrations: Write
) -> None:
    """Through a pooler, it would have the connection that the other one may need to get on."""
    waits = (
        "SELECT 1 FROM pg_stat_activity WHERE datname = %s AND application_name LIKE 'onward%%'"
        " AND state = 'idle' AND query LIKE 'ROLLBACK%%'"
    )
    events = Events()
    with psycopg.connect(database.url) as other, ThreadPoolExecutor(1) as pool:
        other.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK])
        running = pool.submit(run, database, migrations(ONE), events, MIGRATION_WAIT="20s")
        until(lambda: running.done() or server.admin.execute(waits, [database.name]))
        other.rollback()
        running.result()
    assert [notice.partition(" (")[0] for notice in events.notices] == [
        "another run holds the lock"
    ]
    assert history(database) == ["001-one"]


def test_a_busy_table_stops_the_file_and_nothing_of_it_stays(
    server: Server, database: Database, migrations: Write
) -> None:
    database.execute("CREATE TABLE busy (i int)")
    directory = migrations({"001-alter.sql": "CREATE TABLE one (); ALTER TABLE busy ADD j int"})
    with psycopg.connect(database.url) as other:
        other.execute("LOCK TABLE busy IN ACCESS SHARE MODE")
        with pytest.raises(LockBusy, match=r"001-alter.*55P03.*rolled back") as caught:
            run(database, directory, MIGRATION_LOCK_TIMEOUT="50ms", MIGRATION_RETRY="0")
    assert caught.value.exit_code == 4
    assert (tables(database), history(database)) == (["busy"], [])
    nothing_is_left_running(server, database)
    run(database, directory)
    assert history(database) == ["001-alter"]


GATE = "CREATE TABLE gate AS SELECT 1 AS closed"
WAIT = "DO $$ BEGIN WHILE EXISTS (SELECT FROM gate) LOOP PERFORM pg_sleep(0.01); END LOOP; END $$;"


@pytest.mark.parametrize(
    "head", ["", "-- migrate: no-transaction\n"], ids=["transaction", "no transaction"]
)
def test_a_history_locked_behind_a_file_ends_it_by_the_lock_timeout(
    server: Server, database: Database, migrations: Write, head: str
) -> None:
    directory = migrations({"001-one.sql": "SELECT 1"})
    run(database, directory)
    database.execute(f"{GATE}; CREATE TABLE effects (i int)")
    migrations(
        {
            "002-waits.sql": f"{head}INSERT INTO effects VALUES (1); {WAIT}",
            "003-next.sql": "SELECT 1",
        }
    )
    waiting = "SELECT 1 FROM pg_stat_activity WHERE datname = %s AND wait_event = 'PgSleep'"
    stuck = waiting.replace(
        "wait_event = 'PgSleep'", "wait_event_type = 'Lock' AND now() - query_start > '20 s'"
    )
    events = Events()
    with psycopg.connect(database.url) as other, ThreadPoolExecutor(1) as pool:
        limits = {"MIGRATION_LOCK_TIMEOUT": "200ms", "MIGRATION_RETRY": "2s" if head else "0"}
        running = pool.submit(run, database, directory, events, **limits)
        until(lambda: server.admin.execute(waiting, [database.name]))
        other.execute("LOCK TABLE schema_migrations IN SHARE MODE")
        database.execute("DELETE FROM gate")
        until(lambda: running.done() or server.admin.execute(stuck, [database.name]))
        other.rollback()
        error = running.exception()
    nothing_is_left_running(server, database)
    assert (history(database), events.applied) == (["001-one"], [])
    assert [event for event in events.all if isinstance(event, Retry)] == [], "it is not run again"
    if head:
        assert isinstance(error, PartlyApplied)
        assert error.failure.server.sqlstate == "55P03"
        assert error.state.startswith(
            "all statements of this file were applied and remain; the file is not recorded"
        )
        assert database.execute("TABLE effects") == [(1,)]
    else:
        assert isinstance(error, TableBusy)
        assert "rolled back, no change of it was kept" in error.message
        assert database.execute("TABLE effects") == []


def test_a_busy_file_does_not_name_who_was_in_the_way_of_another(
    database: Database, migrations: Write
) -> None:
    database.execute("CREATE TABLE busy (); CREATE TABLE other ()")
    directory = migrations(
        {
            "001-waits.sql": "LOCK TABLE busy",
            "002-gives-up.sql": "LOCK TABLE other NOWAIT",
            "003-pieces.sql": "-- migrate: no-transaction\nBEGIN; LOCK TABLE other NOWAIT; COMMIT;",
        }
    )
    first, second, third = load(directory)
    config = config_of(database, directory, MIGRATION_LOCK_TIMEOUT="700ms")
    with (
        psycopg.connect(database.url, application_name="reporting") as holder,
        Session(config) as session,
    ):
        holder.execute("LOCK TABLE busy, other")
        session.read()
        session.prepare()
        with pytest.raises(TableBusy) as waited:
            session.apply(first, None, Backoff(0.0, first=1.0))
        assert ["reporting" in blocker for blocker in waited.value.blockers] == [True]
        with pytest.raises(TableBusy) as refused:
            session.apply(second, None, Backoff(0.0, first=1.0))
        assert refused.value.blockers == ()
        with pytest.raises(PartlyApplied) as partly:
            session.apply(third, None, Backoff(0.0, first=1.0))
        assert partly.value.blockers == ()
    assert history(database) == []


@pytest.mark.parametrize(
    ("name", "sql"),
    [
        ("busy", "ALTER TABLE busy ADD j int"),
        ("busy", "-- migrate: no-transaction\nALTER TABLE busy ADD j int"),
        ("busy", "-- migrate: no-transaction\nCREATE INDEX CONCURRENTLY busy_i ON busy (i)"),
        ("schema_migrations", "CREATE TABLE one ()"),
    ],
    ids=["transaction", "no transaction", "concurrent", "history"],
)
def test_whoever_is_in_the_way_is_named_wherever_it_ends_a_run(
    database: Database, migrations: Write, name: str, sql: str
) -> None:
    """The table is an older runner's, so it is changed itself before the first file."""
    database.execute(f"CREATE TABLE schema_migrations {OLD_SHAPE}; CREATE TABLE busy (i int)")
    directory = migrations({"001-alters.sql": sql})
    with psycopg.connect(database.url, application_name="reporting") as holder:
        holder.execute(f"LOCK TABLE {name} IN ROW EXCLUSIVE MODE".encode())
        with pytest.raises((TableBusy, PartlyApplied)) as caught:
            run(database, directory, MIGRATION_LOCK_TIMEOUT="800ms", MIGRATION_RETRY="0")
        pid = holder.info.backend_pid
    (blocker,) = caught.value.blockers
    assert blocker.startswith(f"pid {pid}, reporting, for ")
    assert history(database) == []


def test_a_role_with_one_connection_does_without_the_name_of_a_blocker(
    server: Server, database: Database, migrations: Write
) -> None:
    database.execute("CREATE TABLE busy ()")
    directory = migrations({"001-busy.sql": "CREATE TABLE one (); LOCK TABLE busy"})
    events = Events()
    with login(server, database, "CONNECTION LIMIT 1") as single:
        database.execute(
            f"GRANT CREATE ON SCHEMA public TO {role(single)}; GRANT ALL ON busy TO {role(single)}"
        )
        with psycopg.connect(database.url) as other:
            other.execute("LOCK TABLE busy")
            with pytest.raises(TableBusy) as caught:
                run(single, directory, events, MIGRATION_LOCK_TIMEOUT="500ms", MIGRATION_RETRY="0")
        assert (caught.value.blockers, events.notices) == ((), [])
        assert (tables(database), history(database)) == (["busy"], [])


def test_a_history_that_goes_between_look_and_lock_is_planned_again(
    server: Server, proxy: Proxy, database: Database, migrations: Write
) -> None:
    """It is dropped by a transaction that still runs when our look at the table's name has found it
    there.
    """
    directory = migrations({"001-one.sql": "CREATE TABLE IF NOT EXISTS one ()"})
    run(database, directory)
    migrations({"002-two.sql": "CREATE TABLE two ()"})
    opening = Hold()
    proxy.when("pg_try_advisory_xact_lock", opening)
    waiting = "SELECT 1 FROM pg_stat_activity WHERE datname = %s AND wait_event_type = 'Lock'"
    events = Events()
    with psycopg.connect(database.url) as other, ThreadPoolExecutor(1) as pool:
        through = Database(database.name, proxy.url(database.url))
        running = pool.submit(run, through, directory, events, MIGRATION_LOCK_TIMEOUT="1min")
        until(opening.reached.is_set)
        other.execute("DROP TABLE schema_migrations")
        opening.release()
        until(lambda: running.done() or server.admin.execute(waiting, [database.name]))
        other.commit()
        running.result()
    assert len([event for event in events.all if isinstance(event, Started)]) == 2
    assert events.applied == history(database) == ["001-one", "002-two"]
    assert tables(database) == ["one", "two"]


def test_a_role_that_is_refused_the_history_is_not_asked_for_it_again(
    server: Server, database: Database, migrations: Write
) -> None:
    directory = migrations(ONE)
    run(database, directory)
    events = Events()
    with login(server, database) as plain:
        with pytest.raises(DatabaseUnsuitable, match="permission denied"):
            run(plain, directory, events)
        assert history(database) == ["001-one"]
    assert events.all == []


# What the server itself stops, should the lexer ever let it through.


def apply_alone(database: Database, directory: Path) -> None:
    """Apply the first file without the checks that come before a run."""
    with Session(config_of(database, directory)) as session:
        session.read()
        session.prepare()
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
def test_a_file_that_ends_its_transaction_is_not_recorded_nor_called_rolled_back(
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
    with pytest.raises(MigrationFailed, match="001-ends failed") as caught:
        run(database, directory)
    assert (caught.value.exit_code, caught.value.next_step) == (1, "It is safe to run again.")
    nothing_is_left_running(server, database)
    assert (tables(database), history(database)) == ([], [])
