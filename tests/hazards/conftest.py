"""What the tests of hazards share: files observed in a transaction that is rolled back."""

import os
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from lib import runner
from lib.hazards.findings import Circumstances, Finding
from lib.hazards.judging import find
from lib.hazards.table import Level
from lib.observation import FileObservation
from lib.postgres.catalog import Observer
from lib.sizes import Size, Sizes
from lib.source.lexer import split
from tests.conftest import ROOT, Database, Server
from tests.kit import config_of, file, fill, session_of

SCHEMA = (ROOT / "tests" / "ddl_truth.sql").read_text()
LARGE = 100_000_000
BIG = Sizes({"public.t": Size(9_000_000_000, 41_000_000)})


@pytest.fixture(scope="module")
def rich(server: Server) -> Iterator[Database]:
    database = server.create(name=f"{server.run}_{server.worker}_{os.getpid()}_hazards")
    with psycopg.connect(database.url, autocommit=True) as connection:
        for statement in split(SCHEMA):
            connection.execute(statement.text.encode())
    yield database
    server.drop(database)


@pytest.fixture
def clone(server: Server, rich: Database) -> Iterator[Database]:
    database = server.create(template=rich.name)
    yield database
    server.drop(database)


def major(database: Database) -> int:
    return int(database.execute("SHOW server_version_num")[0][0]) // 10_000


def observed(database: Database, sql: str, session: str = "") -> FileObservation:
    observer = Observer()
    with session_of(database) as connection:
        connection.send(f"{session}; BEGIN")
        reply = observer.send(file("001-x", sql), connection)
        assert not reply.failed, reply.error
        connection.send("ROLLBACK")
    return observer.files[0]


def found(
    database: Database, sql: str, sizes: Sizes | None = None, session: str = ""
) -> list[Finding]:
    given = Circumstances(major(database), sizes or Sizes(), LARGE)
    return find(observed(database, sql, session), given)


def names(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(one.name, one.level.name.lower()) for one in findings]


def statements(database: Database, sql: str) -> list[tuple[str, str]]:
    return [(one.name, one.table) for one in found(database, sql) if one.level > Level.NOTE]


def rehearsed(database: Database, directory: Path, sql: str) -> list[Finding]:
    observer = Observer()
    config = config_of(database, fill(directory, {"001-x.sql": sql}))
    runner.run(config, lambda _: None, observer=observer)
    return find(observer.files[0], Circumstances(major(database), Sizes(), LARGE))
