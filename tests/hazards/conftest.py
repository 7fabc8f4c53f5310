"""What the tests of hazards share: files observed in a transaction that is rolled back."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lib import runner
from lib.hazards.findings import Circumstances, Finding
from lib.hazards.judging import find
from lib.hazards.table import Level
from lib.postgres.catalog import Observer
from lib.sizes import Size, Sizes
from tests.conftest import Database, Server
from tests.kit import config_of, fill
from tests.truth import clone_of, observed, rich_database

LARGE = 100_000_000
BIG = Sizes({"public.t": Size(9_000_000_000, 41_000_000)})


@pytest.fixture(scope="module")
def rich(server: Server) -> Iterator[Database]:
    with rich_database(server, "hazards") as database:
        yield database


@pytest.fixture
def clone(server: Server, rich: Database) -> Iterator[Database]:
    with clone_of(server, rich) as database:
        yield database


def major(database: Database) -> int:
    return int(database.execute("SHOW server_version_num")[0][0]) // 10_000


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
