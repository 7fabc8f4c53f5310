"""Adopting, upgrading and checking small repositories, as a team runs it."""

import json
import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout, suppress
from io import StringIO
from pathlib import Path

import pytest

from scripts.adopt import main
from scripts.adopting import AdoptError
from scripts.adopting.owners import SHAPES
from scripts.adopting.writing import Change, write
from scripts.embedded import Embedded
from tests.conftest import ROOT, Completed
from tests.kit import wait_until_gone

# Each of them starts git, often.
pytestmark = pytest.mark.slow

BUILD = '{"scripts": {"build": "vite build"}}'
TEAMS: dict[str, dict[str, str]] = {
    "alone": {"README.md": "Ours\n"},
    "client": {"package.json": BUILD, "pnpm-lock.yaml": "", "public/robots.txt": ""},
    "next": {
        "package.json": '{"dependencies": {"next": "16"}, "scripts": {"build": "next build"}}',
        "vercel.json": '{"regions": ["fra1"]}\n',
    },
    "python": {"api/orders.py": "app = None\n", "requirements.txt": "flask\nstarlette>=1\n"},
    "sam": {"template.yaml": "Transform: AWS::Serverless-2016-10-31\n"},
}
LOCK = {"version": "0.1.0", "shape": "alone", "order": "build-first", "files": {}, "blocks": {}}
OUTSIDE = json.dumps(LOCK | {"files": {"../x": ""}, "vercel": None})
NOT_OURS = [
    "[]",
    "{}",
    json.dumps(LOCK),
    json.dumps(LOCK | {"vercel": None, "version": 1}),
    json.dumps(LOCK | {"vercel": None, "version": "1.x"}),
    json.dumps(LOCK | {"vercel": None, "shape": "x"}),
    json.dumps(LOCK | {"vercel": None, "order": "x"}),
    json.dumps(LOCK | {"vercel": None, "files": []}),
    json.dumps(LOCK | {"vercel": None, "blocks": {"a": 1}}),
    json.dumps(LOCK | {"vercel": {}}),
]
MIGRATION = "migrations/000-create-migration-table.sql"
Make = Callable[[Mapping[str, str]], Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """`make({"package.json": "{}"})` is a team's repository with these files, committed."""

    def repository(files: Mapping[str, str]) -> Path:
        root = tmp_path / "team"
        for name, content in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(content)
        git(root, "init", "-q")
        commit(root)
        return root

    return repository


@pytest.fixture
def newer(tmp_path: Path) -> Path:
    """A checkout of a made-up later version: a file changed, one gone, one new."""
    checkout = tmp_path / "newer"
    # Of what is hidden, `.github` is a team's.
    ignored = shutil.ignore_patterns(".[!g]*", ".git", "tests", "__pycache__")
    shutil.copytree(ROOT, checkout, ignore=ignored)
    init = checkout / "lib" / "__init__.py"
    init.write_text(init.read_text().replace('VERSION = "0.1.0"', 'VERSION = "99.0.0"'))
    (checkout / "lib" / "guard.py").write_text("# later\n")
    (checkout / "lib" / "retry.py").unlink()
    (checkout / "lib" / "later.py").write_text("")
    settings = json.loads((checkout / "vercel.json").read_text())
    settings["installCommand"] = "sh scripts/setup later"
    (checkout / "vercel.json").write_text(json.dumps(settings))
    return checkout


def git(root: Path, *words: str) -> str:
    names = ("-c", "user.name=x", "-c", "user.email=x@x.invalid", "-c", "core.excludesFile=")
    command = ["git", "-C", str(root), "-c", "safe.directory=*", *names, *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def commit(root: Path) -> None:
    git(root, "add", "--all")
    git(root, "commit", "-q", "--allow-empty", "-m", "x")


def adopt(root: Path, *options: str, checkout: Path = ROOT) -> Completed:
    """Run scripts/adopt.py to its end: in this process, or that of another checkout."""
    if checkout == ROOT:
        with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
            code = main([str(root), *options])
        return Completed(code, out.getvalue(), err.getvalue())
    return script(checkout, str(root), *options)


def script(checkout: Path, *arguments: str) -> Completed:
    """Run the scripts/adopt.py of a checkout, or of an adopted repository."""
    command = [sys.executable, str(checkout / "scripts" / "adopt.py"), *arguments]
    result = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", check=False
    )
    assert "Traceback" not in result.stderr
    return Completed(result.returncode, result.stdout, result.stderr)


def adopted(root: Path, *options: str, checkout: Path = ROOT) -> Completed:
    result = adopt(root, *options, checkout=checkout)
    assert (result.code, result.err) == (0, "")
    return result


def check(root: Path) -> Completed:
    """Run the repository's own scripts/adopt.py --check."""
    return script(root, "--check")


def contents(root: Path) -> dict[str, bytes]:
    """Every file of a repository, without git's and without bytecode."""
    paths = (path for path in root.rglob("*") if path.is_file())
    kept = (path for path in paths if not {".git", "__pycache__"} & {*path.parts})
    return {str(path.relative_to(root)): path.read_bytes() for path in kept}


def listed(result: Completed) -> dict[str, str]:
    """The paths that a run prints, with what it says of each."""
    lines = [line.split() for line in result.out.splitlines() if line.startswith("  ")]
    actions = ("new", "merged", "replaced", "removed", "left")
    return {line[1]: line[0] for line in lines if line[0] in actions}


@pytest.mark.parametrize("shape", SHAPES)
def test_each_shape_is_found_and_what_the_team_had_is_kept(make: Make, shape: str) -> None:
    root = make(TEAMS[shape])
    result = adopted(root)
    assert f"Shape: {shape} (" in result.out
    after = contents(root)
    merged = {"vercel.json", "requirements.txt"}
    assert {name: after[name].decode() for name in TEAMS[shape] if name not in merged} == {
        name: text for name, text in TEAMS[shape].items() if name not in merged
    }
    assert ("vercel.json" in after, "template.onward.yaml" in after) == (
        shape != "sam",
        shape == "sam",
    )
    assert ("public/index.html" in after) == (shape in ("alone", "python"))
    assert [name for name in after if name.startswith("migrations/")] == [MIGRATION]
    assert check(root).code == 0


@pytest.mark.parametrize("shape", SHAPES)
def test_a_dry_run_lists_the_diff_that_adopting_then_makes(make: Make, shape: str) -> None:
    root = make(TEAMS[shape])
    before = contents(root)
    dry = adopted(root, "--dry-run")
    assert contents(root) == before
    real = adopted(root)
    git(root, "add", "--all")
    diff = {name for name in git(root, "diff", "--cached", "--name-only").splitlines() if name}
    assert diff == {*listed(dry)} == {*listed(real)}
    assert {name for name, action in listed(dry).items() if action == "new"} == diff - {*before}


def test_alone_has_our_vercel_json_byte_for_byte(make: Make) -> None:
    root = make(TEAMS["alone"])
    adopted(root)
    assert (root / "vercel.json").read_text() == (ROOT / "vercel.json").read_text()


def test_a_project_in_a_larger_repository_gets_no_workflow(make: Make) -> None:
    root = make({f"app/{name}": text for name, text in TEAMS["client"].items()})
    adopted(root / "app")
    adopted(root)
    workflow = Path(".github", "workflows", "migrations.yml")
    assert "docs/onward/pull-requests.md" in (root / workflow).read_text()
    assert not (root / "app" / ".github").exists()


def test_a_team_that_publishes_a_directory_gets_no_page_of_ours(make: Make) -> None:
    root = make({"public/index.html": "<h1>Theirs</h1>"})
    adopted(root)
    assert (root / "public/index.html").read_text() == "<h1>Theirs</h1>"
    assert "public/index.html" not in (root / "onward.lock").read_text()


def test_the_builds_of_a_team_are_kept_in_front_of_ours(make: Make) -> None:
    root = make(TEAMS["client"])
    adopted(root)
    ours = json.loads((ROOT / "vercel.json").read_text())
    settings = json.loads((root / "vercel.json").read_text())
    assert settings["installCommand"] == f"pnpm install && {ours['installCommand']}"
    assert settings["buildCommand"] == f"pnpm run build && {ours['buildCommand']}"
    assert (settings["framework"], settings["outputDirectory"]) == (None, "dist")


def test_the_packages_of_own_functions_are_installed_for_the_build_step(make: Make) -> None:
    root = make(TEAMS["python"])
    adopted(root)
    settings = json.loads((root / "vercel.json").read_text())
    assert settings["installCommand"].endswith(" requirements.txt")
    lines = (root / "requirements.txt").read_text().splitlines()
    assert lines[:2] == ["flask", "starlette>=1"]
    assert "mangum==0.22.0" in lines
    assert not [line for line in lines if line.startswith("starlette==")]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_second_run_changes_nothing(make: Make, shape: str) -> None:
    root = make(TEAMS[shape])
    adopted(root)
    commit(root)
    result = adopted(root)
    assert "✅ Nothing to do" in result.out
    assert git(root, "status", "--porcelain") == ""


def test_collisions_are_all_named_and_nothing_is_written(make: Make) -> None:
    theirs = {"lib/retry.py": "x = 1\n", "scripts/setup": "", "api/migrate.py": "app = 1\n"}
    root = make({**TEAMS["alone"], **theirs})
    before = contents(root)
    for options in ((), ("--dry-run",)):
        result = adopt(root, *options)
        assert result.code == 2
        assert [name for name in theirs if f"{name}: exists" not in result.err] == []
    assert contents(root) == before
    assert git(root, "status", "--porcelain") == ""


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"vercel.json": '{"builds": []}'}, "the key `builds`"),
        ({"vercel.json": "{,}"}, "vercel.json:1:2 is not JSON"),
        ({"package.json": "{"}, "package.json:1:2 is not JSON"),
        ({"vercel.ts": ""}, "vercel.ts: settings in a program"),
        ({"requirements.txt": "starlette<1\n"}, "starlette<1 excludes starlette==1.10.0"),
        ({"requirements.txt": "a==1 --hash=sha256:0\n"}, "requirements.txt: has hashes"),
        ({"app/api/migrate/route.ts": ""}, "app/api/migrate: Onward's function has this route"),
        ({"index.html": ""}, "index.html: Vercel will publish public/ only"),
        ({"lib": "a file"}, "lib is not a directory"),
        ({"scripts/setup/x": ""}, "setup is not a file"),
        *[({"onward.lock": text}, "it is not as scripts/adopt.py writes it") for text in NOT_OURS],
        ({"onward.lock": OUTSIDE}, "it names a file outside the repository"),
        ({"AGENTS.md": "# Onward ends here\n", ".gitignore": "# Onward ends here\n"}, "only one"),
        ({"vercel.json": '{"buildCommand": "python scripts/migrate.py"}'}, "another version"),
    ],
)
def test_what_stands_in_the_way_is_named_and_nothing_is_written(
    make: Make, files: dict[str, str], words: str
) -> None:
    root = make(files)
    result = adopt(root)
    assert (result.code, words in result.err) == (2, True), result.err
    assert git(root, "status", "--porcelain") == ""


