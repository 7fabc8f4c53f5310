"""The Supabase CLI's files, and the takeover of its history in the states that it can be in."""

from pathlib import Path

import pytest

from lib.importers import supabase
from lib.importers.importing import recognised
from lib.importers.layout import Obstacle
from tests.conftest import Database, Here
from tests.kit import Write, bytes_in, fill, history, recorded, rows_of, tables

FILES = {
    "20220101000000_one.sql": "CREATE TABLE one (id int);\n",
    "20220102000000_two.sql": "CREATE TABLE two (id int);\n",
    "20220103000000_three_tables.sql": "CREATE TABLE three (id int);\n",
    "20220104000000_four.sql": "CREATE TABLE four (id int);\n",
}
KEYS = [name.partition("_")[0] for name in FILES]
VERSIONS = ["001-one", "002-two", "003-three-tables", "004-four"]
HISTORY = "supabase_migrations.schema_migrations"
# As history.go makes it.
TABLE = """CREATE SCHEMA IF NOT EXISTS supabase_migrations;
    CREATE TABLE supabase_migrations.schema_migrations (version text NOT NULL PRIMARY KEY);
    ALTER TABLE supabase_migrations.schema_migrations ADD COLUMN statements text[];
    ALTER TABLE supabase_migrations.schema_migrations ADD COLUMN name text;"""


def source(directory: Path, **more: str) -> Path:
    """A project's directory of migrations."""
    place = directory / "supabase" / "migrations"
    place.mkdir(parents=True)
    return fill(place, FILES | more)


def keys_of(directory: Path) -> list[str]:
    return [one.key for one in supabase.read(directory).files]


# Files


def test_files_are_ordered_by_their_names_as_text(tmp_path: Path) -> None:
    place = source(tmp_path, **{"3_late.sql": "", "20220101_early.sql": ""})
    assert keys_of(place) == [KEYS[0], "20220101", *KEYS[1:], "3"]


def test_what_the_cli_passes_over_is_passed_over(tmp_path: Path) -> None:
    place = source(tmp_path, **{"seed.sql": "", "20230101000000-dashes.sql": "", "notes.md": ""})
    (place / "20230101000000_folder.sql").mkdir()
    assert keys_of(place) == KEYS


@pytest.mark.parametrize(
    ("name", "before", "skipped"),
    [
        ("20211208235959_init.sql", "", True),
        ("20211209000000_init.sql", "", False),
        ("20211208235959_init_all.sql", "", False),
        ("20211208235959_init.sql", "20200101000000_first.sql", False),
        ("20211208235959_init.sql", ".gitkeep", False),
    ],
)
def test_only_a_first_init_of_the_older_cli_is_skipped(
    tmp_path: Path, name: str, before: str, skipped: bool
) -> None:
    place = source(tmp_path, **({name: "", before: ""} if before else {name: ""}))
    assert (name.partition("_")[0] not in keys_of(place)) is skipped


def test_two_files_of_one_version_are_obstacles(tmp_path: Path) -> None:
    place = source(tmp_path, **{"20220104000000_again.sql": ""})
    found = [one for one in supabase.read(place).files if isinstance(one, Obstacle)]
    assert [one.path for one in found] == ["20220104000000_again.sql", "20220104000000_four.sql"]
    assert found[0].reason == "another file has the version 20220104000000, too"


def test_only_the_cli_recognises_its_directory(tmp_path: Path) -> None:
    assert recognised(source(tmp_path)) == "supabase"


# The takeover


@pytest.fixture
def imported(tmp_path: Path, here: Here, migrations: Write) -> Path:
    """The CLI's directory, imported."""
    place = source(tmp_path)
    migrations({})
    assert here("import", "supabase", str(place)).code == 0
    return place


def supabase_has(database: Database, *keys: str) -> None:
    """Apply files as the CLI does, and record them."""
    database.execute(TABLE)
    named = dict(zip(KEYS, FILES.values(), strict=True))
    for key in keys:
        if key in named:
            database.execute(named[key])
        database.execute(
            "INSERT INTO supabase_migrations.schema_migrations VALUES (%s, ARRAY['x'], 'x')", [key]
        )


@pytest.mark.usefixtures("imported")
def test_a_complete_history_is_taken_over_beside_the_clis(here: Here, database: Database) -> None:
    supabase_has(database, *KEYS)
    before = rows_of(database, HISTORY)
    status = here("status", url=database.url)
    assert (status.code, "4 migrations that the Supabase CLI has applied" in status.out) == (
        0,
        True,
    )
    assert here(url=database.url).code == 0
    assert history(database) == VERSIONS
    assert here("validate", url=database.url).code == 0
    assert here(url=database.url).code == 0
    assert (history(database), rows_of(database, HISTORY)) == (VERSIONS, before)


@pytest.mark.usefixtures("imported")
def test_three_pending_files_run_after_the_takeover(here: Here, database: Database) -> None:
    supabase_has(database, KEYS[0])
    assert here(url=database.url).code == 0
    assert history(database) == VERSIONS
    assert tables(database) == ["four", "one", "three", "two"]


@pytest.mark.usefixtures("imported")
def test_a_file_that_the_cli_never_ran_is_out_of_order(here: Here, database: Database) -> None:
    supabase_has(database, KEYS[0], *KEYS[2:])
    before = rows_of(database, HISTORY)
    result = here(url=database.url)
    assert (result.code, "002-two" in result.err) == (3, True)
    assert recorded(database) is None
    assert here("--allow-out-of-order", url=database.url).code == 0
    assert history(database) == ["001-one", "003-three-tables", "004-four", "002-two"]
    assert rows_of(database, HISTORY) == before


@pytest.mark.usefixtures("imported")
def test_a_row_without_a_file_is_refused(here: Here, database: Database) -> None:
    supabase_has(database, *KEYS, "20230101000000")
    result = here(url=database.url)
    assert (result.code, "has applied 20230101000000 (" in result.err) == (3, True)
    assert recorded(database) is None


def test_the_same_import_twice_gives_the_same_bytes(
    here: Here, imported: Path, tmp_path: Path
) -> None:
    before = bytes_in(tmp_path / "migrations")
    assert here("import", "auto", str(imported)).code == 0
    assert bytes_in(tmp_path / "migrations") == before
