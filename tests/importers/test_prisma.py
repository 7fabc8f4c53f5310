"""Prisma's directories and what its table says of a migration that was tried again."""

from pathlib import Path

import pytest

from lib.errors import FilesError
from lib.importers.importing import recognised
from lib.importers.layout import Obstacle, SourceFile
from lib.importers.prisma import read, recognises
from tests.conftest import ROOT, Database, Here
from tests.importers.node_histories import NAMES, PRISMA, VERSIONS
from tests.kit import Write, contents, history, tables

OWN = "000-create-migration-table"


def folder(directory: Path, name: str, content: str = "SELECT 1;\n") -> None:
    (directory / name).mkdir()
    (directory / name / "migration.sql").write_text(content)


def found(directory: Path) -> list[SourceFile]:
    return [one for one in read(directory).files if isinstance(one, SourceFile)]


def test_folders_come_in_the_order_of_text_as_node_has_it(tmp_path: Path) -> None:
    for name in ("20250625093000_b", "20250625_a", "0_init", "20250624000000_c"):
        folder(tmp_path, name)
    assert [one.key for one in found(tmp_path)] == [
        "0_init",
        "20250624000000_c",
        "20250625_a",
        "20250625093000_b",
    ]


def test_a_folder_called_like_a_file_is_one_of_them(tmp_path: Path) -> None:
    folder(tmp_path, "20250101000000_add_views.sql")
    (one,) = found(tmp_path)
    assert one.path == "20250101000000_add_views.sql/migration.sql"
    assert (one.description, one.number) == ("add_views", 20250101000000)
    assert recognised(tmp_path) == "prisma"


def test_a_file_of_one_statement_gets_the_directive_in_front(
    tmp_path: Path, migrations: Write, here: Here
) -> None:
    (tmp_path / "source").mkdir()
    index = "CREATE INDEX CONCURRENTLY by_id ON one (id);"
    folder(tmp_path / "source", "1_index", index)
    directory = migrations({})
    result = here("import", "auto", str(tmp_path / "source"))
    assert result.code == 0, result.err
    assert (directory / "001-index.sql").read_text() == f"-- migrate: no-transaction\n{index}"


def test_a_folder_without_its_file_is_an_obstacle_with_its_path(tmp_path: Path) -> None:
    folder(tmp_path, "1_a")
    (tmp_path / "2_b").mkdir()
    assert read(tmp_path).files[1] == Obstacle(
        "2_b/migration.sql", "2_b", "it is not there, which Prisma refuses, too (P3015)"
    )


def test_files_for_another_database_are_refused(tmp_path: Path) -> None:
    (tmp_path / "migration_lock.toml").write_text('# no edits\nprovider = "mysql"\n')
    assert recognises(tmp_path)
    with pytest.raises(FilesError, match="for mysql, not PostgreSQL"):
        read(tmp_path)


def test_a_directory_of_drizzle_is_not_taken_for_one_of_prisma(tmp_path: Path) -> None:
    folder(tmp_path, "1_a")
    assert recognises(tmp_path)
    (tmp_path / "1_a" / "snapshot.json").write_text("{}")
    assert not recognises(tmp_path)


@pytest.fixture
def imported(tmp_path: Path, migrations: Write, here: Here) -> None:
    source = PRISMA.write(tmp_path / "source")
    migrations({f"{OWN}.sql": (ROOT / "migrations" / f"{OWN}.sql").read_bytes()})
    assert here("import", "prisma", str(source)).code == 0


def fail(database: Database, name: str) -> None:
    """A row as Prisma leaves it where a statement failed."""
    database.execute(
        "INSERT INTO _prisma_migrations (id, checksum, migration_name, logs)"
        " VALUES (gen_random_uuid(), '0', %s, 'syntax error')",
        [name],
    )


@pytest.mark.usefixtures("imported")
def test_one_that_failed_is_refused_with_what_prisma_offers(here: Here, database: Database) -> None:
    PRISMA.apply(database, NAMES[:2])
    fail(database, NAMES[2])
    before = contents(database)
    result = here(url=database.url)
    assert result.code == 3
    assert f"Prisma Migrate has not finished {NAMES[2]} (public._prisma_migrations)" in result.err
    assert f"npx prisma migrate resolve --rolled-back {NAMES[2]}" in result.err
    assert contents(database) == before


@pytest.mark.usefixtures("imported")
def test_one_that_was_rolled_back_is_pending(here: Here, database: Database) -> None:
    PRISMA.apply(database, NAMES[:3])
    fail(database, NAMES[3])
    database.execute("UPDATE _prisma_migrations SET rolled_back_at = now() WHERE checksum = '0'")
    assert "3 migrations that Prisma Migrate has applied" in here("status", url=database.url).out
    assert here(url=database.url).code == 0
    assert history(database) == [OWN, *VERSIONS]
    assert "four" in tables(database)


@pytest.mark.usefixtures("imported")
def test_one_that_was_rolled_back_and_tried_again_is_applied(
    here: Here, database: Database
) -> None:
    PRISMA.apply(database, NAMES)
    fail(database, NAMES[3])
    database.execute("UPDATE _prisma_migrations SET rolled_back_at = now() WHERE checksum = '0'")
    result = here(url=database.url)
    assert result.code == 0, result.err
    assert "4 migrations that Prisma Migrate has applied" in result.out
    assert "edited" not in result.out
    assert history(database) == [OWN, *VERSIONS]


@pytest.mark.usefixtures("imported")
def test_a_checksum_without_its_leading_zeros_is_the_same(here: Here, database: Database) -> None:
    """Old versions of Prisma wrote them so."""
    PRISMA.apply(database, NAMES)
    shortened = database.execute(
        "UPDATE _prisma_migrations SET checksum = ltrim(checksum, '0')"
        " WHERE checksum LIKE '0%' RETURNING migration_name"
    )
    assert shortened == [(NAMES[3],)]
    assert "edited" not in here(url=database.url).out
    assert history(database) == [OWN, *VERSIONS]


def test_what_was_left_out_once_stays_out_and_is_named_by_its_line(
    here: Here, migrations: Write, tmp_path: Path
) -> None:
    migrations({})
    source = tmp_path / "prisma"
    source.mkdir()
    folder(source, "1_one")
    folder(source, "2_two", "\\copy a from x\n")
    refused = here("import", "prisma", str(source))
    assert refused.code == 2
    assert f"{source}/2_two/migration.sql: line 1: \\copy is a psql command" in refused.err
    assert here("import", "prisma", str(source), "--skip", "2_two/migration.sql").code == 0
    again = here("import", "prisma", str(source))
    assert (again.code, "2_two/migration.sql: left out" in again.out) == (0, True)
