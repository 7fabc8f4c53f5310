"""Files sent ahead: what is left and said is what files one by one leave and say."""

import re
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest

from lib import runner
from lib.errors import MigrationFailed, MigrationResult, OnwardError, OutcomeUnknown
from lib.events import Retry, Running, RunResult, SentAhead
from lib.postgres.ahead import MAX_FILE_BYTES, MAX_STATEMENTS, is_plain
from lib.postgres.connecting import Budget
from lib.postgres.connection import CANCELLED
from lib.postgres.session import MIN_FILE_SECONDS
from lib.report.text import error_text
from scripts.embedded import find_programs
from tests.conftest import Cli, Database, Server
from tests.histories import HISTORIES
from tests.kit import (
    HEAD,
    Events,
    Write,
    checkpoint,
    config_of,
    file,
    fill,
    history,
    holding,
    nothing_is_left_running,
    read,
    run,
    run_fails,
    until,
)
from tests.proxy import COMMIT_AHEAD, Message, Proxy, cut_before
from tests.stage import Command

COUNT = 12
VERSIONS = [f"{number:03}-file" for number in range(1, COUNT + 1)]
EFFECT = "INSERT INTO effects VALUES ('{version}');\n"
MADE = "CREATE TABLE IF NOT EXISTS effects (version text);\n"
# What may differ from one run to the next.
ROWS = (
    "SELECT id, version, name, checksum, environment, git_commit, applied_by, "
    "execution_time_ms >= 0, restore_time IS NOT NULL, restore_lsn IS NOT NULL "
    "FROM schema_migrations ORDER BY id"
)


def files(**more: str) -> dict[str, str]:
    """A file for each version that leaves its effect, and then does more: by `file_7` and so on."""
    return {
        f"{version}.sql": MADE + EFFECT.format(version=version) + more.get(f"file_{number}", "")
        for number, version in enumerate(VERSIONS, start=1)
    }


def effects(database: Database) -> list[str]:
    return [version for (version,) in database.execute("SELECT version FROM effects ORDER BY 1")]


def sent(events: Events) -> list[list[str]]:
    """The windows that were sent ahead."""
    return [list(event.versions) for event in events.all if isinstance(event, SentAhead)]


@pytest.fixture
def other(server: Server) -> Iterator[Database]:
    database = server.create()
    yield database
    server.drop(database)


def test_the_history_and_the_effects_are_those_of_files_one_by_one(
    database: Database, other: Database, migrations: Write
) -> None:
    directory = migrations(files(file_3="SELECT 'ö; x' AS \"a;b\"; -- end", file_5="RESET ALL;"))
    events, slow = run(database, directory), run(other, directory, MIGRATION_AHEAD="0")
    assert (sent(events), sent(slow)) == ([VERSIONS], [])
    assert events.applied == slow.applied == VERSIONS
    assert database.execute(ROWS) == other.execute(ROWS)
    assert effects(database) == effects(other) == VERSIONS


@pytest.mark.slow
@pytest.mark.parametrize("steps", HISTORIES.values(), ids=HISTORIES)
def test_a_teams_history_makes_the_same(
    database: Database, other: Database, tmp_path: Path, steps: Mapping[str, str]
) -> None:
    directory = fill(tmp_path, steps)
    events, slow = run(database, directory), run(other, directory, MIGRATION_AHEAD="0")
    assert (sent(events) == [], sent(slow) == []) == (False, True)
    assert database.execute(ROWS) == other.execute(ROWS)
    assert dumped(database) == dumped(other)


def dumped(database: Database) -> list[str]:
    """The database without the rows of the history, and without moments in time."""
    command = [str(find_programs() / "pg_dump"), "--exclude-table-data=schema_migrations"]
    dump = subprocess.check_output([*command, "-d", database.url], text=True)
    lines = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:[\d.]+", "TIME", dump).splitlines()
    return [line for line in lines if not line.startswith("\\")]


