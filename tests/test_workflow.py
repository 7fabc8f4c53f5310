"""The workflow that teams get, and its action, run as GitHub runs them: the commands of the steps
by bash, with GitHub's variables, in a clone whose HEAD is what a merge would make of the pull
request; GitHub's API is on the loopback.

Nothing is fetched: scripts/setup finds the packages of this Python in the clone.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml  # type: ignore[import-untyped]

from scripts.adopt import main as adopt
from scripts.embedded import Embedded
from tests.conftest import ROOT, Database, Server
from tests.github import MAIN, REPOSITORY, TOKEN, GitHub, github
from tests.kit import commit, git, login, role, rows, wait_until_gone

WORKFLOW = ROOT / ".github" / "workflows" / "migrations.yml"
ACTION = ROOT / ".github" / "actions" / "rehearse" / "action.yml"
LINT = [sys.executable, "-m", "check_jsonschema", "--builtin-schema"]

CHECK, VALIDATE = "Compare with the base branch", "Check the files"
APPLY, REHEARSE = "Apply all files to an empty Postgres", "Rehearse"
ORDERS = {"001-add-orders.sql": "CREATE TABLE orders (id int, notes text);\n"}
ITEMS = {"002-add-items.sql": "CREATE TABLE items (id int);\n"}
HISTORY = ["000-create-migration-table", "001-add-orders", "002-add-items"]
DROP = {"002-drop-notes.sql": "ALTER TABLE orders DROP COLUMN notes;\n"}
WARNS = "### ⚠️ 1 migration: 1 finding warns"
Files = Mapping[str, str]


class Event(NamedTuple):
    """What has started the workflow."""

    name: str
    from_fork: bool = False

    @property
    def variables(self) -> dict[str, str]:
        """What GitHub sets for the steps."""
        base = "main" if self.name == "pull_request" else ""
        return {"GITHUB_EVENT_NAME": self.name, "GITHUB_BASE_REF": base}


# What `if` may ask, and the answer.
CONDITIONS: dict[str, Callable[[Event], bool]] = {
    "github.event_name == 'push'": lambda event: event.name == "push",
    "github.event_name == 'pull_request'": lambda event: event.name == "pull_request",
    "github.event_name == 'schedule' || github.event_name == 'workflow_dispatch'": (
        lambda event: event.name in ("schedule", "workflow_dispatch")
    ),
    "github.event_name != 'schedule' && github.event_name != 'workflow_dispatch'": (
        lambda event: event.name not in ("schedule", "workflow_dispatch")
    ),
    "!cancelled() && github.event_name == 'pull_request' "
    "&& github.event.pull_request.head.repo.full_name == github.repository": (
        lambda event: event.name == "pull_request" and not event.from_fork
    ),
}


class Job(NamedTuple):
    """A job that has ended: the step that failed, if one did, and what was printed."""

    failed: str
    printed: str
    comment: str = ""
    summary: str = ""

    @property
    def annotations(self) -> list[str]:
        """The errors that GitHub shows beside a file."""
        return [line for line in self.printed.splitlines() if line.startswith("::error")]


class Repository:
    """A repository with the workflow, and the clone of it in which a job runs."""

    def __init__(self, origin: Path, github: GitHub) -> None:
        self.origin = origin
        self.github = github
        self.workspace = origin.parent / "workspace"
        self.temporary = origin.parent / "temporary"

    def pull_request(self, files: Files, later: Files | None = None) -> Job:
        """Run the job on a branch with these files; main has got the `later` ones since."""
        commit(self.origin, "topic", files)
        commit(self.origin, "main", later or {})
        self._check_out("--detach", "origin/main")
        git(self.workspace, "merge", "-q", "--no-ff", "-m", "Merge", "origin/topic")
        return self._run("migrations", Event("pull_request"))

    def pushed(self, branch: str, event: str = "push") -> Job:
        """Run the job on a branch of this repository."""
        self._check_out(branch)
        return self._run("migrations", Event(event))

    def commented(self, job: Job) -> list[str]:
        """Run the job that comments, after that one; what the pull request's comments are then."""
        result = "failure" if job.failed else "success"
        needed = {
            "needs.migrations.outputs.comment || '\"\"'": job.comment or '""',
            "needs.migrations.result": result,
        }
        done = self._run("comment", Event("pull_request"), needed)
        assert not done.failed, done.printed
        return [comment["body"] for comment in self.github.comments]

    def observed(self, url: str) -> Job:
        """Run the scheduled job; `url` is the secret, empty where there is none."""
        self._check_out("main")
        return self._run("production", Event("schedule"), {"secrets.PRODUCTION_READ_URL": url})

    def drop(self) -> None:
        """Delete the clone, and the sandbox in it."""
        if (self.workspace / ".sandbox" / "postgres").exists():
            wait_until_gone(self.data)
            Embedded(self.data).drop()
        for directory in (self.workspace, self.temporary):
            shutil.rmtree(directory, ignore_errors=True)

    def _check_out(self, *head: str) -> None:
        """Do what the actions of the first steps do, and install nothing."""
        self.drop()
        git(self.origin.parent, "clone", "-q", str(self.origin), str(self.workspace))
        # actions/checkout leaves no origin/HEAD.
        git(self.workspace, "remote", "set-head", "origin", "--delete")
        git(self.workspace, "checkout", "-q", *head)
        installed(self.workspace)

    def _run(self, name: str, event: Event, known: Mapping[str, str] | None = None) -> Job:
        """Run a job's steps up to the first that fails."""
        self.temporary.mkdir(exist_ok=True)
        assert asked_for(jobs(self.workspace)[name], event)
        failed = printed = ""
        for step in steps(self.workspace, name):
            if "run" in step and asked_for(step, event) and not failed:
                result = self._step(step, event, {**EXPRESSIONS, **(known or {})})
                printed += result.stdout
                failed = step["name"] if result.returncode else ""
        comment = self._written("output").removeprefix("comment=").rstrip("\n")
        return Job(failed, printed, comment, self._written("summary"))

    def _step(
        self, step: Mapping[str, Any], event: Event, known: Mapping[str, str]
    ) -> subprocess.CompletedProcess[str]:
        environ = {name: evaluated(value, known) for name, value in step["env"].items()}
        environ |= event.variables | {
            "GITHUB_API_URL": self.github.url,
            "GITHUB_OUTPUT": str(self.temporary / "output"),
            "GITHUB_REPOSITORY": REPOSITORY,
            "GITHUB_RUN_ID": "42",
            "GITHUB_SERVER_URL": "https://github.example",
            "GITHUB_STEP_SUMMARY": str(self.temporary / "summary"),
            "RUNNER_TEMP": str(self.temporary),
        }
        return bash(step, self.workspace, environ)

    def _written(self, name: str) -> str:
        file = self.temporary / name
        return file.read_text() if file.exists() else ""

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


