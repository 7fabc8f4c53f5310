"""What is installed, and where that is written: requirements.txt, the locks beside it, and who
installs from which.

Nothing is fetched. What a package needs is read from what is installed here, for each Python and
platform that counts.
"""

import json
import re
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, distribution, distributions
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from scripts.bundle import pins
from tests.conftest import ROOT

REQUIREMENTS, DEVELOPMENT = ROOT / "requirements.txt", ROOT / "requirements-dev.txt"
LOCKS = sorted((ROOT / "scripts" / "locks").glob("*.txt"))
SANDBOX_IN = ROOT / "scripts" / "locks" / "sandbox.in"
RUNTIME, SANDBOX, DEV, AWS = (
    ROOT / "scripts" / "locks" / f"{name}.txt" for name in ("runtime", "sandbox", "dev", "aws")
)
SERVERS = ROOT / ".ci" / "postgres.txt"
HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")
PLATFORMS = {
    "linux": {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64"},
    "linux on ARM": {
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": "aarch64",
    },
    "macOS": {"sys_platform": "darwin", "platform_system": "Darwin", "platform_machine": "arm64"},
    "macOS on Intel": {
        "sys_platform": "darwin",
        "platform_system": "Darwin",
        "platform_machine": "x86_64",
    },
}
ENVIRONMENTS = {
    f"{minor} {name}": {
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "python_version": minor,
        "python_full_version": f"{minor}.2",
        **platform,
    }
    for minor in ("3.11", "3.12", "3.13", "3.14")
    for name, platform in PLATFORMS.items()
}


def lines(path: Path) -> list[str]:
    """Its lines without comments, as pip joins them."""
    joined = path.read_text().replace("\\\n", " ")
    return [
        line
        for line in (re.sub(r"(^|\s)#.*", "", one).strip() for one in joined.splitlines())
        if line
    ]


def requirements(path: Path) -> list[Requirement]:
    return [Requirement(HASH.sub("", line)) for line in lines(path) if not line.startswith("-r ")]


def direct(path: Path) -> list[Requirement]:
    """Those that are written by hand."""
    hand = path.read_text().partition("# What these need.")[0]
    return [
        Requirement(line.partition(" #")[0])
        for line in hand.splitlines()
        if line and not line.startswith(("-r ", "#"))
    ]


def applies(requirement: Requirement, environment: Mapping[str, str], extra: str = "") -> bool:
    return requirement.marker is None or requirement.marker.evaluate(
        {**environment, "extra": extra}
    )


def versions(path: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """What a file has installed there."""
    found: dict[str, str] = {}
    for one in requirements(path):
        if applies(one, environment):
            (specifier,) = one.specifier
            assert (specifier.operator, canonicalize_name(one.name) in found) == ("==", False)
            found[canonicalize_name(one.name)] = specifier.version
    return found


def needed(
    direct: list[Requirement], environment: Mapping[str, str]
) -> dict[str, list[Requirement]]:
    """The direct ones and what they need in turn, by name, with all that is asked of each."""
    waiting = [one for one in direct if applies(one, environment)]
    seen: set[str] = set()
    found: dict[str, list[Requirement]] = {}
    while waiting:
        one = waiting.pop()
        if str(one) not in seen:
            seen.add(str(one))
            found.setdefault(canonicalize_name(one.name), []).append(one)
            waiting += needs_of(one, environment)
    return found


def needs_of(one: Requirement, environment: Mapping[str, str]) -> Iterator[Requirement]:
    try:
        needs = distribution(one.name).requires or []
    except PackageNotFoundError:  # one that is for another platform than this
        needs = []
    for need in map(Requirement, needs):
        if any(applies(need, environment, extra) for extra in ("", *one.extras)):
            yield need


def test_requirements_txt_is_flat_exact_and_unhashed_for_vercels_builder() -> None:
    for line in lines(REQUIREMENTS):
        assert re.fullmatch(r"[\w.-]+(\[\w+\])?==[\w.]+( ; [^#]+)?", line), line


@pytest.mark.parametrize("path", [*LOCKS, SERVERS], ids=lambda path: str(path.relative_to(ROOT)))
def test_each_line_of_a_lock_has_an_exact_version_and_its_hashes(path: Path) -> None:
    found = lines(path)
    assert found
    for line in found:
        assert re.fullmatch(r"[\w.-]+==[\w.]+( ; [^#]+?)?(\s+--hash=sha256:[0-9a-f]{64})+", line), (
            line
        )


def test_what_bundles_read_in_a_lock_is_what_pip_reads() -> None:
    read = [(canonicalize_name(pin.package), pin.version, not pin.everywhere) for pin in pins(DEV)]
    assert read == [
        (one.name, str(one.specifier)[2:], one.marker is not None) for one in requirements(DEV)
    ]


@pytest.mark.parametrize(
    "path", [REQUIREMENTS, DEVELOPMENT, SANDBOX_IN, *LOCKS, SERVERS], ids=lambda path: path.name
)
def test_no_file_says_where_packages_come_from(path: Path) -> None:
    assert not re.search(r"://|index|find-links|trusted-host|[\s=]/", path.read_text())


@pytest.mark.parametrize("environment", ENVIRONMENTS.values(), ids=list(ENVIRONMENTS))
def test_all_files_name_the_same_versions(environment: Mapping[str, str]) -> None:
    pinned = versions(REQUIREMENTS, environment)
    assert versions(RUNTIME, environment) == pinned
    for path in (SANDBOX, AWS):
        assert pinned.items() <= versions(path, environment).items()
        assert versions(path, environment).items() <= versions(DEV, environment).items()


@pytest.mark.parametrize("environment", ENVIRONMENTS.values(), ids=list(ENVIRONMENTS))
def test_whatever_the_dependencies_need_is_pinned_and_nothing_else(
    environment: Mapping[str, str],
) -> None:
    ours, sandbox, theirs = map(direct, (REQUIREMENTS, SANDBOX_IN, DEVELOPMENT))
    boto3 = [one for one in theirs if one.name == "boto3"]
    for path, wanted in (
        (REQUIREMENTS, ours),
        (SANDBOX, ours + sandbox),
        (AWS, ours + boto3),
        (DEV, ours + sandbox + theirs),
    ):
        pinned, asked = versions(path, environment), needed(wanted, environment)
        assert pinned.keys() == asked.keys()
        for name, needs in asked.items():
            assert all(need.specifier.contains(pinned[name], prereleases=True) for need in needs), (
                name
            )


def test_runtime_dependencies_are_three() -> None:
    assert [str(one).partition("==")[0] for one in direct(REQUIREMENTS)] == [
        "psycopg[binary]",
        "starlette",
        "mangum",
    ]


def test_what_is_installed_here_is_what_the_lock_says() -> None:
    locked = versions(DEV, {name: str(value) for name, value in default_environment().items()})
    installed = {str(canonicalize_name(one.name)): one.version for one in distributions()}
    assert {name: installed.get(name) for name in locked} == locked


# Who installs from which


def test_vercels_build_step_installs_by_setup_which_reaches_vercel() -> None:
    settings = json.loads((ROOT / "vercel.json").read_text())
    # By `sh`: an upload from Windows does not keep that a file may be executed.
    assert settings["installCommand"] == "sh scripts/setup runtime"
    ignored = (ROOT / ".vercelignore").read_text().splitlines()
    assert not {"/scripts", "/scripts/setup", "/scripts/run_pip.py"} & set(ignored)
    assert ignored.index("/scripts/locks/*") < ignored.index("!/scripts/locks/runtime.txt")


def test_setup_takes_only_locked_wheels() -> None:
    script = (ROOT / "scripts" / "setup").read_text()
    assert 'install --require-hashes --only-binary=:all: -r "$lock"' in script
