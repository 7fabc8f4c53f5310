"""A rehearsal leaves what a run leaves, and a plan nothing, for histories as teams have them."""

import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from lib.consent import Change
from lib.hazards.findings import Rehearsal
from lib.hazards.table import Level
from lib.rehearsal import plan, prepare, rehearse
from scripts.embedded import find_programs
from tests.conftest import ROOT, Database, Server
from tests.histories import HISTORIES
from tests.kit import config_of, contents, fill, run, tables

pytestmark = pytest.mark.slow

EXAMPLES = {path.name: path.read_text() for path in (ROOT / "migrations").iterdir()}
ALL = {**HISTORIES, "examples": EXAMPLES}
ROWS = (
    "SELECT version, name, checksum, environment, identity IS NOT NULL, applied_by,"
    " drift::json ->> 'drift' FROM schema_migrations ORDER BY id"
)


@pytest.fixture
def other(server: Server) -> Iterator[Database]:
    """A second empty database."""
    database = server.create()
    yield database
    server.drop(database)


def schema(database: Database) -> list[str]:
    """All that the server's own program knows of the schema."""
    command = [str(find_programs() / "pg_dump"), "--schema-only", "-d", database.url]
    dump = subprocess.check_output(command, text=True)
    # It begins and ends with a key that is made anew each time.
    return [line for line in dump.splitlines() if not line.startswith(("\\restrict", "\\unrestr"))]


def left(database: Database) -> tuple[list[str], list[Any]]:
    """What the files have left: the schema, and the history."""
    return schema(database), database.execute(ROWS)


def counts(database: Database) -> dict[str, Any]:
    """How many rows each table has."""
    return {name: database.execute(f"SELECT count(*) FROM {name}") for name in tables(database)}


def rehearsed(database: Database, directory: Path) -> Rehearsal:
    config = config_of(database, directory)
    return rehearse(config, lambda _: None, prepare(config, Change.rehearse()))[1]


@pytest.mark.parametrize("files", ALL.values(), ids=ALL)
def test_a_rehearsal_of_all_files_leaves_what_a_run_leaves(
    database: Database, other: Database, tmp_path: Path, files: Mapping[str, str]
) -> None:
    directory = fill(tmp_path, files)
    found = rehearsed(database, directory)
    run(other, directory)
    assert left(database) == left(other)
    assert counts(database) == counts(other)
    assert found.findings(Level.FAIL) + found.findings(Level.WARN) == []


@pytest.mark.parametrize("files", HISTORIES.values(), ids=HISTORIES)
def test_a_rehearsal_of_the_newer_half_leaves_what_a_run_leaves(
    database: Database, other: Database, tmp_path: Path, files: Mapping[str, str]
) -> None:
    names = sorted(files)
    older = fill(tmp_path, {name: files[name] for name in names[: len(names) // 2]})
    for one in (database, other):
        run(one, older)
    directory = fill(tmp_path, files)
    assert len(rehearsed(database, directory).files) == len(names) - len(names) // 2
    run(other, directory)
    assert left(database) == left(other)
    assert counts(database) == counts(other)


@pytest.mark.parametrize("files", HISTORIES.values(), ids=HISTORIES)
def test_a_plan_leaves_schema_rows_and_history_as_they_were(
    database: Database, tmp_path: Path, files: Mapping[str, str]
) -> None:
    names = sorted(files)
    for first in range(0, len(names), 5):
        directory = fill(tmp_path, {names[first]: files[names[first]]})
        before = contents(database), counts(database)
        (planned,) = plan(config_of(database, directory), lambda _: None).files
        assert planned.ran is planned.transactional
        assert (contents(database), counts(database)) == before
        run(database, fill(tmp_path, {name: files[name] for name in names[first : first + 5]}))