@pytest.mark.parametrize("name", ["scripts", "dependencies", "devDependencies"])
@pytest.mark.parametrize("value", [None, [], "x", 1])
def test_what_npm_would_ignore_in_a_package_is_ignored(
    make: Make, name: str, value: object
) -> None:
    root = make({"package.json": json.dumps({name: value})})
    assert adopt(root).code == 0
    assert json.loads((root / "onward.lock").read_text())["shape"] == "alone"


def test_a_link_in_a_files_place_is_refused(make: Make, tmp_path: Path) -> None:
    root = make(TEAMS["alone"])
    (tmp_path / "elsewhere").mkdir()
    (root / "docs").symlink_to(tmp_path / "elsewhere")
    result = adopt(root)
    assert (result.code, "docs is a symbolic link" in result.err) == (2, True)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_place_that_is_no_repository_of_the_teams_is_refused(tmp_path: Path) -> None:
    for place, words in (
        (tmp_path / "missing", "there is no directory"),
        (ROOT, "is this checkout of Onward, or in it"),
        (ROOT / "lib", "is this checkout of Onward, or in it"),
    ):
        result = adopt(place)
        assert (result.code, words in result.err) == (2, True)
    assert not (ROOT / "onward.lock").exists()


def test_no_package_is_needed(make: Make) -> None:
    root = make(TEAMS["alone"])
    command = [sys.executable, "-S", "-E", str(ROOT / "scripts" / "adopt.py"), str(root)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert (root / "onward.lock").exists()


def test_an_adopted_repository_is_no_checkout(make: Make, tmp_path: Path) -> None:
    root = make(TEAMS["alone"])
    adopted(root)
    (tmp_path / "other").mkdir()
    result = script(root, str(tmp_path / "other"))
    assert (result.code, "is no checkout of it" in result.err) == (2, True)
    assert list((tmp_path / "other").iterdir()) == []


def test_if_one_file_cannot_be_written_all_is_as_before(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make({"old.txt": "old", "gone.txt": "gone"})
    before = contents(root)
    changes = [
        Change("new/deep/file.txt", "new", b"new"),
        Change("old.txt", "replaced", b"other"),
        Change("gone.txt", "removed"),
        Change("last.txt", "new", b"last"),
    ]
    rename = Path.rename

    def full(path: Path, target: Path) -> Path:
        if target.name == "last.txt":
            raise OSError(28, "No space left on device", str(target))
        return rename(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", full)
        with pytest.raises(AdoptError, match="No space left on device"):
            write(root, changes)
    assert contents(root) == before
    assert not (root / "new").exists()
    write(root, changes)
    assert {*contents(root)} == {"new/deep/file.txt", "old.txt", "last.txt"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_that_is_read_only_is_told(make: Make) -> None:
    root = make(TEAMS["alone"])
    root.chmod(0o555)
    result = adopt(root)
    root.chmod(0o755)
    assert (result.code, "cannot write in" in result.err) == (2, True)
    assert git(root, "status", "--porcelain") == ""


def test_lib_is_not_ignored_even_where_a_stock_gitignore_does(make: Make) -> None:
    root = make({".gitignore": "dist/\nlib/\n*.lock\n"})
    adopted(root)
    git(root, "add", "--all")
    tracked = git(root, "ls-files").splitlines()
    assert {"lib/settings/config.py", "onward.lock"} <= set(tracked)
    commit(root)
    assert "✅ Nothing to do" in adopted(root).out


def test_of_docs_that_git_ignores_only_our_pages_are_taken_back(make: Make) -> None:
    root = make({".gitignore": "docs\n", "docs/built.html": ""})
    adopted(root)
    git(root, "add", "--all")
    tracked = [name for name in git(root, "ls-files").splitlines() if name.startswith("docs/")]
    assert "docs/onward/on-call.md" in tracked
    assert "docs/built.html" not in tracked
    commit(root)
    assert "✅ Nothing to do" in adopted(root).out


def test_without_git_the_plain_line_for_lib_is_seen(tmp_path: Path) -> None:
    (tmp_path / "team").mkdir()
    (tmp_path / "team" / ".gitignore").write_text("lib/\n")
    adopted(tmp_path / "team")
    assert "!/lib/" in (tmp_path / "team" / ".gitignore").read_text().splitlines()


def test_changes_that_are_not_committed_are_mentioned(make: Make) -> None:
    root = make(TEAMS["alone"])
    assert "not committed" not in adopted(root, "--dry-run").out
    (root / "README.md").write_text("changed\n")
    assert "not committed: git diff shows them" in adopted(root).out
    assert (root / "README.md").read_text() == "changed\n"


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"pyproject.toml": "[tool.ruff]\n"}, "pyproject.toml has no [project]"),
        ({"pyproject.toml": '[project]\nname = "x"\n'}, "pyproject.toml has [project]"),
        ({".python-version": "3.11\n"}, ".python-version is 3.11"),
        ({"requirements.txt": "-r other.txt\n"}, "requirements.txt has a line with -r"),
    ],
)
def test_what_vercel_would_stumble_over_is_told(
    make: Make, files: dict[str, str], words: str
) -> None:
    root = make(files)
    assert f"⚠️  {words}" in adopted(root).out
    kept = {name: (root / name).read_text() for name in files if name != "requirements.txt"}
    assert kept == {name: text for name, text in files.items() if name != "requirements.txt"}


