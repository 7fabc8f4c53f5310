"""Locks of others: who is waited for, for how long, and who is named."""

from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from lib.errors import DatabaseUnsuitable, LockBusy, PartlyApplied, TableBusy
from lib.events import Progress, Retry, Running, Started
from lib.postgres.connection import Connection
from lib.postgres.executor import Executor
from lib.postgres.lock import TURN_KEY
from lib.retry import Backoff
from lib.source.migration import load
from tests.conftest import Database, Server
from tests.kit import (
    LOCK,
    OLD_SHAPE,
    ONE,
    Events,
    Write,
    cause_of,
    config_of,
    history,
    login,
    nothing_is_left_running,
    places,
    role,
    run,
    run_fails,
    tables,
    until,
)
from tests.proxy import Hold, Proxy

pytestmark = pytest.mark.slow


def test_a_run_that_cannot_get_the_lock_gives_up_and_changes_nothing(
    server: Server, database: Database, migrations: Write
) -> None:
    with psycopg.connect(database.url) as other:
        other.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK])
        with run_fails(LockBusy, match="another run holds the lock") as caught:
            run(database, migrations(ONE), MIGRATION_WAIT="1ms")
    assert (caught.failed.exit_code, caught.failed.retry) == (4, True)
    assert (tables(database), places(database)) == ([], [])
    nothing_is_left_running(server, database)


@pytest.mark.parametrize("pooled", [False, True], ids=["direct", "through a pooler"])
def test_a_run_that_waits_for_another_one_stands_in_nobodys_way(
    server: Server,
    database: Database,
    migrations: Write,
    monkeypatch: pytest.MonkeyPatch,
    pooled: bool,
) -> None:
    """In a transaction that has its turn only. Through a pooler it stands in none: that would keep
    the connection that the other one may need to get on.
    """
    if pooled:
        monkeypatch.setattr(Connection, "pid", 0)
    state = "idle" if pooled else "idle in transaction"
    waits = (
        "SELECT 1 FROM pg_stat_activity a WHERE datname = %s AND application_name LIKE 'onward%%'"
        f" AND state = '{state}' AND query LIKE 'ROLLBACK%%' AND backend_xmin IS NULL AND"
        " backend_xid IS NULL AND NOT EXISTS (SELECT FROM pg_locks l WHERE l.pid = a.pid"
        f" AND locktype <> 'virtualxid' AND objid <> {TURN_KEY & 0xFFFFFFFF})"
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


def test_a_run_that_waits_for_another_one_repeats_whom_it_waits_for(
    database: Database, migrations: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lib.postgres.transaction.REPORT_SECONDS", 0.2)
    events = Events()
    with psycopg.connect(database.url) as other, ThreadPoolExecutor(1) as pool:
        other.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK])
        running = pool.submit(run, database, migrations(ONE), events, MIGRATION_WAIT="20s")
        until(lambda: running.done() or len(events.notices) >= 3)
        other.rollback()
        running.result()
    assert {notice.partition(" (")[0] for notice in events.notices} == {
        "another run holds the lock"
    }
    assert history(database) == ["001-one"]


@pytest.mark.parametrize("head", ["", "-- migrate: no-transaction\n"])
def test_a_file_is_named_before_it_runs_and_while_it_waits(
    database: Database, migrations: Write, monkeypatch: pytest.MonkeyPatch, head: str
) -> None:
    monkeypatch.setattr("lib.postgres.blockers.REPORT_SECONDS", 0.1)
    database.execute("CREATE TABLE busy (i int)")
    directory = migrations({"001-alter.sql": f"{head}ALTER TABLE busy ADD IF NOT EXISTS j int"})
    events = Events()
    with psycopg.connect(database.url) as other, ThreadPoolExecutor(1) as pool:
        other.execute("LOCK TABLE busy IN ACCESS SHARE MODE")
        running = pool.submit(run, database, directory, events, MIGRATION_LOCK_TIMEOUT="0")
        until(lambda: running.done() or len(reports(events)) >= 2)
        pid = other.info.backend_pid
        other.rollback()
        running.result()
    seen = [event for event in events.all if isinstance(event, Running)]
    assert seen == [Running("001-alter")]
    first, second = reports(events)[:2]
    assert (first.version, 0 < first.seconds < second.seconds) == ("001-alter", True)
    assert second.details[0].startswith(f"Blocked by pid {pid}, ")
    assert history(database) == ["001-alter"]


def test_a_history_that_has_to_wait_is_reported_too(
    database: Database, migrations: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lib.postgres.blockers.REPORT_SECONDS", 0.1)
    events = Events()
    with psycopg.connect(database.url) as other, ThreadPoolExecutor(1) as pool:
        other.execute("CREATE TABLE schema_migrations ()")
        running = pool.submit(run, database, migrations(ONE), events, MIGRATION_LOCK_TIMEOUT="0")
        until(lambda: running.done() or reports(events))
        other.rollback()
        running.result()
    assert reports(events)[0].version == "the history"
    assert history(database) == ["001-one"]


def test_a_report_says_how_far_an_index_build_is(
    database: Database, migrations: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lib.postgres.blockers.REPORT_SECONDS", 0.1)
    database.execute("CREATE TABLE large (i int)")
    index = "CREATE INDEX CONCURRENTLY IF NOT EXISTS large_i ON large (i)"
    directory = migrations({"001-index.sql": f"-- migrate: no-transaction\n{index}"})
    events = Events()
    with psycopg.connect(database.url) as writer, ThreadPoolExecutor(1) as pool:
        writer.execute("INSERT INTO large VALUES (1)")
        running = pool.submit(run, database, directory, events)
        until(lambda: running.done() or [one for one in reports(events) if one.details[1:]])
        writer.rollback()
        running.result()
    build = "Building an index on public.large: waiting for writers before build"
    assert build in {one.details[-1] for one in reports(events) if one.details}
    assert database.execute("SELECT indexname FROM pg_indexes WHERE tablename = 'large'") == [
        ("large_i",)
    ]


def reports(events: Events) -> list[Progress]:
    return [event for event in events.all if isinstance(event, Progress)]


def test_a_busy_table_stops_the_file_and_nothing_of_it_stays(
    server: Server, database: Database, migrations: Write
) -> None:
    database.execute("CREATE TABLE busy (i int)")
    directory = migrations({"001-alter.sql": "CREATE TABLE one (); ALTER TABLE busy ADD j int"})
    with psycopg.connect(database.url) as other:
        other.execute("LOCK TABLE busy IN ACCESS SHARE MODE")
        with run_fails(LockBusy, match=r"001-alter.*55P03.*rolled back") as caught:
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
        error = cause_of(running)
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
        Executor(config) as session,
    ):
        holder.execute("LOCK TABLE busy, other")
        session.read()
        session.changes.prepare()
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
        with run_fails((TableBusy, PartlyApplied)) as caught:
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
            with run_fails(TableBusy) as caught:
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