def test_files_are_named_before_they_are_sent_and_told_as_they_commit(
    database: Database, migrations: Write
) -> None:
    events = run(database, migrations(files(file_2="DO $$BEGIN RAISE NOTICE 'of two'; END$$;")))
    told = [one for one in events.all if isinstance(one, SentAhead | Running | MigrationResult)]
    assert isinstance(told[0], SentAhead)
    assert [one.version for one in told[1:] if isinstance(one, MigrationResult)] == VERSIONS
    assert "of two" in " ".join(events.notices)
    second = [one for one in events.all if "of two" in str(one)]
    assert second[0].migration.version == VERSIONS[1]  # type: ignore[union-attr]
    assert history(database) == VERSIONS


FAILURES = {
    "when it runs": "INSERT INTO effects VALUES ('é'), (1 / 0);",
    "syntax": "SELECT 1;\n  SELEC 'é' 2;",
    "an unknown column": "SELECT 'é',\n  nothing FROM effects;",
    "a parameter": "SELECT $1;",
    "a deferred constraint": "CREATE TABLE p (i int PRIMARY KEY);"
    "CREATE TABLE c (i int REFERENCES p INITIALLY DEFERRED); INSERT INTO c VALUES (1);",
    "its own row": "INSERT INTO schema_migrations (version, name) VALUES ('009-file', 'x');",
    "a row that is changed": "UPDATE schema_migrations SET checksum = 'x'; "
    "INSERT INTO schema_migrations (version, name) VALUES ('000-file', 'x');",
    "a row that is swallowed": "CREATE RULE swallow AS ON INSERT TO schema_migrations "
    "DO INSTEAD NOTHING;",
    "a table that is another": "ALTER TABLE schema_migrations RENAME TO hidden;",
    "a transaction that it ends": "DO $$BEGIN COMMIT; END$$;",
    "a type that is too new": "CREATE TYPE kind AS ENUM ('a'); SELECT 'b'::kind;",
}


@pytest.mark.parametrize("number", [1, 7, COUNT])
@pytest.mark.parametrize("sql", FAILURES.values(), ids=FAILURES)
def test_a_file_that_fails_says_the_same_and_leaves_the_same(
    database: Database, other: Database, migrations: Write, sql: str, number: int
) -> None:
    directory = migrations(files(**{f"file_{number}": sql}))
    said = []
    for one, ahead in ((database, "1"), (other, "0")):
        with run_fails(OnwardError) as ended:
            run(one, directory, MIGRATION_AHEAD=ahead)
        text = error_text(ended.failed).replace(one.name, "")
        said.append((text, ended.applied, ended.remaining, type(ended.value)))
    assert said[0] == said[1]
    assert said[0][1] == VERSIONS[: number - 1] == history(database) == history(other)
    assert number == 1 or effects(database) == VERSIONS[: number - 1]


# What counts and ids do not show, and what only the file after it meets.
DONE_TO_THE_HISTORY = {
    "another file's row is changed": "UPDATE schema_migrations SET checksum = 'x' "
    "WHERE version = '002-file';",
    "the table is a copy of it": "ALTER TABLE schema_migrations RENAME TO hidden;"
    "CREATE TABLE schema_migrations (LIKE hidden INCLUDING ALL);"
    "INSERT INTO schema_migrations SELECT * FROM hidden;",
    "it is given to another role": "ALTER TABLE schema_migrations OWNER TO pg_monitor;",
}


@pytest.mark.parametrize("sql", DONE_TO_THE_HISTORY.values(), ids=DONE_TO_THE_HISTORY)
def test_what_a_file_does_to_the_history_is_met_as_it_is_one_by_one(
    database: Database, other: Database, migrations: Write, sql: str
) -> None:
    directory = migrations(files(file_7=sql))
    left = []
    for one, ahead in ((database, "1"), (other, "0")):
        with run_fails(OnwardError) as ended:
            run(one, directory, MIGRATION_AHEAD=ahead)
        said = error_text(ended.failed).replace(one.name, "")
        left.append((said, ended.applied, one.execute(ROWS), effects(one)))
    assert left[0] == left[1]
    assert left[0][1] == left[0][3] != VERSIONS


