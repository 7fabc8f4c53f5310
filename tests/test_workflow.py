"""The workflow that teams get, run as GitHub runs it: the commands of its steps by bash, with
GitHub's variables, in a clone whose HEAD is what a merge would make of the pull request.

Nothing is fetched: scripts/setup finds the packages of this Python in the clone.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml  # type: ignore[import-untyped]

from scripts.adopt import main as adopt
from scripts.embedded import Embedded
from tests.conftest import ROOT
from tests.kit import commit, git, rows, wait_until_gone

WORKFLOW = ROOT / ".github" / "workflows" / "migrations.yml"
# What `if` may ask, and the variable that answers it here.
CONDITIONS = {"github.event_name == 'push'": ("GITHUB_EVENT_NAME", "push")}
LINT = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows"]

CHECK, VALIDATE = "Compare with the base branch", "Check the files"
APPLY = "Apply all files to an empty Postgres"
ORDERS = {"001-add-orders.sql": "CREATE TABLE orders (id int);\n"}
ITEMS = {"002-add-items.sql": "CREATE TABLE items (id int);\n"}
HISTORY = ["000-create-migration-table", "001-add-orders", "002-add-items"]
Files = Mapping[str, str]


class Job(NamedTuple):
    """A job that has ended: the step that failed, if one did, and what was printed."""

    failed: str
    printed: str

    @property
    def annotations(self) -> list[str]:
        """The lines that GitHub shows beside a file."""
        return [line for line in self.printed.splitlines() if line.startswith("::error")]


class Repository:
    """A repository with the workflow, and the clone of it in which a job runs."""

    def __init__(self, origin: Path) -> None:
        self.origin = origin
        self.workspace = origin.parent / "workspace"

    def pull_request(self, files: Files, later: Files | None = None) -> Job:
        """Run the job on a branch with these files; main has got the `later` ones since."""
        commit(self.origin, "topic", files)
        commit(self.origin, "main", later or {})
        self._check_out("--detach", "origin/main")
        git(self.workspace, "merge", "-q", "--no-ff", "-m", "Merge", "origin/topic")
        return self._run(GITHUB_EVENT_NAME="pull_request", GITHUB_BASE_REF="main")

    def pushed(self, branch: str, event: str = "push") -> Job:
        """Run the job on a branch of this repository."""
        self._check_out(branch)
        return self._run(GITHUB_EVENT_NAME=event, GITHUB_BASE_REF="")

    def _check_out(self, *head: str) -> None:
        """Do what the actions of the first steps do, and install nothing."""
        git(self.origin.parent, "clone", "-q", str(self.origin), str(self.workspace))
        # actions/checkout leaves no origin/HEAD.
        git(self.workspace, "remote", "set-head", "origin", "--delete")
        git(self.workspace, "checkout", "-q", *head)
        installed(self.workspace)

    def _run(self, **event: str) -> Job:
        """Run the job's steps up to the first that fails."""
        printed = ""
        for step in steps(self.workspace):
            if "run" not in step or not asked_for(step, event):
                continue
            result = bash(step["run"], self.workspace, step["env"] | event)
            printed += result.stdout
            if result.returncode:
                return Job(step["name"], printed)
        return Job("", printed)

    @property
    def data(self) -> Path:
        """Where the sandbox's Postgres is."""
        return (self.workspace / ".sandbox" / "postgres").resolve()

    @property
    def history(self) -> list[str]:
        """The versions that are applied in the sandbox, by number."""
        with Embedded(self.data) as server:
            found = rows(server.url("onward"), "SELECT version FROM schema_migrations ORDER BY 1")
        return [version for (version,) in found]


def steps(repository: Path) -> list[dict[str, Any]]:
    """The steps of the one job, as the repository has the workflow, with all of their `env`."""
    workflow = yaml.safe_load(workflow_of(repository).read_text())
    [job] = workflow["jobs"].values()
    around = workflow.get("env", {}) | job.get("env", {})
    return [step | {"env": around | step.get("env", {})} for step in job["steps"]]


def workflow_of(repository: Path) -> Path:
    return repository / WORKFLOW.relative_to(ROOT)