EXPRESSIONS = {
    "github.event.pull_request.number": "7",
    "github.event.repository.default_branch": "main",
    "github.token": TOKEN,
}


def jobs(repository: Path) -> dict[str, Any]:
    """The jobs of the workflow, as the repository has it."""
    found: dict[str, Any] = yaml.safe_load(workflow_of(repository).read_text())["jobs"]
    return found


def steps(repository: Path, name: str = "migrations") -> list[dict[str, Any]]:
    """The steps of a job with all of their `env`; for our own action, its steps."""
    workflow = yaml.safe_load(workflow_of(repository).read_text())
    job = workflow["jobs"][name]
    around = workflow.get("env", {}) | job.get("env", {})
    return [
        inner | {"env": around | inner.get("env", {})}
        for step in job["steps"]
        for inner in inner_steps(repository, step)
    ]


def inner_steps(repository: Path, step: dict[str, Any]) -> list[dict[str, Any]]:
    uses = step.get("uses", "")
    if not uses.startswith("./"):
        return [step]
    action = yaml.safe_load((repository / uses / "action.yml").read_text())
    return [inner | {"if": step["if"]} for inner in action["runs"]["steps"]]


def workflow_of(repository: Path) -> Path:
    return repository / WORKFLOW.relative_to(ROOT)


