"""What an import says of directories and files that cannot be read."""

from pathlib import Path

import pytest

from tests.conftest import Database, Here
from tests.kit import Write, recorded

FILE = "-- migrate:up\nCREATE TABLE one (id int);\n"


@pytest.fixture
def source(tmp_path: Path, migrations: Write) -> Path:
    migrations({})
    directory = tmp_path / "db"
    directory.mkdir()
    (directory / "1_one.sql").write_text(FILE)
    return directory


@pytest.mark.parametrize("tool", ["auto", "dbmate"])
def test_a_link_that_leads_nowhere_is_named(here: Here, source: Path, tool: str) -> None:
    (source / "2_two.sql").symlink_to("nowhere")
    result = here("import", tool, str(source))
    assert result.code == 2
    assert f"{source}/2_two.sql: cannot be read: no such file or directory" in result.err
    assert list((here.directory / "migrations").iterdir()) == []


def test_a_directory_in_a_migrations_place_is_named(here: Here, source: Path) -> None:
    assert here("import", "dbmate", str(source)).code == 0
    migration = here.directory / "migrations" / "001-one.sql"
    migration.unlink()
    migration.mkdir()
    result = here("import", "dbmate", str(source))
    assert result.code == 2
    assert "001-one.sql: cannot be read: is a directory" in result.err


@pytest.mark.parametrize("name", ["x" * 300, "loop"])
def test_a_path_that_the_system_refuses_is_named(here: Here, source: Path, name: str) -> None:
    (source / "loop").symlink_to("loop")
    result = here("import", "auto", str(source / name))
    assert (result.code, str(source / name) in result.err) == (2, True)


def test_a_run_on_such_a_path_is_refused_in_words(here: Here, database: Database) -> None:
    result = here(url=database.url, env={"MIGRATION_DIR": "x" * 300})
    assert (result.code, "cannot be read: file name too long" in result.err) == (2, True)
    assert recorded(database) is None
