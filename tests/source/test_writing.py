"""Migration files that are written."""

from pathlib import Path

import pytest

from lib.errors import FilesError
from lib.source.migration import DRAFT, load, require_runnable
from lib.source.writing import create, place, renumber
from tests.kit import checkpoint_of, fill

# New files


@pytest.mark.parametrize(
    ("number", "description", "file"),
    [
        (0, "Add orders", "000-add-orders.sql"),
        (1, "add  Orders!", "001-add-orders.sql"),
        (1000, "2FA: users' phones", "1000-2fa-users-phones.sql"),
    ],
)
def test_a_new_file_has_its_number_and_description_as_name(
    tmp_path: Path, number: int, description: str, file: str
) -> None:
    assert create(tmp_path, description, "2025-10-25", number) == tmp_path / file


def test_a_new_file_is_a_draft_that_can_be_loaded_and_not_run(tmp_path: Path) -> None:
    directory = tmp_path / "new" / "migrations"
    path = create(directory, " Add\n orders ", "2025-10-25", 0)
    assert path.read_bytes() == (
        b"-- migrate: draft\n-- Version: 000\n-- Date: 2025-10-25\n-- Description: Add orders\n\n"
    )
    (migration,) = load(directory)
    assert migration.directives == {DRAFT}
    with pytest.raises(FilesError, match="still a draft"):
        require_runnable([migration])


@pytest.mark.parametrize("description", ["", " ", "---", "größe", "add \u212a", "a\0b", "a\x1b[1m"])
def test_a_description_that_cannot_be_a_file_name_is_refused(
    tmp_path: Path, description: str
) -> None:
    with pytest.raises(FilesError, match="a description consists of ASCII letters and digits"):
        create(tmp_path, description, "2025-10-25", 0)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_created_is_an_error_for_the_user(tmp_path: Path) -> None:
    with pytest.raises(FilesError, match="cannot create a migration: file name too long"):
        create(tmp_path, "x" * 300, "2025-10-25", 0)
    with pytest.raises(FilesError, match="cannot create a migration"):
        create(fill(tmp_path, {"file": ""}) / "file", "x", "2025-10-25", 0)


def test_a_file_is_placed_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "001-a.sql"
    place(path, b"SELECT 1;")
    with pytest.raises(FilesError, match=r"001-a\.sql exists already"):
        place(path, b"SELECT 2;")
    with pytest.raises(FilesError, match="cannot be written: file name too long"):
        place(tmp_path / f"{'x' * 250}.sql", b"SELECT 2;")
    assert [one.read_bytes() for one in tmp_path.iterdir()] == [b"SELECT 1;"]


# Files with another number


def test_a_checkpoint_with_another_number_stands_for_the_same(tmp_path: Path) -> None:
    files = {"001-a.sql": "SELECT 1;\n"}
    content = checkpoint_of(files, "-- Version: 002\nSELECT 1;\n")
    renumber(fill(tmp_path, {"002-all.sql": content}) / "002-all.sql", 7)
    (found,) = load(tmp_path)
    assert (found.number, [one.version for one in found.stands_for]) == (7, ["001-a"])
    assert found.text() == content.replace("002", "007")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"-- migrate: draft\n-- Version: 004\n", b"-- migrate: draft\n-- Version: 007\n"),
        (b"-- Version: 004\r\n-- Version: 004\r\n", b"-- Version: 007\r\n-- Version: 004\r\n"),
        (b"\xef\xbb\xbf-- Version: 4", b"\xef\xbb\xbf-- Version: 4"),
        (b"-- Version: 005\n", b"-- Version: 005\n"),
        (b"SELECT '-- Version: 004';", b"SELECT '-- Version: 004';"),
        (b"", b""),
    ],
)
def test_a_new_number_is_in_the_name_and_in_the_header(
    tmp_path: Path, content: bytes, expected: bytes
) -> None:
    path = fill(tmp_path, {"004-add-b.sql": content}) / "004-add-b.sql"
    path.chmod(0o640)
    new = renumber(path, 7)
    assert (new.name, new.read_bytes(), new.stat().st_mode & 0o777) == (
        "007-add-b.sql",
        expected,
        0o640,
    )
    assert list(tmp_path.iterdir()) == [new]


def test_renumber_overwrites_nothing_and_leaves_nothing_where_it_fails(tmp_path: Path) -> None:
    path = fill(tmp_path, {"004-b.sql": "-- Version: 004\n", "007-b.sql": "mine"}) / "004-b.sql"
    with pytest.raises(FilesError, match=r"007-b\.sql exists already"):
        renumber(path, 7)

    def refused(*_: Path) -> None:
        raise PermissionError(13, "Permission denied")

    with pytest.raises(FilesError, match="cannot be renamed: permission denied"):
        renumber(path, 8, refused)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["004-b.sql", "007-b.sql"]
    assert path.read_text() == "-- Version: 004\n"
