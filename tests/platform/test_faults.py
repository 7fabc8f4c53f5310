"""Faults that need more of a machine than Postgres: a pooler, a network that can be cut, a disk
that is full.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import psycopg
import pytest

from scripts.embedded import server_user
from tests.conftest import Cli, Database, Server
from tests.kit import tables, until
from tests.platform.pooler import PgBouncer, Pooler
from tests.proxy import Proxy
from tests.stage import (
    VERSIONS,
    WAIT,
    Command,
    MakeStage,
    Stage,
    command,
    embedded,
    stage,
    stages,
    stop,
)

__all__ = ["command", "stage", "stages"]  # fixtures

ONE, TWO, THREE = VERSIONS


# A transaction pooler. Its sessions with the server outlive a run, so it ends before nothing may be
# left.


@pytest.fixture
def pooler(kind: type[Pooler], server: Server) -> Iterator[Pooler]:
    """A pooler with one session for each database: its clients come after each other on it."""
    with kind(server.url, pool=1) as pooler:
        yield pooler


SESSION = """
SELECT pg_backend_pid(), current_user, current_setting('search_path'),
    (SELECT jsonb_object_agg(name, setting) FROM pg_settings WHERE setting <> reset_val),
    (SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory'),
    (SELECT count(*) FROM pg_class WHERE relnamespace = pg_my_temp_schema()),
    (SELECT jsonb_agg(name) FROM pg_prepared_statements),
    (SELECT jsonb_agg(channel) FROM pg_listening_channels() channel),
    (SELECT count(*) FROM pg_cursors)
"""


def client(
    pooler: Pooler, database: Database, sql: str = SESSION, **how: Any
) -> list[tuple[Any, ...]]:
    """What another client of the pooler gets, and the session that it meets."""
    with psycopg.connect(pooler.url(database.url), autocommit=True, **how) as connection:
        for _ in range(8):
            rows = connection.execute(sql.encode(), []).fetchall()
        return rows


def test_a_limit_of_the_databases_that_nothing_can_be_done_about_is_told(
    command: Stage, server: Server
) -> None:
    command.database.execute(
        f"ALTER DATABASE \"{command.database.name}\" SET statement_timeout = '33s'"
    )
    file = command.directory / f"{TWO}.sql"
    file.write_text(f"-- migrate: no-transaction\n{file.read_text()}")
    with PgBouncer(server.url, pool=2) as pooler:
        outcome = command.run(pooler.url(command.database.url))
    assert outcome.code == "ok"
    assert f"{TWO}: statement_timeout = 33s, set for the role or the database" in outcome.said
    assert "MIGRATION_DATABASE_URL" in outcome.said
    command.settled(*VERSIONS)


LEFTOVERS = [
    "",
    "SET search_path = pg_catalog; SET statement_timeout = 7777; SET lock_timeout = 7777; SET ROLE "
    "pg_monitor;",
    "SELECT set_config('search_path', '', false), pg_advisory_lock(7);",
    "CREATE TEMP TABLE effects_seen AS TABLE effects; PREPARE mine AS SELECT 1; LISTEN channel;",
    "DECLARE held CURSOR WITH HOLD FOR SELECT 1;",
]


@pytest.mark.parametrize("sql", LEFTOVERS)
@pytest.mark.parametrize("fails", [False, True], ids=["applied", "failed"])
def test_the_next_client_of_a_pooler_meets_the_session_as_it_was(
    stage: Stage, pooler: Pooler, sql: str, fails: bool
) -> None:
    stage.database.execute("GRANT SELECT ON gate TO PUBLIC")
    before = client(pooler, stage.database, prepare_threshold=None)
    stage.files(second=sql + ("SELECT 1 / (SELECT 0 FROM public.gate);" if fails else ""))
    outcome = stage.run(pooler.url(stage.database.url))
    assert (outcome.code, outcome.applied) == (
        ("migration_failed", [ONE]) if fails else ("ok", list(VERSIONS))
    )
    assert client(pooler, stage.database, prepare_threshold=None) == before
    pooler.end()
    stage.settled(*outcome.applied)
    stage.completes()


def test_a_clients_prepared_statements_are_neither_met_nor_lost(
    stage: Stage, pooler: Pooler
) -> None:
    """By default a client prepares what it runs for the fifth time, and a pooler may know that by a
    name of its own.
    """
    names = "SELECT name FROM pg_prepared_statements WHERE NOT from_sql"
    with psycopg.connect(pooler.url(stage.database.url), autocommit=True) as other:
        for _ in range(8):
            prepared = other.execute(names, []).fetchall()
        outcome = stage.run(pooler.url(stage.database.url))
        assert outcome.code == "ok"
        assert other.execute(names, []).fetchall() == prepared
    assert client(pooler, stage.database, names, prepare_threshold=None) == prepared
    assert len(prepared) == 1
    pooler.end()
    stage.settled(*VERSIONS)


@pytest.mark.parametrize("options", ["-c lock_timeout=3s", "-csearch_path=tenant"])
def test_parameters_that_a_pooler_drops_are_named_and_a_direct_url_advised(
    command: Stage, pooler: Pooler, options: str
) -> None:
    """It refuses them, drops them, or sets them when it likes: a run resets them, and its files
    would run without.
    """
    command.database.execute("CREATE SCHEMA tenant")
    outcome = command.run(f"{pooler.url(command.database.url)}?options={quote(options)}")
    assert outcome.code == "database_unavailable"
    assert "options" in outcome.said
    assert "direct URL" in outcome.said
    assert tables(command.database) == ["effects", "gate"]


def test_a_pooler_that_dies_in_the_middle_takes_the_file_with_it(
    stage: Stage, pooler: Pooler
) -> None:
    stage.files(second=WAIT)
    running = stage.start(pooler.url(stage.database.url))
    stage.wait()
    pooler.end(kill=True)
    outcome = stage.finish(running)
    assert (outcome.code, outcome.applied, outcome.remaining) == (
        "migration_failed",
        [ONE],
        [TWO, THREE],
    )
    stage.settled(ONE)
    stage.completes()


def test_a_run_that_is_killed_behind_a_pooler_leaves_nothing(
    command: Stage, pooler: Pooler
) -> None:
    command.files(second=WAIT)
    running = command.start(pooler.url(command.database.url))
    command.wait()
    running.kill()
    until(lambda: not command.sessions("state <> 'idle'"))
    pooler.end()
    command.settled(ONE)
    command.completes()


@pytest.fixture
def impatient(kind: type[Pooler], server: Server) -> Iterator[Pooler]:
    """A pooler with one session, which refuses who has waited for that for a second."""
    with kind(server.url, pool=1, patience=1) as pooler:
        yield pooler


@contextmanager
def exhausted(pooler: Pooler, database: Database) -> Iterator[None]:
    """Its only session is taken."""
    with psycopg.connect(pooler.url(database.url), prepare_threshold=None) as taker:
        taker.execute("SELECT 1")
        yield


def test_a_pool_that_is_exhausted_for_a_while_is_waited_for(
    command: Stage, impatient: Pooler
) -> None:
    with Proxy("127.0.0.1", impatient.port) as proxy:
        with exhausted(impatient, command.database):
            running = command.start(proxy.url(command.database.url))
            until(lambda: len(proxy.connections) > 1)
        outcome = command.finish(running)
    assert (outcome.code, outcome.applied) == ("ok", list(VERSIONS))
    impatient.end()
    command.settled(*VERSIONS)


def test_a_pool_that_stays_exhausted_changes_nothing(stages: MakeStage, impatient: Pooler) -> None:
    route = stages("route")
    with exhausted(impatient, route.database):
        outcome = route.run(impatient.url(route.database.url), MIGRATION_HTTP_BUDGET="6s")
    assert outcome.code == "database_unavailable"
    assert tables(route.database) == ["effects", "gate"]
    impatient.end()
    route.completes()


def test_a_server_that_is_away_behind_its_pooler_is_waited_for(
    kind: type[Pooler], stages: MakeStage
) -> None:
    with embedded() as own, kind(own.url(), pool=1) as pooler:
        server = Server(own.url(), "onward_faults", "own")
        command = stages("command", server, server.create())
        stop(own)
        with Proxy("127.0.0.1", pooler.port) as proxy:
            running = command.start(proxy.url(command.database.url))
            until(lambda: len(proxy.connections) > 1)
            own.start()
            outcome = command.finish(running)
        assert (outcome.code, outcome.applied) == ("ok", list(VERSIONS))
        pooler.end()
        command.settled(*VERSIONS)


def test_a_server_that_stays_away_behind_its_pooler_is_told(
    kind: type[Pooler], stages: MakeStage
) -> None:
    with embedded() as own, kind(own.url(), pool=1) as pooler:
        server = Server(own.url(), "onward_faults", "own")
        route = stages("route", server, server.create())
        stop(own)
        try:
            outcome = route.run(pooler.url(route.database.url), MIGRATION_HTTP_BUDGET="6s")
        finally:
            own.start()
        assert outcome.code == "database_unavailable"
        pooler.end()
        route.completes()


# A network that loses a client: nothing comes back, not even a reset.


@dataclass(frozen=True)
class Link:
    """A client's network, which only this link joins with the server's."""

    namespace: str
    server: Server

    def down(self) -> None:
        _ip("link", "set", self.namespace, "down")


def _ip(*arguments: str) -> str:
    return _run("ip", *arguments)


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def link() -> Iterator[Link]:
    """A namespace with a link of its own, and a server that listens there."""
    if os.geteuid() != 0 or not shutil.which("ip"):
        pytest.skip("this needs root and iproute2, for a network namespace")
    name = f"onward{os.urandom(3).hex()}"
    net = f"10.{os.urandom(1)[0]}.{os.urandom(1)[0]}"
    try:
        _ip("netns", "add", name)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespace can be made here: {error.stderr.strip()}")
    try:
        _ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("address", "add", f"{net}.1/30", "dev", name)
        _ip("link", "set", name, "up")
        _ip("-n", name, "address", "add", f"{net}.2/30", "dev", "eth0")
        _ip("-n", name, "link", "set", "eth0", "up")
        with embedded("listen_addresses=*") as own:
            with (own.directory / "data" / "pg_hba.conf").open("a") as rules:
                rules.write(f"host all all {net}.0/30 scram-sha-256\n")
            server = Server(own.url(), "onward_faults", "link")
            server.admin.execute("SELECT pg_reload_conf()")
            yield Link(name, server)
    finally:
        _ip("netns", "delete", name)


def through(link: Link, database: Database) -> str:
    """The database's URL as it is seen from there."""
    show = subprocess.run(
        ["ip", "-4", "-br", "address", "show", link.namespace],
        check=True,
        capture_output=True,
        text=True,
    )
    address = show.stdout.split()[2].partition("/")[0]
    parts = urlsplit(database.url)
    return parts._replace(
        netloc=parts.netloc.replace("127.0.0.1", address), query="sslmode=disable"
    ).geturl()


FOR_EVER = "SET LOCAL idle_in_transaction_session_timeout = 0;"
LOST = {
    "in a statement": (WAIT, False),
    "before its answer": (FOR_EVER + WAIT, True),
    "idle, while another session works": (
        f"-- migrate: no-transaction\n{WAIT}\nCREATE TABLE two ();\nINSERT INTO effects VALUES "
        f"('{TWO}');\n",
        False,
    ),
}


@pytest.mark.parametrize(("sql", "answered"), LOST.values(), ids=list(LOST))
def test_a_client_that_vanishes_from_the_network_does_not_keep_the_lock(
    link: Link, stages: MakeStage, cli: Cli, sql: str, answered: bool
) -> None:
    """With no limit on an idle transaction, it is the connection that the server must find dead."""
    stage = stages("command", link.server, link.server.create())
    if sql.startswith("-- migrate"):
        stage.write({f"{TWO}.sql": sql})
    else:
        stage.files(second=sql)
    environ = stage.environ(through(link, stage.database))
    running = stage.watched(Command(cli, environ, "ip", "netns", "exec", link.namespace))
    stage.wait()
    link.down()
    if answered:
        stage.open()
    stage.settled(ONE)
    running.process.kill()  # unless it has found out itself, and ended
    running.process.wait()
    stage.completes()


# A disk that is full.


@pytest.fixture
def small_disk(server: Server) -> Iterator[str]:
    """The name of a tablespace with 16 MB."""
    user = server_user()
    if (
        not user
        or not Path("/proc/mounts").exists()
        or urlsplit(server.url).hostname != "127.0.0.1"
    ):
        pytest.skip("this needs root and a server on this machine, for a file system of 16 MB")
    place, name = Path(tempfile.mkdtemp(prefix="onward-disk-")), f"small_{os.urandom(3).hex()}"
    place.chmod(0o755)
    options = f"size=16m,uid={user.pw_uid},gid={user.pw_gid},mode=700"
    try:
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", place],
            check=True,
            capture_output=True,
            text=True,
        )
    except subprocess.CalledProcessError as error:
        place.rmdir()
        pytest.skip(f"nothing can be mounted here: {error.stderr.strip()}")
    try:
        server.admin.execute(f"CREATE TABLESPACE {name} LOCATION '{place}'")
        yield name
    finally:
        server.admin.execute(f"DROP TABLESPACE IF EXISTS {name}")
        subprocess.run(["umount", place], check=True)
        place.rmdir()


def test_a_disk_that_is_full_leaves_nothing_behind(small_disk: str, stage: Stage) -> None:
    rows = "SELECT repeat('x', 1000) FROM gate, generate_series(1, 32000)"
    stage.files(second=f"CREATE TABLE large TABLESPACE {small_disk} AS {rows};")
    outcome = stage.run()
    assert (outcome.code, outcome.error["sqlstate"]) == ("migration_failed", "53100")
    assert (outcome.applied, outcome.remaining) == ([ONE], [TWO, THREE])
    stage.settled(ONE)
    stage.completes()
    stage.database.execute("DROP TABLE large")
