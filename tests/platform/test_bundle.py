"""The zip for Lambda: what is in it, what must not be, and that the same files make the same
bytes.
"""

import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from lib.imported import FILE_NAME, Imported, imported_text
from scripts.bundle import ARCHITECTURES, MAGIC, NEEDED, BundleError, Target, find_python
from tests.conftest import ROOT, Completed

LOCK = ROOT / "scripts" / "locks" / "runtime.txt"
HASH = f"--hash=sha256:{'0' * 64}"

Change = Callable[[dict[str, bytes]], object]

# What a team's repository may hold beside what belongs into the function.
STRAY = (
    ".env",
    "lib/.env",
    "lib/notes.md",
    "lib/tests/fixture.sql",
    "lib/aws/__pycache__/function.cpython-27.pyc",
    "migrations/README.md",
    "migrations/.003-draft.sql.swp",
    "public/secret.txt",
    "pyproject.toml",
    "tests/test_own.py",
)
# Run by the target's interpreter on an unpacked zip: exits non-zero if it would compile anything
# again.
VALID = """
import importlib.util, marshal, pathlib, sys
for source in pathlib.Path(sys.argv[1]).rglob("*.py"):
    bytecode = pathlib.Path(importlib.util.cache_from_source(source)).read_bytes()
    assert bytecode[:4] == importlib.util.MAGIC_NUMBER, source
    assert bytecode[4:8] == b"\\1\\0\\0\\0", source
    assert bytecode[8:16] == importlib.util.source_hash(source.read_bytes()), source
    there = f"/var/task/{source.relative_to(sys.argv[1])}"
    assert marshal.loads(bytecode[16:]).co_filename == there, source
"""


def bundle(project: Path, *arguments: str, **environ: str) -> Completed:
    """Run scripts/bundle.py of a project to its end."""
    command = [sys.executable, str(project / "scripts" / "bundle.py"), *arguments]
    result = subprocess.run(
        command, env=os.environ | environ, capture_output=True, encoding="utf-8", check=False
    )
    assert "Traceback" not in result.stderr
    return Completed(result.returncode, result.stdout, result.stderr)


def repository(place: Path) -> Path:
    """A repository with ours in it, and a good deal else."""
    for folder in ("api", "lib", "migrations", "public", "scripts"):
        shutil.copytree(ROOT / folder, place / folder, ignore=shutil.ignore_patterns("__pycache__"))
    imported = Imported("prisma", "_prisma_migrations", None, ())
    (place / "migrations" / FILE_NAME).write_text(imported_text(imported))
    for name in STRAY:
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_text("canary")
    return place


@pytest.fixture(scope="session", params=sorted(MAGIC))
def minor(request: pytest.FixtureRequest) -> str:
    """Each version of Python that we build for."""
    wanted = str(request.param)
    try:
        find_python(Target(wanted, "x86_64"))
    except BundleError as error:
        pytest.skip(str(error))
    return wanted


@pytest.fixture(scope="session")
def zipped(minor: str, made_once: Callable[[str, Callable[[Path], object]], Path]) -> Path:
    """A zip for this machine's processor, made in a repository with all sorts of files."""

    def make(place: Path) -> None:
        result = bundle(
            repository(place / "repository"),
            "--python",
            minor,
            "--output",
            str(place / "onward.zip"),
        )
        assert (result.code, result.err) == (0, "")

    return made_once(f"bundle-{minor}", make) / "onward.zip"


@pytest.fixture(scope="session")
def without_pip(made_once: Callable[[str, Callable[[Path], object]], Path]) -> dict[str, str]:
    """The environment of a machine whose Python 3.12 has no pip, but which has uv."""

    def make(place: Path) -> None:
        python = find_python(Target("3.12", "x86_64"))
        options = (
            "-q",
            "--require-hashes",
            "--only-binary=:all:",
            "-r",
            str(ROOT / "scripts" / "locks" / "uv.txt"),
        )
        # Without site-packages, and with an ensurepip that has no pip before the real one.
        (place / "python").write_text(f'#!/bin/sh\nexec {shlex.quote(python)} -S "$@"\n')
        (place / "python").chmod(0o755)
        (place / "none").mkdir()
        (place / "none" / "ensurepip.py").touch()
        subprocess.run(
            [python, "-m", "pip", "install", "--target", str(place / "uv"), *options], check=True
        )

    place = made_once("without-pip", make)
    uv = f"{place / 'uv' / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return {
        "PYTHON312": str(place / "python"),
        "PYTHONPATH": str(place / "none"),
        "PATH": uv,
        "UV_NATIVE_TLS": "true",
    }


