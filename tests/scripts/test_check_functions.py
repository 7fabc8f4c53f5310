"""What Vercel's build checks before it migrates, run as it runs it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Completed

# Each of them starts processes.
pytestmark = pytest.mark.slow

CHECK = "scripts/check_functions.py"


@pytest.fixture
def copy(project: Path, tmp_path: Path) -> Path:
    """A project of this test's own."""
    return Path(shutil.copytree(project, tmp_path / "project"))


def check(project: Path, **environ: str) -> Completed:
    """Run it where no database is named: it needs none."""
    result = subprocess.run(
        [sys.executable, CHECK],
        cwd=project,
        env=environ,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    return Completed(result.returncode, result.stdout, result.stderr)


def test_our_functions_pass(copy: Path) -> None:
    result = check(copy)
    assert (result.code, result.err) == (0, "")
    assert (
        result.out == "✅ Functions that can be imported: api/migrate.py, api/migration-status.py\n"
    )


@pytest.mark.parametrize(
    "source",
    [
        "app = object()",
        "from lib.vercel import app as application",
        "async def app(scope, receive, send): ...",
        "class handler: ...",
        '"""No UTF-8 by default."""\napp = "é"',
    ],
)
def test_whatever_vercel_takes_for_a_function_passes(copy: Path, source: str) -> None:
    (copy / "api" / "deep").mkdir()
    (copy / "api" / "deep" / "another-one.py").write_text(source, encoding="utf-8")
    result = check(copy)
    assert (result.code, "api/deep/another-one.py" in result.out) == (0, True), result.err


@pytest.mark.parametrize(
    "source",
    [
        "",
        "handler = object()",
        "if True:\n    app = object()",
        "try:\n    from lib.vercel import app\nexcept ImportError:\n    raise",
        "def make():\n    app = object()",
    ],
)
def test_a_file_that_vercel_would_silently_leave_out_is_refused(copy: Path, source: str) -> None:
    (copy / "api" / "orders.py").write_text(source)
    result = check(copy)
    assert (result.code, result.out) == (2, "")
    assert "api/orders.py has no plain top-level `app`" in result.err
    assert "Prefix a helper module with _." in result.err


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (
            "app = 1\nimport no_such_module",
            "ModuleNotFoundError: No module named 'no_such_module' (api/orders.py:2)",
        ),
        ("app = 1\nimport sys\nsys.exit('enough')", "SystemExit: enough (api/orders.py:3)"),
        ("app = 1\n\ndef f(:", "SyntaxError: invalid syntax"),
        (
            "app = 1\nfrom lib.settings.config import nothing_such",
            "ImportError: cannot import name 'nothing_such'",
        ),
        (
            "from lib.settings.config import read_config\napp = read_config({})",
            "(lib/settings/config.py:",
        ),
        (
            "app = 1\nraise RuntimeError('postgresql://me:canary-s3cret@host/db')",
            "postgresql://***@host/db",
        ),
    ],
)
def test_a_file_that_cannot_be_imported_is_refused_with_the_place(
    copy: Path, source: str, words: str
) -> None:
    (copy / "api" / "orders.py").write_text(source)
    result = check(copy)
    assert (result.code, result.out) == (2, "")
    assert "api/orders.py cannot be imported: " in result.err
    assert words in result.err
    assert "canary" not in result.err
    assert "Next: The database was not touched." in result.err


def test_all_problems_are_named_at_once(copy: Path) -> None:
    (copy / "api" / "one.py").write_text("1 / 0")
    (copy / "api" / "two.py").write_text("app = missing")
    result = check(copy)
    assert result.code == 2
    assert "api/one.py has no plain" in result.err
    assert "api/one.py cannot be imported: ZeroDivisionError" in result.err
    assert "api/two.py cannot be imported: NameError" in result.err


def test_what_vercel_leaves_out_by_its_name_is_not_looked_at(copy: Path) -> None:
    (copy / "api" / "_shared").mkdir()
    for name in ("_helpers.py", ".hidden.py", "__init__.py", "_shared/words.py"):
        (copy / "api" / name).write_text("raise RuntimeError")
    assert check(copy).code == 0
