"""The rehearsal of a branch, run as a user runs it in a clone; nothing of it is left."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.conftest import Completed
from tests.kit import bundle, commit

pytestmark = pytest.mark.slow

ORDERS = {"001-orders.sql": "CREATE TABLE orders (id int PRIMARY KEY, total int, notes text);\n"}
DROP = {"002-drop-notes.sql": "-- Nobody writes notes.\n\nALTER TABLE orders DROP COLUMN notes;\n"}
SIZES = '{"sizes": {"public.orders": [9100000000, 41000000]}}'


class Clone:
    """A clone whose branch `topic` is checked out, and what the script leaves where it works."""

    def __init__(self, root: Path, temporary: Path) -> None:
        self.root = root
        self.temporary = temporary

    def rehearse(self, *arguments: str, env: Mapping[str, str] | None = None) -> Completed:
        """Rehearse the branch; nothing of it may be left."""
        result = subprocess.run(
            [sys.executable, self.root / "scripts" / "rehearse_branch.py", *arguments],
            env={"PATH": os.environ["PATH"], "HOME": os.environ["HOME"]}
            | {"TMPDIR": str(self.temporary), **(env or {})},
            cwd=self.root,
            capture_output=True,
            encoding="utf-8",
            check=False,
        )
        assert list(self.temporary.iterdir()) == []
        return Completed(result.returncode, result.stdout, result.stderr)

    def add(self, files: Mapping[str, str]) -> None:
        """Write files into the branch, not committed."""
        for name, content in files.items():
            (self.root / "migrations" / name).write_text(content)


@pytest.fixture
def clone(project: Path, tmp_path: Path) -> Iterator[Clone]:
    """One whose main has a table."""
    root = bundle(project, tmp_path / "clone", {})
    commit(root, "main", ORDERS)
    commit(root, "topic", {})
    # Where the user that runs the server for root can go.
    with tempfile.TemporaryDirectory(dir="/tmp") as temporary:
        Path(temporary).chmod(0o711)
        yield Clone(root, Path(temporary))


def test_it_finds_what_the_files_of_the_branch_do_to_tables_of_the_base(clone: Clone) -> None:
    clone.add(DROP)
    result = clone.rehearse()
    assert result.code == 0, result.err
    assert "001-orders" not in result.out + result.err
    assert "⚠️  002-drop-notes             blocks reads and writes of orders\n" in result.out
    assert "line 3 · warn · drop-column" in result.out


def test_sizes_and_the_form_are_those_of_rehearse(clone: Clone, tmp_path: Path) -> None:
    (tmp_path / "sizes.json").write_text(SIZES)
    clone.add({"002-check.sql": "ALTER TABLE orders ADD CHECK (total >= 0);\n"})
    result = clone.rehearse("--markdown", "--sizes-from", "../sizes.json")
    assert result.code == 9, result.err
    assert result.out.startswith("<!-- onward:plan -->\n### ❌ 1 migration: 1 finding fails\n")
    assert "orders (9.1 GB, 41 M rows)" in result.out


def test_a_branch_with_the_files_of_its_base_starts_no_postgres(clone: Clone) -> None:
    result = clone.rehearse("--markdown", env={"POSTGRES_BIN": "/nowhere"})
    assert (result.code, result.out) == (0, "")
    assert result.err == "✅ Nothing to rehearse: the files are those of main\n"


def test_a_changed_file_of_the_base_is_a_conflict(clone: Clone) -> None:
    clone.add({"001-orders.sql": "CREATE TABLE orders (id bigint PRIMARY KEY);\n"})
    result = clone.rehearse("--markdown")
    assert (result.code, result.out) == (3, "")
    assert "001-orders" in result.err


def test_a_base_that_cannot_be_applied_is_said_to_be_what_fails(clone: Clone) -> None:
    commit(clone.root, "main", {"002-wrong.sql": "\nSELECT nothing;\n"})
    commit(clone.root, "late", {"003-more.sql": "SELECT 1;\n"})
    result = clone.rehearse("--markdown", env={"GITHUB_ACTIONS": "true"})
    assert (result.code, result.out) == (1, "")
    assert "❌ FAILED migrations/002-wrong.sql:2:8   statement" in result.err
    assert "❌ main: its own files cannot be applied to an empty Postgres" in result.err
    annotations = [line for line in result.err.splitlines() if line.startswith("::")]
    assert [line[:21] for line in annotations] == ["::error::main: its ow"]


def test_a_draft_of_the_base_is_not_applied(clone: Clone) -> None:
    commit(clone.root, "main", {"002-later.sql": "-- migrate: draft\nSELECT nothing;\n"})
    commit(clone.root, "ready", {"002-later.sql": "CREATE TABLE items (id int);\n"})
    result = clone.rehearse()
    assert (result.code, "002-later" in result.out) == (0, True), result.err


def test_a_file_that_fails_is_named_with_its_line(clone: Clone) -> None:
    clone.add({"002-wrong.sql": "\nSELECT nothing;\n"})
    result = clone.rehearse("--markdown", env={"GITHUB_ACTIONS": "true"})
    assert (result.code, result.out) == (1, "")
    assert "::error file=migrations/002-wrong.sql,line=2,col=8::42703" in result.err


def test_a_base_that_is_not_here_is_fetched_by_the_command_that_is_shown(clone: Clone) -> None:
    result = clone.rehearse("--base", "origin/main")
    assert result.code == 2
    assert "origin/main is no branch or commit here" in result.err


def test_a_database_that_the_shell_names_is_not_touched(clone: Clone) -> None:
    clone.add(DROP)
    named = {"POSTGRES_URL": "postgresql://nobody:nothing@127.0.0.1:1/none", "MIGRATION_ENV": "x"}
    assert clone.rehearse(env=named).code == 0


def test_a_server_that_cannot_start_is_said_without_a_traceback(clone: Clone) -> None:
    clone.add(DROP)
    result = clone.rehearse(env={"POSTGRES_BIN": "/nowhere"})
    assert (result.code, result.out) == (5, "")
    assert result.err == "rehearse_branch: there is no initdb in /nowhere\n"
