"""The two routes on a real Postgres: in this process, and behind a real HTTP server where bytes and
threads matter.
"""

import asyncio
import gzip
import http.client
import json
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
import uvicorn
from starlette.testclient import TestClient

from lib import runner
from lib.source.migration import Migration, load
from lib.web.result import ApiResult
from lib.web.routes import create_app
from lib.web.service import DEFAULT_LIMITS, Limits, Service
from scripts.dev.embedded import Embedded
from tests.conftest import SETTINGS, Database, Server
from tests.kit import (
    LOCK,
    OURS,
    Capture,
    Write,
    history,
    holding,
    login,
    nothing_is_left_running,
    role,
    run,
    tables,
    until,
)
from tests.proxy import Hold, Proxy, proxied

STATUS, MIGRATE = "/api/migration-status", "/api/migrate"
SECRET, PREVIOUS = "canary-of-the-present-" * 2, "canary-previous-" * 3
BEARER = {"Authorization": f"Bearer {SECRET}"}
JSON = BEARER | {"Content-Type": "application/json"}
TWO = {"001-a.sql": "CREATE TABLE a ()", "002-b.sql": "CREATE TABLE b ()"}


@dataclass
class Instance:
    """One instance of the service. Fails at its end if an answer or the log showed what nobody may
    see.
    """

    service: Service
    client: TestClient
    capture: Capture
    answers: list[str] = field(default_factory=list)

    def __call__(self, method: str, path: str, **options: Any) -> Any:
        response = self.client.request(method, path, follow_redirects=False, **options)
        self.answers.append(f"{response.headers} {response.text}")
        assert response.headers["cache-control"] == "no-store"
        assert response.headers["x-content-type-options"] == "nosniff"
        assert not [name for name in response.headers if name.startswith("access-control")]
        return response

    def status(self, **options: Any) -> Any:
        """The public status as a new instance would read it."""
        self.service.forget_status()
        return self("GET", STATUS, **options)

    def post(self, body: Any = None, **headers: str) -> Any:
        """A POST with the secret, and with a document if one is given."""
        if body is None:
            return self("POST", MIGRATE, headers=BEARER | headers)
        return self("POST", MIGRATE, content=json.dumps(body), headers=JSON | headers)

    def log(self) -> list[dict[str, Any]]:
        """What was logged since the last time: one JSON object a line, and nothing else on either
        stream.
        """
        out, err = self.capture.readouterr()
        assert err == ""
        self.answers.append(out)
        return [json.loads(line) for line in out.splitlines()]


Start = Callable[..., Instance]


@pytest.fixture
def start(capsys: Capture) -> Iterator[Start]:
    """`start(database, directory, VARIABLE="value")` starts an instance."""
    with ExitStack() as stack:

        def begin(database: Database, directory: Path | None = None, **environ: str) -> Instance:
            service = Service(environment(database, directory, **environ))
            instance = Instance(
                service, stack.enter_context(TestClient(create_app(service))), capsys
            )
            stack.callback(shows_no_secret, instance, database)
            return instance

        yield begin


def environment(
    database: Database, directory: Path | None = None, **environ: str
) -> dict[str, str]:
    files = {"MIGRATION_DIR": str(directory)} if directory else {}
    return {
        "MIGRATION_ENV": "test",
        "MIGRATION_SECRET": SECRET,
        "POSTGRES_URL": database.url,
        **files,
        **environ,
    }


def shows_no_secret(instance: Instance, database: Database) -> None:
    instance.log()
    shown = "".join(instance.answers)
    password = urlsplit(database.url).password or ""
    for canary in ("canary", "Traceback", *([password] if len(password) >= 12 else [])):
        assert canary not in shown


def error_of(response: Any) -> tuple[int, str]:
    """Status and code of an error, which says nothing else but a message."""
    document = response.json()
    assert (document["success"], set(document["error"]) - {"code", "message"}) == (False, set())
    return response.status_code, document["error"]["code"]


