"""Tests on a platform's own programs. What a machine lacks for them is a reason to skip, but not in
CI.
"""

import fcntl
import os
import platform
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from scripts.bundle import MAGIC, BundleError, Target
from tests.platform import vercel
from tests.platform.pooler import POOLERS, Pooler, in_turn
from tests.platform.runtime import Runtime, made_runtime
from tests.platform.vercel import Tools

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
    return made_runtime(Target(request.param, platform.machine()), made_once)
