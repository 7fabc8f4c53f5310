"""Git, asked in real repositories."""

import os
from pathlib import Path

import pytest

from lib.errors import RepositoryError
from lib.source import git as git_module
from lib.source.git import Repository, find_repository
from lib.source.numbering import BranchFile
from tests.kit import ONE, TWO, commit, git

# Each of them starts git, often.
pytestmark = pytest.mark.slow


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone of a repository with a file; the original is beside it."""
    commit(tmp_path / "origin", "main", ONE)
    git(tmp_path, "clone", "-q", "origin", "clone")
    return tmp_path / "clone"


def repository(place: Path) -> Repository:
    found = find_repository(place / "migrations")
    assert found
    return found


@pytest.mark.parametrize("state", ["no git", "no repository", "no commit"])
def test_without_a_repository_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    if state == "no git":
        commit(tmp_path, "main", ONE)
        monkeypatch.setenv("PATH", str(tmp_path))
    elif state == "no commit":
        git(tmp_path, "init", "-q")
    assert find_repository(tmp_path / "migrations") is None


def test_a_repository_that_git_refuses_is_no_missing_one(tmp_path: Path) -> None:
    commit(tmp_path, "main", ONE)
    (tmp_path / ".git" / "config").write_text("[core\n")
    with pytest.raises(RepositoryError, match="git: bad config line 1"):
        find_repository(tmp_path / "migrations")


def test_branches_that_are_not_merged_have_files_local_and_remote(clone: Path) -> None:
    commit(clone.parent / "origin", "remote", {"002-r.sql": "", "README.md": ""})
    commit(clone, "merged", {"003-m.sql": ""})
    commit(clone, "local", {"004-l.sql": ""})
    git(clone, "push", "-q", "origin", "local")
    git(clone, "switch", "-q", "merged")
    git(clone, "fetch", "-q")
    found = repository(clone).unmerged()
    assert {one for one in found if one.name not in ("001-one.sql", "003-m.sql")} == {
        BranchFile("local", "004-l.sql"),
        BranchFile("origin/remote", "002-r.sql"),
        BranchFile("origin/remote", "README.md"),
    }


def test_the_directory_may_be_below_the_root_and_need_not_exist(tmp_path: Path) -> None:
    commit(tmp_path, "main", {})
    commit(tmp_path, "topic", {})
    app = tmp_path / "apps" / "größe"
    (app / "migrations" / "old").mkdir(parents=True)
    (app / "migrations" / "001-one.sql").write_text("")
    (app / "migrations" / "old" / "009-nine.sql").write_text("")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-q", "-m", "Deep")
    git(tmp_path, "switch", "-q", "main")
    assert not app.exists()
    assert repository(app).unmerged() == [BranchFile("topic", "001-one.sql")]


def test_what_git_sets_for_a_hook_leads_to_no_other_repository(
    clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(clone, "topic", TWO)
    git(clone, "switch", "-q", "main")
    monkeypatch.setenv("GIT_DIR", str(clone.parent / "origin" / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(clone.parent / "origin"))
    monkeypatch.setenv("GIT_INDEX_FILE", "nowhere")
    assert BranchFile("topic", "002-two.sql") in repository(clone).unmerged()


def test_a_partial_clone_fetches_nothing(clone: Path) -> None:
    origin = clone.parent / "origin"
    commit(origin, "topic", TWO)
    git(origin, "switch", "-q", "main")
    git(origin, "config", "uploadpack.allowFilter", "true")
    git(clone.parent, "clone", "-q", "--filter=tree:0", f"file://{origin}", "partial")
    with pytest.raises(RepositoryError, match="git: "):
        repository(clone.parent / "partial").unmerged()


def test_a_git_that_does_not_answer_is_waited_for_only_so_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "git").write_text("#!/bin/sh\nexec sleep 60\n")
    (tmp_path / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(git_module, "SECONDS", 0.1)
    with pytest.raises(RepositoryError, match="git did not answer within"):
        find_repository(tmp_path)


# The base branch


@pytest.mark.parametrize(
    ("refs", "base"),
    [
        ("", None),
        ("heads/master", "heads/master"),
        ("heads/main heads/master", "heads/main"),
        ("heads/main remotes/origin/master", "remotes/origin/master"),
        ("remotes/origin/master remotes/origin/main", "remotes/origin/main"),
    ],
)
def test_the_base_branch_is_the_first_of_the_usual_ones(
    tmp_path: Path, refs: str, base: str | None
) -> None:
    commit(tmp_path, "feature/main", ONE)
    for ref in refs.split():
        git(tmp_path, "update-ref", f"refs/{ref}", "HEAD")
    assert repository(tmp_path).base_branch() == (base and f"refs/{base}")


def test_the_base_branch_is_what_the_remote_says_it_is(clone: Path) -> None:
    commit(clone, "topic", {})
    git(clone, "update-ref", "refs/remotes/origin/trunk", "HEAD")
    git(clone, "symbolic-ref", "refs/remotes/origin/HEAD", "refs/remotes/origin/trunk")
    assert repository(clone).base_branch() == "refs/remotes/origin/trunk"
    git(clone, "checkout", "-q", "--detach")
    assert repository(clone).base_branch() == "refs/remotes/origin/trunk"


def test_the_base_of_the_base_branch_is_its_upstream(clone: Path) -> None:
    git(clone, "update-ref", "refs/remotes/origin/next", "HEAD")
    assert repository(clone).base_branch() == "refs/remotes/origin/main"
    git(clone, "branch", "-q", "--set-upstream-to=origin/next")
    assert repository(clone).base_branch() == "refs/remotes/origin/next"
    git(clone, "update-ref", "-d", "refs/remotes/origin/next")
    assert repository(clone).base_branch() == "refs/remotes/origin/main"


def test_contents_are_those_of_the_commit_byte_for_byte(clone: Path) -> None:
    files = {"002-two.sql": b"\xef\xbb\xbf\r\n\0 blob 3\n", "003-empty.sql": b""}
    commit(clone, "main", files)
    head = git(clone, "rev-parse", "HEAD")
    commit(clone, "main", {"002-two.sql": "another"})
    assert repository(clone).contents(head) == {"001-one.sql": ONE["001-one.sql"].encode(), **files}


@pytest.mark.parametrize("ref", ["nowhere", "--all", "", "HEAD:migrations"])
def test_what_is_no_commit_has_no_id(clone: Path, ref: str) -> None:
    assert repository(clone).commit_of(ref) is None
    assert repository(clone).commit_of("main") == git(clone, "rev-parse", "HEAD")
