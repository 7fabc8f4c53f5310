"""Instances of the service: in this process, and behind a real HTTP server."""

import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from starlette.testclient import TestClient

from lib.web.routes import create_app
from lib.web.service import Service
from tests.conftest import Database
from tests.kit import Capture, tables, until

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


def untouched(database: Database) -> bool:
    """Whether there is no table, and so no history either."""
    return tables(database) == [] and database.execute(
        "SELECT to_regclass('schema_migrations')"
    ) == [(None,)]


def waits(database: Database) -> bool:
    """Whether a session waits for an advisory lock there."""
    query = "SELECT 1 FROM pg_stat_activity WHERE datname = %s AND wait_event = 'advisory'"
    return database.execute(query, [database.name]) != []


def headers(headers: Mapping[str, str]) -> list[str]:
    return [f"{name}: {value}" for name, value in headers.items()]


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
