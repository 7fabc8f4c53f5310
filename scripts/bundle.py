#!/usr/bin/env python3
"""Builds the zip for AWS Lambda, and says what is in one: `scripts/bundle.py --help`.

It holds what scripts/locks/runtime.txt lists, for Lambda's Python and processor whatever this
machine's are, and our api/, lib/, migrations/ and public/. Each file comes with its bytecode:
without it, or with bytecode that goes by a file's date, a cold start compiles everything and takes
twice as long. The same files make the same zip, byte for byte.
"""

import signal

if __name__ == "__main__":
    signal.signal(
        signal.SIGINT, signal.SIG_DFL
    )  # until `main` deals with it: Ctrl-C shows no traceback

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from lib.errors import OnwardError
from lib.source.migration import load

MAGIC = {"3.12": b"\xcb\x0d\x0d\x0a", "3.13": b"\xf3\x0d\x0d\x0a", "3.14": b"\x2b\x0e\x0d\x0a"}
ARCHITECTURES = ("x86_64", "aarch64")
LARGEST = 10_000_000
PLACE = "/var/task"  # where Lambda unpacks it: what tracebacks show
DATE = (1980, 1, 1, 0, 0, 0)
UNCHECKED = b"\x01\x00\x00\x00"
OURS = ("api", "lib", "migrations", "public")
NEEDED = (
    "api/__init__.py",  # without these two, a package of that name in a layer would hide ours
    "lib/__init__.py",
    "lib/aws/function.py",
    "public/index.html",
    "anyio/__init__.py",
    "idna/__init__.py",
    "mangum/__init__.py",
    "psycopg/__init__.py",
    "psycopg_binary/__init__.py",
    "starlette/__init__.py",
    "typing_extensions.py",
)
PIN = (
    r"(?P<package>[\w.-]+)(?:\[[\w,.-]+\])?\s*==\s*(?P<version>[\w.+!]+)"
    r"\s*(?P<marker>;.*?)?(?:\s+--hash=sha(?:256|384|512):[0-9a-f]+)+"
)
UNWANTED = re.compile(
    r"((api|lib|migrations|public)/(.*/)?)?(tests?|scripts|bin|docs|\.[^/]+)/.*"
    r"|(.*/)?(\.[^/]*|pyproject\.toml|requirements[^/]*\.txt|[^/]*\.(pem|key))"
    r"|(boto3|botocore|pip|setuptools|pytest|ruff|mypy)(/|-\d).*|[^/]+\.(md|toml|ini|yaml|yml|json|sql)"
)
LEFT_BY_INSTALLERS = (
    "INSTALLER",
    "RECORD",
    "REQUESTED",
    "direct_url.json",
    "uv_build.json",
    "uv_cache.json",
    ".lock",
)
DESCRIPTION = "Build the zip for AWS Lambda, or look into one. Its handler is lib.aws.handler."
EXAMPLES = """\
examples:
  scripts/bundle.py                              build for Python 3.13 on x86_64, check it, say what is in it
  scripts/bundle.py --python 3.12 --arch aarch64 build for Graviton
  scripts/bundle.py --check dist/onward.zip      say what is in a zip; exit 1 if that is not as it should be

The bytecode is made by an interpreter of the same version: PYTHON312, PYTHON313 or PYTHON314 if set, else python3.12,
python3.13 or python3.14, else one of uv's or pyenv's. Packages are installed by its pip, or by uv where it has none.
"""


class BundleError(Exception):
    """The zip cannot be built; the message says why."""


@dataclass(frozen=True)
class Target:
    """What the zip is for."""

    minor: str
    architecture: str

    def __str__(self) -> str:
        return f"python{self.minor}-{self.architecture}"

    @property
    def tag(self) -> str:
        """As it stands in the names of bytecode and extension modules."""
        return f"cpython-{self.minor.replace('.', '')}"


def main(arguments: Sequence[str]) -> int:
    """Build or check; the exit code is 0, 1 for a zip that is not as it should be, 2 if none can be
    built.
    """
    options = _parse(arguments)
    try:
        if options.check is None:
            target = Target(options.python, options.arch)
            options.check = options.output or ROOT / "dist" / f"onward-{target}.zip"
            build(target, options.requirements, options.check)
        print("\n".join(contents(options.check)))
        problems = check(options.check, options.requirements)
    except (BundleError, OnwardError, OSError, zipfile.BadZipFile) as error:
        print(f"bundle: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("bundle: interrupted", file=sys.stderr)
        return 130
    for problem in problems:
        print(f"bundle: {problem}", file=sys.stderr)
    return 1 if problems else 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "scripts/bundle.py", description=DESCRIPTION, epilog=EXAMPLES, formatter_class=formatter
    )
    parser.add_argument(
        "--python", choices=sorted(MAGIC), default="3.13", help="Lambda's Python (default: 3.13)"
    )
    parser.add_argument(
        "--arch", choices=ARCHITECTURES, default="x86_64", help="its processor (default: x86_64)"
    )
    parser.add_argument(
        "--output", type=Path, metavar="ZIP", help="default: dist/onward-python3.13-x86_64.zip"
    )
    parser.add_argument(
        "--requirements",
        type=Path,
        metavar="FILE",
        default=ROOT / "scripts" / "locks" / "runtime.txt",
        help="what to install: exact versions with hashes (default: scripts/locks/runtime.txt)",
    )
    parser.add_argument(
        "--check", type=Path, metavar="ZIP", help="build nothing, look into this one"
    )
    return parser.parse_args(arguments)


