"""The truth table: what statements do to a schema of all kinds, and how to observe them there."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from lib.observation import FileObservation
from lib.postgres.catalog import Observer
from lib.source.lexer import split
from tests.conftest import ROOT, Database, Server
from tests.kit import file, session_of

TRUTH: dict[str, Any] = json.loads((ROOT / "tests" / "ddl_truth.json").read_text())
_SCHEMA = (ROOT / "tests" / "ddl_truth.sql").read_text()


@contextmanager
def rich_database(server: Server, purpose: str) -> Iterator[Database]:
    """A database with tables of all kinds, for clones."""
    database = server.create(name=f"{server.run}_{server.worker}_{os.getpid()}_{purpose}")
    with psycopg.connect(database.url, autocommit=True) as connection:
        for statement in split(_SCHEMA):
            connection.execute(statement.text.encode())
    yield database
    server.drop(database)


@contextmanager
def clone_of(server: Server, template: Database) -> Iterator[Database]:
    """A copy of a database, for one test."""
    database = server.create(template=template.name)
    yield database
    server.drop(database)


def observed(database: Database, sql: str, session: str = "") -> FileObservation:
    """A file observed in a transaction that is rolled back."""
    observer = Observer()
    with session_of(database) as connection:
        connection.send(f"{session}; BEGIN")
        reply = observer.send(file("001-x", sql), connection)
        assert not reply.failed, reply.error
        connection.send("ROLLBACK")
    return observer.files[0]
