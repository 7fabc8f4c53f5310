"""sqlx's directories, simple and reversible: marks, checksums, and what `sqlx.toml` says."""

from hashlib import sha384
from pathlib import Path

import pytest

from lib.errors import FilesError
from lib.importers.layout import Obstacle, SourceFile
from lib.importers.sqlx import read, recognises
from tests.kit import fill

SQL = "CREATE TABLE one ();\n"


def file(directory: Path, content: str | bytes, name: str = "1_one.sql") -> SourceFile:
    (one,) = read(fill(directory, {name: content})).files
    assert isinstance(one, SourceFile)
    return one


def digest(text: str) -> str:
    return sha384(text.encode()).hexdigest()


@pytest.mark.parametrize("name", ["0001_one_more.sql", "0001_one_more.up.sql"])
def test_both_layouts_are_read_and_down_is_left_out(tmp_path: Path, name: str) -> None:
    fill(tmp_path, {"0001_one_more.down.sql": "DROP TABLE one;\n"})
    one = file(tmp_path, SQL, name)
    assert (one.path, one.key, one.number, one.description) == (name, "1", 1, "one_more")
    assert one.sql == SQL
    assert not one.no_transaction


def test_files_come_by_number_and_other_names_are_skipped(tmp_path: Path) -> None:
    names = ("10_b.sql", "9_a.up.sql", "7.sql", "readme.md")
    assert [one.key for one in read(fill(tmp_path, dict.fromkeys(names, SQL))).files] == ["9", "10"]


def test_a_name_without_number_is_an_obstacle_as_sqlx_refuses_it(tmp_path: Path) -> None:
    (seed,) = read(fill(tmp_path, {"seed_data.sql": SQL})).files
    reason = "its name does not begin with a number"
    assert seed == Obstacle("seed_data.sql", "seed_data.sql", reason)


def test_its_mark_for_no_transaction_goes_from_the_first_line(tmp_path: Path) -> None:
    one = file(tmp_path, f"-- no-transaction: it is large\n{SQL}")
    assert one.no_transaction
    assert one.sql == f"\n{SQL}"
    assert not file(tmp_path, f"\n-- no-transaction\n{SQL}").no_transaction


def test_checksums_are_sha384_with_either_line_end(tmp_path: Path) -> None:
    windows = SQL.replace("\n", "\r\n")
    assert file(tmp_path, windows).checksums == (digest(windows), digest(SQL))
    marked = file(tmp_path, f"\ufeff{SQL}")
    assert marked.checksums[0] == digest(f"\ufeff{SQL}")
    assert marked.sql == SQL


def test_the_settings_name_the_table_and_what_no_checksum_counts(tmp_path: Path) -> None:
    directory = tmp_path / "migrations"
    directory.mkdir()
    settings = '[migrate]\ntable-name = "app._migrations"\nignored-chars = ["\\r", "\\n", " "]\n'
    (tmp_path / "sqlx.toml").write_text(settings)
    assert file(directory, SQL).checksums == (digest("CREATETABLEone();"),)
    assert read(directory).table == "app._migrations"


@pytest.mark.parametrize("settings", ["[migrate\n", "migrate = 1\n", "migrate.ignored-chars = 1\n"])
def test_settings_that_cannot_be_read_are_named(tmp_path: Path, settings: str) -> None:
    directory = tmp_path / "migrations"
    directory.mkdir()
    (tmp_path / "sqlx.toml").write_text(settings)
    with pytest.raises(FilesError, match=r"sqlx\.toml: cannot be read: "):
        read(directory)


def test_it_is_recognised_by_the_rust_project_around_it(tmp_path: Path) -> None:
    directory = tmp_path / "migrations"
    directory.mkdir()
    assert not recognises(fill(directory, {"1_one.sql": SQL}))
    (tmp_path / "Cargo.toml").write_text('[dependencies]\nsqlx = "0.8"\n')
    assert recognises(directory)
