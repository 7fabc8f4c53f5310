"""The scripts, called with a Python that lacks what they need; tests/cli/test_process.py does so
with scripts/migrate.py.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Completed

INVOKE = ("scripts/invoke.py", "function")


@pytest.fixture
def team(project: Path, tmp_path: Path) -> Path:
    """A repository with the bundle, and without a .venv."""
    return Path(shutil.copytree(project, tmp_path / "team"))


def call(team: Path, *command: str) -> Completed:
    """Run a script with a Python that has no packages, where no AWS is configured."""
    result = subprocess.run(
        [sys.executable, "-S", *command],
        cwd=team,
        env={"PATH": os.environ["PATH"], "HOME": str(team), "AWS_EC2_METADATA_DISABLED": "true"},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    return Completed(result.returncode, result.stdout, result.stderr)


def test_check_functions_hands_over_to_the_venvs_python(team: Path) -> None:
    (team / ".venv").symlink_to(sys.prefix)
    result = call(team, "scripts/check_functions.py")
    assert (result.code, result.err) == (0, "")
    assert "api/migrate.py, api/migration-status.py" in result.out


def test_without_a_venv_check_functions_says_what_to_do(team: Path) -> None:
    result = call(team, "scripts/check_functions.py")
    assert (result.code, result.out) == (2, "")
    assert "this Python cannot run Onward: No module named 'psycopg'" in result.err
    assert "scripts/setup" in result.err


@pytest.mark.slow
def test_invoke_hands_over_to_a_venv_that_has_boto3(team: Path) -> None:
    assert call(team, *INVOKE, "--help").code == 0
    without = call(team, *INVOKE)
    assert (without.code, without.out) == (2, "")
    assert "boto3 is not installed" in without.err
    assert "-r scripts/locks/aws.txt" in without.err
    (team / ".venv").symlink_to(sys.prefix)
    handed_over = call(team, *INVOKE)
    assert handed_over.code == 2
    assert "cannot invoke function: You must specify a region." in handed_over.err


def test_a_venv_that_lacks_the_packages_too_is_called_only_once(team: Path) -> None:
    python = team / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\necho called >>{team}/calls\nexec {sys.executable} -S "$@"\n')
    python.chmod(0o755)
    result = call(team, "scripts/check_functions.py")
    assert (result.code, result.out) == (2, "")
    assert "No module named 'psycopg'" in result.err
    assert (team / "calls").read_text() == "called\n"


def test_bundle_needs_no_packages(team: Path) -> None:
    result = call(team, "scripts/bundle.py", "--check", "none.zip")
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("bundle: ")
    assert "No such file or directory: 'none.zip'" in result.err
