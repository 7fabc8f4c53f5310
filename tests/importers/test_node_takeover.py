"""The takeover of each table of a tool for Node, in every state that the tool leaves it in."""

from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from tests.conftest import ROOT, Database, Here
from tests.importers.node_histories import (
    DRIZZLE_1,
    NAMES,
    NODE_PG_MIGRATE,
    PRISMA,
    TOOLS,
    VERSIONS,
    WORDS,
    Tool,
)
from tests.kit import Write, bytes_in, contents, history, tables

pytestmark = pytest.mark.slow

OWN = "000-create-migration-table"
ALL = [OWN, *VERSIONS]
Imported = Callable[[Tool], Path]


IDS = ["prisma", "drizzle", "drizzle-1", "node-pg-migrate"]


@pytest.fixture(params=TOOLS, ids=IDS)
def tool(request: pytest.FixtureRequest) -> Tool:
    found: Tool = request.param
    return found


@pytest.fixture
def source(tmp_path: Path, tool: Tool) -> Path:
    """The tool's directory."""
    return tool.write(tmp_path / "source")


@pytest.fixture(autouse=True)
def files(source: Path, migrations: Write, here: Here) -> Path:
    """The migrations that are imported from it, found without the tool's name."""
    directory = migrations({f"{OWN}.sql": (ROOT / "migrations" / f"{OWN}.sql").read_bytes()})
    result = here("import", "auto", str(source))
    assert result.code == 0, result.err
    return directory


def applied_tables(database: Database, tool: Tool) -> list[str]:
    return [name for name in tables(database) if name != tool.table.removeprefix("public.")]


def runs(here: Here, database: Database, *arguments: str) -> str:
    result = here(*arguments, url=database.url)
    assert result.code == 0, result.err
    return result.out


def test_a_complete_history_is_recorded_and_stays(
    here: Here, database: Database, tool: Tool
) -> None:
    tool.apply(database, NAMES)
    theirs = tool.rows(database)
    said = runs(here, database)
    assert f"4 migrations that {tool.title} has applied ({tool.table})" in said
    assert history(database) == ALL
    after = contents(database)
    runs(here, database)
    runs(here, database, "validate")
    assert contents(database) == after
    assert tool.rows(database) == theirs


def test_what_is_pending_is_applied_and_nothing_else(
    here: Here, database: Database, tool: Tool
) -> None:
    tool.apply(database, NAMES[:1])
    theirs = tool.rows(database)
    assert f"1 migration that {tool.title} has applied" in runs(here, database, "status")
    runs(here, database)
    assert history(database) == ALL
    assert applied_tables(database, tool) == sorted(WORDS)
    runs(here, database, "validate")
    assert tool.rows(database) == theirs


def test_one_merged_late_is_applied_when_that_is_allowed(
    here: Here, database: Database, tool: Tool
) -> None:
    late = NAMES[2]
    tool.apply(database, [name for name in NAMES if name != late])
    result = here(url=database.url)
    assert (result.code, "out_of_order: migrations/003-create-three.sql" in result.err) == (3, True)
    assert applied_tables(database, tool) == ["four", "one", "two"]
    runs(here, database, "--allow-out-of-order")
    assert history(database) == [*(one for one in ALL if one != VERSIONS[2]), VERSIONS[2]]
    assert applied_tables(database, tool) == sorted(WORDS)
    runs(here, database, "validate")


def test_a_row_without_a_file_is_refused(here: Here, database: Database, tool: Tool) -> None:
    tool.apply(database, NAMES)
    with psycopg.connect(database.url) as connection:
        tool.record(connection, "20240105000000_create_five", "0" * 64)
    before = contents(database)
    result = here(url=database.url)
    assert result.code == 3, result.err
    assert "no imported file is that migration" in result.err
    assert contents(database) == before


@pytest.mark.parametrize("tool", TOOLS[:3], ids=IDS[:3], indirect=True)
def test_a_text_that_the_tool_did_not_apply_is_named(
    here: Here, database: Database, tool: Tool
) -> None:
    tool.apply(database, NAMES[:3])
    with psycopg.connect(database.url) as connection:
        tool.record(connection, NAMES[3], "0" * 64)
    assert f"edited after {tool.title} had applied it: {VERSIONS[3]};" in runs(here, database)
    assert history(database) == ALL
    runs(here, database, "validate")


def test_the_times_of_the_tool_are_kept(here: Here, database: Database, tool: Tool) -> None:
    tool.apply(database, NAMES)
    runs(here, database)
    kept = database.execute(
        "SELECT DISTINCT applied_at = '2024-02-03 04:05:06+00', execution_time_ms, applied_by"
        f" FROM schema_migrations WHERE version <> '{OWN}'"
    )
    took = 250 if tool is PRISMA else None
    assert kept == [(tool in (PRISMA, DRIZZLE_1, NODE_PG_MIGRATE), took, "import")]


def test_the_same_import_twice_gives_the_same_bytes(
    here: Here, files: Path, source: Path, tool: Tool
) -> None:
    first = bytes_in(files)
    assert sorted(first) == [*(f"{one}.sql" for one in ALL), "imported.json"]
    assert here("import", tool.tool, str(source)).code == 0
    assert bytes_in(files) == first
