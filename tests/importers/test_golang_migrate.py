"""golang-migrate's directories: which files become migrations, and in which order."""

from pathlib import Path

import pytest

from lib.errors import FilesError
from lib.importers.golang_migrate import read
from lib.importers.importing import recognised
from lib.importers.layout import Obstacle, SourceFile
from tests.kit import fill

PAIR = {"000001_one.up.sql": "CREATE TABLE one ();\n", "000001_one.down.sql": "DROP TABLE one;\n"}


def test_the_file_up_is_taken_as_it_is_and_down_is_not(tmp_path: Path) -> None:
    (one,) = read(fill(tmp_path, PAIR)).files
    sql = "CREATE TABLE one ();\n"
    assert one == SourceFile("000001_one.up.sql", "1", "one", sql, number=1)


def test_files_come_by_number_and_other_names_are_skipped(tmp_path: Path) -> None:
    names = ("10_b.up.sql", "9_a.up.sql", "0_zero.up.sql", "11_no.sql", "x_no.up.sql")
    found = read(fill(tmp_path, dict.fromkeys(names, "SELECT 1;\n"))).files
    assert [one.key for one in found] == ["0", "9", "10"]


def test_a_number_with_down_alone_and_a_file_of_code_are_obstacles(tmp_path: Path) -> None:
    files = {"1_one.down.sql": "DROP TABLE one;\n", "2_two.up.go": "package migrations\n"}
    one, two = read(fill(tmp_path, files)).files
    assert isinstance(one, Obstacle)
    assert (one.path, one.key) == ("1_one.down.sql", "1")
    assert two == Obstacle("2_two.up.go", "2", "it is not SQL")


def test_its_names_are_recognised_unless_a_rust_project_is_around(tmp_path: Path) -> None:
    directory = tmp_path / "crates" / "db" / "migrations"
    directory.mkdir(parents=True)
    assert recognised(fill(directory, PAIR)) == "golang-migrate"
    (tmp_path / "Cargo.toml").write_text('[workspace.dependencies]\nsqlx = "0.8"\n')
    assert recognised(directory) == "sqlx"


def test_undo_files_alone_are_of_no_tool(tmp_path: Path) -> None:
    with pytest.raises(FilesError, match="has the layout of no tool known here"):
        recognised(fill(tmp_path, {"1_one.down.sql": "SELECT 1;\n"}))