def test_an_upgrade_replaces_removes_and_adds(make: Make, newer: Path) -> None:
    root = make(TEAMS["next"])
    adopted(root)
    commit(root)
    migration = (root / MIGRATION).read_bytes()
    (newer / MIGRATION).write_text("-- other\n")
    result = adopted(root, checkout=newer)
    assert listed(result) == {
        "lib/__init__.py": "replaced",
        "lib/guard.py": "replaced",
        "lib/later.py": "new",
        "lib/retry.py": "removed",
        MIGRATION: "left",
        "onward.lock": "replaced",
        "vercel.json": "merged",
    }
    assert (root / "lib/guard.py").read_text() == "# later\n"
    assert not (root / "lib/retry.py").exists()
    assert (root / MIGRATION).read_bytes() == migration
    settings = json.loads((root / "vercel.json").read_text())
    assert settings["installCommand"] == "npm install && sh scripts/setup later"
    assert settings["regions"] == ["fra1"]


def test_an_upgrade_leaves_what_was_changed_by_hand(make: Make, newer: Path) -> None:
    root = make(TEAMS["alone"])
    adopted(root)
    edited = {name: f"# {name}\n" for name in ("lib/guard.py", "lib/retry.py", "lib/plan.py")}
    for name, text in edited.items():
        (root / name).write_text(text)
    (root / "AGENTS.md").write_text((root / "AGENTS.md").read_text().replace("Sandbox", "sandbox"))
    agents = (root / "AGENTS.md").read_text()
    result = adopted(root, checkout=newer)
    actions = listed(result)
    assert {name: actions[name] for name in (*edited, "AGENTS.md")} == dict.fromkeys(
        (*edited, "AGENTS.md"), "left"
    )
    assert f"this version's: {newer / 'lib/guard.py'}" in result.out
    assert {name: (root / name).read_text() for name in edited} == edited
    assert (root / "AGENTS.md").read_text() == agents
    assert "changed  lib/guard.py" in check(root).out