@pytest.mark.slow
def test_a_busy_table_is_left_alone_for_a_while_before_the_file_runs_again(
    database: Database, migrations: Write
) -> None:
    run(database, migrations({"000-first.sql": "CREATE TABLE busy ();"}))
    directory = migrations(
        {"000-first.sql": "CREATE TABLE busy ();", **files(file_5="ALTER TABLE busy ADD a int;")}
    )
    events = Events()
    limit = {"MIGRATION_LOCK_TIMEOUT": "500ms"}
    with ThreadPoolExecutor(1) as pool, holding(database, "LOCK TABLE busy") as holder:
        running = pool.submit(run, database, directory, events, **limit)
        until(lambda: [one for one in events.all if isinstance(one, Retry)])
        assert history(database) == ["000-first", *VERSIONS[:4]]
        holder.rollback()
        running.result()
    retry = next(one for one in events.all if isinstance(one, Retry))
    assert retry.pause >= 1.5
    assert retry.error.message.startswith(VERSIONS[4])
    assert "reporting" in retry.error.blockers[0]
    assert events.applied == VERSIONS
    assert (history(database)[1:], effects(database)) == (VERSIONS, VERSIONS)


@pytest.mark.slow
def test_a_run_that_holds_the_lock_is_waited_for(database: Database, migrations: Write) -> None:
    run(database, migrations({"001-file.sql": files()["001-file.sql"]}))
    directory = migrations(files())
    events = Events()
    lock = "SELECT pg_advisory_xact_lock(122520239960676)"
    with ThreadPoolExecutor(1) as pool, holding(database, lock) as holder:
        running = pool.submit(run, database, directory, events)
        until(lambda: [one for one in events.notices if "another run holds the lock" in one])
        assert history(database) == VERSIONS[:1]
        holder.rollback()
        running.result()
    assert (history(database), effects(database)) == (VERSIONS, VERSIONS)


def test_twelve_runs_at_once_apply_each_file_once(database: Database, migrations: Write) -> None:
    directory = migrations(files(file_4="SELECT pg_sleep(0.05);"))
    with ThreadPoolExecutor(12) as pool:
        runs = [pool.submit(run, database, directory) for _ in range(12)]
        told = sorted(version for one in runs for version in one.result().applied)
    assert told == VERSIONS == history(database) == effects(database)


PLAIN = {
    "plain": ("CREATE TABLE a ();", True),
    "no transaction": (f"{HEAD}CREATE TABLE a ();", False),
    "another string syntax": ("SET Standard_Conforming_Strings = off;", False),
    "another encoding": ("SET client_encoding = 'LATIN1';", False),
    "as large as may be": ("--" + "x" * (MAX_FILE_BYTES - 2), True),
    "too large": ("--" + "x" * (MAX_FILE_BYTES - 1), False),
    "as many statements as may be": ("SELECT;" * MAX_STATEMENTS, True),
    "too many statements": ("SELECT;" * (MAX_STATEMENTS + 1), False),
}


@pytest.mark.parametrize(("sql", "plain"), PLAIN.values(), ids=PLAIN)
def test_only_a_plain_small_file_is_sent_ahead(sql: str, plain: bool) -> None:
    assert is_plain(read(sql)) is plain


def test_a_checkpoint_is_not_sent_ahead() -> None:
    assert not is_plain(checkpoint("002-all", file("001-file")))


def test_what_is_not_plain_is_applied_alone_and_the_others_go_ahead(
    database: Database, migrations: Write
) -> None:
    own = files()
    own["006-file.sql"] = f"{HEAD}{MADE}{EFFECT.format(version='006-file')}"
    events = run(database, migrations(own))
    assert sent(events) == [VERSIONS[:5], VERSIONS[6:]]
    assert (history(database), effects(database)) == (VERSIONS, VERSIONS)


def test_three_files_are_not_worth_it(database: Database, migrations: Write) -> None:
    directory = migrations(dict([*files().items()][:3]))
    assert sent(run(database, directory)) == []
    assert history(database) == VERSIONS[:3]


def test_a_database_that_reads_backslashes_has_no_file_sent_ahead(
    database: Database, migrations: Write
) -> None:
    setting = "standard_conforming_strings = off"
    database.execute(f'ALTER DATABASE "{database.name}" SET {setting}')
    events = run(database, migrations(files(file_2=r"SELECT 'a\'; DROP TABLE effects; --';")))
    assert sent(events) == []
    assert (history(database), effects(database)) == (VERSIONS, VERSIONS)


