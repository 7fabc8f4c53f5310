"""What installs packages, run as a user runs it in a copy of the project; nothing is fetched."""

import os
import shlex
import shutil
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from pathlib import Path

import pytest

from tests.conftest import Completed

pytestmark = pytest.mark.slow

BASE_PYTHON = str(getattr(sys, "_base_executable", sys.executable))
WITHOUT_PIP = "-S"  # finds no site-packages


def setup(
    project: Path, tmp_path: Path, *arguments: str, python: str = "", **environment: str
) -> Completed:
    """Run scripts/setup where PATH has a Python, called with these options, and no uv."""
    tools = tmp_path / "tools"
    tools.mkdir(exist_ok=True)
    for name in ("sh", "dirname", "cat", "cksum", "rm", "sed", "head", "grep"):
        if not (tools / name).exists():
            (tools / name).symlink_to(shutil.which(name) or name)
    # Not a link: a Python that finds its libraries by its own path could not make an environment
    # through one.
    (tools / "python3").write_text(f'#!/bin/sh\nexec {shlex.quote(BASE_PYTHON)} {python} "$@"\n')
    (tools / "python3").chmod(0o755)
    result = subprocess.run(
        ["sh", str(project / "scripts" / "setup"), *arguments],
        env={"PATH": str(tools), **environment},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    return Completed(result.returncode, result.stdout, result.stderr)


@dataclass(frozen=True)
class Packages:
    """A project whose lock names one package, which is made here; pip finds nothing else there."""

    project: Path
    tmp_path: Path

    def wheel(self, version: str) -> Path:
        """A wheel of it."""
        path = self.tmp_path / f"onward_probe-{version}-py3-none-any.whl"
        information = f"onward_probe-{version}.dist-info"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("onward_probe.py", f"version = {version!r}\n")
            archive.writestr(f"{information}/METADATA", metadata(version))
            archive.writestr(
                f"{information}/WHEEL",
                "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            )
            archive.writestr(f"{information}/RECORD", "")
        return path

    def sources(self, version: str, program: str) -> Path:
        """A source distribution of it, which runs a program when it is built."""
        path = self.tmp_path / f"onward_probe-{version}.tar.gz"
        files = {
            "setup.py": f"{program}\nimport setuptools\nsetuptools.setup()\n",
            "PKG-INFO": metadata(version),
        }
        with tarfile.open(path, "w:gz") as archive:
            for name, text in files.items():
                entry = tarfile.TarInfo(f"onward_probe-{version}/{name}")
                entry.size = len(text)
                archive.addfile(entry, BytesIO(text.encode()))
        return path

    def lock(self, version: str, *files: Path, purpose: str = "sandbox") -> None:
        """Have a lock name these files."""
        hashes = " ".join(
            f"--hash=sha256:{sha256(file.read_bytes()).hexdigest()}" for file in files
        )
        (self.project / "scripts" / "locks" / f"{purpose}.txt").write_text(
            f"onward-probe=={version} {hashes}\n"
        )

    def without_ensurepip(self) -> dict[str, str]:
        """An environment in which Python finds none of the wheels that ensurepip installs."""
        none = self.tmp_path / "none"
        none.mkdir()
        (none / "ensurepip.py").touch()
        # Debian's Python has its wheels elsewhere, and names the place among these.
        (none / "no_variables.py").write_text("build_time_vars = {}\n")
        return {"PYTHONPATH": str(none), "_PYTHON_SYSCONFIGDATA_NAME": "no_variables"}

    def setup(self, *arguments: str, python: str = "", **environment: str) -> Completed:
        """Run scripts/setup."""
        found = {
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(self.tmp_path),
        } | environment
        return setup(self.project, self.tmp_path, *arguments, python=python, **found)

    @property
    def installed(self) -> str:
        """Which version of it is in .venv."""
        return self.installed_in(".venv")

    def installed_in(self, venv: str) -> str:
        """Which version of it is in an environment."""
        command = [
            str(self.project / venv / "bin" / "python"),
            "-c",
            "import onward_probe as x; print(x.version)",
        ]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def metadata(version: str) -> str:
    return f"Metadata-Version: 2.1\nName: onward-probe\nVersion: {version}\n"


@pytest.fixture
def packages(project: Path, tmp_path: Path) -> Packages:
    """A project without a .venv."""
    return Packages(Path(shutil.copytree(project, tmp_path / "project")), tmp_path)


def test_it_says_what_to_install_where_python_makes_no_environment(
    packages: Packages,
) -> None:
    result = packages.setup(python=WITHOUT_PIP, **packages.without_ensurepip())
    assert result.code == 1
    assert "it has no venv, or neither pip nor ensurepip" in result.err
    assert "apt install python3-venv" in result.err
    assert not (packages.project / ".venv").exists()


def test_it_tells_that_the_python_it_was_given_does_not_run(packages: Packages) -> None:
    result = packages.setup(PYTHON="/nowhere/python")
    assert result.code == 1
    assert (
        "PYTHON is /nowhere/python, which is not Python 3.11 or newer, or does not run"
        in result.err
    )
    assert not (packages.project / ".venv").exists()


@pytest.mark.parametrize(
    "arguments", [("all",), ("dev", "x.txt"), ("sandbox", "x.txt"), ("--help",)]
)
def test_what_it_does_not_know_is_answered_with_what_it_takes(
    packages: Packages, arguments: tuple[str, ...]
) -> None:
    result = packages.setup(*arguments)
    assert (result.code, result.out) == (1, "")
    assert "usage: scripts/setup [sandbox | dev | runtime [FILE ...]]" in result.err
    assert not (packages.project / ".venv").exists()


def test_it_installs_the_lock_once_and_again_when_the_lock_changes(packages: Packages) -> None:
    for version in ("1.0", "2.0"):
        packages.lock(version, packages.wheel(version))
        first, second = packages.setup(), packages.setup()
        assert (first.code, first.out) == (0, "")
        assert first.err == "setup: 1 packages into .venv with pip (20 MB)\n"
        assert (second.code, second.out, second.err) == (0, "", "")
        assert packages.installed == version


def test_after_dev_the_sandbox_has_nothing_to_do(packages: Packages) -> None:
    packages.lock("1.0", packages.wheel("1.0"))
    packages.lock("2.0", packages.wheel("2.0"), purpose="dev")
    for purpose, version in (("sandbox", "1.0"), ("dev", "2.0"), ("sandbox", "2.0")):
        result = packages.setup(purpose)
        assert (result.code, packages.installed) == (0, version)
    assert (result.out, result.err) == ("", "")


def test_runtime_is_an_environment_of_its_own_with_the_files_given(packages: Packages) -> None:
    packages.lock("1.0", packages.wheel("1.0"), purpose="runtime")
    packages.wheel("2.0")
    more = packages.tmp_path / "more.txt"
    more.write_text("onward-probe==2.0\n")
    for files, version in (((), "1.0"), ((str(more),), "2.0")):
        first, second = (packages.setup("runtime", *files) for _ in range(2))
        assert (first.code, second.code, second.err) == (0, 0, "")
        assert packages.installed_in(".vercel/migrate-venv") == version
    assert not (packages.project / ".venv").exists()


def test_an_installation_that_was_interrupted_is_repeated(packages: Packages) -> None:
    packages.lock("1.0", packages.wheel("1.0"))
    assert packages.setup(PIP_FIND_LINKS="/nowhere").code == 1
    assert packages.installed == ""
    assert (packages.setup().code, packages.installed) == (0, "1.0")


@pytest.mark.parametrize("there", ["pip", "ensurepip"])
def test_one_of_pip_and_ensurepip_is_enough(packages: Packages, there: str) -> None:
    packages.lock("1.0", packages.wheel("1.0"))
    if there == "pip":
        result = packages.setup(**packages.without_ensurepip())
    else:
        result = packages.setup(python=WITHOUT_PIP)
    assert (result.code, packages.installed) == (0, "1.0"), result.err
    assert list((packages.project / ".venv").glob("lib/*/site-packages/pip")) == []


def test_it_refuses_a_package_whose_hash_is_not_in_the_lock(packages: Packages) -> None:
    packages.lock("1.0", packages.wheel("1.0"))
    with packages.wheel("1.0").open("ab") as file:
        file.write(b"changed")
    result = packages.setup()
    assert result.code == 1
    assert "DO NOT MATCH THE HASHES" in result.err
    assert (packages.installed, (packages.project / ".venv" / ".setup-done").exists()) == (
        "",
        False,
    )


def test_it_runs_nothing_of_a_source_distribution_even_a_locked_one(
    packages: Packages,
) -> None:
    canary = packages.tmp_path / "canary"
    packages.lock("1.0", packages.sources("1.0", f"open({str(canary)!r}, 'w')"))
    result = packages.setup()
    assert result.code == 1
    assert "No matching distribution found for onward-probe==1.0" in result.err
    assert (packages.installed, canary.exists()) == ("", False)
