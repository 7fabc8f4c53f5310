"""scripts/lock, which asks the package index and so is not among the tests that need no network."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from scripts.bundle import pins
from tests.conftest import ROOT

pytestmark = pytest.mark.timeout(600)

LOCKS = ("runtime", "sandbox", "dev", "aws", "uv")
PROGRAMS = ("scripts/locks/uv.txt", ".ci/postgres.txt", "tests/platform/localstack.txt")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A copy of what scripts/lock reads and writes."""
    place = tmp_path / "repository"
    shutil.copytree(
        ROOT / "scripts", place / "scripts", ignore=shutil.ignore_patterns("__pycache__")
    )
    for name in ("requirements.txt", "requirements-dev.txt", *PROGRAMS[1:]):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, place / name)
    return place


def renew(place: Path, *arguments: str) -> None:
    """Run it."""
    command, environ = (
        [str(place / "scripts" / "lock"), *arguments],
        {**os.environ, "UV_NATIVE_TLS": "true"},
    )
    result = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def files(place: Path) -> dict[str, str]:
    """All that it writes, but for the hashes of programs: they are those of the files that there
    are today.
    """
    names = (
        "requirements.txt",
        *(f"scripts/locks/{name}.txt" for name in LOCKS),
        *PROGRAMS[1:],
    )
    found = {name: (place / name).read_text() for name in names}
    return {
        name: re.sub("(    --hash.*\n)+", "", text) if name in PROGRAMS else text
        for name, text in found.items()
    }


def test_renewing_what_is_up_to_date_changes_nothing(repository: Path) -> None:
    renew(repository)
    assert files(repository) == files(ROOT)


def test_another_version_of_a_direct_dependency_reaches_all_files(repository: Path) -> None:
    text = (repository / "requirements.txt").read_text().replace("mangum==0.22.0", "mangum==0.19.0")
    (repository / "requirements.txt").write_text(f"# By hand.\n{text}")
    renew(repository)
    assert (repository / "requirements.txt").read_text() == f"# By hand.\n{text}"
    for name in ("runtime", "dev", "aws"):
        before, after = (
            pins(place / "scripts" / "locks" / f"{name}.txt") for place in (ROOT, repository)
        )
        assert {pin.version for pin in after if pin.package == "mangum"} == {"0.19.0"}
        assert [pin for pin in after if pin.package != "mangum"] == [
            pin for pin in before if pin.package != "mangum"
        ]