@dataclass(frozen=True)
class Reply:
    """An answer as it came over the wire."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        return next((value for one, value in self.headers if one.lower() == name), None)


@contextmanager
def serving(service: Service) -> Iterator[int]:
    """A real HTTP server; its port."""
    server = uvicorn.Server(
        uvicorn.Config(create_app(service), port=0, log_config=None, lifespan="off")
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


def wire(port: int, text: str | bytes) -> Reply:
    """Send bytes, and read one answer by the protocol: what follows its head is its body."""
    method = (text if isinstance(text, bytes) else text.encode("latin-1")).split(b" ")[0].decode()
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(text if isinstance(text, bytes) else text.encode("latin-1"))
        response = http.client.HTTPResponse(
            connection, method="GET" if method == "HEAD" else method
        )
        response.begin()
        body = b"" if method == "HEAD" else response.read()
        if method == "HEAD":
            connection.settimeout(None)
            body = connection.recv(1)  # `Connection: close`: nothing, or what should not be there
        return Reply(response.status, response.getheaders(), body)


def head_of(method: str, path: str, *headers: str) -> str:
    return "\r\n".join(
        (f"{method} {path} HTTP/1.1", "Host: evil.example", "Connection: close", *headers, "", "")
    )


@pytest.fixture
def wired(database: Database) -> Iterator[Callable[..., Reply]]:
    """`wired("GET", "/path", "Header: value")` against an empty database, in which nothing may
    appear.
    """
    with serving(Service(environment(database))) as port:
        yield lambda *words, body="": wire(port, head_of(*words) + body)
    assert untouched(database)


def untouched(database: Database) -> bool:
    """Whether there is no table, and so no history either."""
    return tables(database) == [] and database.execute(
        "SELECT to_regclass('schema_migrations')"
    ) == [(None,)]


def waits(database: Database) -> bool:
    """Whether a session waits for an advisory lock there."""
    query = "SELECT 1 FROM pg_stat_activity WHERE datname = %s AND wait_event = 'advisory'"
    return database.execute(query, [database.name]) != []


# The public status.


def test_the_status_says_what_the_contract_says_and_no_more(
    start: Start, migrated: Database
) -> None:
    instance = start(migrated)
    response = instance.status()
    document = response.json()
    assert response.status_code == 200
    assert list(document) == [
        *("success", "environment", "database", "pgVersion", "state"),
        *("appliedMigrations", "pendingMigrations", "lastMigration", "migrations"),
    ]
    assert (document["success"], document["environment"], document["state"]) == (
        True,
        "test",
        "current",
    )
    assert document["database"] == migrated.name
    assert [one["version"] for one in document["migrations"]] == OURS
    assert all(
        set(one) == {"version", "name", "state", "appliedAt", "executionTimeMs"}
        for one in document["migrations"]
    )
    assert document["lastMigration"]["version"] == OURS[-1]
    [(checksum, identity)] = migrated.execute(
        "SELECT checksum, identity FROM schema_migrations WHERE id = 1"
    )
    for private in (checksum, identity, "127.0.0.1", "postgres:"):
        assert private not in response.text
    (entry,) = instance.log()
    assert (entry["action"], entry["outcome"], entry["status"]) == ("public_status", "current", 200)
    assert entry["requestId"] == response.headers["x-request-id"]
    assert entry["durationMs"] >= 0


def test_a_summary_names_no_migration_no_database_and_no_exact_version(
    start: Start, migrated: Database, migrations: Write
) -> None:
    directory = migrations(
        {"000-create-migration-table.sql": "", "777-secret-plan.sql": "SELECT 1"}
    )
    instance = start(migrated, directory, MIGRATION_STATUS=" Summary ")
    response = instance.status()
    major = migrated.execute("SELECT current_setting('server_version_num')::int / 10000")[0][0]
    assert (response.status_code, list(response.json().items())) == (
        200,
        [
            *(("success", True), ("environment", "test"), ("pgVersion", f"PostgreSQL {major}")),
            *(("state", "conflict"), ("appliedMigrations", 3), ("pendingMigrations", 1)),
        ],
    )
    assert "migrations" in instance.post({"action": "status"}).json()
    assert migrated.name in instance.post({"action": "status"}).text


@pytest.mark.parametrize(
    ("files", "expected"), [(TWO, 200), (TWO | {"003-c.sql": "SELECT 3"}, 503)]
)
def test_who_requires_current_need_not_see_more_than_a_summary(
    start: Start, database: Database, migrations: Write, files: dict[str, str], expected: int
) -> None:
    directory = migrations(TWO)
    run(database, directory)
    migrations(files)
    instance = start(database, directory, MIGRATION_STATUS="summary")
    for method in ("GET", "HEAD"):
        assert instance(method, f"{STATUS}?require=current").status_code == expected
        assert instance(method, STATUS).status_code == 200
    assert history(database) == ["001-a", "002-b"]


def test_a_status_that_is_off_is_like_a_path_that_is_not_there(
    start: Start, migrated: Database
) -> None:
    instance = start(migrated, MIGRATION_STATUS="off")
    for method in ("GET", "HEAD", "POST", "PUT", "OPTIONS"):
        for query in ("", "?require=current"):
            off, nowhere = (
                instance(method, STATUS + query),
                instance(method, "/api/nowhere" + query),
            )
            assert (off.status_code, off.text, off.headers) == (404, nowhere.text, nowhere.headers)
    assert error_of(instance("GET", STATUS)) == (404, "not_found")
    assert instance.log() == []
    assert instance.post({"action": "status"}).json()["state"] == "current"
    assert (instance.post().status_code, history(migrated)) == (200, OURS)


@pytest.mark.parametrize("value", ["none", "0", "true", "full,summary"])
def test_a_status_setting_that_is_none_shows_nothing_and_only_the_log_names_it(
    start: Start, silent: "Silent", value: str
) -> None:
    instance = start(silent.database, MIGRATION_STATUS=value)
    for query in ("", "?require=current"):
        response = instance("GET", STATUS + query)
        assert error_of(response) == (503, "not_configured")
        assert "MIGRATION_STATUS" not in response.text
    (entry,) = instance.log()
    assert entry["reason"].split()[0] == "MIGRATION_STATUS"
    assert silent.connections() == 0


def test_within_two_seconds_whatever_the_query_the_database_is_asked_once(
    start: Start, migrated: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance, now = start(migrated), time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    bodies = {instance("GET", f"{STATUS}?x={number}").text for number in range(100)}
    reads = len(instance.log())
    assert len(bodies) == 1
    assert reads == 1


def test_without_a_table_everything_is_pending_and_nothing_is_created(
    start: Start, database: Database
) -> None:
    document = start(database).status().json()
    assert (document["state"], document["appliedMigrations"], document["pendingMigrations"]) == (
        "pending",
        0,
        3,
    )
    assert document["lastMigration"] is None
    assert untouched(database)


def test_a_role_that_may_only_select_is_enough(
    server: Server, migrated: Database, start: Start
) -> None:
    with login(server, migrated) as limited:
        migrated.execute(f"GRANT SELECT ON schema_migrations TO {role(limited)}")
        response = start(limited).status()
        assert (response.status_code, response.json()["state"]) == (200, "current")
        assert history(migrated) == OURS


def test_a_role_that_may_not_even_select_gets_a_fixed_answer(
    server: Server, migrated: Database, start: Start
) -> None:
    with login(server, migrated) as limited:
        assert error_of(start(limited).status()) == (503, "database_unavailable")


def test_a_table_that_is_locked_exclusively_makes_the_status_unavailable(
    server: Server, migrated: Database, start: Start
) -> None:
    instance = start(migrated)
    with holding(migrated, "LOCK TABLE schema_migrations IN ACCESS EXCLUSIVE MODE"):
        response = instance.status()
        assert error_of(response) == (503, "database_unavailable")
        assert response.headers["retry-after"] == "5"
    nothing_is_left_running(server, migrated)
    assert instance.status().status_code == 200


def test_a_long_lock_timeout_does_not_make_the_status_wait(
    migrated: Database, start: Start
) -> None:
    instance = start(migrated, MIGRATION_LOCK_TIMEOUT="24h")
    with holding(migrated, "LOCK TABLE schema_migrations IN ACCESS EXCLUSIVE MODE"):
        assert error_of(instance.status()) == (503, "database_unavailable")


def test_the_status_statement_is_cancelled_after_a_second_and_a_half(
    server: Server, migrated: Database, start: Start
) -> None:
    instance = start(migrated, MIGRATION_LOCK_TIMEOUT="24h", MIGRATION_STATEMENT_TIMEOUT="1h")
    instance.service.limits = Limits(
        status_connect_seconds=60.0, status_read_seconds=60.0, status_seconds=60.0
    )
    waiting = "SELECT query FROM pg_stat_activity WHERE datname = %s AND wait_event_type = 'Lock'"
    with (
        holding(migrated, "LOCK TABLE schema_migrations IN ACCESS EXCLUSIVE MODE"),
        ThreadPoolExecutor(1) as pool,
    ):
        asking = pool.submit(instance.status)
        ((query,),) = until(lambda: migrated.execute(waiting, [migrated.name]))
        assert "SET LOCAL statement_timeout = '1500ms';" in query
        assert error_of(asking.result()) == (503, "database_unavailable")
        nothing_is_left_running(server, migrated)
    assert "statement timeout" in instance.log()[0]["reason"]
    assert history(migrated) == OURS


def test_a_server_that_falls_silent_ends_the_status_and_does_not_occupy_it(
    migrated: Database, start: Start
) -> None:
    hold = Hold()
    with proxied(migrated.url) as proxy:
        proxy.when("onward_document", hold)
        instance = start(Database(migrated.name, proxy.url(migrated.url)))
        instance.service.limits = Limits(status_seconds=60.0)
        assert error_of(instance.status()) == (503, "database_unavailable")
        assert hold.reached.is_set()
        assert "was not read within" not in instance.log()[0]["reason"]
        assert instance.status().json()["state"] == "current"
        hold.release()
    assert history(migrated) == OURS


def test_a_database_that_is_down_makes_the_status_unavailable(start: Start) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"postgresql://someone:canary-password@127.0.0.1:{closed.getsockname()[1]}/somewhere"
        instance = start(Database("somewhere", url))
        response = instance.status()
    assert error_of(response) == (503, "database_unavailable")
    assert response.headers["retry-after"] == "5"
    assert "127.0.0.1" not in response.text
    assert "somewhere" not in response.text
    assert instance.log()[0]["outcome"] == "database_unavailable"


def test_files_and_history_that_disagree_are_a_status_without_checksums(
    start: Start, migrated: Database
) -> None:
    migrated.execute("UPDATE schema_migrations SET checksum = repeat('ab', 32) WHERE id = 2")
    response = start(migrated).status()
    assert (response.status_code, response.json()["state"]) == (200, "conflict")
    assert "abab" not in response.text


def test_a_run_that_is_under_way_is_not_in_the_status(
    start: Start, database: Database, migrations: Write
) -> None:
    directory = migrations({"001-a.sql": "CREATE TABLE a ()"})
    run(database, directory, MIGRATION_ENV="test")
    migrations({"002-b.sql": f"CREATE TABLE b (); SELECT pg_advisory_xact_lock({LOCK + 1})"})
    with ThreadPoolExecutor(1) as pool:
        with holding(database, f"SELECT pg_advisory_xact_lock({LOCK + 1})"):
            running = pool.submit(start(database, directory, MIGRATION_LOCK_TIMEOUT="1min").post)
            until(lambda: waits(database))
            document = start(database, directory).status().json()
            assert (document["appliedMigrations"], document["pendingMigrations"]) == (1, 1)
        assert running.result().status_code == 200
    assert history(database) == ["001-a", "002-b"]


@pytest.mark.parametrize(
    ("files", "state", "expected"),
    [
        (TWO, "current", 200),
        (TWO | {"003-c.sql": "SELECT 3"}, "pending", 503),
        ({"001-a.sql": TWO["001-a.sql"]}, "ahead", 200),
        (TWO | {"001-a.sql": "SELECT 'changed'"}, "conflict", 503),
    ],
    ids=["current", "pending", "ahead", "conflict"],
)
def test_only_current_and_ahead_satisfy_who_requires_current(
    start: Start,
    database: Database,
    migrations: Write,
    files: dict[str, str],
    state: str,
    expected: int,
) -> None:
    directory = migrations(TWO)
    run(database, directory)
    for path in directory.iterdir():
        path.unlink()
    migrations(files)
    instance = start(database, directory)
    required, plain = instance("GET", f"{STATUS}?require=current"), instance("GET", STATUS)
    assert (required.status_code, plain.status_code) == (expected, 200)
    assert required.json() == plain.json()
    assert plain.json()["state"] == state
    assert instance("HEAD", f"{STATUS}?require=current").status_code == expected
    assert history(database) == ["001-a", "002-b"]


def test_who_requires_something_else_gets_what_everybody_gets(
    start: Start, database: Database
) -> None:
    instance = start(database)
    assert [
        instance("GET", f"{STATUS}?{query}").status_code
        for query in ("require=", "require=x", "Require=current")
    ]
    assert instance("GET", f"{STATUS}?require=x").status_code == 200


# Many at once.


@dataclass
class Silent:
    """A server that accepts connections and never answers."""

    listening: socket.socket

    @property
    def database(self) -> Database:
        port = self.listening.getsockname()[1]
        return Database(
            "somewhere", f"postgresql://someone:canary-password@127.0.0.1:{port}/somewhere"
        )

    def connections(self) -> int:
        """How many there have been since the last time."""
        self.listening.setblocking(False)
        count = 0
        with suppress(BlockingIOError):
            while True:
                self.listening.accept()[0].close()
                count += 1
        return count


@pytest.fixture
def silent() -> Iterator[Silent]:
    with socket.create_server(("127.0.0.1", 0), backlog=300) as listening:
        yield Silent(listening)


class Held(Service):
    """An instance that cannot find out where its database is until it is released; the secret it
    knows.
    """

    def __init__(self, database: Database, limits: Limits = DEFAULT_LIMITS) -> None:
        super().__init__(environment(database), self._hold, limits=limits)
        self.asked = 0
        self.held = 0
        self.release = threading.Event()

    def _hold(
        self, environ: Mapping[str, str], variables: Sequence[str]
    ) -> Iterator[Mapping[str, str]]:
        if "POSTGRES_URL" in variables:
            self.held += 1
            self.release.wait()
        yield environ

    async def public_status(self) -> ApiResult:
        self.asked += 1
        return await super().public_status()


@contextmanager
def held(service: Held, count: int = 300) -> Iterator[tuple[int, Callable[..., Future[Reply]]]]:
    """Serve it: its port, and `ask("GET", "/path", "Header: value")`; at the end it is released."""
    with ThreadPoolExecutor(count) as pool, serving(service) as port:
        try:
            yield port, lambda *words: pool.submit(wire, port, head_of(*words))
        finally:
            service.release.set()


def test_two_hundred_who_wait_for_a_silent_database_hold_up_nobody(silent: Silent) -> None:
    service = Held(silent.database, Limits(status_seconds=60.0))
    with held(service) as (port, ask):
        waiting = [ask("GET", STATUS) for _ in range(200)]
        until(lambda: service.asked == 200)
        others = [
            wire(port, head_of("POST", MIGRATE, "Content-Length: 0")),
            wire(port, head_of("POST", MIGRATE, "Content-Length: 1", *_headers(JSON)) + "["),
            wire(port, head_of("GET", "/")),
        ]
        assert not any(one.done() for one in waiting)
        service.release.set()
        answers = [one.result() for one in waiting]
    assert [one.status for one in others] == [401, 400, 200]
    assert {answer.status for answer in answers} == {503}
    assert len({answer.body for answer in answers}) == 1
    assert silent.connections() == 1


def test_a_failed_read_is_shared_from_its_end_on(silent: Silent, start: Start) -> None:
    instance = start(silent.database)
    for _ in range(3):  # the first one waits for as long as an answer is shared
        assert error_of(instance("GET", STATUS)) == (503, "database_unavailable")
    assert silent.connections() == 1


def test_who_waits_too_long_is_told_so_while_the_read_goes_on(
    migrated: Database, capsys: Capture
) -> None:
    service = Held(migrated, Limits(status_seconds=0.01))
    with held(service) as (_, ask):
        answers = [one.result() for one in [ask("GET", STATUS) for _ in range(5)]]
        assert {(one.status, one.header("retry-after")) for one in answers} == {(503, "5")}
        assert json.loads(answers[0].body)["error"]["code"] == "database_unavailable"
        service.limits = Limits(status_seconds=60.0)
        later = ask("GET", STATUS)
        until(lambda: service.asked == 6)
        service.release.set()
        assert json.loads(later.result().body)["state"] == "current"
    assert service.held == 1
    assert [json.loads(line)["status"] for line in capsys.readouterr().out.splitlines()] == [
        503
    ] * 5 + [200]


def test_a_client_that_hangs_up_does_not_end_what_others_wait_for(
    migrated: Database, capsys: Capture
) -> None:
    service = Held(migrated)
    with held(service) as (port, ask):
        with socket.create_connection(("127.0.0.1", port)) as leaving:
            leaving.sendall(head_of("GET", STATUS).encode())
            until(lambda: service.held == 1)
            staying = [ask("GET", STATUS) for _ in range(3)]
            until(lambda: service.asked == 4)
        service.release.set()
        assert {json.loads(one.result().body)["state"] for one in staying} == {"current"}
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_what_a_run_has_done_is_in_the_next_status(start: Start, database: Database) -> None:
    instance = start(database)
    before, ran, after = instance("GET", STATUS), instance.post(), instance("GET", STATUS)
    assert (
        before.json()["pendingMigrations"],
        ran.status_code,
        after.json()["pendingMigrations"],
    ) == (3, 200, 0)
    assert history(database) == OURS


def test_what_a_run_that_failed_has_done_is_in_the_next_status_too(
    start: Start, database: Database, migrations: Write
) -> None:
    instance = start(
        database, migrations({"001-a.sql": "CREATE TABLE a ()", "002-b.sql": "CREATE canary"})
    )
    before, ran, after = instance("GET", STATUS), instance.post(), instance("GET", STATUS)
    assert (
        before.json()["appliedMigrations"],
        ran.status_code,
        after.json()["appliedMigrations"],
    ) == (0, 500, 1)
    assert history(database) == ["001-a"]


def test_the_public_status_alone_goes_through_the_pooler(database: Database, start: Start) -> None:
    """Its own connection is one of many: a run needs what a pooler does not give."""
    parts = urlsplit(database.url)
    with (
        proxied(database.url) as direct,
        Proxy(*direct.upstream) as pooler,
    ):
        direct_url, pooled_url = (
            f"postgresql://{parts.netloc.rpartition('@')[0]}@db-pooler.example:{proxy.port}/{database.name}"
            "?hostaddr=127.0.0.1&sslmode=disable"
            for proxy in (direct, pooler)
        )
        instance = start(database, POSTGRES_URL=pooled_url, POSTGRES_URL_NON_POOLING=direct_url)
        assert instance.status().json()["state"] == "pending"
        assert (len(direct.connections), len(pooler.connections)) == (0, 1)
        assert instance.post({"action": "status"}).json()["state"] == "pending"
        assert instance.post().status_code == 200
        assert (len(direct.connections), len(pooler.connections)) == (2, 1)
    assert history(database) == OURS


def test_those_with_the_secret_hold_up_nobody_without_it_and_are_told_when_they_are_too_many(
    migrated: Database, capsys: Capture
) -> None:
    service = Held(migrated, Limits(queue_seconds=0.01))
    authorized = ("POST", MIGRATE, "Content-Length: 0", *_headers(BEARER))
    with held(service) as (port, ask):
        working = [ask(*authorized) for _ in range(8)]
        until(lambda: service.held == 8)
        more = [one.result() for one in [ask(*authorized) for _ in range(20)]]
        guessing = wire(port, head_of("POST", MIGRATE, "Content-Length: 0"))
        assert not any(one.done() for one in working)
        service.release.set()
        assert {one.result().status for one in working} <= {200, 409}
    assert {(one.status, one.header("retry-after")) for one in more} == {(409, "5")}
    assert {json.loads(one.body)["error"]["code"] for one in more} == {"busy"}
    assert guessing.status == 401
    assert service.held == 8
    assert history(migrated) == OURS


def test_files_are_read_once_as_long_as_none_changes(
    start: Start, database: Database, migrations: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[Path] = []

    def counted(directory: Path) -> tuple[Migration, ...]:
        loads.append(directory)
        return load(directory)

    monkeypatch.setattr("lib.web.service.load", counted)
    directory = migrations(TWO)
    instance = start(database, directory)
    counts = [len(instance.status().json()["migrations"]) for _ in range(3)]
    assert (counts, len(loads)) == ([2] * 3, 1)
    migrations({"003-c.sql": "SELECT 3"})
    assert instance.post({"action": "validate"}).json()["state"] == "pending"
    assert (instance.status().json()["pendingMigrations"], len(loads)) == (3, 2)
    migrations({"002-b.sql": "SELECT 'changed'"})
    (directory / "001-a.sql").unlink()
    assert [one["version"] for one in instance.status().json()["migrations"]] == ["002-b", "003-c"]
    assert len(loads) == 3


@pytest.fixture
def small() -> Iterator[Database]:
    """A database on a server of its own, with thirty connections."""
    place = "/dev/shm" if Path("/dev/shm").is_dir() else None
    server = Embedded(
        Path(tempfile.mkdtemp(prefix="onward-tests-", dir=place)),
        settings=[one for one in SETTINGS if "max_connections" not in one] + ["max_connections=30"],
    )
    try:
        with server:
            yield Database("postgres", server.url())
    finally:
        server.drop()


def test_many_at_once_use_one_connection_starve_nobody_and_see_what_is_two_seconds_old(
    small: Database, project: Path, capsys: Capture
) -> None:
    """All but one of the server's connections are in use by another client, and ours may have one
    at a time.
    """
    run(small, project / "migrations")
    small.execute("CREATE ROLE status LOGIN PASSWORD 'canary' CONNECTION LIMIT 1")
    small.execute("GRANT SELECT ON schema_migrations TO status; CREATE TABLE work (id int)")
    url = small.url.replace(urlsplit(small.url).netloc.rpartition("@")[0], "status:canary")
    committed: list[float] = [0.0, 0.0, 0.0]  # when the history had one row more
    done = threading.Event()
    with ExitStack() as stack, serving(Service(environment(Database("postgres", url)))) as port:
        others = [
            stack.enter_context(psycopg.connect(small.url, autocommit=True)) for _ in range(26)
        ]
        pool = stack.enter_context(ThreadPoolExecutor(151))
        working = pool.submit(_work, others, committed, done)
        asking = [pool.submit(_ask, port, done) for _ in range(150)]
        time.sleep(2.8)  # so that the two seconds are over
        done.set()
        answers = [answer for future in asking for answer in future.result()]
        assert working.result() > 26
    assert {status for _, status, _ in answers} == {200}
    reads = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    longest = max(one["durationMs"] for one in reads) / 1000 + 0.001
    for asked, _, document in answers:
        certain = sum(moment < asked - 2 - longest for moment in committed)
        assert document["appliedMigrations"] >= certain
    assert {one["outcome"] for one in reads} <= {"ahead", "current"}
    assert 2 <= len(reads) <= 5
    assert len({document["appliedMigrations"] for _, _, document in answers}) > 1


def _work(
    others: Sequence[psycopg.Connection], committed: list[float], done: threading.Event
) -> int:
    """Another client on all of its connections; one row of the history now and then is its doing."""
    count = 0
    while not done.wait(0.01):
        others[count % len(others)].execute("INSERT INTO work VALUES (1)")
        if count % 10 == 0:
            version = f"{count + 100}-later"
            others[0].execute(
                "INSERT INTO schema_migrations (version, name) VALUES (%s, 'Later')", [version]
            )
            committed.append(time.time())
        count += 1
    return count


def _ask(port: int, done: threading.Event) -> list[tuple[float, int, dict[str, Any]]]:
    found = []
    with closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
        while not done.wait(0.2):
            asked = time.time()
            connection.request("GET", STATUS)
            response = connection.getresponse()
            found.append((asked, response.status, json.loads(response.read())))
    return found


# Methods, paths, headers.


def test_other_methods_are_told_which_are_allowed_and_reach_no_database(
    wired: Callable[..., Reply],
) -> None:
    for method in ("POST", "PUT", "PATCH", "DELETE", "TRACE", "OPTIONS", "BREW"):
        for path in (STATUS, "/"):
            refused(wired(method, path, "Content-Length: 0", *_headers(BEARER)), {"GET", "HEAD"})
    for method in ("GET", "HEAD", "PUT", "PATCH", "DELETE", "TRACE", "OPTIONS", "BREW"):
        refused(wired(method, MIGRATE, "Content-Length: 0", *_headers(BEARER)), {"POST"})


def refused(reply: Reply, allowed: set[str]) -> None:
    assert reply.status == 405
    assert set((reply.header("allow") or "").split(", ")) == allowed
    assert reply.header("cache-control") == "no-store"
    if reply.body:
        assert json.loads(reply.body)["error"]["code"] == "method_not_allowed"


def _headers(headers: Mapping[str, str]) -> list[str]:
    return [f"{name}: {value}" for name, value in headers.items()]


def test_a_head_request_gets_the_status_without_a_body(wired: Callable[..., Reply]) -> None:
    for path, status in (
        (STATUS, 200),
        (f"{STATUS}?require=current", 503),
        ("/", 200),
        ("/x", 404),
        (MIGRATE, 405),
    ):
        reply = wired("HEAD", path)
        assert (reply.status, reply.body) == (status, b"")


@pytest.mark.parametrize("path", [STATUS, f"{STATUS}?require=current", "/", "/x", MIGRATE])
def test_the_application_itself_sends_no_body_to_a_head_request(
    start: Start, database: Database, path: str
) -> None:
    """A test client drops what comes; a platform's runtime passes it on."""
    sent: list[Any] = []
    app = create_app(Service(environment(database)))

    async def spying(scope: Any, receive: Any, send: Any) -> None:
        async def note(message: Any) -> None:
            sent.append(message.get("body", b""))
            await send(message)

        await app(scope, receive, note)

    TestClient(spying).head(path)
    assert b"".join(sent) == b""


