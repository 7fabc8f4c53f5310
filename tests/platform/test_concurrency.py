"""Many runs at once, direct and through a pooler: each file has its effect exactly once, and
nothing is left behind.
"""

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import chain, count
from pathlib import Path
from typing import Any

import psycopg
import pytest

from lib import VERSION, runner
from lib.errors import FilesError, MigrationFailed, OnwardError, PartlyApplied
from lib.events import SentAhead
from tests.conftest import Database, Server
from tests.kit import HEAD, Write, config_of, history, run, tables, until
from tests.platform.pooler import POOLERS, PgBouncer, Pooler, in_turn
from tests.platform.runners import Runner, barrier
from tests.proxy import Hold, Message, proxied

Through = Callable[[Database], Database]

RUNNERS = 12
ROUNDS = int(os.environ.get("ONWARD_ROUNDS", "20"))
# Nothing here fails when it is done twice, but what it leaves shows it.
EFFECT = "UPDATE counter SET n = n + 1; INSERT INTO effects (file) VALUES ('{}');"
TABLES = (
    "CREATE TABLE counter (n int); INSERT INTO counter VALUES (0); "
    "CREATE TABLE effects (id serial, file text);"
)
OTHERS = (
    "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
    " AND pid <> pg_backend_pid()"
)
INDEX = "CREATE INDEX CONCURRENTLY IF NOT EXISTS effects_file ON effects (file);"


def files(*versions: str) -> dict[str, str]:
    """Files of which each has its effect; an index is built in those that are called so."""
    effects = {version: EFFECT.format(version) for version in versions}
    texts = {
        version: HEAD + effect + INDEX if "index" in version else effect
        for version, effect in effects.items()
    }
    return {"000-tables.sql": TABLES} | {f"{version}.sql": text for version, text in texts.items()}


def effects(database: Database) -> list[str]:
    """Which files have had their effect, in that order; the first makes the tables."""
    rows = database.execute("SELECT file FROM effects ORDER BY id")
    assert database.execute("SELECT n FROM counter") == [(len(rows),)]
    return ["000-tables", *(file for (file,) in rows)]


def written(directory: Path, texts: Mapping[str, str]) -> Path:
    """A directory with these files."""
    directory.mkdir()
    for name, text in texts.items():
        (directory / name).write_text(text)
    return directory


def stems(directory: Path) -> list[str]:
    """The versions of its files."""
    return sorted(path.stem for path in directory.iterdir())


def indexes(database: Database) -> list[tuple[Any, ...]]:
    """Those of the table of effects, and whether they are valid."""
    return database.execute(
        "SELECT indexrelid::regclass::text, indisvalid FROM pg_index WHERE indrelid = "
        "'effects'::regclass"
    )