def test_ids_that_no_sequence_gives_end_it_without_a_word(
    database: Database, migrations: Write
) -> None:
    run(database, migrations({"001-file.sql": files()["001-file.sql"]}))
    database.execute(
        "ALTER TABLE schema_migrations ALTER id DROP DEFAULT;"
        "DROP SEQUENCE schema_migrations_id_seq; CREATE SEQUENCE own INCREMENT 5 START 10;"
        "ALTER TABLE schema_migrations ALTER id SET DEFAULT nextval('own')"
    )
    events = run(database, migrations(files()))
    assert sent(events) == []
    assert (history(database), effects(database)) == (VERSIONS, VERSIONS)


def run_within(seconds: float, database: Database, directory: Path, events: Events) -> RunResult:
    """A run with that long to the last moment at which a file may run."""
    config = config_of(database, directory, MIGRATION_DRIFT="off")
    deadline = time.monotonic() + seconds + runner.SHUTDOWN_MARGIN_SECONDS
    return runner.run(config, events.all.append, deadline=deadline)


@pytest.mark.slow
def test_no_file_begins_too_near_to_a_deadline(database: Database, migrations: Write) -> None:
    directory = migrations(files(**{f"file_{n}": "SELECT pg_sleep(0.25);" for n in range(1, 13)}))
    events = Events()
    result = run_within(MIN_FILE_SECONDS + 2.0, database, directory, events)
    applied = [one.version for one in result.applied]
    assert sent(events) == [VERSIONS[1:]]
    assert 1 <= len(applied) <= 9, "as many as can begin within two seconds"
    assert applied == VERSIONS[: len(applied)] == history(database) == effects(database)
    assert [*applied, *result.remaining] == VERSIONS


@pytest.mark.slow
def test_a_file_that_a_deadline_cuts_off_is_left_for_the_next_run_which_tells_it(
    database: Database, migrations: Write
) -> None:
    directory = migrations(files(file_3="SELECT pg_sleep(60);"))
    events = Events()
    result = run_within(MIN_FILE_SECONDS + 2.0, database, directory, events)
    assert [one.version for one in result.applied] == VERSIONS[:2] == history(database)
    assert result.remaining == tuple(VERSIONS[2:])
    assert f"{VERSIONS[2]} was cut off at the deadline" in " ".join(events.notices)
    with run_fails(MigrationFailed) as ended:
        run_within(MIN_FILE_SECONDS + 2.0, database, directory, Events())
    assert ended.value.failure.server.sqlstate == CANCELLED
    assert ended.value.failure.version == VERSIONS[2]
    assert history(database) == effects(database) == VERSIONS[:2]


def test_the_server_gives_each_file_the_time_that_is_left_when_it_begins(
    database: Database, migrations: Write
) -> None:
    limit = "extract(epoch FROM current_setting('statement_timeout')::interval)"
    made = "CREATE TABLE IF NOT EXISTS limits AS SELECT 0.0 AS seconds; INSERT INTO limits {}"
    steps = dict.fromkeys(files(), f"{made.format(f'SELECT {limit}')}; SELECT pg_sleep(0.02)")
    events = Events()
    run_within(30.0, database, migrations(steps), events)
    found = [float(seconds) for (seconds,) in database.execute("SELECT seconds FROM limits")][1:]
    assert sent(events) == [VERSIONS[1:]]
    assert history(database) == VERSIONS
    assert len(found) == COUNT
    assert all(earlier - later > 0.015 for earlier, later in pairwise(found[1:]))
    assert 0 < found[-1] < found[1] <= 30


@pytest.mark.slow
def test_a_deadline_leaves_a_statement_no_more_than_its_own_limit(
    database: Database, migrations: Write
) -> None:
    directory = migrations(files(file_3="SELECT pg_sleep(60);"))
    config = config_of(database, directory, MIGRATION_STATEMENT_TIMEOUT="200ms")
    with run_fails(MigrationFailed) as ended:
        runner.run(config, Events().all.append, deadline=time.monotonic() + 60)
    assert ended.value.failure.version == VERSIONS[2]
    assert history(database) == effects(database) == VERSIONS[:2]


