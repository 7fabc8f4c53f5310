"""Instances that tests of routes and service are given."""

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from lib.web.routes import create_app
from lib.web.service import Service
from tests.conftest import Database
from tests.kit import Capture
from tests.web.instance import (
    Instance,
    Reply,
    Silent,
    Start,
    environment,
    head_of,
    serving,
    shows_no_secret,
    untouched,
    wire,
)


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


@pytest.fixture
def wired(database: Database) -> Iterator[Callable[..., Reply]]:
    """`wired("GET", "/path", "Header: value")` against an empty database, in which nothing may
    appear.
    """
    with serving(Service(environment(database))) as port:
        yield lambda *words, body="": wire(port, head_of(*words) + body)
    assert untouched(database)


@pytest.fixture
def silent() -> Iterator[Silent]:
    with socket.create_server(("127.0.0.1", 0), backlog=300) as listening:
        yield Silent(listening)
