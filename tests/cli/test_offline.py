"""Commands on files alone, in real repositories: numbers, branches, pull requests."""

import json
from pathlib import Path

import pytest

from tests.conftest import Here
from tests.kit import ONE, TWO, commit, git


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
