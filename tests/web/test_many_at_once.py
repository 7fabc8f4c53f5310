"""Many at once: they share what is read, hold up nobody, and are told when they are too many."""

import http.client
import json
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from lib.source.migration import Migration, load
from lib.web.result import ApiResult
from lib.web.service import DEFAULT_LIMITS, Limits, Service
from scripts.embedded import Embedded
from tests.conftest import SETTINGS, Database
from tests.kit import OURS, Capture, Write, history, run, until
from tests.proxy import Proxy, proxied
from tests.web.instance import (
    BEARER,
    JSON,
    MIGRATE,
    STATUS,
    TWO,
    Reply,
    Silent,
    Start,
    environment,
    error_of,
    head_of,
    headers,
    serving,
    wire,
)


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


@pytest.mark.slow
def test_two_hundred_who_wait_for_a_silent_database_hold_up_nobody(silent: Silent) -> None:
    service = Held(silent.database, Limits(status_seconds=60.0))
    with held(service) as (port, ask):
        waiting = [ask("GET", STATUS) for _ in range(200)]
        until(lambda: service.asked == 200)
        others = [
            wire(port, head_of("POST", MIGRATE, "Content-Length: 0")),
            wire(port, head_of("POST", MIGRATE, "Content-Length: 1", *headers(JSON)) + "["),
            wire(port, head_of("GET", "/x")),
        ]
        assert not any(one.done() for one in waiting)
        service.release.set()
        answers = [one.result() for one in waiting]
    assert [one.status for one in others] == [401, 400, 404]
    assert {answer.status for answer in answers} == {503}
    assert len({answer.body for answer in answers}) == 1
    assert silent.connections() == 1


@pytest.mark.slow
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


def test_too_many_with_the_secret_are_told_so_and_hold_up_nobody_without(
    migrated: Database, capsys: Capture
) -> None:
    service = Held(migrated, Limits(queue_seconds=0.01))
    authorized = ("POST", MIGRATE, "Content-Length: 0", *headers(BEARER))
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


@pytest.mark.slow
def test_many_at_once_on_one_connection_starve_nobody_and_see_new_rows(
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
    """Another client on all of its connections; now and then it adds a row to the history."""
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
