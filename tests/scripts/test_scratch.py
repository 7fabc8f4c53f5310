"""The Postgres for scratch databases: it is there while its stdin is open, and nothing stays."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.kit import rows, until

pytestmark = pytest.mark.slow


@pytest.fixture
def temporary() -> Iterator[Path]:
    """Where the user that runs the server for root can go."""
    with tempfile.TemporaryDirectory(dir="/tmp") as place:
        Path(place).chmod(0o711)
        yield Path(place)


def start(temporary: Path, **environ: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, ROOT / "scripts" / "scratch.py"],
        env={**os.environ, "TMPDIR": str(temporary), **environ},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_it_serves_until_its_stdin_ends_and_leaves_nothing(temporary: Path) -> None:
    process = start(temporary, PGSSLMODE="require")
    assert process.stdout
    document = json.loads(process.stdout.readline())
    assert rows(document["url"], "SELECT current_user::text") == [("postgres",)]
    assert (Path(document["programs"]) / "pg_dump").is_file()
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "", "")
    assert list(temporary.iterdir()) == []


def test_what_a_killed_one_has_left_goes_with_the_next_one(temporary: Path) -> None:
    killed = start(temporary)
    assert killed.stdout
    killed.stdout.readline()
    killed.kill()
    killed.communicate()
    assert len(list(temporary.iterdir())) == 1

    def next_one_leaves_nothing() -> bool:  # the killed one's server may need a moment to end
        process = start(temporary)
        assert process.stdout
        process.stdout.readline()
        process.communicate(timeout=60)
        return not list(temporary.iterdir())

    until(next_one_leaves_nothing)


def test_without_a_postgres_it_says_so(temporary: Path) -> None:
    process = start(temporary, POSTGRES_BIN=str(temporary / "nothing"))
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (5, "")
    assert err == f"there is no initdb in {temporary / 'nothing'}\n"
    assert list(temporary.iterdir()) == []
