"""Commands on files alone, in real repositories: numbers, branches, pull requests."""

import json
from pathlib import Path

import pytest

from tests.conftest import Database, Here
from tests.kit import ONE, TWO, Write, commit, contents, git


def names(directory: Path) -> list[str]:
    """The files of the migrations."""
    return sorted(path.name for path in (directory / "migrations").iterdir())


# Create


def test_create_takes_a_number_above_those_of_branches(here: Here, tmp_path: Path) -> None:
    commit(tmp_path, "main", ONE)
    commit(tmp_path, "topic", {"005-t.sql": "SELECT 5;"})
    git(tmp_path, "switch", "-q", "main")
    result = here("create", "next")
    assert (result.code, result.err) == (0, "")
    assert result.out.splitlines()[1:] == ["   The branch topic has 005-t.sql"]
    assert names(tmp_path) == ["001-one.sql", "006-next.sql"]
    document = json.loads(here("create", "later", "--json").out)
    assert (document["file"], document["takenBy"]) == ("migrations/007-later.sql", None)


def test_create_names_a_branch_far_above_and_does_not_follow_it(here: Here, tmp_path: Path) -> None:
    commit(tmp_path, "main", ONE)
    commit(tmp_path, "stamped", {"20260101120001-s.sql": "SELECT 5;"})
    git(tmp_path, "switch", "-q", "main")
    document = json.loads(here("create", "next", "--json").out)
    assert document["notFollowed"] == [{"branch": "stamped", "file": "20260101120001-s.sql"}]
    assert "⚠️  The branch stamped has 20260101120001-s.sql: more than 50" in here("create", "x").out
    assert names(tmp_path) == ["001-one.sql", "002-next.sql", "003-x.sql"]