def test_a_preflight_gets_no_permission(wired: Callable[..., Reply]) -> None:
    for path in (STATUS, MIGRATE):
        for method in ("OPTIONS", "GET", "POST"):
            reply = wired(
                method, path, "Origin: https://evil.example", "Access-Control-Request-Method: POST"
            )
            assert not [
                name for name, _ in reply.headers if name.lower().startswith("access-control")
            ]


NOWHERE = [
    *(
        "/api",
        "/api/",
        f"{STATUS}/",
        f"{MIGRATE}/",
        "//",
        "/x",
        "/api/migrate.py",
        "/api/migration-status.py",
    ),
    *(
        "//api/migrate",
        "/api//migrate",
        "/api/./migrate",
        "/x/../api/migrate",
        "/API/MIGRATE",
        "/api/Migrate",
    ),
    *(
        "/api%2fmigrate",
        "/api%2Fmigrate",
        "/%61pi/migrate",
        "/api/migrate%0a",
        "/api/migrate%00",
        "/api/migrate%20",
    ),
    *(
        "/api/migrate;x",
        "/api\\migrate",
        "/api/migration-status%2f",
        "/%2e",
        "/.env",
        "/lib/web/routes.py",
        "/docs",
    ),
]


def test_no_other_path_leads_anywhere_or_redirects(wired: Callable[..., Reply]) -> None:
    for path in NOWHERE:
        for method in ("GET", "POST", "HEAD"):
            reply = wired(method, path, "Content-Length: 0", *_headers(BEARER))
            assert (path, reply.status, reply.header("location")) == (path, 404, None)
            assert reply.header("cache-control") == "no-store"
            if method != "HEAD":
                assert json.loads(reply.body)["error"]["code"] == "not_found"