def locks(database: Database) -> list[tuple[Any, ...]]:
    """The sessions that hold an advisory lock in the database."""
    return database.execute(
        "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted"
        " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    )


SHAPES = [None, *in_turn((kind, pool) for pool in (2, 4, 20) for kind in POOLERS)]


@pytest.fixture(
    scope="module",
    params=SHAPES,
    ids=lambda shape: "{}, pool of {}".format(*shape) if shape else "direct",
)
def through(request: pytest.FixtureRequest, server: Server) -> Iterator[Through]:
    """How a run reaches a database."""
    if request.param is None:
        yield lambda database: database
        return
    kind, pool = request.param
    with POOLERS[kind](server.url, pool=pool) as pooler:
        yield lambda database: Database(database.name, pooler.url(database.url))


@pytest.fixture
def pool(request: pytest.FixtureRequest, kind: type[Pooler], server: Server) -> Iterator[Pooler]:
    """A pooler with as many server sessions as the test's parameter says."""
    with kind(server.url, pool=request.param) as pooler:
        yield pooler


def test_files_are_sent_ahead_on_a_direct_connection_only(
    through: Through, database: Database, migrations: Write
) -> None:
    directory = migrations(files(*(f"{number:03}-data" for number in range(1, 12))))
    reached = through(database)
    events = run(reached, directory)
    sent = [one for one in events.all if isinstance(one, SentAhead)]
    assert bool(sent) is (reached == database)
    assert history(database) == effects(database) == stems(directory)


# Twelve runs.


@pytest.mark.timeout(60 + 10 * ROUNDS)
@pytest.mark.parametrize("direct", [0, RUNNERS // 2], ids=["alike", "beside direct ones"])
def test_twelve_runs_at_once_on_an_empty_database(
    server: Server, through: Through, migrations: Write, tmp_path: Path, direct: int
) -> None:
    """The first four files are sent ahead on a direct connection."""
    plain = (f"{number:03}-data" for number in range(1, 4))
    directory = migrations(files(*plain, "004-index", "005-data", "006-data"))
    wanted = stems(directory)
    for _ in range(ROUNDS):
        database, start = server.create(), barrier(RUNNERS)
        logs = [tmp_path / f"log{number}" for number in range(RUNNERS)]
        empty = {"MIGRATION_ENV": "", "MIGRATION_ALLOW_NONEMPTY": ""}
        urls = [database.url] * direct + [through(database).url] * (RUNNERS - direct)
        runners = [
            Runner(url, directory, log, start, **empty) for url, log in zip(urls, logs, strict=True)
        ]
        assert [runner.code for runner in runners] == [0] * RUNNERS, [
            runner.output for runner in runners
        ]
        assert sorted(chain.from_iterable(runner.applied for runner in runners)) == wanted
        assert history(database) == effects(database) == wanted
        assert indexes(database) == [("effects_file", True)]
        assert locks(database) == []
        server.drop(database)


# Two runs, of which one is stopped and overtaken.


class Held:
    """A run that stops before one of its queries, counted from 1, until it is released.

    With `cut_client` it is cut off there, and what it had sent arrives when it is released.
    """

    def __init__(
        self, server: Server, directory: Path, stop: float = math.inf, *, cut_client: bool = False
    ) -> None:
        self.proxy = proxied(server.url)
        self.hold = Hold(cut_client=cut_client)
        self._directory, self._stop, self._cut_client = directory, stop, cut_client
        self._queries, self._tries = count(1), 0
        self.proxy.when("", self._arrived, times=math.inf)

    def start(self, database: Database, log: Path) -> None:
        self.runner = Runner(self.proxy.url(database.url), self._directory, log)

    @property
    def stands(self) -> bool:
        """Whether it goes no further for now: it is held, or waits for the lock, or has ended."""
        held = self.hold.reached.is_set() and not self._cut_client
        return held or self._tries > 1 or not self.runner.running

    async def _arrived(self, message: Message) -> None:
        if b"pg_try_advisory_xact_lock" in message.data:
            self._tries += 1
        elif b"ROLLBACK" not in message.data and b"pg_locks" not in message.data:
            self._tries = 0
        stops = message.data.startswith(b"Q") and next(self._queries) == self._stop
        await (self.hold if stops else Message.pass_on)(message)


def overtake(database: Database, one: Held, other: Held, logs: Path) -> bool:
    """While the one is held let the other go as far as it can, then both to their ends. Whether the
    one had a lock.
    """
    with one.proxy, other.proxy:
        one.start(database, logs / "one")
        until(lambda: one.stands)
        locked = bool(locks(database))
        other.start(database, logs / "other")
        until(lambda: other.stands)
        one.hold.release()
        assert {one.runner.code, other.runner.code} <= {0, 1, 3, 5, 6, 7}, [
            one.runner.output,
            other.runner.output,
        ]
        until(lambda: database.execute(OTHERS) == [])
    return locked


# Before a file without a transaction the lock is free for a moment; before another it goes on in
# one message.
COMMON = ("001-index", "002-data")
# The branches' own files, and what the message to the loser must name.
BRANCHES = {
    "one number twice": (
        ("003-a", "005-index"),
        ("003-index-b", "004-b"),
        ("003-a", "003-index-b"),
    ),
    "a lower number late": (("005-a", "006-index"), ("004-index-b",), ("004-index-b",)),
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("first", ["A", "B"])
@pytest.mark.parametrize("branches", BRANCHES.values(), ids=BRANCHES)
def test_of_two_builds_that_disagree_one_is_applied_and_one_refused(
    server: Server, tmp_path: Path, branches: Sequence[Sequence[str]], first: str
) -> None:
    """The first is held before each of its queries in turn."""
    *own, named = branches if first == "A" else (branches[1], branches[0], branches[2])
    builds = [
        written(tmp_path / name, files(*COMMON, *versions))
        for name, versions in zip("12", own, strict=True)
    ]
    outcomes = set()
    for stop in count(1):
        database = server.create()
        one, other = Held(server, builds[0], stop), Held(server, builds[1])
        locked = overtake(database, one, other, tmp_path)
        (winner, applied), (loser, _) = sorted(
            zip((one, other), builds, strict=True), key=lambda run: run[0].runner.code
        )
        assert (winner.runner.code, loser.runner.code) == (0, 3), [
            winner.runner.output,
            loser.runner.output,
        ]
        assert history(database) == effects(database) == stems(applied)
        conflict = loser.runner.output.partition("do not match the database")[2]
        assert all(version in conflict for version in named)
        server.drop(database)
        outcomes.add((locked, winner is one))
        if not one.hold.reached.is_set():
            break
    assert outcomes >= {(True, True), (False, False), (False, True)}, (
        "the lock was held, and it was free"
    )


@pytest.mark.timeout(300)
def test_what_a_run_that_was_cut_off_had_sent_may_arrive_late(
    server: Server, tmp_path: Path, migrations: Write
) -> None:
    """It is cut off at each of its queries in turn, and the next run does its work before that
    query arrives.
    """
    directory = migrations({**files("001-data", "003-data"), "002-index.sql": HEAD + INDEX})
    for stop in count(1):
        database = server.create()
        database.execute(f"{TABLES} CREATE INDEX effects_file ON effects (file);")
        database.execute(
            "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'effects_file'::regclass"
        )
        (directory / "000-tables.sql").write_text("SELECT 1")
        one = Held(server, directory, stop, cut_client=True)
        overtake(database, one, Held(server, directory), tmp_path)
        run(database, directory)
        assert history(database) == stems(directory)
        assert effects(database) == ["000-tables", "001-data", "003-data"]
        assert indexes(database) == [("effects_file", True)], one.runner.output
        server.drop(database)
        if not one.hold.reached.is_set():
            break
    assert stop > 10


# What another client of the same pool finds afterwards.

STATE = """
SELECT pg_backend_pid(), current_user, session_user,
    -- PgBouncer leaves one client's application_name to the next that has none; plpgsql has
    -- settings once it is loaded.
    (SELECT jsonb_object_agg(name, setting) FROM pg_settings
        WHERE name !~ '^(application_name$|plpgsql)'),
    (SELECT array_agg(relname) FROM pg_class WHERE relnamespace = pg_my_temp_schema()),
    (SELECT array_agg(name) FROM pg_prepared_statements),
    (SELECT array_agg(channel) FROM pg_listening_channels() channel),
    (SELECT array_agg(name) FROM pg_cursors WHERE is_holdable),
    (SELECT array_agg(objid) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid())
"""
SEEN = {
    "SET": "SET work_mem = '77MB'",
    "SET ROLE": "SET ROLE pg_monitor",
    "SET SESSION AUTHORIZATION": "SET SESSION AUTHORIZATION pg_monitor",
    "CREATE TEMP TABLE": "CREATE TEMP TABLE scratch (i int)",
    "PREPARE": "PREPARE prepared AS SELECT 1",
    "LISTEN": "LISTEN channel",
    "DECLARE CURSOR": "DECLARE held CURSOR WITH HOLD FOR SELECT 1",
}
"""What a session keeps, and what shows that."""
UNSEEN = {
    "set_config": "SELECT set_config('search_path', '', false)",
    "pg_advisory_lock": "SELECT pg_advisory_lock(1), pg_advisory_lock_shared(2)",
    **{
        f"EXECUTE {name}": f"DO $$ BEGIN EXECUTE $x${statement}$x$; END $$"
        for name, statement in SEEN.items()
    },
}
DEFERRED = (
    "CREATE TABLE twice (i int UNIQUE DEFERRABLE INITIALLY DEFERRED); INSERT INTO twice"
    " VALUES (1), (1);"
)


def sessions(pooler: Pooler, database: Database, number: int) -> list[Any]:
    """The state of each of the pool's sessions with the server, as another client finds it."""
    states = []
    with ExitStack() as stack:
        for _ in range(number):
            url = pooler.url(database.url)
            client = stack.enter_context(
                psycopg.connect(url, autocommit=True, prepare_threshold=None)
            )
            stack.enter_context(client.transaction())
            states += client.execute(STATE).fetchall()
    return sorted(states)


def run_through(pooler: Pooler, database: Database, directory: Path) -> type[OnwardError] | None:
    """The class of the error that ended the run."""
    try:
        run(Database(database.name, pooler.url(database.url)), directory)
    except OnwardError as error:
        return type(error.cause)
    return None


@pytest.mark.parametrize(
    ("file", "ending"),
    [("{}", None), ("{}; SELECT 1 / 0", MigrationFailed), (DEFERRED + "{}", MigrationFailed)],
    ids=["applied", "failed", "failed at its end"],
)
@pytest.mark.parametrize("statement", (SEEN | UNSEEN).values(), ids=SEEN | UNSEEN)
@pytest.mark.parametrize("pool", [1], indirect=True)
def test_a_file_leaves_nothing_in_a_pools_session(
    pool: Pooler,
    database: Database,
    migrations: Write,
    statement: str,
    file: str,
    ending: type[OnwardError] | None,
) -> None:
    before = sessions(pool, database, 1)
    directory = migrations({"001-leaves.sql": file.format(statement)})
    assert run_through(pool, database, directory) is ending
    assert sessions(pool, database, 1) == before


@pytest.mark.parametrize(
    ("file", "ending"),
    [("{}", None), ("{}; SELECT 1 / 0", PartlyApplied)],
    ids=["applied", "failed"],
)
@pytest.mark.parametrize("statement", UNSEEN.values(), ids=UNSEEN)
@pytest.mark.parametrize("pool", [2], indirect=True)
def test_a_file_without_a_transaction_leaves_nothing_in_a_pools_sessions(
    pool: Pooler,
    database: Database,
    migrations: Write,
    statement: str,
    file: str,
    ending: type[OnwardError] | None,
) -> None:
    before = sessions(pool, database, 2)
    directory = migrations({"001-leaves.sql": HEAD + file.format(statement)})
    assert run_through(pool, database, directory) is ending
    # The session that held the lock is a new one where the run has left in the middle of its
    # transaction.
    assert [state[1:] for state in sessions(pool, database, 2)] == [state[1:] for state in before]


@pytest.mark.parametrize("statement", SEEN.values(), ids=SEEN)
@pytest.mark.parametrize("pool", [2], indirect=True)
def test_a_no_transaction_file_may_leave_nothing_behind_in_a_pooler(
    pool: Pooler, database: Database, migrations: Write, statement: str
) -> None:
    run(database, migrations({"001-one.sql": "SELECT 1"}))
    before = sessions(pool, database, 2)
    directory = migrations(
        {"002-two.sql": "SELECT 2", "003-leaves.sql": f"{HEAD}CREATE TABLE kept (); {statement}"}
    )
    assert run_through(pool, database, directory) is FilesError
    assert sessions(pool, database, 2) == before
    assert (history(database), tables(database)) == (["001-one"], [])


@pytest.mark.parametrize("pool", [2], indirect=True)
def test_the_isolation_of_a_files_own_transaction_stays_in_it_when_pooled(
    pool: Pooler, database: Database, migrations: Write
) -> None:
    before = sessions(pool, database, 2)
    block = (
        "BEGIN; SET TRANSACTION ISOLATION LEVEL SERIALIZABLE; CREATE TABLE seen AS"
        " SELECT {}; COMMIT;"
    )
    level = "current_setting('transaction_isolation') level"
    assert (
        run_through(pool, database, migrations({"001-seen.sql": HEAD + block.format(level)}))
        is None
    )
    assert sessions(pool, database, 2) == before
    assert database.execute("SELECT level FROM seen") == [("serializable",)]
    assert history(database) == ["001-seen"]


def test_a_no_transaction_file_says_that_a_pool_of_one_is_too_small(
    kind: type[Pooler], server: Server, database: Database, migrations: Write
) -> None:
    directory = migrations({"001-one.sql": f"{HEAD}CREATE TABLE one ();"})
    with kind(server.url, pool=1, patience=1) as pool:
        with pytest.raises(OnwardError) as caught:
            run(Database(database.name, pool.url(database.url)), directory)
        assert caught.value.next_step.startswith(
            "A no-transaction file needs two connections at a time: allow "
        )
    assert (history(database), tables(database)) == ([], [])
    run(database, directory)
    assert (history(database), tables(database)) == (["001-one"], ["one"])


@pytest.mark.parametrize("pool", [1], indirect=True)
def test_a_tenants_search_path_stays_in_its_run_when_pooled(
    pool: Pooler, database: Database, migrations: Write
) -> None:
    directory = migrations({"001-one.sql": "CREATE TABLE one ();", "002-two.sql": "SELECT 2"})
    database.execute("CREATE SCHEMA acme; CREATE SCHEMA beta")
    pooled = config_of(Database(database.name, pool.url(database.url)), directory)
    before = sessions(pool, database, 1)
    for schema in ("acme", "beta"):
        applied = runner.run(pooled.for_tenant(schema), lambda _: None).applied
        assert [one.version for one in applied] == ["001-one", "002-two"]
    assert sessions(pool, database, 1) == before
    migrations({"003-three.sql": f"{HEAD}CREATE TABLE three ()"})
    with pytest.raises(OnwardError, match="these files need a direct connection") as caught:
        runner.run(pooled.for_tenant("acme"), lambda _: None)
    assert isinstance(caught.value.cause, FilesError)
    assert tables(database) == ["acme.one", "beta.one"]


@pytest.mark.parametrize("pool", [1], indirect=True)
def test_a_run_with_nothing_to_do_changes_nothing_in_a_pools_session(
    pool: Pooler, database: Database, migrations: Write
) -> None:
    directory = migrations({"001-one.sql": "SELECT 1"})
    run(database, directory)
    before = sessions(pool, database, 1)
    assert run_through(pool, database, directory) is None
    assert sessions(pool, database, 1) == before


def test_what_a_pooler_itself_has_set_is_reset_by_a_run_that_applies(
    server: Server, database: Database, migrations: Write
) -> None:
    """Only its own connect_query could set it again, and that comes with a new session: settings
    belong to the role.
    """
    directory = migrations({"001-one.sql": "SELECT 1"})
    pooler = PgBouncer(server.url, pool=1)
    pooler.connect_query = "SET work_mem = '55MB'"
    with pooler as pool:
        pooled = Database(database.name, pool.url(database.url))
        assert pooled.execute("SHOW work_mem") == [("55MB",)]
        run(pooled, directory)
        assert pooled.execute("SHOW work_mem") == database.execute("SHOW work_mem") != [("55MB",)]


# What a pooler does not pass on.


@pytest.mark.parametrize("pool", [2], indirect=True)
def test_a_pooled_file_is_read_as_utf8_whatever_the_databases_encoding(
    server: Server, pool: Pooler, migrations: Write
) -> None:
    database = server.database(f"{server.run}_{server.worker}_latin1")
    server.admin.execute(
        f"CREATE DATABASE \"{database.name}\" TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' "
        "LC_CTYPE 'C'"
    )
    words = "INSERT INTO words VALUES ('é')"
    names = {
        "000-words.sql": "CREATE TABLE words (word text)",
        "001-word.sql": words,
        "002-word.sql": HEAD + words,
    }
    try:
        run(Database(database.name, pool.url(database.url)), migrations(names))
        assert database.execute("SELECT word, length(word) FROM words") == [("é", 1), ("é", 1)]
    finally:
        server.drop(database)


@pytest.mark.parametrize("pool", [2], indirect=True)
def test_who_holds_the_lock_is_named_through_a_pooler(
    pool: Pooler, database: Database, migrations: Write, tmp_path: Path
) -> None:
    directory = migrations({"001-waits.sql": "SELECT pg_advisory_xact_lock(1)"})
    with psycopg.connect(database.url) as holder:
        holder.execute("SELECT pg_advisory_xact_lock(1)")
        running = Runner(
            pool.url(database.url), directory, tmp_path / "running", MIGRATION_LOCK_TIMEOUT="0"
        )
        until(lambda: len(locks(database)) == 2)
        refused = Runner(
            pool.url(database.url), directory, tmp_path / "refused", MIGRATION_WAIT="0"
        )
        assert refused.code == 4
        assert f"onward {VERSION} development" in refused.output
    assert running.code == 0
    assert history(database) == ["001-waits"]
