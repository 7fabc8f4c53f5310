"""Tests on a platform's own programs. What a machine lacks for them is a reason to skip, but not in
CI.
"""

import fcntl
import os
import platform
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path

import pytest

from scripts.bundle import MAGIC, BundleError, Target, find_python
from tests.conftest import ROOT
from tests.platform import vercel
from tests.platform.lambda_runtime import Runtime
from tests.platform.pooler import POOLERS, Pooler, in_turn
from tests.platform.vercel import Tools

CLIENT = "awslambdaric|simplejson|snapshot-restore-py"  # Lambda's runtime client, and what it needs
CI = os.environ.get("CI", "").lower() not in ("", "0", "false")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI nothing may be left out without anybody noticing."""
    report = yield
    if CI and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome, report.longrepr = "failed", f"not run, and CI is set: {reason}"
    return report


@pytest.fixture(scope="session")
def made_once(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, Callable[[Path], object]], Path]:
    """`made_once(name, make)`: a directory that the first worker to come makes, and that all of
    them use.
    """
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if hasattr(request.config, "workerinput") else base

    def directory(name: str, make: Callable[[Path], object]) -> Path:
        place = shared / name
        place.mkdir(exist_ok=True)
        with (place / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (place / "ready").exists():
                make(place)
                (place / "ready").touch()
        return place

    return directory


@pytest.fixture(scope="session")
def tools() -> Tools:
    """The CLI and what it needs."""
    try:
        return vercel.install()
    except (BundleError, OSError) as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session", params=in_turn(POOLERS))
def kind(request: pytest.FixtureRequest) -> type[Pooler]:
    """Each kind of pooler, or the one whose turn it is."""
    return POOLERS[request.param]


@pytest.fixture(scope="session", params=sorted(MAGIC))
def runtime(
    request: pytest.FixtureRequest, made_once: Callable[[str, Callable[[Path], object]], Path]
) -> Runtime:
    """Each Python that Lambda has and we build for."""
    target = Target(request.param, platform.machine())
    place = made_once(f"lambda-{target.minor}", partial(_make, target))
    return Runtime(place / "python" / "bin" / "python", place / "bundle")


def _make(target: Target, place: Path) -> None:
    if sys.platform != "linux":
        pytest.skip("what is built for Lambda runs on Linux only")
    try:
        python = find_python(target)
    except BundleError as error:
        pytest.skip(str(error))
    client = place / "client.txt"
    locked = (ROOT / "scripts" / "locks" / "dev.txt").read_text()
    client.write_text(
        "".join(
            one[0] for one in re.finditer(rf"^(?:{CLIENT})==(?:.*\\\n)+.*\n", locked, re.MULTILINE)
        )
    )
    environment = place / "python"
    _run(python, "-m", "venv", "--without-pip", str(environment))
    pip = (python, "-m", "pip", "--python", str(environment / "bin" / "python"))
    _run(*pip, "install", "-q", "--require-hashes", "--only-binary=:all:", "-r", str(client))
    zipped = place / "onward.zip"
    wanted = ("--python", target.minor, "--arch", target.architecture, "--output", str(zipped))
    _run(sys.executable, str(ROOT / "scripts" / "bundle.py"), *wanted)
    with zipfile.ZipFile(zipped) as archive:
        archive.extractall(place / "bundle")


def _run(*command: str) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