def test_headers_cannot_make_another_method_of_a_request(wired: Callable[..., Reply]) -> None:
    for name in ("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"):
        assert wired("GET", MIGRATE, f"{name}: POST", *_headers(BEARER)).status == 405


def test_a_request_id_from_outside_is_ignored(wired: Callable[..., Reply]) -> None:
    reply = wired("GET", STATUS, f"X-Request-Id: {'x' * 1024}")
    assert (reply.status, len(reply.header("x-request-id") or "")) == (200, 32)


def test_the_page_names_the_status(start: Start, database: Database) -> None:
    response = start(database)("GET", "/")
    assert (response.status_code, response.headers["content-type"]) == (
        200,
        "text/html; charset=utf-8",
    )
    assert STATUS in response.text


def test_where_the_page_is_not_in_the_function_it_is_not_found(
    start: Start, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lib.web.routes.ROOT", tmp_path)
    assert error_of(start(database)("GET", "/")) == (404, "not_found")


# The secret.


def test_without_a_token_one_is_asked_for(start: Start, database: Database) -> None:
    response = start(database)("POST", MIGRATE)
    assert error_of(response) == (401, "unauthorized")
    assert response.headers["www-authenticate"] == "Bearer"
    assert untouched(database)


WRONG = {
    "another": f"Bearer {PREVIOUS}",
    "its beginning": f"Bearer {SECRET[:-1]}",
    "its end": f"Bearer {SECRET[1:]}",
    "longer": f"Bearer {SECRET}x",
    "wrong at the start": f"Bearer x{SECRET[1:]}",
    "wrong at the end": f"Bearer {SECRET[:-1]}x",
    "upper case": f"Bearer {SECRET.upper()}",
    "empty": "Bearer ",
    "no token": "Bearer",
    "nothing": "",
    "undefined": "Bearer undefined",
    "null": "Bearer null",
    "not ASCII": "Bearer s\xe9cret",
    "another scheme": f"Basic {SECRET}",
    "without a scheme": SECRET,
    "two in one": f"Bearer {SECRET},Bearer {SECRET}",
    "two words": f"Bearer {SECRET} {SECRET}",
    "a tab": f"Bearer\t{SECRET}",
    "a tab behind a space": f"Bearer \t{SECRET}",
    "a tab and a space": f"Bearer\t {SECRET}",
    "only spaces": f"Bearer {' ' * 100}",
    "a space in it": f"Bearer {SECRET[:20]} {SECRET[20:]}",
    "quoted": f'Bearer "{SECRET}"',
    "long": f"Bearer {SECRET}" + "x" * 40_000,
}


def test_whatever_is_wrong_with_a_token_the_answer_is_the_same(wired: Callable[..., Reply]) -> None:
    replies = [
        wired("POST", MIGRATE, f"Authorization: {value}", "Content-Length: 0")
        for value in WRONG.values()
    ]
    assert {reply.status for reply in replies} == {401}
    assert {reply.header("www-authenticate") for reply in replies} == {
        'Bearer error="invalid_token"'
    }
    assert len({reply.body for reply in replies}) == 1


def test_a_header_of_any_size_is_refused_and_does_no_harm(wired: Callable[..., Reply]) -> None:
    assert wired(
        "POST", MIGRATE, f"Authorization: Bearer {'x' * 65_000}", "Content-Length: 0"
    ).status in (
        400,
        401,
        431,
    )


def test_a_second_authorization_header_is_refused_even_beside_the_right_one(
    wired: Callable[..., Reply],
) -> None:
    right, wrong = _headers(BEARER)[0], "Authorization: Bearer x"
    for pair in ((right, wrong), (wrong, right), (right, right)):
        assert wired("POST", MIGRATE, *pair, "Content-Length: 0").status == 401


def test_the_secret_counts_in_its_header_alone(start: Start, database: Database) -> None:
    instance = start(database)
    assert instance("POST", f"{MIGRATE}?token={SECRET}&secret={SECRET}").status_code == 401
    for name in ("X-Migration-Secret", "Proxy-Authorization"):
        assert instance("POST", MIGRATE, headers={name: f"Bearer {SECRET}"}).status_code == 401
    instance.client.cookies.set("token", "canary-cookie")
    assert instance("POST", MIGRATE, json={"token": SECRET}).status_code == 401
    assert untouched(database)


def test_the_name_of_the_scheme_may_be_written_in_any_case(
    start: Start, migrated: Database
) -> None:
    for scheme in ("bearer", "BEARER"):
        assert start(migrated).post(Authorization=f"{scheme} {SECRET}").status_code == 200


def test_between_scheme_and_token_there_may_be_several_spaces(
    start: Start, migrated: Database
) -> None:
    assert [
        start(migrated).post(Authorization=f"Bearer{' ' * n}{SECRET}").status_code
        for n in (1, 2, 9)
    ] == [200] * 3


def test_during_a_rotation_both_secrets_count_and_the_log_names_the_slot(
    start: Start, migrated: Database
) -> None:
    instance = start(migrated, MIGRATION_SECRET_PREVIOUS=PREVIOUS)
    tokens = (SECRET, PREVIOUS, f"{PREVIOUS}x")
    answers = [instance.post(Authorization=f"Bearer {token}").status_code for token in tokens]
    assert answers == [200, 200, 401]
    assert [entry.get("secret") for entry in instance.log()] == ["current", "previous", None]
    instance = start(migrated)
    assert instance.post(Authorization=f"Bearer {PREVIOUS}").status_code == 401
    assert history(migrated) == OURS


UNUSABLE = {
    "missing": ("", "", "MIGRATION_SECRET"),
    "blank": (" \n", "", "MIGRATION_SECRET"),
    "short": ("canary-canary-canary-canary-can", "", "MIGRATION_SECRET"),
    "long": ("canary" * 200, "", "MIGRATION_SECRET"),
    "previous alone": ("", PREVIOUS, "MIGRATION_SECRET"),
    "previous short": (SECRET, "canary", "MIGRATION_SECRET_PREVIOUS"),
    "monotonous": ("canary-" * 6, "", "MIGRATION_SECRET"),
    "previous monotonous": (SECRET, "canary-" * 6, "MIGRATION_SECRET_PREVIOUS"),
    "a reference": ("secretsmanager:canary#migration-secret", "", "MIGRATION_SECRET"),
    "previous a reference": (
        SECRET,
        "ssm:/canary/migration-secret-of-before",
        "MIGRATION_SECRET_PREVIOUS",
    ),
    "a template": ("${CANARY_MIGRATION_SECRET_OF_PRODUCTION}", "", "MIGRATION_SECRET"),
}


@pytest.mark.parametrize(("current", "previous", "variable"), UNUSABLE.values(), ids=list(UNUSABLE))
def test_a_secret_that_cannot_be_used_closes_the_route_and_only_the_log_names_it(
    start: Start, database: Database, current: str, previous: str, variable: str
) -> None:
    instance = start(database, MIGRATION_SECRET=current, MIGRATION_SECRET_PREVIOUS=previous)
    for token in (current.strip(), previous, "", "undefined"):
        response = instance.post(Authorization=f"Bearer {token}")
        assert error_of(response) == (503, "not_configured")
        assert "MIGRATION_SECRET" not in response.text
        (entry,) = instance.log()
        assert entry["reason"].split()[0] == variable
    assert untouched(database)
    assert instance.status().status_code == 200


def test_what_a_shell_put_around_a_secret_does_not_count(start: Start, migrated: Database) -> None:
    assert start(migrated, MIGRATION_SECRET=f" {SECRET}\n").post().status_code == 200


def test_a_secret_need_not_be_ascii(migrated: Database) -> None:
    secret = "sécret-of-this-test-" * 3
    with serving(Service(environment(migrated, MIGRATION_SECRET=secret))) as port:
        head = head_of("POST", MIGRATE, "Content-Length: 0", "Authorization: Bearer ").encode()
        assert wire(port, head.replace(b"Bearer ", b"Bearer " + secret.encode())).status == 200


def test_guessing_reaches_no_database(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = (
            f"postgresql://someone:canary-password@127.0.0.1:{listener.getsockname()[1]}/somewhere"
        )
        instance = start(Database("somewhere", url))
        for number in range(100):
            assert instance.post(Authorization=f"Bearer {number}").status_code == 401
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()
        assert [entry["outcome"] for entry in instance.log()] == ["unauthorized"] * 100


# The body.

BAD_JSON = {
    "cut off": b'{"action": "mig',
    "not UTF-8": b'{"action": "\xff"}',
    "UTF-16": '{"action": "status"}'.encode("utf-16"),
    "a byte order mark": b'\xef\xbb\xbf{"action": "status"}',
    "deep": b"[" * 4000,
    "deep in an object": b'{"a":' * 800,
    "a constant": b"NaN",
    "a constant in an object": b'{"action": Infinity}',
    "a key twice": b'{"action": "status", "action": "migrate"}',
    "a key twice, further in": b'{"x": {"action": "status", "action": "migrate"}}',
    "two documents": b"{}{}",
    "a form": b"action=migrate",
    "XML": b"<migrate/>",
}
BAD_REQUESTS: dict[str, Any] = {
    "a list": [],
    "a list of one": [{"action": "migrate"}],
    "a word": "migrate",
    "nothing": None,
    "false": False,
    "a number": 0,
    "a long number": 10**3900,
    "an unknown action": {"action": "rollback"},
    "an action in upper case": {"action": "MIGRATE"},
    "an empty action": {"action": ""},
    "no action": {"action": None},
    "a list of actions": {"action": ["migrate"]},
    "an object for an action": {"action": {"migrate": True}},
    "half a character": {"action": "\ud800"},
    "another key": {"dryRun": True},
    "another key beside it": {"action": "migrate", "force": True},
    "SQL": {"action": "migrate", "sql": "DROP TABLE users"},
    "SQL for an action": {"action": "migrate; DROP TABLE users"},
    "a URL": {"action": "migrate", "url": "postgresql://canary@elsewhere/x"},
    "a path": {"action": "migrate", "directory": "/etc"},
}


@pytest.mark.parametrize("body", BAD_JSON.values(), ids=list(BAD_JSON))
def test_what_is_not_json_runs_nothing(start: Start, database: Database, body: bytes) -> None:
    response = start(database)("POST", MIGRATE, content=body, headers=JSON)
    assert error_of(response) == (400, "invalid_json")
    assert untouched(database)


@pytest.mark.parametrize("document", BAD_REQUESTS.values(), ids=list(BAD_REQUESTS))
def test_what_is_not_exactly_a_request_runs_nothing(
    start: Start, database: Database, document: Any
) -> None:
    assert error_of(
        start(database)("POST", MIGRATE, content=json.dumps(document), headers=JSON)
    ) == (
        400,
        "invalid_request",
    )
    assert untouched(database)


@pytest.mark.parametrize(
    "kind", ["", "text/plain", "application/x-www-form-urlencoded", "application/jsonp"]
)
def test_a_body_of_another_type_is_refused(start: Start, database: Database, kind: str) -> None:
    response = start(database)(
        "POST", MIGRATE, content=b"{}", headers=BEARER | {"Content-Type": kind}
    )
    assert error_of(response) == (415, "unsupported_type")
    assert untouched(database)


def test_a_compressed_body_is_not_unpacked(start: Start, database: Database) -> None:
    for encoding in ("gzip", "deflate", "br", "identity, gzip"):
        body = gzip.compress(b"{}" + b" " * 1_000_000)
        response = start(database)(
            "POST", MIGRATE, content=body, headers=JSON | {"Content-Encoding": encoding}
        )
        assert error_of(response) == (415, "unsupported_encoding")
    assert untouched(database)


def test_the_type_may_say_its_characters(start: Start, migrated: Database) -> None:
    for kind in ("application/json; charset=utf-8", "Application/JSON"):
        assert (
            start(migrated).post({"action": "status"}, **{"Content-Type": kind}).status_code == 200
        )


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_large_is_not_read_to_its_end(
    wired: Callable[..., Reply], chunked: bool
) -> None:
    length = "Transfer-Encoding: chunked" if chunked else "Content-Length: 1000000000"
    piece = " " * 5000
    body = f"1388\r\n{piece}\r\n" if chunked else piece
    reply = wired(
        "POST", MIGRATE, *_headers(JSON), length, body=body
    )  # and what was announced never comes
    assert (reply.status, json.loads(reply.body)["error"]["code"]) == (413, "too_large")


def test_a_body_has_4096_bytes_at_most(start: Start, database: Database) -> None:
    instance, document = start(database), b'{"action": "status"}'
    answers = [
        instance("POST", MIGRATE, content=document.ljust(length), headers=JSON)
        for length in (4096, 4097)
    ]
    assert (answers[0].status_code, answers[0].json()["pendingMigrations"]) == (200, 3)
    assert error_of(answers[1]) == (413, "too_large")
    assert untouched(database)


def test_a_body_in_chunks_is_put_together(database: Database) -> None:
    with serving(Service(environment(database))) as port:
        body = '9\r\n{"action"\r\n9\r\n:"status"\r\n1\r\n}\r\n0\r\n\r\n'
        reply = wire(
            port, head_of("POST", MIGRATE, *_headers(JSON), "Transfer-Encoding: chunked") + body
        )
    assert (reply.status, json.loads(reply.body)["pendingMigrations"]) == (200, 3)
    assert untouched(database)


def test_the_secret_is_asked_for_before_the_body_is_looked_at(
    start: Start, database: Database
) -> None:
    instance = start(database)
    for options in (
        {"content": b"x" * 10_000},
        {"content": b"{"},
        {"headers": {"Content-Encoding": "gzip"}},
    ):
        assert instance("POST", MIGRATE, **options).status_code == 401
    assert untouched(database)


def test_who_hangs_up_before_the_body_is_there_runs_nothing(
    database: Database, capsys: Capture
) -> None:
    with serving(Service(environment(database))) as port:
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(
                head_of("POST", MIGRATE, *_headers(JSON), "Content-Length: 100").encode() + b"{}"
            )
        entry = json.loads(until(lambda: capsys.readouterr().out))
    assert (entry["outcome"], entry["status"]) == ("disconnected", 400)
    assert untouched(database)


# A run.


def test_a_run_applies_what_is_pending_and_a_second_one_nothing(
    start: Start, database: Database
) -> None:
    instance = start(database)
    first, second = instance.post({}), instance.post()
    document = first.json()
    assert first.status_code == second.status_code == 200
    assert [one["version"] for one in document["applied"]] == OURS == history(database)
    assert all(set(one) == {"version", "name", "executionTimeMs"} for one in document["applied"])
    assert {**document, "applied": []} == second.json()
    assert second.json() == {
        "success": True,
        "environment": "test",
        "database": database.name,
        "applied": [],
        "remaining": [],
        "complete": True,
    }
    entries = instance.log()
    assert [entry["applied"] for entry in entries] == [OURS, []]
    assert {(entry["action"], entry["outcome"], entry["secret"]) for entry in entries} == {
        ("migrate", "ok", "current")
    }
    assert [entry["requestId"] for entry in entries] == [
        one.headers["x-request-id"] for one in (first, second)
    ]
    assert database.execute("SELECT DISTINCT applied_by, environment FROM schema_migrations") == [
        ("api", "test")
    ]


def test_the_full_status_adds_checksums_and_audit_columns_and_runs_nothing(
    start: Start, database: Database, migrated: Database
) -> None:
    instance = start(migrated)
    full, public = instance.post({"action": "status"}).json(), instance.status().json()
    extra = {"checksum", "environment", "identity", "gitCommit", "appliedBy"}
    assert all(extra < set(one) for one in full["migrations"])
    full["migrations"] = [
        {k: v for k, v in one.items() if k not in extra} for one in full["migrations"]
    ]
    assert (full.pop("trusted"), full.pop("owner")) == (True, "postgres")
    assert full == public
    assert start(database).post({"action": "status"}).json()["pendingMigrations"] == 3
    assert untouched(database)


def test_validate_finds_nothing_or_a_conflict_and_runs_nothing(
    start: Start, database: Database, migrated: Database
) -> None:
    fine = start(database).post({"action": "validate"})
    assert (fine.status_code, fine.json()) == (
        200,
        {"success": True, "state": "pending", "problems": []},
    )
    assert untouched(database)
    migrated.execute("UPDATE schema_migrations SET checksum = repeat('ab', 32) WHERE id = 2")
    found = start(migrated).post({"action": "validate"})
    assert (found.status_code, found.json()["success"], found.json()["state"]) == (
        409,
        False,
        "conflict",
    )
    assert [(one["version"], one["state"]) for one in found.json()["problems"]] == [
        (OURS[1], "modified")
    ]


def test_validate_refuses_what_a_run_would_refuse(
    start: Start, database: Database, migrations: Write
) -> None:
    files = {
        "001-a.sql": "CREATE TABLE a ()",
        "002-draft.sql": "-- migrate: draft\nCREATE TABLE b ()",
        "003-begins.sql": "BEGIN; CREATE TABLE c ()",
    }
    instance = start(database, migrations(files))
    assert error_of(instance.post({"action": "validate"})) == (503, "invalid_files")
    (entry,) = instance.log()
    assert "002-draft.sql: still a draft" in entry["reason"]
    assert "003-begins.sql:1" in entry["reason"]
    assert error_of(instance.post())[0] == 503
    assert untouched(database)


def test_a_conflict_runs_nothing(start: Start, migrated: Database, migrations: Write) -> None:
    directory = migrations({"000-other.sql": "SELECT 1", "999-new.sql": "CREATE TABLE new ()"})
    response = start(migrated, directory).post()
    assert error_of(response) == (409, "history_conflict")
    assert (response.json()["applied"], response.json()["remaining"]) == ([], ["999-new"])
    assert "retry-after" not in response.headers
    assert history(migrated) == OURS
    assert "new" not in tables(migrated)


def test_files_that_cannot_be_used_run_nothing(
    start: Start, database: Database, migrations: Write
) -> None:
    instance = start(
        database, migrations({"001-a.sql": "CREATE TABLE a ()", "001-b.sql": "CREATE TABLE b ()"})
    )
    for response in (instance.post(), instance.post({"action": "validate"}), instance.status()):
        assert error_of(response) == (503, "invalid_files")
    assert all("001-a" in entry["reason"] for entry in instance.log())
    assert untouched(database)


def test_a_budget_that_cannot_be_read_runs_nothing(start: Start, database: Database) -> None:
    instance = start(database, MIGRATION_HTTP_BUDGET="soon")
    assert error_of(instance.post()) == (503, "not_configured")
    assert "MIGRATION_HTTP_BUDGET" in instance.log()[0]["reason"]
    assert untouched(database)


def test_another_run_is_waited_for_by_who_called(start: Start, database: Database) -> None:
    instance = start(database)
    with holding(database, f"SELECT pg_advisory_xact_lock({LOCK})"):
        response = instance.post()
        assert error_of(response) == (409, "busy")
        assert response.headers["retry-after"] == "5"
        assert untouched(database)
    assert instance.post().status_code == 200
    assert history(database) == OURS


def test_the_database_being_down_is_no_conflict(start: Start) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"postgresql://someone:canary-password@127.0.0.1:{closed.getsockname()[1]}/somewhere"
        response = start(Database("somewhere", url), MIGRATION_HTTP_BUDGET="4s").post()
    assert error_of(response) == (503, "database_unavailable")
    assert response.headers["retry-after"] == "5"


def test_a_role_that_may_not_create_the_table_runs_nothing(
    server: Server, database: Database, start: Start
) -> None:
    database.execute(
        "REVOKE CREATE ON SCHEMA public FROM PUBLIC"
    )  # which everybody has before PostgreSQL 15
    with login(server, database) as limited:
        assert error_of(start(limited).post()) == (503, "database_unavailable")
        assert untouched(database)


def test_a_failed_file_is_told_by_version_sqlstate_and_line_and_shows_no_row(
    start: Start, database: Database, migrations: Write
) -> None:
    files = {
        "001-a.sql": "CREATE TABLE a (mail text CONSTRAINT one_each UNIQUE)",
        "002-b.sql": "CREATE TABLE b ();\nINSERT INTO a VALUES ('canary-row'), ('canary-row');",
        "003-c.sql": "CREATE TABLE c ()",
    }
    instance = start(database, migrations(files))
    response = instance.post()
    document = response.json()
    error = {
        name: document["error"][name] for name in ("code", "version", "sqlstate", "constraint")
    }
    assert response.status_code == 500
    assert error == {
        "code": "migration_failed",
        "version": "002-b",
        "sqlstate": "23505",
        "constraint": "one_each",
    }
    assert [one["version"] for one in document["applied"]] == ["001-a"]
    assert document["remaining"] == ["002-b", "003-c"]
    (entry,) = instance.log()
    assert (entry["outcome"], entry["sqlstate"], entry["version"]) == (
        "migration_failed",
        "23505",
        "002-b",
    )
    assert entry["applied"] == ["001-a"]
    assert (tables(database), history(database)) == (["a"], ["001-a"])


def test_a_syntax_error_is_told_by_its_line(
    start: Start, database: Database, migrations: Write
) -> None:
    instance = start(database, migrations({"001-a.sql": "CREATE TABLE a ();\n\nCREATE canary;\n"}))
    error = instance.post().json()["error"]
    assert (error["sqlstate"], error["line"]) == ("42601", 3)
    assert instance.log()[0]["line"] == 3
    assert tables(database) == []


def test_a_file_that_fails_midway_outside_a_transaction_is_told_as_such(
    start: Start, database: Database, migrations: Write
) -> None:
    sql = "-- migrate: no-transaction\nCREATE TABLE IF NOT EXISTS a ();\nSELECT 1/0;\n"
    response = start(database, migrations({"001-a.sql": sql})).post()
    assert (response.status_code, response.json()["error"]["code"]) == (500, "partly_applied")
    assert (tables(database), history(database)) == (["a"], [])


def test_a_commit_that_was_not_answered_and_not_done_is_a_failure(
    start: Start, database: Database, migrations: Write
) -> None:
    """The server ends the session within COMMIT: a deferred trigger does it."""
    sql = """
        CREATE TABLE a (id int);
        CREATE FUNCTION leave() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END';
        ALTER TABLE schema_migrations ADD COLUMN IF NOT EXISTS mark int;
        CREATE CONSTRAINT TRIGGER leaves AFTER INSERT ON schema_migrations DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION leave();
    """
    instance = start(database, migrations({"001-a.sql": sql}))
    response = instance.post()
    assert (response.status_code, response.json()["error"]["code"]) == (500, "migration_failed")
    assert instance.status().json()["pendingMigrations"] == 1
    assert tables(database) == []


def test_when_the_budget_ends_between_two_files_the_next_call_goes_on(
    start: Start, server: Server, database: Database, migrations: Write
) -> None:
    # The first file leaves less time than a second one is begun with; what is left, its
    # statement_timeout says.
    sql = (
        "SELECT pg_sleep(extract(epoch FROM current_setting('statement_timeout')::interval) - 0.9)"
    )
    directory = migrations(
        {"001-a.sql": f"CREATE TABLE a (); {sql}", "002-b.sql": "CREATE TABLE b ()"}
    )
    response = start(database, directory, MIGRATION_HTTP_BUDGET="5s").post()
    document = response.json()
    assert (response.status_code, document["success"], document["complete"]) == (202, True, False)
    assert [one["version"] for one in document["applied"]] == history(database) == ["001-a"]
    assert document["remaining"] == ["002-b"]
    nothing_is_left_running(server, database)
    response = start(database, directory).post()
    assert (response.status_code, response.json()["complete"]) == (200, True)
    assert history(database) == ["001-a", "002-b"]


def test_a_run_over_http_has_25_seconds_unless_it_is_told_otherwise(
    start: Start, database: Database, migrations: Write
) -> None:
    limit = "extract(epoch FROM current_setting('statement_timeout')::interval) AS seconds"
    directory = migrations({"001-usual.sql": f"CREATE TABLE usual AS SELECT {limit}"})
    assert start(database, directory).post().status_code == 200
    migrations({"002-told.sql": f"CREATE TABLE told AS SELECT {limit}"})
    assert start(database, directory, MIGRATION_HTTP_BUDGET="10min").post().status_code == 200
    ((usual, told),) = database.execute("SELECT usual.seconds, told.seconds FROM usual, told")
    assert 0 < float(usual) + runner.SHUTDOWN_MARGIN_SECONDS <= 25
    assert 300 < float(told) + runner.SHUTDOWN_MARGIN_SECONDS <= 600


def test_a_budget_with_no_time_for_a_first_file_begins_nothing(
    start: Start, database: Database
) -> None:
    response = start(database, MIGRATION_HTTP_BUDGET="3500ms").post()
    document = response.json()
    assert (response.status_code, document["applied"], document["remaining"]) == (202, [], OURS)
    assert untouched(database)


def test_a_budget_with_no_time_for_any_run_is_a_fault_of_the_configuration(
    start: Start, database: Database
) -> None:
    instance = start(database, MIGRATION_HTTP_BUDGET="3s")
    assert error_of(instance.post()) == (503, "not_configured")
    assert "MIGRATION_HTTP_BUDGET" in instance.log()[0]["reason"]
    assert instance.post({"action": "status"}).status_code == 200
    assert untouched(database)


def test_a_statement_longer_than_the_budget_is_cancelled_and_rolled_back(
    start: Start, server: Server, database: Database, migrations: Write
) -> None:
    directory = migrations(
        {"001-a.sql": "CREATE TABLE a ()", "002-b.sql": "CREATE TABLE b (); SELECT pg_sleep(100)"}
    )
    response = start(database, directory, MIGRATION_HTTP_BUDGET="5s").post()
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["sqlstate"]) == (
        500,
        "migration_failed",
        "57014",
    )
    assert [one["version"] for one in response.json()["applied"]] == ["001-a"]
    assert (tables(database), history(database)) == (["a"], ["001-a"])
    nothing_is_left_running(server, database)


def test_two_calls_at_once_apply_each_file_once(
    start: Start, database: Database, migrations: Write
) -> None:
    files = {f"{number:03}-t.sql": f"CREATE TABLE t{number} ()" for number in range(1, 9)}
    directory = migrations(files)
    with ThreadPoolExecutor(4) as pool:
        answers = [
            one.result() for one in [pool.submit(start(database, directory).post) for _ in range(4)]
        ]
    assert {answer.status_code for answer in answers} <= {200, 409}
    applied = [one["version"] for answer in answers for one in answer.json().get("applied", ())]
    assert len(applied) == len(set(applied))
    start(database, directory).post()
    assert history(database) == sorted(name[:-4] for name in files)


def test_a_client_that_hangs_up_does_not_end_the_run(
    server: Server, database: Database, migrations: Write, capsys: Capture
) -> None:
    files = TWO | {"001-a.sql": f"CREATE TABLE a (); SELECT pg_advisory_xact_lock({LOCK + 1})"}
    with serving(
        Service(environment(database, migrations(files), MIGRATION_LOCK_TIMEOUT="1min"))
    ) as port:
        call = head_of("POST", MIGRATE, *_headers(BEARER), "Content-Length: 0").encode()
        with holding(database, f"SELECT pg_advisory_xact_lock({LOCK + 1})"):
            connection = socket.create_connection(("127.0.0.1", port))
            connection.sendall(call)
            until(lambda: waits(database))
            connection.close()
        nothing_is_left_running(server, database)
        reply = wire(port, head_of("GET", STATUS))
    assert json.loads(reply.body)["state"] == "current"
    assert history(database) == ["001-a", "002-b"]
    entry = json.loads(capsys.readouterr().out.splitlines()[0])
    assert (entry["action"], entry["outcome"], entry["applied"]) == (
        "migrate",
        "ok",
        ["001-a", "002-b"],
    )


def test_a_password_refused_midway_ends_the_run_with_what_it_applied(
    server: Server, database: Database, migrations: Write, capsys: Capture
) -> None:
    """A second credential is for a run that has not begun: another run would not tell what the
    first one applied.
    """
    files = {
        "001-a.sql": "CREATE TABLE a (); ALTER ROLE CURRENT_USER PASSWORD 'canary-of-the-rotation'",
        "002-b.sql": "-- migrate: no-transaction\nCREATE TABLE IF NOT EXISTS b ()",
    }
    directory = migrations(files)
    with login(server, database) as limited:
        database.execute(f"GRANT CREATE ON SCHEMA public TO {role(limited)}")
        rotated = limited.url.replace(
            urlsplit(limited.url).password or "", "canary-of-the-rotation"
        )

        def store(environ: Mapping[str, str], _: Sequence[str]) -> Iterator[Mapping[str, str]]:
            yield environ
            yield {**environ, "POSTGRES_URL": rotated}

        service = Service(environment(limited, directory), store)
        first = service.call("migrate", applied_by="api")
        assert (first.status, first.document["error"]["code"]) == (503, "database_unavailable")
        assert (
            [one["version"] for one in first.document["applied"]] == history(database) == ["001-a"]
        )
        assert (first.document["remaining"], tables(database)) == (["002-b"], ["a"])
        second = service.call("migrate", applied_by="api")
        assert [one["version"] for one in second.document["applied"]] == ["002-b"]
        assert (second.status, history(database), tables(database)) == (
            200,
            ["001-a", "002-b"],
            ["a", "b"],
        )
    assert "canary" not in "".join(capsys.readouterr())


def test_a_line_of_the_log_has_exactly_these_keys(
    start: Start, database: Database, migrations: Write
) -> None:
    directory = migrations({"001-a.sql": "CREATE TABLE a ()"})
    instance = start(database, directory)
    always = ["requestId", "action", "durationMs", "status", "outcome", "applied"]
    instance.status()
    instance("POST", MIGRATE)
    assert [list(entry) for entry in instance.log()] == [always, always]
    instance.post()
    assert [sorted(entry) for entry in instance.log()] == [sorted((*always, "secret"))]
    migrations({"002-b.sql": "CREATE canary"})
    instance.post()
    (entry,) = instance.log()
    assert sorted(entry) == sorted(
        (*always, "secret", "reason", "version", "sqlstate", "constraint", "line")
    )
    assert entry["reason"] == "002-b failed"
    assert history(database) == ["001-a"]


# What nobody foresaw.


def test_an_unknown_error_is_a_fixed_answer_and_a_redacted_line(
    capfd: pytest.CaptureFixture[str],
) -> None:
    url = "postgresql://someone:canary-password@db.example/somewhere"

    def broken(*_: Any) -> Any:
        raise RuntimeError(f"cannot use\n{url}")

    with serving(Service({"MIGRATION_ENV": "test", "MIGRATION_SECRET": SECRET}, broken)) as port:
        replies = [
            wire(port, head_of("GET", STATUS)),
            wire(port, head_of("POST", MIGRATE, *_headers(BEARER), "Content-Length: 0")),
        ]
    out, err = capfd.readouterr()
    entries = [json.loads(line) for line in out.splitlines()]
    assert err == ""
    for reply, entry in zip(replies, entries, strict=True):
        assert (reply.status, json.loads(reply.body)) == (
            500,
            {"success": False, "error": {"code": "internal", "message": "Internal error."}},
        )
        assert (entry["outcome"], entry["requestId"]) == ("internal", reply.header("x-request-id"))
        assert entry["reason"] == "RuntimeError: cannot use\npostgresql://***@db.example/somewhere"
        assert entry["where"][-1].startswith("test_routes.py:")
    assert "canary" not in out
    assert "Traceback" not in out


@pytest.mark.parametrize(
    "value", [SECRET, "postgresql://someone:canary-password@db.example/somewhere"]
)
def test_what_was_put_into_the_wrong_variable_is_redacted_in_the_log(
    start: Start, database: Database, value: str
) -> None:
    instance = start(database, MIGRATION_LOCK_TIMEOUT=value)
    response = instance.post()
    assert error_of(response) == (503, "not_configured")
    assert "MIGRATION_LOCK_TIMEOUT" not in response.text
    (entry,) = instance.log()
    assert entry["reason"].startswith("MIGRATION_LOCK_TIMEOUT is '")
    assert "***" in entry["reason"]
    assert untouched(database)


def test_a_status_that_fails_shows_no_secret_in_the_log_of_a_fresh_instance(
    start: Start, database: Database
) -> None:
    instance = start(database, MIGRATION_LOCK_TIMEOUT=SECRET)
    assert error_of(instance.status()) == (503, "not_configured")
    (entry,) = instance.log()
    assert "MIGRATION_LOCK_TIMEOUT is '***'" in entry["reason"]
    assert untouched(database)


def test_what_a_store_of_secrets_gave_is_redacted_too(migrated: Database, capsys: Capture) -> None:
    found = environment(migrated, MIGRATION_SECRET=SECRET)

    def store(environ: Mapping[str, str], variables: Sequence[str]) -> Iterator[Mapping[str, str]]:
        yield found
        raise RuntimeError(f"after {SECRET} came {urlsplit(found['POSTGRES_URL']).password}")

    found["POSTGRES_URL"] = migrated.url.replace(
        urlsplit(migrated.url).netloc.partition("@")[0], "nobody:canary-pass"
    )
    service = Service({}, store)
    assert asyncio.run(service.secrets()) == {"current": SECRET.encode()}
    answer = service.call("status", applied_by="api")
    assert (answer.status, answer.document["error"]["code"]) == (500, "internal")
    assert json.loads(capsys.readouterr().out)["reason"] == "RuntimeError: after *** came ***"