@pytest.mark.parametrize("state", ["no git", "no commit", "broken"])
def test_create_without_an_answer_of_git_counts_the_files_here(
    here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    commit(tmp_path, "main", TWO)
    if state == "no git":
        monkeypatch.setenv("PATH", "")
    elif state == "no commit":
        git(tmp_path, "switch", "-q", "--orphan", "empty")
        commit_files = tmp_path / "migrations"
        commit_files.mkdir()
        (commit_files / "002-two.sql").write_text("")
    else:
        (tmp_path / ".git" / "config").write_text("[core\n")
    result = here("create", "next")
    assert result.code == 0
    assert ("⚠️  The number counts no other branch: git: " in result.out) == (state == "broken")
    assert names(tmp_path)[-1] == "003-next.sql"


# Renumber

B = {"002-b.sql": "-- migrate: draft\n-- Version: 002\nCREATE TABLE b ();\n"}


def test_renumber_moves_a_file_of_git_and_its_header(here: Here, tmp_path: Path) -> None:
    commit(tmp_path, "main", TWO)
    commit(tmp_path, "topic", {**B, "005-c.sql": "SELECT 5;"})
    result = here("renumber", "migrations/002-b.sql")
    assert (result.code, result.err) == (0, "")
    assert result.out == (
        "✅ Renumbered: migrations/002-b.sql is now migrations/006-b.sql\n"
        "   No database URL is set, so no database was asked whether the file is applied\n"
    )
    assert git(tmp_path, "diff", "--cached", "--name-status", "HEAD").split() == [
        "R100",
        "migrations/002-b.sql",
        "migrations/006-b.sql",
    ]
    assert names(tmp_path) == ["001-one.sql", "002-two.sql", "005-c.sql", "006-b.sql"]
    text = (tmp_path / "migrations" / "006-b.sql").read_text()
    assert text == B["002-b.sql"].replace("002", "006")


def test_renumber_runs_no_hook_of_the_repository(here: Here, tmp_path: Path) -> None:
    commit(tmp_path, "main", TWO)
    commit(tmp_path, "topic", B)
    hook = tmp_path / ".git" / "hooks" / "post-index-change"
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/hooked\n")
    hook.chmod(0o755)
    assert here("renumber", "002-b").code == 0
    assert not (tmp_path / "hooked").exists()
    git(tmp_path, "mv", "migrations/001-one.sql", "migrations/000-one.sql")
    assert (tmp_path / "hooked").exists()


def test_renumber_renames_a_file_that_git_does_not_know(here: Here, tmp_path: Path) -> None:
    commit(tmp_path, "main", TWO)
    commit(tmp_path, "other", {"004-o.sql": "SELECT 4;"})
    git(tmp_path, "switch", "-q", "main")
    (tmp_path / "migrations" / "002-b.sql").write_text(B["002-b.sql"])
    document = json.loads(here("renumber", "002-b", "--json").out)
    assert document == {
        "success": True,
        "previousVersion": "002-b",
        "version": "005-b",
        "file": "migrations/005-b.sql",
        "changed": True,
        "databaseAsked": False,
        "takenBy": {"branch": "other", "file": "004-o.sql"},
        "notFollowed": [],
    }
    assert git(tmp_path, "status", "--porcelain") == "?? migrations/005-b.sql"
    document = json.loads(here("renumber", "005-b", "--json").out)
    assert (document["version"], document["changed"]) == ("005-b", False)
    assert names(tmp_path) == ["001-one.sql", "002-two.sql", "005-b.sql"]


def test_renumber_keeps_a_file_that_the_base_branch_has(here: Here, tmp_path: Path) -> None:
    commit(tmp_path, "main", {**TWO, **B})
    commit(tmp_path, "topic", {})
    result = here("renumber", "002-b")
    assert result.code == 3
    assert "❌ migrations/002-b.sql is on main, so databases may have applied it" in result.err
    assert "  git mv migrations/002-b.sql migrations/003-b.sql\n(exit 3, " in result.err
    assert names(tmp_path) == ["001-one.sql", "002-b.sql", "002-two.sql"]


@pytest.mark.slow
def test_renumber_asks_a_database_in_reach_first(
    here: Here, migrations: Write, database: Database, tmp_path: Path
) -> None:
    migrations({**TWO, "009-late.sql": "SELECT 9;"})
    assert here(url=database.url).code == 0
    before = contents(database)
    commit(tmp_path, "main", B)
    (tmp_path / "migrations" / "009-late.sql").unlink()
    result = here("renumber", "002-two", url=database.url)
    assert result.code == 3
    assert "❌ migrations/002-two.sql is applied in this database" in result.err
    document = json.loads(here("renumber", "002-b", "--json", url=database.url).out)
    assert (document["version"], document["databaseAsked"]) == ("010-b", True)
    assert names(tmp_path) == ["001-one.sql", "002-two.sql", "010-b.sql"]
    assert contents(database) == before


@pytest.mark.slow
def test_of_two_files_with_one_number_on_the_base_the_one_not_applied_moves(
    here: Here, migrations: Write, database: Database, tmp_path: Path
) -> None:
    migrations(TWO)
    assert here(url=database.url).code == 0
    before = contents(database)
    commit(tmp_path, "main", {**TWO, **B})
    commit(tmp_path, "topic", {})
    assert here("renumber", "002-b").code == 3
    assert here("renumber", "002-two", url=database.url).code == 3
    assert here("renumber", "002-b", url=database.url).code == 0
    assert names(tmp_path) == ["001-one.sql", "002-two.sql", "003-b.sql"]
    assert contents(database) == before


def test_renumber_of_a_file_that_is_not_there_suggests_others(
    here: Here, migrations: Write, tmp_path: Path
) -> None:
    migrations({**TWO, **B})
    result = here("renumber", "002")
    assert result.code == 2
    assert (
        "❌ migrations/002: there is no such file\nNext: Nothing was changed. Did you" in result.err
    )
    assert (
        "  scripts/migrate.py renumber 002-b\n  scripts/migrate.py renumber 002-two" in result.err
    )
    assert "renumber 001-one\n" in here("renumber", "001-on").err
    assert names(tmp_path) == ["001-one.sql", "002-b.sql", "002-two.sql"]


def test_renumber_changes_nothing_if_the_database_does_not_answer(
    here: Here, migrations: Write, tmp_path: Path
) -> None:
    migrations(TWO)
    assert here("renumber", "001-one", url="postgresql://me@127.0.0.1:1/x").code == 5
    assert names(tmp_path) == ["001-one.sql", "002-two.sql"]