@pytest.mark.slow
@pytest.mark.parametrize("cut", ["before it", "after it", "on one side"])
@pytest.mark.parametrize("which", range(1, COUNT + 1))
def test_a_connection_that_is_cut_at_a_commit_is_resolved(
    proxy: Proxy, database: Database, migrations: Write, cut: str, which: int
) -> None:
    """Whatever landed is told as applied, and the rest is applied once."""
    action = {"before it": cut_before, "after it": _pass_and_cut, "on one side": _pass_and_leave}[
        cut
    ]
    proxy.at_nth(which, COMMIT_AHEAD, action)
    events = run(changed_to(proxy, database), migrations(files()))
    assert events.applied == VERSIONS == history(database) == effects(database)


async def _pass_and_cut(message: Message) -> None:
    await message.pass_on()
    message.connection.cut()


async def _pass_and_leave(message: Message) -> None:
    """The server does not notice."""
    await message.pass_on()
    message.connection.cut_client()


@pytest.mark.slow
def test_where_the_database_stays_away_all_files_that_were_sent_are_in_doubt(
    proxy: Proxy, database: Database, migrations: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lib.postgres.ahead.CONNECT_BUDGET", Budget(1.0))

    async def cut_and_away(message: Message) -> None:
        proxy.refuse = True
        await _pass_and_cut(message)

    proxy.at_nth(5, COMMIT_AHEAD, cut_and_away)
    with run_fails(OutcomeUnknown) as ended:
        run(
            changed_to(proxy, database),
            migrations(files()),
            MIGRATION_ENV="staging",
            MIGRATION_WAIT="0",
        )
    told = list(ended.applied)
    assert told == VERSIONS[: len(told)] != VERSIONS
    assert "001-file to 012-file" in ended.value.message
    assert ended.failed.way_back
    assert list(ended.failed.way_back.before) == VERSIONS
    proxy.refuse = False
    recorded = history(database)
    assert recorded[: len(told)] == told
    again = run(database, migrations(files()), MIGRATION_ENV="staging")
    assert [*recorded, *again.applied] == VERSIONS == history(database) == effects(database)


def changed_to(proxy: Proxy, database: Database) -> Database:
    return Database(database.name, proxy.url(database.url))


SLOWLY = files(**{f"file_{number}": "SELECT pg_sleep(0.2);" for number in range(1, COUNT + 1)})


def started(cli: Cli, database: Database, directory: Path) -> Command:
    environ = {
        "MIGRATION_DIR": str(directory),
        "MIGRATION_ENV": "development",
        "POSTGRES_URL": database.url,
        "MIGRATION_ALLOW_NONEMPTY": "1",
    }
    return Command(cli, environ)


@pytest.mark.slow
@pytest.mark.parametrize("ends", [signal.SIGINT, signal.SIGKILL], ids=["interrupt", "kill"])
@pytest.mark.parametrize("point", range(20))
def test_what_is_recorded_is_said_whenever_a_run_is_ended(
    server: Server,
    database: Database,
    migrations: Write,
    cli: Cli,
    ends: signal.Signals,
    point: int,
) -> None:
    """All of it after an interrupt; all but at most one file after a kill."""
    database.execute(MADE)
    directory = migrations(SLOWLY)
    process = started(cli, database, directory)
    until(lambda: "sent together" in process.said)
    time.sleep(point * 0.12)
    process.process.send_signal(ends)
    process.process.wait()
    said = [version for version in VERSIONS if f"Applied: {version} " in process.said]
    nothing_is_left_running(server, database)
    recorded = history(database)
    assert effects(database) == recorded == VERSIONS[: len(recorded)]
    assert 0 <= len(recorded) - len(said) <= (1 if ends is signal.SIGKILL else 0)
    events = run(database, directory, MIGRATION_ALLOW_NONEMPTY="1")
    assert [*recorded, *events.applied] == VERSIONS == history(database) == effects(database)
