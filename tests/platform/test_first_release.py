"""The first release beside this one, on one database: the release before it is the rollback."""

import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT, Cli, Database
from tests.kit import TWO, Write, recorded

# The tag, or what was the newest commit on the day that CHANGELOG.md names.
NAMES = ("v0.1.0", "8fc95492fa7301f8a01fe7f50f3d7540acfd30e1")
THREE = {"003-three.sql": "CREATE TABLE three (id int);\n"}
FOUR = {"004-four.sql": "CREATE TABLE four (id int);\n"}


def archive() -> bytes:
    """The files of the first release. Skips where this clone does not have them."""
    for name in NAMES:
        command = ["git", "-C", str(ROOT), "archive", name]
        found = subprocess.run(command, capture_output=True, check=False)
        if found.returncode == 0:
            return found.stdout
    pytest.skip("this clone lacks the first release: git fetch --unshallow --tags")


@pytest.fixture
def first(tmp_path: Path, cli: Cli) -> Cli:
    """The command line of the first release, on the same files."""
    place = tmp_path / "first-release"
    place.mkdir()
    subprocess.run(["tar", "-x", "-C", place], input=archive(), check=True)
    return Cli(place, cli.directory)


def test_drift_is_unknown_after_a_file_of_the_first_release(
    cli: Cli, first: Cli, database: Database, migrations: Write
) -> None:
    migrations(TWO)
    assert cli(url=database.url).code == 0
    migrations(THREE)
    result = first(url=database.url)
    assert result.code == 0, result.err
    assert "Applied: 003-three" in result.out
    assert "unknown since 003-three" in cli("drift", "--check", url=database.url).out
    migrations(FOUR)
    result = cli(url=database.url, env={"MIGRATION_DRIFT": "fail"})
    assert result.code == 0, result.err
    assert "unknown" in cli("drift", url=database.url).out
    assert cli("drift", "--refresh", url=database.url).code == 0
    assert "unknown" not in cli("drift", "--check", url=database.url).out
    assert recorded(database) == ["001-one", "002-two", "003-three", "004-four"]