def build(target: Target, requirements: Path, output: Path) -> None:
    """Make the zip. Raises BundleError, or FilesError for migrations that no run would accept."""
    pins(requirements)
    python = find_python(target)
    with tempfile.TemporaryDirectory(prefix="onward-bundle-") as temporary:
        directory = Path(temporary) / "bundle"
        _install(python, target, requirements, directory)
        _copy_ours(directory)
        _compile(python, directory)
        output.parent.mkdir(parents=True, exist_ok=True)
        _pack(directory, output)


class Pin(NamedTuple):
    """One line of a requirements file: this version, and no other, of a package."""

    package: str
    version: str
    everywhere: bool

    @property
    def dist_info(self) -> str:
        """The directory that says that it is installed, as `_alike` spells it."""
        return _alike(f"{self.package}-{self.version}.dist-info")


def pins(requirements: Path) -> list[Pin]:
    """The lines of a requirements file. Raises BundleError for one that is no exact version, or has
    no hash.
    """
    text = re.sub(r"\\\n", "", requirements.read_text(encoding="utf-8"))
    lines = [
        line
        for line in (re.sub(r"(^|\s)#.*", "", line).strip() for line in text.splitlines())
        if line
    ]
    found = {line: re.fullmatch(PIN, line) for line in lines}
    if loose := [line.partition(" --hash")[0] for line, pin in found.items() if not pin]:
        raise BundleError(
            f"{requirements.name} must name exact versions with their hashes, such as "
            "starlette==1.10.0"
            f" --hash=sha256:..., as `uv pip compile --generate-hashes` writes them: {loose}"
        )
    return [Pin(pin["package"], pin["version"], not pin["marker"]) for pin in found.values() if pin]


def _alike(name: str) -> str:
    """One spelling for all that a package's name may have."""
    return re.sub(r"[-_.]+", "_", name).lower()


def find_python(target: Target) -> str:
    """An interpreter of the target's minor version that runs. Raises BundleError."""
    variable = f"PYTHON{target.minor.replace('.', '')}"
    for candidate in _candidates(variable, target.minor):
        if (
            _said([candidate, "-I", "-c", "import sys; print(sys.implementation.cache_tag)"])
            == target.tag
        ):
            return candidate
    raise BundleError(
        f"no Python {target.minor} runs here, and only that can make its bytecode: install it (uv "
        "python install"
        f" {target.minor}), or set {variable} to it"
    )


def _candidates(variable: str, minor: str) -> Iterator[str]:
    """Where one may be; a command on PATH may be a shim that does not run."""
    if given := os.environ.get(variable):
        yield given
        return
    yield from (f"python{minor}", sys.executable)
    if found := _said(["uv", "python", "find", minor]):
        yield found
    if found := _said(["pyenv", "prefix", minor]):
        yield f"{found}/bin/python"


def _said(command: Sequence[str]) -> str:
    """What a command prints; nothing if there is none or it fails."""
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _install(python: str, target: Target, requirements: Path, directory: Path) -> None:
    """By an installer that goes by the target's version, not its own, in what a package needs only
    on some versions.

    It takes only files whose hash the requirements have, and refuses requirements that leave out
    what these need. Two tags, because some wheels are for 2.28 and some for 2.17 only; with one of
    them pip finds no file for the others.
    """
    if _said([python, "-m", "pip", "--version"]):
        platforms = [
            f"--platform={tag}_{target.architecture}" for tag in ("manylinux_2_28", "manylinux2014")
        ]
        command = [
            python,
            "-m",
            "pip",
            "install",
            "--disable-pip-version-check",
            "--no-compile",
            *platforms,
        ]
        command += ["--implementation=cp", f"--python-version={target.minor}"]
    elif shutil.which("uv"):
        platform = f"--python-platform={target.architecture}-manylinux_2_28"
        command = [
            "uv",
            "pip",
            "install",
            f"--python={python}",
            f"--python-version={target.minor}",
            platform,
        ]
    else:
        raise BundleError(f"{python} has no pip, and there is no uv")
    command += [
        "--quiet",
        "--require-hashes",
        "--only-binary=:all:",
        f"--target={directory}",
        "-r",
        str(requirements),
    ]
    _run(command)
    shutil.rmtree(directory / "bin", ignore_errors=True)
    for left in (*directory.iterdir(), *directory.glob("*.dist-info/*")):
        if left.name in LEFT_BY_INSTALLERS:
            left.unlink()


