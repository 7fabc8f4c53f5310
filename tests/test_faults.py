"""Faults around a run, injected for real, and what must hold after each: see `Stage.settled` and
`Stage.completes`.

Others are tested beside what they belong to: leftovers of files in test_runner.py, refusals in
cli/test_files.py and postgres/test_history.py, what HTTP says in web/, many runs at once and what
needs a pooler or a network in platform/.
"""

import math
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest

from lib import runner
from lib.errors import OutcomeUnknown
from lib.events import Retry
from lib.postgres.connecting import Budget
from lib.source.migration import load
from scripts.embedded import Embedded, find_programs, server_user
from tests.conftest import SETTINGS, Cli, Database, Server
from tests.kit import (
    LOCK,
    Events,
    cause_of,
    config_of,
    history,
    holding,
    login,
    nothing_is_left_running,
    role,
    run,
    tables,
    until,
)
from tests.proxy import (
    Action,
    Hold,
    Message,
    Proxy,
    cut_after,
    cut_before,
    fail,
    proxied,
    roll_back,
)
from tests.stage import (
    ASKS_FOR_THE_LOCK,
    AT_THE_GATE,
    VERSIONS,
    WAIT,
    Command,
    MakeStage,
    Stage,
    command,
    own,
    recording,
    stage,
    stages,
    stop,
)

__all__ = ["command", "own", "stage", "stages"]  # fixtures

ONE, TWO, THREE = VERSIONS
WAITS_FOR_A_LOCK = "wait_event_type = 'Lock'"


# The process: it is killed, told to stop, or frozen.


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_the_middle_of_a_statement_rolls_it_back(
    command: Stage, number: signal.Signals
) -> None:
    command.files(second=WAIT)
    running = command.start()
    command.wait()
    running.send(number)
    outcome = command.finish(running, by=number)
    assert (outcome.applied, outcome.remaining) == ([ONE], [TWO, THREE])
    assert f"interrupted by {number.name}" in outcome.said
    assert "rolled back" in outcome.said
    command.settled(ONE)
    command.completes()


@pytest.mark.slow
def test_a_run_that_is_killed_in_the_middle_of_a_statement_leaves_nothing(command: Stage) -> None:
    command.files(second=WAIT)
    running = command.start()
    command.wait()
    running.kill()
    command.settled(ONE)
    command.completes()


@pytest.mark.slow
def test_a_limit_that_a_server_refuses_costs_one_warning_and_not_the_run(
    command: Stage, proxy: Proxy
) -> None:
    limit = "client_connection_check_interval"

    async def refused(message: Message) -> None:
        data = message.data.replace(f"{limit} = '20ms'".encode(), f"{limit} = '-1ms'".encode())
        await replace(message, data=data).pass_on()

    proxy.when(f"{limit} = '20ms'", refused, times=math.inf)
    command.files(first=f"CREATE TABLE seen AS SELECT current_setting('{limit}') AS value")
    outcome = command.run(proxy.url(command.database.url))
    assert (outcome.code, sum(limit in line for line in outcome.said.splitlines())) == ("ok", 1)
    assert command.database.execute("TABLE seen") == [("0",)]
    command.settled(*VERSIONS)


SLOW = "SELECT pg_sleep(0.3);\n"
LIMITS = (
    "statement_timeout",
    "lock_timeout",
    "idle_session_timeout",
    "idle_in_transaction_session_timeout",
    "transaction_timeout",
)


def limited(database: Database, limit: str) -> None:
    """Give a database a limit for its application; one that this server does not know yet limits
    nobody.
    """
    name = f'"{database.name}"'
    if database.execute("SELECT 1 FROM pg_settings WHERE name = %s", [limit]):
        database.execute(f"ALTER DATABASE {name} SET {limit} = '100ms'")


@pytest.mark.slow
@pytest.mark.parametrize("limit", LIMITS)
def test_a_limit_that_a_database_has_for_its_application_ends_no_file(
    database: Database, migrations: Callable[..., Path], limit: str
) -> None:
    directory = migrations(
        {
            "001-whole.sql": f"CREATE TABLE one (); {SLOW * 2}",
            "002-pieces.sql": f"-- migrate: no-transaction\nCREATE TABLE two (); {SLOW * 2}BEGIN; "
            f"{SLOW * 2}COMMIT;",
            "003-last.sql": f"CREATE TABLE three (); {SLOW}",
        }
    )
    limited(database, limit)
    run(database, directory)
    assert (tables(database), history(database)) == (
        ["one", "three", "two"],
        ["001-whole", "002-pieces", "003-last"],
    )