def changed(zipped: Path, place: Path, change: Change) -> Path:
    """A copy of a zip with some of its files changed."""
    with zipfile.ZipFile(zipped) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    change(files)
    with zipfile.ZipFile(place / "changed.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return place / "changed.zip"


def test_the_same_files_make_the_same_bytes_wherever_and_whenever_it_is(
    minor: str, zipped: Path, tmp_path: Path
) -> None:
    again = repository(tmp_path / "elsewhere" / "with a longer name")
    for path in again.rglob("*.py"):
        os.utime(path, (1, 1))
        path.chmod(0o600)
    (tmp_path / "temporary").mkdir()
    output = tmp_path / "again.zip"
    result = bundle(
        again,
        *("--python", minor, "--output", str(output)),
        TMPDIR=str(tmp_path / "temporary"),
        PYTHONHASHSEED="7",
        SOURCE_DATE_EPOCH="12345",
        TZ="Asia/Tokyo",
    )
    assert (result.code, result.err) == (0, "")
    assert output.read_bytes() == zipped.read_bytes()
    assert list((tmp_path / "temporary").iterdir()) == []


def test_pip_and_uv_make_the_same_bytes(without_pip: dict[str, str], tmp_path: Path) -> None:
    for name, environ in (("pip.zip", {}), ("uv.zip", without_pip)):
        result = bundle(ROOT, "--python", "3.12", "--output", str(tmp_path / name), **environ)
        assert (result.code, result.err) == (0, "")
    assert (tmp_path / "pip.zip").read_bytes() == (tmp_path / "uv.zip").read_bytes()


def test_it_holds_what_the_function_needs_and_nothing_that_lay_beside(zipped: Path) -> None:
    with zipfile.ZipFile(zipped) as archive:
        entries = archive.infolist()
        assert not [entry.filename for entry in entries if archive.read(entry) == b"canary"]
        text = archive.read("psycopg-3.3.9.dist-info/METADATA").decode()
    names = [entry.filename for entry in entries]
    assert names == sorted(names)
    assert set(NEEDED) <= set(names)
    assert {name for name in names if name.startswith("migrations/")} == {
        f"migrations/{name}"
        for name in (FILE_NAME, *(path.name for path in (ROOT / "migrations").glob("*.sql")))
    }
    assert not [
        name
        for name in names
        if re.search(r"(^|/)(tests?|scripts|bin|\.[^/]*|pyproject\.toml)(/|$)", name)
    ]
    assert not [name for name in names if name.startswith(("boto", "pip", "pytest"))]
    assert {(entry.date_time[0], entry.external_attr >> 16) for entry in entries} == {
        (1980, 0o100644)
    }
    assert "Version: 3.3.9" in text
    assert zipped.stat().st_size < 6_500_000


def test_its_bytecode_is_valid_for_the_python_that_it_is_for(
    minor: str, zipped: Path, tmp_path: Path
) -> None:
    with zipfile.ZipFile(zipped) as archive:
        archive.extractall(tmp_path)
    command = [find_python(Target(minor, "x86_64")), "-I", "-c", VALID, str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")


def test_another_processor_gets_the_same_driver(minor: str, zipped: Path, tmp_path: Path) -> None:
    (other,) = set(ARCHITECTURES) - {platform.machine()}
    output = tmp_path / "other.zip"
    result = bundle(ROOT, "--python", minor, "--arch", other, "--output", str(output))
    assert (result.code, result.err) == (0, "")
    packages = []
    for path in (zipped, output):
        with zipfile.ZipFile(path) as archive:
            packages.append(
                {name.partition("/")[0] for name in archive.namelist() if ".dist-info/" in name}
            )
    assert packages[0] == packages[1]
    with zipfile.ZipFile(output) as archive:
        extensions = [name for name in archive.namelist() if name.endswith(".so")]
    assert extensions
    assert all(other in name for name in extensions)
    assert output.stat().st_size < 6_500_000


def test_checking_it_says_what_is_in_it(zipped: Path) -> None:
    result = bundle(ROOT, "--check", str(zipped))
    assert (result.code, result.err) == (0, "")
    for name in (
        "lib/aws/function.py",
        "migrations/000-create-migration-table.sql",
        "psycopg-3.3.9.dist-info",
        "sha256",
    ):
        assert name in result.out


BYTECODE = "lib/aws/__pycache__/function.cpython-{}.pyc"
FAULTS: dict[str, tuple[Change, str]] = {
    "a test": (
        lambda files: files.update({"tests/test_x.py": b""}),
        "must not be in it: tests/test_x.py",
    ),
    "a test of ours": (
        lambda files: files.update({"lib/tests/x.py": b""}),
        "must not be in it: lib/tests/x.py",
    ),
    "a script": (
        lambda files: files.update({"scripts/x.py": b""}),
        "must not be in it: scripts/x.py",
    ),
    "an .env": (lambda files: files.update({".env": b""}), "must not be in it: .env"),
    "an .env below": (
        lambda files: files.update({"lib/.env.local": b""}),
        "must not be in it: lib/.env.local",
    ),
    "a pyproject": (
        lambda files: files.update({"pyproject.toml": b""}),
        "must not be in it: pyproject.toml",
    ),
    "boto3": (lambda files: files.update({"boto3/x.json": b""}), "must not be in it: boto3/x.json"),
    "a key": (lambda files: files.update({"lib/tls.pem": b""}), "must not be in it: lib/tls.pem"),
    "no handler": (lambda files: files.pop("lib/aws/function.py"), "missing: lib/aws/function.py"),
    "no package": (lambda files: files.pop("lib/__init__.py"), "missing: lib/__init__.py"),
    "no typing_extensions": (
        lambda files: files.pop("typing_extensions.py"),
        "missing: typing_extensions.py",
    ),
    "no migrations": (
        lambda files: [files.pop(name) for name in list(files) if name.startswith("migrations/")],
        "no migrations",
    ),
    "another version": (
        lambda files: [files.pop(name) for name in list(files) if name.startswith("starlette-")],
        "missing: starlette 1.10.0",
    ),
    "a package that is not in the lock": (
        lambda files: files.update({"leftpad-1.0.dist-info/METADATA": b""}),
        "must not be in it: leftpad-1.0.dist-info",
    ),
    "no driver": (
        lambda files: [files.pop(name) for name in list(files) if name.endswith(".so")],
        "extension modules must be for one Python and processor",
    ),
    "two drivers": (
        lambda files: files.update({"x/y.cpython-311-x86_64-linux-gnu.so": b""}),
        "extension modules must be for one Python and processor",
    ),
    "a source without bytecode": (
        lambda files: files.update({"lib/new.py": b""}),
        "missing: lib/__pycache__/new.",
    ),
    "bytecode of another version": (
        lambda files: files.update({BYTECODE.format("311"): b""}),
        f"must not be in it: {BYTECODE.format('311')}",
    ),
    "bytecode that goes by dates": (
        lambda files: files.update(
            {
                name: b"\xcb\r\r\n" + bytes(12)
                for name in files
                if "aws/__pycache__/function" in name
            }
        ),
        "that is valid whatever the date",
    ),
    "too much": (
        lambda files: files.update({"lib/data.bin": os.urandom(6_000_000)}),
        "bytes are more than",
    ),
}


@pytest.mark.parametrize(("change", "problem"), FAULTS.values(), ids=list(FAULTS))
def test_checking_finds_what_is_wrong(
    zipped: Path, tmp_path: Path, change: Change, problem: str
) -> None:
    result = bundle(ROOT, "--check", str(changed(zipped, tmp_path, change)))
    assert result.code == 1
    assert problem in result.err


def lock(starlette: str = f"starlette==1.10.0 {HASH}") -> str:
    """Requirements with a pin of the driver and a line of a test's own."""
    return f"psycopg[binary]==3.3.9 \\\n    {HASH}  # the driver\n\n{starlette}\n"


@pytest.mark.parametrize(
    "line",
    [
        "starlette>=1",
        "starlette",
        f"starlette>=1 {HASH}",
        "starlette==1.10.0",
        "starlette==1.10.0 ; python_version > '3'",
        f"starlette==1.* {HASH}",
        "-r other.txt",
        "git+https://x.invalid/y",
        f"starlette @ https://x.invalid/y {HASH}",
    ],
)
def test_what_is_no_exact_version_with_a_hash_is_refused(tmp_path: Path, line: str) -> None:
    requirements = tmp_path / "loose.txt"
    requirements.write_text(lock(line))
    result = bundle(ROOT, "--requirements", str(requirements), "--output", str(tmp_path / "x.zip"))
    assert result.code == 2
    assert line.removesuffix(f" {HASH}") in result.err
    assert "psycopg" not in result.err
    assert not (tmp_path / "x.zip").exists()


def test_a_version_that_does_not_exist_makes_no_zip(minor: str, tmp_path: Path) -> None:
    (tmp_path / "wrong.txt").write_text(f"psycopg[binary]==0.0.1 {HASH}")
    wrong = ("--requirements", str(tmp_path / "wrong.txt"), "--output", str(tmp_path / "x.zip"))
    result = bundle(ROOT, "--python", minor, *wrong)
    assert result.code == 2
    assert "psycopg" in result.err
    assert list(tmp_path.iterdir()) == [tmp_path / "wrong.txt"]


def changed_lock(change: Callable[[str], str], tmp_path: Path) -> tuple[str, ...]:
    """The options for a build from the lock with a change."""
    path = tmp_path / "changed.txt"
    path.write_text(change(LOCK.read_text()))
    assert path.read_text() != LOCK.read_text()
    return ("--requirements", str(path), "--output", str(tmp_path / "x.zip"))


@pytest.mark.parametrize("installer", ["pip", "uv"])
def test_a_file_whose_hash_is_not_in_the_lock_makes_no_zip(
    installer: str, without_pip: dict[str, str], tmp_path: Path
) -> None:
    options = changed_lock(
        lambda text: re.sub(r"(?<=idna==3.20)(.*\n.*\n.*)", f" {HASH}", text, count=1), tmp_path
    )
    result = bundle(
        ROOT, "--python", "3.12", *options, **(without_pip if installer == "uv" else {})
    )
    assert (result.code, (tmp_path / "x.zip").exists()) == (2, False)
    assert "idna" in result.err
    assert re.search("HASHES|Hash mismatch", result.err)


@pytest.mark.parametrize("installer", ["pip", "uv"])
def test_a_lock_that_leaves_out_what_a_package_needs_makes_no_zip(
    installer: str, without_pip: dict[str, str], tmp_path: Path
) -> None:
    options = changed_lock(
        lambda text: re.sub(r"^idna==(.*\\\n)+.*\n", "", text, flags=re.MULTILINE), tmp_path
    )
    result = bundle(
        ROOT, "--python", "3.12", *options, **(without_pip if installer == "uv" else {})
    )
    assert (result.code, (tmp_path / "x.zip").exists()) == (2, False)
    assert "idna" in result.err


def test_without_an_interpreter_of_that_version_there_is_no_zip(tmp_path: Path) -> None:
    for other in (str(tmp_path / "none"), "false"):
        result = bundle(
            ROOT, "--python", "3.12", "--output", str(tmp_path / "x.zip"), PYTHON312=other
        )
        assert (result.code, list(tmp_path.iterdir())) == (2, [])
        assert "no Python 3.12 runs here" in result.err
        assert "PYTHON312" in result.err


def test_migrations_that_no_run_would_accept_make_no_zip(minor: str, tmp_path: Path) -> None:
    project = repository(tmp_path / "repository")
    (project / "migrations" / "002-twice.sql").write_text("SELECT 1")
    result = bundle(project, "--python", minor, "--output", str(tmp_path / "x.zip"))
    assert result.code == 2
    assert "002-twice.sql" in result.err
    assert not (tmp_path / "x.zip").exists()


def test_what_is_no_zip_is_told_as_such(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_text("no zip")
    for name in ("x.zip", "gone.zip"):
        assert bundle(ROOT, "--check", str(tmp_path / name)).code == 2


def test_the_help_shows_how(tmp_path: Path) -> None:
    result = bundle(ROOT, "--help")
    assert result.code == 0
    assert "scripts/bundle.py --python 3.12 --arch aarch64" in result.out


# template.yaml


def lint(template: Path) -> tuple[int, object]:
    """What cfn-lint says of it."""
    command = [str(Path(sys.executable).with_name("cfn-lint")), "--format", "json", str(template)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.returncode, json.loads(result.stdout)


TEMPLATES = ("template.yaml", "template-fleet.yaml")


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_passes_cfn_lint_and_deploys_what_is_built_by_default(name: str) -> None:
    assert lint(ROOT / name) == (0, [])
    template = (ROOT / name).read_text()
    assert f"CodeUri: dist/onward-{Target('3.13', 'x86_64')}.zip\n" in template
    assert "Handler: lib.aws.handler\n" in template
    assert re.search(r"Runtime: python3\.13\b", template)


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("other", sorted(MAGIC.keys() - {"3.13"}))
def test_a_template_takes_another_python_by_two_lines(
    other: str, name: str, tmp_path: Path
) -> None:
    text = (ROOT / name).read_text()
    changed = re.sub(r"((?:CodeUri: dist/onward-|Runtime: )python)3\.13\b", rf"\g<1>{other}", text)
    assert sum(map(str.__ne__, text.splitlines(), changed.splitlines())) == 2
    (tmp_path / "template.yaml").write_text(changed)
    assert lint(tmp_path / "template.yaml") == (0, [])