def _copy_ours(directory: Path) -> None:
    files = [path for folder in ("api", "lib") for path in (ROOT / folder).rglob("*.py")]
    files += [ROOT / "migrations" / migration.path.name for migration in load(ROOT / "migrations")]
    for path in [*files, ROOT / "public" / "index.html"]:
        copy = directory / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    (
        directory / "api" / "__init__.py"
    ).touch()  # not in the repository, where Vercel would make a function of it


def _compile(python: str, directory: Path) -> None:
    places = ["-s", str(directory), "-p", PLACE]
    command = [
        python,
        "-m",
        "compileall",
        "-q",
        "-f",
        "--invalidation-mode",
        "unchecked-hash",
        *places,
    ]
    _run([*command, str(directory)], PYTHONHASHSEED="0")


def _run(command: Sequence[str], **environ: str) -> None:
    result = subprocess.run(
        command, env=os.environ | environ, check=False, capture_output=True, text=True
    )
    if result.returncode:
        raise BundleError(
            f"{Path(command[0]).name} {' '.join(command[1:4])} "
            f"failed:\n{result.stdout}{result.stderr}"
        )


def _pack(directory: Path, output: Path) -> None:
    files = {
        path.relative_to(directory).as_posix(): path
        for path in directory.rglob("*")
        if path.is_file()
    }
    unfinished = output.with_name(output.name + ".part")
    with zipfile.ZipFile(unfinished, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, path in sorted(files.items()):
            entry = zipfile.ZipInfo(name, DATE)
            entry.create_system, entry.external_attr = 3, 0o100644 << 16
            archive.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED, 9)
    unfinished.replace(output)


def contents(path: Path) -> Iterator[str]:
    """What is in a zip, as lines: our files one by one, packages in one line each."""
    sizes: Counter[str] = Counter()
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            first = entry.filename.partition("/")[0]
            sizes[
                entry.filename if first in OURS and "__pycache__" not in entry.filename else first
            ] += entry.file_size
    yield from (f"{size:>10}  {name}" for name, size in sorted(sizes.items()))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    yield f"{path}: {path.stat().st_size / 1e6:.2f} MB zipped, {sizes.total() / 1e6:.1f} MB unzipped, sha256 {digest}"


def check(path: Path, requirements: Path) -> list[str]:
    """What is wrong with a zip."""
    problems = (
        [f"{path.stat().st_size} bytes are more than {LARGEST}"]
        if path.stat().st_size > LARGEST
        else []
    )
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        problems += [f"must not be in it: {name}" for name in names if UNWANTED.fullmatch(name)]
        problems += [f"twice in it: {name}" for name, times in Counter(names).items() if times > 1]
        problems += [f"missing: {name}" for name in NEEDED if name not in names]
        problems += (
            []
            if any(re.fullmatch(r"migrations/\d+-.*\.sql", name) for name in names)
            else ["no migrations"]
        )
        problems += _wrong_packages(names, pins(requirements))
        return problems + list(_wrong_binaries(names, archive.read))


def _wrong_packages(names: Sequence[str], wanted: Sequence[Pin]) -> Iterator[str]:
    """The packages must be those of the requirements; one with a marker may be for another
    platform.
    """
    expected = {pin.dist_info: pin for pin in wanted}
    present = {
        _alike(folder): folder
        for name in names
        if (folder := name.partition("/")[0]).endswith(".dist-info")
    }
    missing = [pin for name, pin in expected.items() if pin.everywhere and name not in present]
    yield from (f"missing: {pin.package} {pin.version}" for pin in missing)
    yield from (
        f"must not be in it: {folder}" for name, folder in present.items() if name not in expected
    )


def _wrong_binaries(names: Sequence[str], read: Callable[[str], bytes]) -> Iterator[str]:
    """Extension modules must be for one Python and processor, and every module must have bytecode
    of that Python.
    """
    extensions = {
        found[1] for name in names if (found := re.search(r"\.(cpython-[^/]*)\.so$", name))
    }
    targets = {f"{target.tag}-{target.architecture}-linux-gnu": target for target in _targets()}
    if len(extensions) != 1 or not extensions <= set(targets):
        yield f"extension modules must be for one Python and processor of Lambda, not {sorted(extensions)}"
        return
    target = targets[extensions.pop()]
    wanted = {_bytecode(name, target) for name in names if name.endswith(".py")}
    present = {name for name in names if name.endswith(".pyc")}
    yield from (f"missing: {name}" for name in sorted(wanted - present))
    yield from (f"must not be in it: {name}" for name in sorted(present - wanted))
    for name in sorted(present & wanted):
        if read(name)[:8] != MAGIC[target.minor] + UNCHECKED:
            yield f"not bytecode of Python {target.minor} that is valid whatever the date: {name}"


def _targets() -> Iterator[Target]:
    return (Target(minor, architecture) for minor in MAGIC for architecture in ARCHITECTURES)


def _bytecode(name: str, target: Target) -> str:
    path = PurePosixPath(name)
    return str(path.parent / "__pycache__" / f"{path.stem}.{target.tag}.pyc")


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main(sys.argv[1:]))