@pytest.mark.parametrize(
    "directive", ["", "-- migrate: no-transaction\n"], ids=["transaction", "no transaction"]
)
def test_a_files_session_has_all_limits_and_no_others_than_these(
    database: Database, migrations: Callable[..., Path], directive: str
) -> None:
    """In the units of pg_settings. The application's own are of another length, and some are not to
    hold at all.
    """
    limits = {
        "client_connection_check_interval": "20",
        "idle_in_transaction_session_timeout": "60000",
        "idle_session_timeout": "0",
        "lock_timeout": "1230",
        "statement_timeout": "45000",
        "tcp_keepalives_idle": "5",
        "tcp_keepalives_interval": "2",
        "tcp_user_timeout": "15000",
        "transaction_timeout": "0",
    }
    query = (
        f"SELECT name, setting FROM pg_settings WHERE name IN ({str([*limits])[1:-1]})"
        " ORDER BY name"
    )
    known = [name for name, _ in database.execute(query)]
    for name in known:
        database.execute(f'ALTER DATABASE "{database.name}" SET {name} = 7777')
    directory = migrations({"001-seen.sql": f"{directive}CREATE TABLE seen AS {query};"})
    run(database, directory, MIGRATION_LOCK_TIMEOUT="1230ms", MIGRATION_STATEMENT_TIMEOUT="45s")
    found = dict(database.execute("TABLE seen"))
    assert {name: found[name] for name in known} == {name: limits[name] for name in known}
    assert history(database) == ["001-seen"]


@pytest.mark.slow
@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("directive", ["", "-- migrate: no-transaction\n"])
def test_nor_does_it_while_a_run_waits_for_a_busy_table(
    database: Database, migrations: Callable[..., Path], limit: str, directive: str
) -> None:
    database.execute("CREATE TABLE busy ()")
    directory = migrations({"001-waits.sql": f"{directive}ALTER TABLE busy ADD COLUMN a int;"})
    limited(database, limit)
    events = Events()
    known = database.execute("SELECT name FROM pg_settings WHERE name = ANY (%s)", [list(LIMITS)])
    options = " ".join(f"-c {name}=0" for (name,) in known)
    with psycopg.connect(database.url, options=options) as other, ThreadPoolExecutor(1) as pool:
        other.execute("LOCK TABLE busy")
        running = pool.submit(run, database, directory, events, MIGRATION_LOCK_TIMEOUT="200ms")
        until(lambda: running.done() or [event for event in events.all if isinstance(event, Retry)])
        other.rollback()
        running.result()
    assert history(database) == ["001-waits"]


@pytest.mark.slow
def test_without_that_limit_a_killed_run_is_gone_when_its_statement_ends(command: Stage) -> None:
    command.files(second=f"SET LOCAL client_connection_check_interval = 0; {WAIT}")
    running = command.start()
    command.wait()
    running.kill()
    command.open()
    command.settled(ONE)
    command.completes()


@pytest.mark.slow
def test_a_signal_between_two_files_keeps_the_first_and_begins_no_second(command: Stage) -> None:
    """Another session queues for the run's lock and gets it once the first file is committed."""
    command.files(first=WAIT)
    running = command.start()
    command.wait()
    with psycopg.connect(command.database.url) as other:
        taking = threading.Thread(
            target=other.execute, args=[f"SELECT pg_advisory_xact_lock({LOCK})".encode()]
        )
        taking.start()
        query = "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND wait_event = 'advisory'"
        until(lambda: command.server.admin.execute(query, [other.info.backend_pid]))
        command.open()
        until(lambda: "waiting for it" in running.said)
        taking.join()
        running.send(signal.SIGTERM)
        outcome = command.finish(running, by=signal.SIGTERM)
    assert (outcome.applied, outcome.remaining) == ([ONE], [TWO, THREE])
    command.settled(ONE)
    command.completes()


@pytest.mark.slow
@pytest.mark.parametrize("arrives", [True, False])
def test_a_signal_during_a_commit_is_obeyed_when_the_commit_is_known(
    command: Stage, proxy: Proxy, arrives: bool
) -> None:
    commit = Hold()
    proxy.when(recording(TWO), commit)
    running = command.start(proxy.url(command.database.url))
    until(commit.reached.is_set)
    committing = command.wait("state = 'idle in transaction'")
    running.send(signal.SIGTERM)
    command.wait(ASKS_FOR_THE_LOCK)
    if not arrives:
        command.server.admin.execute("SELECT pg_terminate_backend(%s)", [committing])
    commit.release()
    outcome = command.finish(running, by=signal.SIGTERM)
    there = [ONE, TWO] if arrives else [ONE]
    assert (outcome.applied, outcome.remaining) == (there, list(VERSIONS[len(there) :]))
    assert f"Applied in this run: {', '.join(there)}." in outcome.said
    command.settled(*there)
    command.completes()


@pytest.mark.slow
def test_a_signal_during_the_search_for_a_commit_leaves_it_known(
    command: Stage, proxy: Proxy
) -> None:
    looking = Hold()
    proxy.when(recording(TWO), cut_after)
    proxy.when("SELECT id, ", looking)
    running = command.start(proxy.url(command.database.url))
    until(looking.reached.is_set)
    running.send(signal.SIGTERM)
    looking.release()
    outcome = command.finish(running, by=signal.SIGTERM)
    assert (outcome.applied, outcome.remaining) == ([ONE, TWO], [THREE])
    command.settled(ONE, TWO)
    command.completes()