def test_the_migrations_of_a_team_are_never_touched(make: Make, newer: Path) -> None:
    root = make(TEAMS["alone"])
    adopted(root)
    (root / "migrations" / "001-orders.sql").write_text("SELECT 1;\n")
    (root / MIGRATION).unlink()
    before = {name: data for name, data in contents(root).items() if name.startswith("migr")}
    adopted(root, checkout=newer)
    after = {name: data for name, data in contents(root).items() if name.startswith("migr")}
    assert after == before


def test_an_older_checkout_is_refused(make: Make, newer: Path) -> None:
    root = make(TEAMS["alone"])
    adopted(root, checkout=newer)
    commit(root)
    result = adopt(root)
    assert result.code == 2
    assert "this checkout is Onward 0.1.0, and the repository has 99.0.0" in result.err
    assert git(root, "status", "--porcelain") == ""


def test_another_order_is_a_second_run_with_that_order(make: Make) -> None:
    root = make(TEAMS["client"])
    adopted(root)
    adopted(root, "--order", "migrate-first")
    settings = json.loads((root / "vercel.json").read_text())
    assert settings["buildCommand"].endswith("scripts/migrate.py && pnpm run build")
    assert "✅ Nothing to do" in adopted(root).out


def test_a_check_tells_what_was_changed_and_what_is_missing(make: Make) -> None:
    root = make(TEAMS["client"])
    adopted(root)
    assert check(root) == Completed(0, "onward 0.1.0, client\n✅ as shipped\n", "")
    (root / "lib" / "plan.py").write_text("")
    (root / "scripts" / "setup").unlink()
    (root / ".gitignore").write_text("")
    (root / "vercel.json").write_text("{}")
    result = check(root)
    assert result.code == 3
    for line in (
        "changed  lib/plan.py",
        "missing  scripts/setup",
        "missing  .gitignore: Onward's lines",
        "changed  vercel.json: buildCommand",
        "❌ not as shipped: 7",
    ):
        assert line in result.out.splitlines()