def asked_for(step: Mapping[str, Any], event: Mapping[str, str]) -> bool:
    if "if" not in step:
        return True
    variable, value = CONDITIONS[step["if"]]
    return event[variable] == value


def bash(
    command: str, workspace: Path, environ: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run a command as GitHub does where a step names no shell; both streams are in `stdout`."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    github = {"CI": "true", "GITHUB_ACTIONS": "true", "GITHUB_WORKSPACE": str(workspace)}
    return subprocess.run(
        ["bash", "-e", "-c", command],
        cwd=workspace,
        env={"PATH": path, "HOME": os.environ["HOME"], **github, **environ},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        check=False,
    )


def installed(workspace: Path) -> None:
    """Make a .venv of links to this Python's packages, which scripts/setup takes for its own."""
    venv = workspace / ".venv"
    venv.mkdir()
    for name in ("bin", "lib", "pyvenv.cfg"):
        (venv / name).symlink_to(Path(sys.prefix) / name)
    lock = workspace / "scripts" / "locks" / "sandbox.txt"
    sums = subprocess.run(["cksum", lock], capture_output=True, text=True, check=True).stdout
    (venv / ".setup-done").write_text(f"{venv}\n{sums}{sys.version}\n")


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    """One without files."""
    (tmp_path / "origin").mkdir()
    repository = Repository(tmp_path / "origin")
    yield repository
    if (repository.workspace / ".sandbox").exists():
        wait_until_gone(repository.data)
        Embedded(repository.data).drop()


@pytest.fixture
def team(repository: Repository) -> Repository:
    """A team's, which has adopted Onward and has a migration of its own."""
    with redirect_stdout(StringIO()):
        assert adopt([str(repository.origin)]) == 0
    commit(repository.origin, "main", ORDERS)
    return repository


@pytest.fixture
def onward(repository: Repository, project: Path) -> Repository:
    """This one, but that its tests only leave a file behind."""
    shutil.copytree(project, repository.origin, dirs_exist_ok=True)
    (repository.origin / "scripts" / "test").write_text("#!/bin/sh\ntouch tested\n")
    workflow_of(repository.origin).parent.mkdir(parents=True)
    shutil.copy(WORKFLOW, workflow_of(repository.origin))
    commit(repository.origin, "main", {})
    return repository


# What it finds


@pytest.mark.slow
def test_a_good_pull_request_passes_and_its_files_are_applied(team: Repository) -> None:
    job = team.pull_request(ITEMS)
    assert (job.failed, job.annotations) == ("", []), job.printed
    assert "setup:" not in job.printed
    assert team.history == HISTORY


BASE = "origin/main has it, so databases may have applied it"
BAD: dict[str, tuple[Files, Files, str, str]] = {
    "edited": (
        {"001-add-orders.sql": "CREATE TABLE orders (id bigint);\n"},
        {},
        CHECK,
        f"001-add-orders.sql::migrations/001-add-orders.sql: changed, but {BASE}",
    ),
    "taken": (
        ITEMS,
        {"002-add-notes.sql": "SELECT 1;\n"},
        CHECK,
        "002-add-items.sql::migrations/002-add-items.sql: number 2 is taken by 002-add-notes.sql",
    ),
    "late": (
        ITEMS,
        {"003-add-notes.sql": "SELECT 1;\n"},
        CHECK,
        "002-add-items.sql::migrations/002-add-items.sql: number 2 is not above 3, the highest of "
        "origin/main",
    ),
    "syntax": (
        {"002-add-items.sql": "CREATE TABLE items (id int);\nCREATE TABEL more (id int);\n"},
        {},
        APPLY,
        '002-add-items.sql,line=2,col=8::42601: syntax error at or near "TABEL"',
    ),
    "error": (
        {"002-add-items.sql": "\n\nALTER TABLE nowhere ADD note text;\n"},
        {},
        APPLY,
        '002-add-items.sql::42P01: relation "nowhere" does not exist',
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(("files", "later", "step", "said"), BAD.values(), ids=list(BAD))
def test_a_bad_pull_request_fails_with_the_place_in_its_file(
    team: Repository, files: Files, later: Files, step: str, said: str
) -> None:
    job = team.pull_request(files, later)
    assert (job.failed, job.annotations) == (step, [f"::error file=migrations/{said}"]), job.printed
    assert team.history == HISTORY[:2] if step == APPLY else not team.data.exists()


@pytest.mark.slow
def test_a_draft_fails_before_anything_is_installed(team: Repository) -> None:
    job = team.pull_request({"002-add-items.sql": "-- migrate: draft\n"})
    [annotation] = job.annotations
    assert job.failed == VALIDATE
    assert annotation.startswith("::error::pending migrations cannot run:%0A  migrations/002-add-")
    assert not team.data.exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("branch", "event"), [("main", "push"), ("gh-readonly-queue/main/pr-1", "merge_group")]
)
def test_what_was_merged_or_is_in_a_merge_queue_is_applied_whole(
    team: Repository, branch: str, event: str
) -> None:
    commit(team.origin, branch, ITEMS)
    job = team.pushed(branch, event)
    assert (job.failed, job.annotations) == ("", []), job.printed
    assert team.history == HISTORY


@pytest.mark.slow
def test_another_directory_is_a_line_in_the_workflow(team: Repository) -> None:
    workflow = workflow_of(team.origin)
    workflow.write_text(f"{workflow.read_text()}env:\n  MIGRATION_DIR: db/sql\n")
    (team.origin / "db").mkdir()
    git(team.origin, "mv", "migrations", "db/sql")
    git(team.origin, "commit", "-q", "-a", "-m", "Move")
    (team.origin / "db" / "sql" / "001-add-orders.sql").write_text("CREATE TABLE orders ();\n")
    job = team.pull_request({})
    assert job.failed == CHECK, job.printed
    assert [line[:42] for line in job.annotations] == ["::error file=db/sql/001-add-orders.sql::db"]


@pytest.mark.slow
def test_onwards_own_repository_is_tested_too_when_it_was_merged(onward: Repository) -> None:
    job = onward.pushed("main")
    assert (job.failed, (onward.workspace / "tested").exists()) == ("", True), job.printed
    assert onward.history[-1] == "002-add-reset-token-fields"


@pytest.mark.slow
def test_a_pull_request_of_onwards_own_repository_is_not_tested(onward: Repository) -> None:
    job = onward.pull_request({"003-add-items.sql": "CREATE TABLE items (id int);\n"})
    assert (job.failed, (onward.workspace / "tested").exists()) == ("", False), job.printed
    assert onward.history[-1] == "003-add-items"


# What it is


@pytest.mark.slow
def test_it_is_a_workflow_by_githubs_own_schema(tmp_path: Path) -> None:
    broken = tmp_path / "broken.yml"
    broken.write_text(WORKFLOW.read_text().replace("runs-on:", "runs_on:"))
    codes = [
        subprocess.run([*LINT, path], capture_output=True, check=False).returncode
        for path in (WORKFLOW, broken)
    ]
    assert codes == [0, 1]


def test_its_actions_are_pinned_by_commit_and_named_by_version() -> None:
    used = re.findall(r"uses: (.*)", WORKFLOW.read_text())
    pinned = r"actions/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+"
    assert used
    assert [one for one in used if not re.fullmatch(pinned, one)] == []


def test_it_may_only_read_and_knows_no_secret() -> None:
    text = WORKFLOW.read_text()
    document = yaml.safe_load(text)
    assert document["permissions"] == {"contents": "read"}
    assert not [name for name in ("secrets.", "github.token", "_target") if name in text]
    assert [job for job in document["jobs"].values() if {"permissions", "env"} & {*job}] == []


def test_its_clone_has_the_base_branch_and_no_token() -> None:
    checkout = steps(ROOT)[0]
    assert checkout["uses"].startswith("actions/checkout@")
    assert checkout["with"] == {"fetch-depth": 0, "persist-credentials": False}


def test_a_required_check_is_there_for_every_pull_request() -> None:
    triggers = yaml.safe_load(WORKFLOW.read_text())[True]  # YAML 1.1 reads `on` so
    assert (triggers["pull_request"], triggers["merge_group"]) == (None, None)