@pytest.mark.slow
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("arrives", [True, False])
def test_of_two_signals_during_a_commit_the_first_decides_and_all_is_told(
    command: Stage, proxy: Proxy, first: signal.Signals, second: signal.Signals, arrives: bool
) -> None:
    commit = Hold()
    proxy.when(recording(TWO), commit)
    running = command.start(proxy.url(command.database.url))
    until(commit.reached.is_set)
    committing = command.wait("state = 'idle in transaction'")
    running.send(first)
    command.wait(ASKS_FOR_THE_LOCK)
    running.send(second)
    if not arrives:
        command.server.admin.execute("SELECT pg_terminate_backend(%s)", [committing])
    commit.release()
    outcome = command.finish(running, by=first)
    there = [ONE, TWO] if arrives else [ONE]
    assert (outcome.applied, outcome.remaining) == (there, list(VERSIONS[len(there) :]))
    command.settled(*there)
    command.completes()


@pytest.mark.slow
@pytest.mark.parametrize("directive", ["", "-- migrate: no-transaction\n"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_obeyed_in_the_middle_of_a_flood_of_notices(
    cli: Cli,
    migrations: Callable[..., Path],
    database: Database,
    server: Server,
    number: signal.Signals,
    directive: str,
) -> None:
    migrations(
        {"001-talks.sql": f"{directive}DO $$ BEGIN LOOP RAISE NOTICE 'again'; END LOOP; END $$;"}
    )
    running = Command(
        cli, {"MIGRATION_DIR": str(cli.directory / "migrations"), "POSTGRES_URL": database.url}
    )
    talks = (
        "SELECT 1 FROM pg_stat_activity WHERE datname = %s AND state = 'active'"
        " AND query ~ 'RAISE NOTICE'"
    )
    until(lambda: server.admin.execute(talks, [database.name]))
    running.send(number)
    outcome = running.finish(by=number)
    assert (outcome.applied, outcome.remaining) == ([], ["001-talks"])
    nothing_is_left_running(server, database)
    assert history(database) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("way", "look"),
    [
        (f"SELECT pg_advisory_xact_lock({LOCK})", "l.objsubid"),
        ("LOCK TABLE effects", "pg_blocking_pids"),
    ],
    ids=["another run", "another session"],
)
def test_a_signal_is_obeyed_while_the_run_looks_who_is_in_its_way(
    command: Stage, proxy: Proxy, way: str, look: str
) -> None:
    looking = Hold()
    proxy.when(look, looking)
    with holding(command.database, way):
        running = command.start(proxy.url(command.database.url), MIGRATION_LOCK_TIMEOUT="3s")
        until(looking.reached.is_set)
        running.send(signal.SIGTERM)
        outcome = command.finish(running, by=signal.SIGTERM)
    looking.release()
    assert (outcome.applied, outcome.remaining) == ([], list(VERSIONS))
    command.settled()
    command.completes()


@pytest.mark.slow
def test_a_frozen_run_loses_its_lock_and_says_so_when_it_wakes(command: Stage) -> None:
    """The server gives up on it after the limit that the first file saw; the second one shortens
    it.
    """
    limit = "idle_in_transaction_session_timeout"
    command.files(
        first=f"CREATE TABLE seen AS SELECT current_setting('{limit}') AS value;",
        second=f"SET LOCAL {limit} = '100ms'; {WAIT}",
    )
    running = command.start()
    command.wait()
    running.freeze()
    command.open()
    command.settled(ONE)
    assert command.database.execute("TABLE seen") == [("1min",)]
    running.send(signal.SIGCONT)
    outcome = command.finish(running)
    assert (outcome.code, outcome.applied, outcome.remaining) == (
        "migration_failed",
        [ONE],
        [TWO, THREE],
    )
    assert "idle-in-transaction timeout" in outcome.said
    command.completes()


@pytest.mark.slow
def test_a_frozen_run_takes_no_credit_for_what_another_did_meanwhile(
    command: Stage,
) -> None:
    command.files(second=f"SET LOCAL idle_in_transaction_session_timeout = '100ms'; {WAIT}")
    frozen = command.start()
    command.wait()
    frozen.freeze()
    command.open()
    command.completes()
    frozen.send(signal.SIGCONT)
    outcome = command.finish(frozen)
    assert (outcome.code, outcome.applied) == ("migration_failed", [ONE])
    command.settled(*VERSIONS)


# The connection: it is cut around a COMMIT.


@pytest.mark.slow
@pytest.mark.parametrize("action", [cut_before, cut_after], ids=["before", "after"])
def test_a_connection_that_is_cut_at_a_commit_is_no_reason_to_guess(
    stage: Stage, proxy: Proxy, action: Action
) -> None:
    proxy.when(recording(TWO), action)
    outcome = stage.run(proxy.url(stage.database.url))
    if action is cut_after:
        assert (outcome.code, outcome.applied) == ("ok", list(VERSIONS))
        stage.settled(*VERSIONS)
    else:
        assert (outcome.code, outcome.applied, outcome.remaining) == (
            "migration_failed",
            [ONE],
            [TWO, THREE],
        )
        assert outcome.error["version"] == TWO
        stage.settled(ONE)
        stage.completes()


@pytest.mark.slow
def test_what_was_confirmed_or_refuted_by_a_second_look_is_told(
    command: Stage, proxy: Proxy
) -> None:
    proxy.when(recording(ONE), cut_after)
    proxy.when(recording(TWO), cut_before)
    outcome = command.run(proxy.url(command.database.url))
    assert outcome.said.count("confirmed after reconnect") == 1
    assert f"Not applied: {TWO}, {THREE}." in outcome.said
    command.settled(ONE)
    command.completes()


@pytest.mark.parametrize("left", [None, 600.0], ids=["command line", "HTTP"])
def test_after_a_lost_commit_the_rest_of_a_run_has_the_time_it_had_before(
    proxy: Proxy, database: Database, migrations: Callable[..., Path], left: float | None
) -> None:
    """The look for it has a time of its own: with a wait of nothing, twenty seconds."""
    look = "CREATE TABLE {} AS SELECT current_setting('statement_timeout')::interval AS left"
    names = ("before", "lost", "after")
    files = {f"{number:03}-{name}.sql": look.format(name) for number, name in enumerate(names)}
    lost = proxy.when(recording("001-lost"), cut_after)
    config = config_of(
        Database(database.name, proxy.url(database.url)), migrations(files), MIGRATION_WAIT="0"
    )
    events = Events()
    runner.run(config, events.all.append, deadline=left and time.monotonic() + left)
    assert (lost.hits, len(events.applied), len(history(database))) == (1, 3, 3)
    assert any("confirmed after reconnecting" in notice for notice in events.notices)
    ((before, after),) = database.execute("SELECT b.left, a.left FROM before b, after a")
    if left is None:
        assert before == after == timedelta(0)
    else:
        assert 0.5 * before < after < before


@pytest.mark.slow
def test_a_file_behind_a_lost_commit_may_run_longer_than_the_look_for_it(
    proxy: Proxy,
    database: Database,
    migrations: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("lib.postgres.commit_recovery.CONNECT_BUDGET", Budget(4.0))
    lost = proxy.when(recording("001-lost"), cut_after)
    directory = migrations(
        {"001-lost.sql": "CREATE TABLE lost ()", "002-long.sql": "SELECT pg_sleep(4.5)"}
    )
    through = Database(database.name, proxy.url(database.url))
    assert run(through, directory, MIGRATION_WAIT="0").applied == ["001-lost", "002-long"]
    assert (lost.hits, tables(database), history(database)) == (
        1,
        ["lost"],
        ["001-lost", "002-long"],
    )


def test_a_session_that_the_server_ends_behind_a_commit_is_asked_for_it(
    stage: Stage, proxy: Proxy
) -> None:
    """What the client reads is an error and no answer to COMMIT; done it is all the same."""

    async def ended(message: Message) -> None:
        message.connection.deafen()
        await message.pass_on()
        await message.connection.answered()
        await message.connection.fail(
            "57P01", "terminating connection due to administrator command"
        )

    ending = proxy.when(recording(TWO), ended)
    outcome = stage.run(proxy.url(stage.database.url))
    assert (outcome.code, outcome.applied, ending.hits) == ("ok", list(VERSIONS), 1)
    stage.settled(*VERSIONS)


@pytest.mark.slow
def test_a_row_in_another_table_does_not_confirm_a_lost_commit(
    proxy: Proxy,
    database: Database,
    migrations: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of that name, and with that very row in it."""
    monkeypatch.setattr("lib.postgres.commit_recovery.CONNECT_BUDGET", Budget(6.0))
    directory = migrations({"001-lost.sql": "-- migrate: no-transaction\nCREATE TABLE lost ();"})
    (migration,) = load(directory)
    looking = Hold()
    proxy.when(recording("001-lost"), Message.pass_on)  # it is tried first
    proxy.when(recording("001-lost"), cut_before)
    proxy.when("SELECT id, ", looking)
    other = (
        "ALTER TABLE schema_migrations RENAME TO old; "
        "CREATE TABLE schema_migrations (LIKE old INCLUDING ALL)"
    )
    row = (
        "INSERT INTO schema_migrations (version, name, checksum)"
        f" VALUES ('001-lost', 'Lost', '{migration.checksum}')"
    )
    events = Events()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(
            run, Database(database.name, proxy.url(database.url)), directory, events
        )
        until(lambda: running.done() or looking.reached.is_set())
        database.execute(f"{other}; {row}")
        looking.release()
        error = cause_of(running)
    assert isinstance(error, OutcomeUnknown)
    assert "is not the table that was planned with" in error.message
    assert events.applied == []
    assert (tables(database), history(database, "old")) == (["lost", "old"], [])


def test_a_commit_that_is_late_is_waited_for(stage: Stage, proxy: Proxy) -> None:
    commit = Hold(cut_client=True)
    proxy.when(recording(TWO), commit)
    running = stage.start(proxy.url(stage.database.url))
    until(commit.reached.is_set)
    stage.wait(ASKS_FOR_THE_LOCK)
    commit.release()
    outcome = stage.finish(running)
    assert (outcome.code, outcome.applied) == ("ok", list(VERSIONS))
    stage.settled(*VERSIONS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("way", "action"), [("route", cut_before), ("route", cut_after), ("command", cut_after)]
)
def test_where_the_database_stays_away_the_outcome_is_called_unknown(
    stages: MakeStage, proxy: Proxy, way: str, action: Action
) -> None:
    stage = stages(way)

    async def and_away(message: Message) -> None:
        proxy.refuse = True
        await action(message)

    proxy.when(recording(TWO), and_away)
    outcome = stage.run(proxy.url(stage.database.url), MIGRATION_HTTP_BUDGET="8s")
    assert (outcome.code, outcome.applied, outcome.remaining) == (
        "outcome_unknown",
        [ONE],
        [TWO, THREE],
    )
    assert "FAILED" not in outcome.said
    assert "status" in outcome.said
    stage.settled(*([ONE, TWO] if action is cut_after else [ONE]))
    stage.completes()


@pytest.mark.parametrize("action", [cut_before, cut_after], ids=["before", "after"])
def test_a_cut_while_the_history_is_made_costs_a_second_look(
    stage: Stage, proxy: Proxy, action: Action
) -> None:
    cut = proxy.when('CREATE TABLE "public".schema_migrations', action)
    outcome = stage.run(proxy.url(stage.database.url))
    assert (outcome.code, outcome.applied, cut.hits) == ("ok", list(VERSIONS), 1)
    stage.settled(*VERSIONS)


@pytest.mark.parametrize(("action", "code"), [(cut_before, "partly_applied"), (cut_after, "ok")])
def test_the_row_of_a_no_transaction_file_is_looked_for_too(
    stage: Stage, proxy: Proxy, action: Action, code: str
) -> None:
    stage.write({f"{TWO}.sql": "-- migrate: no-transaction\nCREATE TABLE IF NOT EXISTS two ();\n"})
    proxy.when(recording(TWO), Message.pass_on)  # it is tried first
    proxy.when(recording(TWO), action)
    outcome = stage.run(proxy.url(stage.database.url))
    assert (outcome.code, tables(stage.database)[-1]) == (code, "two")
    assert history(stage.database) == outcome.applied == list(VERSIONS[: 3 if code == "ok" else 1])
    assert stage.run().applied == list(VERSIONS[len(outcome.applied) :])
    assert history(stage.database) == list(VERSIONS)


@pytest.mark.slow
@pytest.mark.parametrize("action", [cut_before, cut_after])
def test_a_cut_while_a_row_is_tried_leaves_the_file_untouched(
    stage: Stage, proxy: Proxy, action: Action
) -> None:
    stage.write(
        {
            f"{TWO}.sql": "-- migrate: no-transaction\nCREATE TABLE two ();\nINSERT INTO effects "
            "VALUES ('002-two');\n"
        }
    )
    proxy.when(recording(TWO), action)
    outcome = stage.run(proxy.url(stage.database.url))
    assert (outcome.code, outcome.applied, outcome.remaining) == (
        "migration_failed",
        [ONE],
        [TWO, THREE],
    )
    stage.settled(ONE)
    stage.completes()


def test_a_commit_that_comes_back_as_a_rollback_is_not_called_applied(
    stage: Stage, proxy: Proxy
) -> None:
    proxy.when(recording(TWO), roll_back)
    outcome = stage.run(proxy.url(stage.database.url))
    assert (outcome.code, outcome.applied, outcome.remaining) == (
        "migration_failed",
        [ONE],
        [TWO, THREE],
    )
    assert "was lost" not in outcome.said
    stage.settled(ONE)
    stage.completes()


# Other sessions: a run that dies, a busy table, a deadlock.


@pytest.mark.slow
def test_the_next_run_goes_on_when_the_one_that_it_waits_for_is_killed(command: Stage) -> None:
    command.files(second=WAIT)
    first = command.start()
    working = command.wait()
    second = command.start()
    command.wait(ASKS_FOR_THE_LOCK)
    first.kill()
    command.wait(f"{AT_THE_GATE} AND pid <> {working}")
    command.open()
    outcome = command.finish(second)
    assert (outcome.code, outcome.applied) == ("ok", [TWO, THREE])
    command.settled(*VERSIONS)


@pytest.mark.slow
@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_a_role_whose_snapshots_last_sees_what_another_run_has_done(
    command: Stage, level: str
) -> None:
    name = command.database.name
    command.server.admin.execute(
        f"ALTER DATABASE \"{name}\" SET default_transaction_isolation = '{level}'"
    )
    command.files(first=WAIT)
    runs = [command.start() for _ in range(2)]
    command.wait()
    command.wait(ASKS_FOR_THE_LOCK)
    command.open()
    outcomes = [command.finish(running) for running in runs]
    assert [outcome.code for outcome in outcomes] == ["ok", "ok"]
    assert sorted(version for outcome in outcomes for version in outcome.applied) == list(VERSIONS)
    command.settled(*VERSIONS)


@pytest.mark.slow
def test_a_busy_table_is_tried_again_and_readers_get_through_meanwhile(
    stage: Stage,
) -> None:
    stage.database.execute("CREATE TABLE busy (i int)")
    stage.files(second="ALTER TABLE busy ADD j int;")
    with holding(stage.database, "SELECT 'canary' FROM busy") as reader:
        running = stage.start(MIGRATION_LOCK_TIMEOUT="400ms")
        stage.wait(WAITS_FOR_A_LOCK)
        until(lambda: not stage.sessions(WAITS_FOR_A_LOCK))
        assert stage.database.execute("SELECT * FROM busy") == []
        stage.wait(WAITS_FOR_A_LOCK)
        pid = reader.info.backend_pid
    outcome = stage.finish(running)
    assert (outcome.code, outcome.applied) == ("ok", list(VERSIONS))
    if running.said:
        assert (
            f"⏳ {TWO}: canceling statement due to lock timeout (SQLSTATE 55P03); rolled back"
            in running.said
        )
        assert f"   Blocked by pid {pid}, reporting, for" in running.said
    else:
        assert "reporting" not in outcome.said
    assert stage.database.execute("SELECT j FROM busy") == []
    stage.settled(*VERSIONS)


@pytest.mark.slow
def test_a_table_that_stays_busy_ends_the_run_and_names_who_is_in_the_way(stage: Stage) -> None:
    stage.database.execute("CREATE TABLE busy (i int)")
    stage.files(second="ALTER TABLE busy ADD j int;")
    with holding(stage.database, "SELECT 'canary' FROM busy") as reader:
        running = stage.start(MIGRATION_LOCK_TIMEOUT="250ms", MIGRATION_RETRY="3s")
        outcome = stage.finish(running)
        pid = reader.info.backend_pid
    assert (outcome.code, outcome.applied, outcome.remaining) == ("busy", [ONE], [TWO, THREE])
    if running.said:
        assert "55P03" in running.said
        assert f"pid {pid}, reporting" in running.said.rpartition("❌")[2]
        assert "FROM busy" in running.said.rpartition("❌")[2]
    else:
        assert "reporting" not in outcome.said
    stage.settled(ONE)
    stage.completes()


@pytest.mark.slow
def test_no_second_try_is_made_where_none_is_wanted(command: Stage) -> None:
    command.database.execute("CREATE TABLE busy (i int)")
    command.files(second="ALTER TABLE busy ADD j int;")
    with holding(command.database, "SELECT FROM busy"):
        running = command.start(MIGRATION_LOCK_TIMEOUT="50ms", MIGRATION_RETRY="0")
        outcome = command.finish(running)
    assert outcome.code == "busy"
    command.settled(ONE)
    command.completes()


@pytest.mark.slow
def test_the_victim_of_a_deadlock_is_tried_again(stage: Stage) -> None:
    """The file's session looks for deadlocks at once, the other one never: so the file is the
    victim.
    """
    stage.database.execute("CREATE TABLE a (); CREATE TABLE b ()")
    stage.files(second=f"SET deadlock_timeout = '1ms'; LOCK TABLE a; {WAIT} LOCK TABLE b;")
    with holding(stage.database, "SET deadlock_timeout = '1h'; LOCK TABLE b") as other:
        running = stage.start()
        stage.wait()
        opposing = threading.Thread(target=other.execute, args=[b"LOCK TABLE a"])
        opposing.start()
        query = "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND wait_event_type = 'Lock'"
        until(lambda: stage.server.admin.execute(query, [other.info.backend_pid]))
        stage.open()
        opposing.join()
    outcome = stage.finish(running)
    assert (outcome.code, outcome.applied) == ("ok", list(VERSIONS))
    assert not running.said or "40P01" in running.said
    stage.settled(*VERSIONS)


@pytest.mark.slow
def test_an_index_that_waits_for_a_writer_too_long_is_not_called_built(
    stage: Stage,
) -> None:
    stage.database.execute("CREATE TABLE busy (i int)")
    index = "CREATE INDEX CONCURRENTLY IF NOT EXISTS busy_i ON busy (i);"
    stage.write({f"{TWO}.sql": f"-- migrate: no-transaction\n{index}\n"})
    valid = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('busy_i')"
    with holding(stage.database, "INSERT INTO busy VALUES (1)"):
        for retry in ("0", "1s"):
            outcome = stage.run(MIGRATION_LOCK_TIMEOUT="50ms", MIGRATION_RETRY=retry)
            assert (outcome.code, outcome.error["sqlstate"]) == ("partly_applied", "55P03")
            assert stage.database.execute(valid) == [(False,)]
    first = stage.running[0].said
    assert not first or "the invalid index public.busy_i is left" in first
    assert stage.run().applied == [TWO, THREE]
    assert stage.database.execute(valid) == [(True,)]
    assert history(stage.database) == list(VERSIONS)


def test_an_object_that_is_there_already_is_told_and_nothing_is_kept(stage: Stage) -> None:
    """Somebody has deleted a row of the history, and left what its file had made."""
    assert stage.run().code == "ok"
    stage.database.execute("DELETE FROM schema_migrations WHERE version = '003-three'")
    outcome = stage.run()
    assert (outcome.code, outcome.error["sqlstate"], outcome.applied) == (
        "migration_failed",
        "42P07",
        [],
    )
    assert history(stage.database) == [ONE, TWO]
    assert stage.database.execute("SELECT count(*) FROM effects") == [(3,)]


@pytest.mark.slow
def test_a_statement_that_is_too_slow_is_cancelled_and_the_limit_named(stage: Stage) -> None:
    stage.files(second=WAIT)
    outcome = stage.run(MIGRATION_STATEMENT_TIMEOUT="700ms")
    assert (outcome.code, outcome.error["sqlstate"], outcome.applied) == (
        "migration_failed",
        "57014",
        [ONE],
    )
    assert not stage.running[0].said or "MIGRATION_STATEMENT_TIMEOUT" in outcome.said
    stage.settled(ONE)
    stage.completes()


@pytest.mark.slow
def test_a_statement_that_no_transaction_takes_is_told_of_the_directive(
    stage: Stage,
) -> None:
    stage.files(
        second="DO $$ BEGIN IF EXISTS (SELECT FROM gate) THEN EXECUTE 'VACUUM'; END IF; END $$;"
    )
    outcome = stage.run()
    assert (outcome.code, outcome.error["sqlstate"], outcome.applied) == (
        "migration_failed",
        "25001",
        [ONE],
    )
    assert not stage.running[0].said or "-- migrate: no-transaction" in outcome.said
    stage.settled(ONE)
    stage.completes()


def test_what_a_row_holds_is_not_told_over_http(stages: MakeStage) -> None:
    """Some messages have it in their first line."""
    route = stages("route")
    route.files(second="SELECT (closed || 'canary@example.com')::int FROM gate;")
    outcome = route.run()
    assert (outcome.code, outcome.error["sqlstate"], outcome.applied) == (
        "migration_failed",
        "22P02",
        [ONE],
    )
    route.settled(ONE)
    route.completes()


@pytest.mark.parametrize("state", ["missing", "empty"])
def test_files_left_out_of_a_deploy_are_not_taken_for_nothing_pending(
    stages: MakeStage, state: str
) -> None:
    route = stages("route")
    shutil.rmtree(route.directory)
    if state == "empty":
        route.directory.mkdir()
    assert route.run().code == "invalid_files"
    assert tables(route.database) == ["effects", "gate"]
    assert route.database.execute("SELECT to_regclass('schema_migrations')") == [(None,)]


# The server: it restarts, starts, has no connection to spare, is silent, or is a standby.


@pytest.fixture(params=["command", "route"])
def standing(request: pytest.FixtureRequest, own: Embedded, stages: MakeStage) -> Stage:
    """A stage on that server."""
    server = Server(own.url(), f"faults_{os.urandom(4).hex()}", "own")
    return stages(request.param, server, server.create())


@pytest.mark.slow
@pytest.mark.parametrize(("number", "sqlstate"), [(signal.SIGINT, "57P01"), (signal.SIGQUIT, None)])
def test_a_restart_of_the_server_undoes_the_file_and_is_told(
    own: Embedded, standing: Stage, number: signal.Signals, sqlstate: str | None
) -> None:
    standing.files(second=WAIT)
    running = standing.start()
    standing.wait()
    stop(own, number)
    try:
        outcome = standing.finish(running)
    finally:
        own.start()
    assert (outcome.code, outcome.error["sqlstate"]) == ("migration_failed", sqlstate)
    assert (outcome.applied, outcome.remaining) == ([ONE], [TWO, THREE])
    assert not running.said or (
        "rolled back" in outcome.said and "safe to run again" in outcome.said
    )
    standing.settled(ONE)
    standing.completes()


@pytest.mark.slow
def test_a_server_that_is_gone_at_the_commit_and_comes_back_is_asked(
    own: Embedded, standing: Stage
) -> None:
    with proxied(standing.server.url) as proxy:
        commit = Hold()
        proxy.when(recording(TWO), commit)
        running = standing.start(proxy.url(standing.database.url))
        until(commit.reached.is_set)
        stop(own, signal.SIGINT)
        own.start()
        outcome = standing.finish(running)
    assert (outcome.code, outcome.applied) == ("migration_failed", [ONE])
    standing.settled(ONE)
    standing.completes()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sqlstate", "text"),
    [("57P03", "the database system is starting up"), ("53300", "sorry, too many clients already")],
)
def test_a_server_that_lets_nobody_in_yet_is_tried_again_and_told_of_once(
    stage: Stage, proxy: Proxy, sqlstate: str, text: str
) -> None:
    refusing = proxy.when("database\0", fail(sqlstate, text), times=5)
    running = stage.start(proxy.url(stage.database.url))
    outcome = stage.finish(running)
    assert (outcome.code, refusing.hits) == ("ok", 5)
    assert not running.said or running.said.count(text) == 1
    stage.settled(*VERSIONS)


@pytest.mark.slow
def test_a_role_without_a_connection_to_spare_gets_one_when_there_is_one(command: Stage) -> None:
    database = command.server.create()
    with login(command.server, database, "CONNECTION LIMIT 0") as crowded:
        crowd = replace(command, database=database)
        database.execute(
            f"GRANT ALL ON SCHEMA public TO {role(crowded)}; GRANT ALL ON effects, gate TO "
            f"{role(crowded)}"
        )
        running = crowd.start(crowded.url)
        until(lambda: "too many connections" in running.said)
        command.server.admin.execute(f"ALTER ROLE {role(crowded)} CONNECTION LIMIT 1")
        outcome = crowd.finish(running)
        assert (outcome.code, outcome.applied) == ("ok", list(VERSIONS))
        assert running.said.count("too many connections") == 1
        crowd.settled(*VERSIONS)


@pytest.mark.slow
def test_a_role_that_gets_no_connection_at_all_changes_nothing(stages: MakeStage) -> None:
    route = stages("route")
    database = route.server.create()
    with login(route.server, database, "CONNECTION LIMIT 0") as crowded:
        outcome = route.run(crowded.url, MIGRATION_HTTP_BUDGET="5s")
        assert outcome.code == "database_unavailable"
        assert tables(database) == []


@pytest.mark.slow
def test_a_host_that_nobody_knows_is_told_at_once(command: Stage) -> None:
    outcome = command.run("postgresql://someone:canary-password@db.invalid/somewhere")
    assert outcome.code == "database_unavailable"
    assert "db.invalid" in outcome.said


@pytest.mark.slow
def test_a_server_that_accepts_and_says_nothing_ends_the_run(stages: MakeStage) -> None:
    route = stages("route")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://someone:canary-password@127.0.0.1:{silent.getsockname()[1]}/somewhere"
        assert route.run(url, MIGRATION_HTTP_BUDGET="6s").code == "database_unavailable"


@pytest.mark.slow
def test_a_database_that_takes_five_seconds_to_wake_is_waited_for(
    command: Stage, proxy: Proxy
) -> None:
    proxy.when("database\0", Hold(5.0))
    outcome = command.run(proxy.url(command.database.url))
    assert outcome.code == "ok"
    assert len(proxy.connections) == 1
    command.settled(*VERSIONS)


@pytest.fixture
def standby(own: Embedded) -> Iterator[Server]:
    """A hot standby of that server."""
    place = Path(tempfile.mkdtemp(prefix="onward-stage-", dir=own.directory.parent))
    shutil.copy(own.directory / "password", place)
    data = place / "data"
    program = find_programs() / "pg_basebackup"
    subprocess.run(
        [program, "-d", own.url(), "-D", data, "-c", "fast"], check=True, capture_output=True
    )
    (data / "standby.signal").touch()
    with (data / "postgresql.auto.conf").open("a") as settings:
        settings.write(f"primary_conninfo = '{own.url()}'\n")
    if user := server_user():
        subprocess.run(["chown", "-R", str(user.pw_uid), data], check=True)
    server = Embedded(place, settings=SETTINGS)
    try:
        with server:
            yield Server(server.url(), "onward_faults", "standby")
    finally:
        server.drop()


@pytest.mark.slow
def test_a_standby_can_be_looked_at_and_is_not_migrated(
    standing: Stage, standby: Server, cli: Cli
) -> None:
    assert standing.run().code == "ok"
    copy = standby.database(standing.database.name)
    until(lambda: copy.execute("SELECT to_regclass('three')::text") == [("three",)])
    standing.write({"004-four.sql": "CREATE TABLE four ()"})
    outcome = standing.run(copy.url)
    assert (outcome.code, outcome.applied, outcome.remaining) == (
        "database_unavailable",
        [],
        ["004-four"],
    )
    assert not standing.running[-1].said or "standby" in outcome.said
    result = cli("status", "--check", url=copy.url)
    assert (result.code, "004-four" in result.out) == (8, True)
    assert standing.run().applied == ["004-four"]


@pytest.mark.slow
def test_a_server_that_restarts_while_it_is_asked_is_asked_again(
    own: Embedded, standing: Stage
) -> None:
    with proxied(standing.server.url) as proxy:
        commit = Hold(cut_client=True)
        proxy.when(recording(TWO), commit)
        running = standing.start(proxy.url(standing.database.url))
        until(commit.reached.is_set)
        standing.wait(ASKS_FOR_THE_LOCK)
        stop(own, signal.SIGINT)
        own.start()
        outcome = standing.finish(running)
    assert (outcome.code, outcome.applied) == ("migration_failed", [ONE])
    standing.settled(ONE)
    standing.completes()


def test_a_primary_key_of_the_file_is_not_taken_for_ours(command: Stage) -> None:
    command.files(
        second="CREATE TABLE t (i int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED); "
        "INSERT INTO t SELECT 1 FROM gate, generate_series(1, 2);"
    )
    outcome = command.run()
    assert (outcome.code, outcome.error["constraint"]) == ("migration_failed", "t_pkey")
    assert "setval" not in outcome.said
