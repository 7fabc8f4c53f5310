"""Drizzle's directories, with a journal and without."""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from lib.errors import FilesError
from lib.importers.drizzle import read, recognises
from lib.importers.layout import Obstacle, SourceFile
from tests.kit import fill

SQL = 'CREATE TABLE "one" ();\n--> statement-breakpoint\nCREATE TABLE "two" ();\n'


def journal(directory: Path, *entries: tuple[str, int], **more: Any) -> Path:
    (directory / "meta").mkdir()
    listed = [{"idx": 0, "when": when, "tag": tag} for tag, when in entries]
    document = {"version": "7", "entries": listed} | more
    (directory / "meta" / "_journal.json").write_text(json.dumps(document))
    return directory


def test_the_journal_says_which_files_there_are_in_which_order(tmp_path: Path) -> None:
    journal(tmp_path, ("0001_b", 20), ("0000_a", 10))
    fill(tmp_path, dict.fromkeys(("0000_a.sql", "0001_b.sql", "0001_dead.sql"), SQL))
    second, first = read(tmp_path).files
    assert first == SourceFile(
        "0000_a.sql", "10", "a", SQL, 0, checksums=read_digests(tmp_path / "0000_a.sql")
    )
    assert (second.path, second.key) == ("0001_b.sql", "20")


def read_digests(path: Path) -> tuple[str, ...]:
    content = path.read_bytes()
    forms = (content, content.replace(b"\n", b"\r\n"))
    return tuple(sha256(form).hexdigest() for form in forms)


def test_a_file_that_is_gone_is_an_obstacle(tmp_path: Path) -> None:
    journal(tmp_path, ("0000_a", 10))
    reason = "the journal names it, and it is not there"
    assert read(tmp_path).files == (Obstacle("0000_a.sql", "10", reason),)


def test_two_files_of_one_time_are_obstacles(tmp_path: Path) -> None:
    journal(tmp_path, ("0000_a", 10), ("0001_b", 10))
    fill(tmp_path, dict.fromkeys(("0000_a.sql", "0001_b.sql"), SQL))
    reason = "the journal gives the time 10 to another file, too"
    assert [one.reason for one in read(tmp_path).files if isinstance(one, Obstacle)] == [reason] * 2


def test_a_journal_for_another_database_is_refused(tmp_path: Path) -> None:
    journal(tmp_path, ("0000_a", 10), dialect="mysql")
    with pytest.raises(FilesError, match="for mysql, not PostgreSQL"):
        read(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", '{"entries": [{"tag": "0000_a"}]}', '{"entries": 1}'])
def test_a_journal_of_another_shape_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "_journal.json").write_text(text)
    with pytest.raises(FilesError, match="is not what drizzle-kit writes"):
        read(tmp_path)


def test_since_1_0_a_directory_is_a_migration(tmp_path: Path) -> None:
    for name in ("20250102093000_b", "20250102_a"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "migration.sql").write_text(SQL)
        assert not recognises(tmp_path)
    (tmp_path / name / "snapshot.json").write_text("{}")
    assert recognises(tmp_path)
    assert [(one.path, one.key) for one in read(tmp_path).files] == [
        ("20250102_a/migration.sql", "20250102_a"),
        ("20250102093000_b/migration.sql", "20250102093000_b"),
    ]
