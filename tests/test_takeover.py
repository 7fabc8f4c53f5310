"""The takeover of another tool's history, each test ending with what the database has."""

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.conftest import ROOT, Database, Here
from tests.kit import Write, tables

OWN = "000-create-migration-table"
NAMED = {"MIGRATION_ENV": "development"}
FILES = {
    "20240101000000_create_one.sql": "CREATE TABLE one (id int);\n",
    "20240102000000_create_two.sql": "CREATE TABLE two (id int);\n",
    "20240103000000_create_three.sql": "CREATE TABLE three (id int);\n",
}
VERSIONS = ["001-create-one", "002-create-two", "003-create-three"]


@pytest.fixture
def source(tmp_path: Path, migrations: Write, here: Here) -> Iterator[Path]:
    """dbmate's directory, imported beside our own file."""
    directory = tmp_path / "db" / "migrations"
    directory.mkdir(parents=True)
    for name, sql in FILES.items():
        down = sql.replace("CREATE", "DROP").replace(" (id int)", "")
        (directory / name).write_text(f"-- migrate:up\n{sql}\n-- migrate:down\n{down}")
    migrations({f"{OWN}.sql": (ROOT / "migrations" / f"{OWN}.sql").read_bytes()})
    assert here("import", "dbmate", str(directory)).code == 0
    yield directory


def dbmate(database: Database, *names: str) -> None:
    """Apply these files as dbmate does."""
    with psycopg.connect(database.url, autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE IF NOT EXISTS public.schema_migrations (version varchar PRIMARY KEY)"
        )
        for name in sorted(FILES):
            if name.split("_", 1)[1].removesuffix(".sql") in names:
                connection.execute(FILES[name].encode())
                connection.execute(
                    "INSERT INTO public.schema_migrations VALUES (%s)", [name.partition("_")[0]]
                )


def rows_of_dbmate(database: Database) -> list[str]:
    return [row[0] for row in database.execute("SELECT version FROM public.schema_migrations")]


def versions(database: Database) -> list[str]:
    return [
        row[0]
        for row in database.execute("SELECT version FROM onward.schema_migrations ORDER BY id")
    ]


@pytest.mark.usefixtures("source")
def test_a_complete_history_is_recorded_and_nothing_is_run(here: Here, database: Database) -> None:
    dbmate(database, "create_one", "create_two", "create_three")
    result = here(url=database.url, env=NAMED)
    assert result.code == 0, result.err
    assert "3 migrations that dbmate has applied (public.schema_migrations)" in (result.out)
    assert versions(database) == [OWN, *VERSIONS]
    assert len(rows_of_dbmate(database)) == 3
    assert here(url=database.url, env=NAMED).code == 0
    assert versions(database) == [OWN, *VERSIONS]
    assert here("validate", url=database.url, env=NAMED).code == 0


@pytest.mark.slow
@pytest.mark.usefixtures("source")
def test_import_proves_that_history_and_schema_agree(
    here: Here, database: Database, source: Path
) -> None:
    dbmate(database, "create_one", "create_three")
    result = here("import", "dbmate", str(source), "--prove", url=database.url, env=NAMED)
    assert (result.code, result.err) == (0, "")
    assert "✅ History and schema agree: 5 objects" in result.out
    database.execute("ALTER TABLE three ADD COLUMN extra text DEFAULT 'x'")
    result = here("import", "dbmate", str(source), "--prove", url=database.url, env=NAMED)
    assert result.code == 3
    assert "column public.three.extra\n    the files make: not there\n" in result.out
    assert tables(database) == ["one", "three"]
    assert rows_of_dbmate(database) == ["20240101000000", "20240103000000"]


@pytest.mark.usefixtures("source")
def test_nothing_of_the_marks_and_of_what_undoes_a_file_is_imported(here: Here) -> None:
    imported = (here.directory / "migrations" / f"{VERSIONS[0]}.sql").read_text()
    assert imported == "\nCREATE TABLE one (id int);\n"
