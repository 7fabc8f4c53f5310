"""Commands on files alone, in real repositories: numbers, branches, pull requests."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Completed, Database, Here
from tests.kit import ONE, TWO, Write, commit, contents, git

# Each of them starts git, often.
pytestmark = pytest.mark.slow

Check = Callable[..., Completed]


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
    assert "❌ migrations/002-b.sql: main has it, so databases may have applied it" in result.err
    assert "  git mv migrations/002-b.sql migrations/003-b.sql\n(exit 3, " in result.err
    assert names(tmp_path) == ["001-one.sql", "002-b.sql", "002-two.sql"]


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


def test_of_two_files_of_one_number_on_the_base_the_unapplied_one_moves(
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


# Check


@pytest.fixture
def branch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone on the branch topic, which is where commands run; origin/main has two files."""
    commit(tmp_path / "origin", "main", TWO)
    git(tmp_path, "clone", "-q", "origin", "clone")
    git(tmp_path / "clone", "switch", "-q", "-c", "topic")
    monkeypatch.setenv("GIT_DIR", "as in a hook")
    return tmp_path / "clone"


@pytest.fixture
def check(here: Here, branch: Path, monkeypatch: pytest.MonkeyPatch) -> Check:
    """`check` in that clone."""
    monkeypatch.chdir(branch)

    def run(*arguments: str, **environ: str) -> Completed:
        directory = {"MIGRATION_DIR": str(branch / "migrations")}
        return here("check", *arguments, env=directory | environ)

    return run


def repairs(result: Completed) -> list[str]:
    """The commands that a check prints, ready to paste."""
    return re.findall("(?m)^  ((?:git|rm|scripts/migrate.py) .*)$", result.err)


def test_check_accepts_new_files_above_the_base(branch: Path, check: Check) -> None:
    commit(branch, "topic", {"003-c.sql": "SELECT 3;"})
    result = check()
    assert (result.code, result.err) == (0, "")
    words = "✅ 1 new file, above all files of origin/main; none of these was changed\n"
    assert result.out == words
    document = json.loads(check("--base", "main", "--json").out)
    assert (document["success"], document["base"], document["newFiles"]) == (
        True,
        "main",
        ["003-c.sql"],
    )


def test_check_names_all_problems_with_commands_that_repair_them(
    branch: Path, check: Check, here: Here
) -> None:
    commit(branch.parent / "origin", "main", {"003-main.sql": "SELECT 3;"})
    git(branch, "fetch", "-q")
    git(branch, "mv", "migrations/002-two.sql", "migrations/005-two.sql")
    commit(branch, "topic", {"001-one.sql": "changed", "003-b.sql": "SELECT 'b';"})
    result = check()
    assert result.code == 3
    errors = [line for line in result.err.splitlines() if line.startswith("❌")]
    has_it = "but origin/main has it, so databases may have applied it"
    assert errors == [
        f"❌ migrations/002-two.sql: renamed to 005-two.sql, {has_it}",
        f"❌ migrations/001-one.sql: changed, {has_it}",
        "❌ migrations/003-b.sql: number 3 is taken by 003-main.sql",
    ]
    assert result.err.endswith("(exit 3, docs/writing-migrations.md#numbers-and-branches)\n")
    assert [one["file"] for one in json.loads(check("--json").out)["problems"]] == [
        "migrations/002-two.sql",
        "migrations/001-one.sql",
        "migrations/003-b.sql",
    ]
    for command in repairs(result):
        words = command.split()
        if words[0] == "git":
            git(branch, *words[1:])
        elif words[0] == "rm":
            Path(words[1]).unlink()
        else:
            assert here(*words[1:], env={"MIGRATION_DIR": str(branch / "migrations")}).code == 0
    assert check().code == 0
    assert names(branch) == ["001-one.sql", "002-two.sql", "004-b.sql"]


def test_check_annotates_each_file_on_github(branch: Path, check: Check) -> None:
    commit(branch, "topic", {"001-one.sql": "changed", "002-b.sql": "SELECT 2;"})
    github = {"GITHUB_ACTIONS": "true", "GITHUB_WORKSPACE": str(branch), "GITHUB_BASE_REF": "main"}
    result = check(**github)
    assert result.code == 3
    annotations = [line for line in result.err.splitlines() if line.startswith("::error")]
    assert [line.partition("::migrations/")[0] for line in annotations] == [
        "::error file=migrations/001-one.sql",
        "::error file=migrations/002-b.sql",
    ]


def test_check_of_a_branch_that_is_not_here_says_how_to_fetch_it(
    branch: Path, check: Check
) -> None:
    commit(branch.parent / "origin", "next", {})
    result = check(GITHUB_BASE_REF="next")
    assert result.code == 2
    assert result.err.startswith("❌ origin/next is no branch or commit here\n")
    (command,) = repairs(result)
    assert command == "git fetch origin next:refs/remotes/origin/next"
    git(branch, *command.split()[1:])
    assert check(GITHUB_BASE_REF="next").code == 0


@pytest.mark.parametrize("ref", ["origin/main", "origin/topic"])
def test_check_in_a_shallow_clone_says_how_to_complete_it(
    branch: Path, check: Check, monkeypatch: pytest.MonkeyPatch, ref: str
) -> None:
    commit(branch, "topic", {"003-c.sql": "SELECT 3;"})
    git(branch, "push", "-q", "origin", "topic")
    commit(branch.parent / "origin", "main", {"README": ""})
    origin = f"file://{branch.parent / 'origin'}"
    git(branch.parent, "clone", "-q", "--depth=1", "--branch=topic", origin, "shallow")
    shallow = branch.parent / "shallow"
    monkeypatch.chdir(shallow)
    where = {"MIGRATION_DIR": str(shallow / "migrations")}
    if ref == "origin/main":
        git(shallow, "fetch", "-q", "--depth=1", "origin", "main:refs/remotes/origin/main")
    else:
        git(shallow, "update-ref", "-d", "refs/remotes/origin/topic")
    result = check("--base", ref, **where)
    assert result.code == 2
    (command,) = repairs(result)
    name = ref.removeprefix("origin/")
    assert command == f"git fetch --no-tags --unshallow origin {name}:refs/remotes/origin/{name}"
    git(shallow, *command.split()[1:])
    assert check("--base", ref, **where).code == 0


def test_check_without_a_base_branch_or_a_repository_is_2(
    here: Here, migrations: Write, tmp_path: Path
) -> None:
    migrations(TWO)
    result = here("check")
    assert (result.code, "migrations is in no Git repository" in result.err) == (2, True)
    commit(tmp_path, "topic", TWO)
    result = here("check")
    assert (result.code, "check --base REF" in result.err) == (2, True)
    assert here("check", "--base", "topic").code == 0
    for ref in ("nowhere", "--all", ""):
        result = here("check", f"--base={ref}")
        assert (result.code, "Traceback" in result.err) == (2, False)
    assert repairs(here("check", "--base=nowhere")) == ["git branch --all"]
    assert names(tmp_path) == ["001-one.sql", "002-two.sql"]