def test_a_check_without_a_lock_is_refused(tmp_path: Path) -> None:
    result = adopt(tmp_path, "--check")
    assert (result.code, "has no onward.lock" in result.err) == (2, True)


def test_an_adopted_repository_creates_and_validates_migrations(make: Make) -> None:
    root = make(TEAMS["alone"])
    adopted(root)
    script = str(root / "scripts" / "migrate.py")
    for words in (["create", "add orders"], ["validate"]):
        command = [sys.executable, script, *words]
        result = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
        if words == ["create", "add orders"]:
            (root / "migrations" / "001-add-orders.sql").write_text("SELECT 1;\n")
        assert result.returncode == 0, result.stderr
    assert "2 files passed the checks" in result.stdout


def test_an_adopted_repository_has_a_sandbox(make: Make) -> None:
    root = make(TEAMS["client"])
    adopted(root)
    commit(root)
    command = [sys.executable, str(root / "scripts" / "sandbox.py"), "--once"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    data = (root / ".sandbox" / "postgres").resolve()
    wait_until_gone(data)
    Embedded(data).drop()
    assert (result.returncode, result.stderr) == (0, "")
    assert "✅ Applied: 000-create-migration-table" in result.stdout
    assert "Pending Migrations: None" in result.stdout
    assert git(root, "status", "--porcelain") == ""


@pytest.mark.parametrize(
    ("typed", "order"), [("2\n", "migrate-first"), ("\n", "build-first"), ("\x04", None)]
)
def test_on_a_terminal_the_order_is_asked_for(make: Make, typed: str, order: str | None) -> None:
    root = make(TEAMS["client"])
    terminal, side = pty.openpty()
    command = [sys.executable, str(ROOT / "scripts" / "adopt.py"), str(root)]
    process = subprocess.Popen(command, stdin=side, stdout=side, stderr=side)
    os.close(side)
    os.write(terminal, typed.encode())
    printed = b""
    with suppress(OSError):  # the other side is closed
        while chunk := os.read(terminal, 65536):
            printed += chunk
    os.close(terminal)
    assert process.wait() == (0 if order else 130)
    assert b"a failed build leaves the database migrated" in printed
    lock = root / "onward.lock"
    assert (json.loads(lock.read_text())["order"] if lock.exists() else None) == order