def asked_for(part: Mapping[str, Any], event: Event) -> bool:
    """Whether the `if` of a job or a step is true."""
    return "if" not in part or CONDITIONS[part["if"]](event)


def evaluated(text: str, known: Mapping[str, str]) -> str:
    return re.sub(r"\$\{\{ (.*?) \}\}", lambda found: known[found[1]], str(text))


def bash(
    step: Mapping[str, Any], workspace: Path, environ: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run a step as GitHub does, which is stricter if it names bash; both streams are in
    `stdout`.
    """
    options = ["--noprofile", "--norc", "-eo", "pipefail"] if "shell" in step else ["-e"]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    github = {"CI": "true", "GITHUB_ACTIONS": "true", "GITHUB_WORKSPACE": str(workspace)}
    return subprocess.run(
        ["bash", *options, "-c", step["run"]],
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
    with github() as state:
        repository = Repository(tmp_path / "origin", state)
        yield repository
        repository.drop()


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
    shutil.copytree(ROOT / ".github", repository.origin / ".github")
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


# What it shows


def text(job: Job) -> str:
    """The comment that a job hands to the one that may write it."""
    return str(json.loads(job.comment))


@pytest.mark.slow
def test_the_comment_is_written_once_and_edited_in_place(team: Repository) -> None:
    others = ["Looks good.", "<!-- onward:plan -->\nIs this the marker?"]
    for body in others:
        team.github.add_comment(body, "ada")
    first = team.pull_request(DROP)
    assert first.failed == "", first.printed
    assert team.commented(first) == [*others, text(first)]
    assert text(first).startswith(f"<!-- onward:plan -->\n{WARNS}\n")
    accepted = f"-- migrate: accept drop-column: nothing reads it\n{DROP['002-drop-notes.sql']}"
    second = team.pull_request({"002-drop-notes.sql": accepted})
    assert team.commented(second) == [*others, text(second)]
    assert text(second).startswith("<!-- onward:plan -->\n### ✅ 1 migration: nothing that warns")


@pytest.mark.slow
def test_the_comment_is_found_on_the_second_page(team: Repository) -> None:
    for number in range(100):
        team.github.add_comment(f"Comment {number}", "ada")
    team.github.add_comment("<!-- onward:plan -->\nof the first push")
    assert team.commented(team.pull_request(DROP))[100].startswith(f"<!-- onward:plan -->\n{WARNS}")
    assert len(team.github.comments) == 101


@pytest.mark.slow
def test_a_pull_request_without_new_files_gets_no_comment(team: Repository) -> None:
    job = team.pull_request({})
    assert (job.failed, job.comment, job.summary) == ("", '""', ""), job.printed
    assert "✅ Nothing to rehearse: the files are those of origin/main" in job.printed
    assert team.commented(job) == []


@pytest.mark.slow
def test_a_comment_says_so_when_the_files_are_gone_or_cannot_run(team: Repository) -> None:
    team.github.add_comment("<!-- onward:plan -->\nof the first push")
    gone = team.commented(team.pull_request({}))
    assert gone == ["<!-- onward:plan -->\n### ✅ No new migrations"]
    log = "https://github.example/team/shop/actions/runs/42"
    failed = team.commented(team.pull_request({"002-add-items.sql": "CREATE TABEL items ();\n"}))
    line = f"### ❌ Not rehearsed: [the log]({log}) says what failed"
    assert failed == [f"<!-- onward:plan -->\n{line}"]


@pytest.mark.slow
def test_a_pull_request_of_a_fork_has_its_comment_in_the_summary(team: Repository) -> None:
    job = team.pull_request(DROP)
    assert job.summary.startswith(f"<!-- onward:plan -->\n{WARNS}\n")
    assert not asked_for(jobs(ROOT)["comment"], Event("pull_request", from_fork=True))
    assert [one for one in team.github.asked if not one.startswith("GET")] == []


@pytest.mark.slow
def test_a_link_of_the_comment_leads_into_the_repository(team: Repository) -> None:
    links = re.findall(r"\]\((.*?)\)", text(team.pull_request(DROP)))
    assert links
    pages = "https://github.example/team/shop/blob/HEAD/docs/onward/"
    assert [link for link in links if not link.startswith(pages)] == []


@pytest.mark.slow
def test_a_long_comment_ends_before_a_finding(team: Repository) -> None:
    columns = ", ".join(f"ADD COLUMN c{n} int" for n in range(400))
    drops = "".join(f"ALTER TABLE wide DROP COLUMN c{n};\n" for n in range(400))
    commit(
        team.origin, "main", {"002-wide.sql": f"CREATE TABLE wide (); ALTER TABLE wide {columns};"}
    )
    job = team.pull_request({"003-drop.sql": drops})
    assert job.failed == "", job.printed
    assert len(job.summary) > 40_000
    *_, last, ending = text(job).split("\n\n")
    assert ending == "The rest is in the summary of the job."
    assert last.startswith("**⚠️ 003, line ")
    assert last in job.summary.split("\n\n")
    assert len(team.commented(job)) == 1


@pytest.mark.slow
def test_a_finding_is_shown_beside_its_line_and_fails_if_it_is_told_to(team: Repository) -> None:
    workflow = workflow_of(team.origin)
    workflow.write_text(f"{workflow.read_text()}env:\n  MIGRATION_PLAN_FAIL_ON: warn\n")
    commit(team.origin, "main", {})
    job = team.pull_request({"002-drop-notes.sql": f"\n{DROP['002-drop-notes.sql']}"})
    assert job.failed == REHEARSE, job.printed
    place = "::warning file=migrations/002-drop-notes.sql,line=2,title=drop-column::"
    assert [line for line in job.printed.splitlines() if line.startswith(place)]
    assert team.commented(job) == [text(job)]
    assert text(job).startswith("<!-- onward:plan -->\n### ❌ 1 migration: 1 finding warns\n")


# What it knows of production


def sizes(**tables: int) -> dict[str, str]:
    """What the scheduled job saves."""
    listed = {f"public.{name}": [size, 41_000_000] for name, size in tables.items()}
    return {"sizes.json": json.dumps({"sizes": listed})}


@pytest.mark.slow
def test_production_is_read_by_the_scheduled_job_and_known_in_a_pull_request(
    team: Repository, server: Server, migrated: Database
) -> None:
    migrated.execute(
        "CREATE TABLE orders AS SELECT n AS id, repeat('x', 50) AS notes "
        "FROM generate_series(1, 20000) n; ANALYZE orders"
    )
    with login(server, migrated) as reader:
        migrated.execute(f"GRANT SELECT ON schema_migrations TO {role(reader)}")
        job = team.observed(reader.url)
    assert job.failed == "", job.printed
    saved = {one.name: one.read_text() for one in (team.temporary / "production").iterdir()}
    assert [*json.loads(saved["sizes.json"])] == ["asOf", "sizes"]
    team.github.save(saved)
    assert re.search(r"of orders \(\d\.?\d? MB, 20 k rows\)", text(team.pull_request(DROP)))


@pytest.mark.slow
def test_without_the_secret_the_scheduled_job_says_that_it_is_skipped(team: Repository) -> None:
    job = team.observed("")
    assert job.failed == ""
    assert job.printed.startswith(
        "::notice::Skipped: there is no secret PRODUCTION_READ_URL (docs/"
    )
    assert list(team.temporary.iterdir()) == []


@pytest.mark.slow
def test_only_what_the_default_branch_has_saved_is_believed(team: Repository) -> None:
    team.github.save(sizes(orders=9_100_000_000))
    team.github.save(sizes(orders=1), expired=True)
    team.github.save(sizes(orders=2), MAIN | {"head_branch": "topic"})
    team.github.save(sizes(orders=3), MAIN | {"head_repository_id": 2})
    job = team.pull_request({"002-check.sql": "ALTER TABLE orders ADD CHECK (id > 0);\n"})
    assert job.failed == REHEARSE, job.printed
    assert "orders (9.1 GB, 41 M rows)" in text(job)
    assert "sizes: .sandbox/production/sizes.json" in text(job)
    assert team.commented(job) == [text(job)]


@pytest.mark.slow
def test_sizes_that_cannot_be_fetched_are_said_to_be_unknown(team: Repository) -> None:
    team.github.url += "/nowhere"
    job = team.pull_request(DROP)
    assert job.failed == ""
    assert "The sizes are unknown: docs/onward/pull-requests.md#sizes-of-production" in job.printed
    assert "sizes unknown" in text(job)


# What it is


@pytest.mark.slow
@pytest.mark.parametrize(
    ("schema", "file", "key"),
    [
        ("vendor.github-workflows", WORKFLOW, "runs-on:"),
        ("vendor.github-actions", ACTION, "using:"),
    ],
    ids=["workflow", "action"],
)
def test_it_is_valid_by_githubs_own_schema(
    tmp_path: Path, schema: str, file: Path, key: str
) -> None:
    broken = tmp_path / "broken.yml"
    broken.write_text(file.read_text().replace(key, "unknown:"))
    codes = [
        subprocess.run([*LINT, schema, path], capture_output=True, check=False).returncode
        for path in (file, broken)
    ]
    assert codes == [0, 1]


def test_its_actions_are_pinned_by_commit_and_named_by_version() -> None:
    used = re.findall(r"uses: (.*)", WORKFLOW.read_text() + ACTION.read_text())
    pinned = r"actions/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+|\./\.github/actions/rehearse"
    assert used
    assert [one for one in used if not re.fullmatch(pinned, one)] == []


def test_only_the_job_that_runs_nothing_of_the_pull_request_may_write() -> None:
    document = yaml.safe_load(WORKFLOW.read_text())
    assert document["permissions"] == {"contents": "read"}
    allowed = {name: job["permissions"] for name, job in jobs(ROOT).items() if "permissions" in job}
    assert allowed == {
        "migrations": {"actions": "read", "contents": "read"},
        "comment": {"pull-requests": "write"},
    }
    assert [step for step in steps(ROOT, "comment") if "uses" in step] == []
    assert not {"pull_request_target", "workflow_run"} & set(document[True])


def test_only_the_scheduled_job_knows_a_secret() -> None:
    knows = [name for name, job in jobs(ROOT).items() if "secrets." in json.dumps(job)]
    assert knows == ["production"]
    assert "secrets." not in ACTION.read_text()
    events = ("pull_request", "push", "merge_group", "schedule", "workflow_dispatch")
    started = [event for event in events if asked_for(jobs(ROOT)["production"], Event(event))]
    assert started == ["schedule", "workflow_dispatch"]


def test_no_expression_is_a_part_of_a_command() -> None:
    commands = [step["run"] for name in jobs(ROOT) for step in steps(ROOT, name) if "run" in step]
    assert len(commands) > 6
    assert [command for command in commands if "${{" in command] == []


def test_the_comment_goes_from_the_action_to_the_job_that_writes_it() -> None:
    output = "${{ steps.rehearse.outputs.comment }}"
    action = yaml.safe_load(ACTION.read_text())
    assert action["outputs"]["comment"]["value"] == output
    assert [step["name"] for step in action["runs"]["steps"] if "id" in step] == [REHEARSE]
    assert jobs(ROOT)["migrations"]["outputs"] == {"comment": output}


def test_its_clone_has_the_base_branch_and_no_token() -> None:
    checkout = steps(ROOT)[0]
    assert checkout["uses"].startswith("actions/checkout@")
    assert checkout["with"] == {"fetch-depth": 0, "persist-credentials": False}


def test_a_required_check_is_there_for_every_pull_request() -> None:
    triggers = yaml.safe_load(WORKFLOW.read_text())[True]  # YAML 1.1 reads `on` so
    assert (triggers["pull_request"], triggers["merge_group"]) == (None, None)
