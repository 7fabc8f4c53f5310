#!/usr/bin/env python3
"""Builds the zip for AWS Lambda and lists what is in one: `scripts/bundle.py --help`.

The zip contains the packages of scripts/locks/runtime.txt, for Lambda's Python and processor and
not this machine's, and the project's api/ and migrations/, with the modules of lib/ that the
handlers import. Every module comes with its bytecode: without it, or with bytecode that depends
on a file's date, a cold start compiles everything and takes twice as long. The same files make the
same zip, byte for byte.
"""

import signal

if __name__ == "__main__":
    # Until `main` handles it, Ctrl-C ends the process without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import argparse
import ast
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

from scripts.in_venv import require

require()

from lib import imported
from lib.errors import OnwardError
from lib.source.migration import load

# The first bytes of each Python's bytecode.
MAGIC = {"3.12": b"\xcb\x0d\x0d\x0a", "3.13": b"\xf3\x0d\x0d\x0a", "3.14": b"\x2b\x0e\x0d\x0a"}
ARCHITECTURES = ("x86_64", "aarch64")
MAX_ZIP_BYTES = 10_000_000
TASK_ROOT = "/var/task"  # where Lambda unpacks the zip, so what tracebacks show
ENTRY_DATE = (1980, 1, 1, 0, 0, 0)  # the same in every zip, so that its bytes are
UNCHECKED_HASH = b"\x01\x00\x00\x00"  # the flag of bytecode that no source is compared with
PROJECT_FOLDERS = ("api", "lib", "migrations")
NEEDED = (
    # Without these two, a package of that name in a layer would take the place of the bundle's.
    "api/__init__.py",
    "lib/__init__.py",
    "lib/aws/function.py",
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
    r"((api|lib|migrations)/(.*/)?)?(tests?|scripts|bin|docs|\.[^/]+)/.*"
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
# Modules for tests, for another event loop, for a psycopg without its binary, and for names that
# anyio resolves, which nothing here asks of it: 0.2 MB.
NEVER_LOADED = (
    "anyio/_backends/_trio.py",
    "anyio/pytest_plugin.py",
    "idna/uts46data.py",
    "psycopg/pq/_pq_ctypes.py",
    "psycopg/pq/_pq_ctypes.pyi",
    "psycopg/pq/pq_ctypes.py",
    "starlette/testclient.py",
)
DESCRIPTION = "Build the zip for AWS Lambda, or check one. Its handler is lib.aws.handler."
EXAMPLES = """\
examples:
  scripts/bundle.py                    build for Python 3.13 on x86_64, check and list it
  scripts/bundle.py --python 3.12 --arch aarch64
                                       build for Python 3.12 on Graviton
  scripts/bundle.py --check dist/onward.zip
                                       list a zip; exit 1 if something is wrong with it

An interpreter of the same version makes the bytecode: PYTHON312, PYTHON313 or PYTHON314 if set,
else python3.12, python3.13 or python3.14, else one of uv's or pyenv's. Its pip installs the
packages, or the pip of its ensurepip, or uv if it has neither.
"""


class BundleError(Exception):
    """The zip cannot be built."""


@dataclass(frozen=True)
class Target:
    """The Python and the processor that a zip is for."""

    minor: str
    architecture: str

    def __str__(self) -> str:
        return f"python{self.minor}-{self.architecture}"

    @property
    def tag(self) -> str:
        """As in the names of bytecode and extension modules."""
        return f"cpython-{self.minor.replace('.', '')}"


def main(arguments: Sequence[str]) -> int:
    """Build or check a zip. The exit code is 0, 1 if something is wrong with it, 2 if it cannot be
    built or read.
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
    parser.add_argument("--check", type=Path, metavar="ZIP", help="build nothing, check this zip")
    return parser.parse_args(arguments)


def build(target: Target, requirements: Path, output: Path) -> None:
    """Make the zip. Raises BundleError, or FilesError for migrations that no run would accept."""
    pins(requirements)
    python = find_python(target)
    with tempfile.TemporaryDirectory(prefix="onward-bundle-") as temporary:
        directory = Path(temporary) / "bundle"
        _install(python, target, requirements, directory)
        _copy_project(directory)
        _compile(python, directory)
        output.parent.mkdir(parents=True, exist_ok=True)
        _pack(directory, output)


class Pin(NamedTuple):
    """One line of a requirements file: a package and its exact version."""

    package: str
    version: str
    everywhere: bool

    @property
    def dist_info(self) -> str:
        """The normalized name of its metadata's directory."""
        return _normalized(f"{self.package}-{self.version}.dist-info")


def pins(requirements: Path) -> list[Pin]:
    """The lines of a requirements file. Raises BundleError if one lacks its version or hash."""
    joined = re.sub(r"\\\n", "", requirements.read_text(encoding="utf-8"))
    found, loose = [], []
    for line in joined.splitlines():
        requirement = re.sub(r"(^|\s)#.*", "", line).strip()
        if not requirement:
            continue
        if pin := re.fullmatch(PIN, requirement):
            found.append(Pin(pin["package"], pin["version"], not pin["marker"]))
        else:
            loose.append(requirement.partition(" --hash")[0])
    if loose:
        raise BundleError(
            f"{requirements.name} must name exact versions with their hashes, such as "
            "starlette==1.10.0 --hash=sha256:..., as `uv pip compile --generate-hashes` writes "
            f"them: {loose}"
        )
    return found


def _normalized(name: str) -> str:
    """One spelling for all that a package's name may have."""
    return re.sub(r"[-_.]+", "_", name).lower()


def find_python(target: Target) -> str:
    """An interpreter of the target's version. Raises BundleError."""
    variable = f"PYTHON{target.minor.replace('.', '')}"
    print_tag = "import sys; print(sys.implementation.cache_tag)"
    for candidate in _candidates(variable, target.minor):
        if _output_of([candidate, "-I", "-c", print_tag]) == target.tag:
            return candidate
    raise BundleError(
        f"no Python {target.minor} runs here, and only that can make its bytecode: install it "
        f"(uv python install {target.minor}), or set {variable} to its path"
    )


def _candidates(variable: str, minor: str) -> Iterator[str]:
    """Where an interpreter may be. A command on PATH may be a shim that does not run."""
    if given := os.environ.get(variable):
        yield given
        return
    yield from (f"python{minor}", sys.executable)
    if found := _output_of(["uv", "python", "find", minor]):
        yield found
    if found := _output_of(["pyenv", "prefix", minor]):
        yield f"{found}/bin/python"


def _output_of(command: Sequence[str]) -> str:
    """What a command prints; nothing if it is missing or fails."""
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _install(python: str, target: Target, requirements: Path, directory: Path) -> None:
    """Install the packages. Only files whose hashes the requirements have are accepted, and
    requirements that leave out a dependency are refused.
    """
    command = _installer(python, target)
    command += ["--quiet", "--require-hashes", "--only-binary=:all:"]
    command += [f"--target={directory}", "-r", str(requirements)]
    _run(command)
    shutil.rmtree(directory / "bin", ignore_errors=True)
    for left in (*directory.iterdir(), *directory.glob("*.dist-info/*")):
        if left.name in LEFT_BY_INSTALLERS:
            left.unlink()
    for name in NEVER_LOADED:
        (directory / name).unlink(missing_ok=True)


def _installer(python: str, target: Target) -> list[str]:
    """pip or uv, told the target's version and platform: some packages need others only there."""
    run_pip = str(ROOT / "scripts" / "run_pip.py")
    if subprocess.run([python, run_pip], check=False, capture_output=True).returncode == 0:
        command = [python, run_pip, "install", "--disable-pip-version-check", "--no-compile"]
        # Some wheels have the tag 2.28 only and some 2.17 only, and pip takes just what it is told.
        for tag in ("manylinux_2_28", "manylinux2014"):
            command.append(f"--platform={tag}_{target.architecture}")
        return [*command, "--implementation=cp", f"--python-version={target.minor}"]
    if shutil.which("uv"):
        command = ["uv", "pip", "install", f"--python={python}"]
        platform = f"--python-platform={target.architecture}-manylinux_2_28"
        return [*command, f"--python-version={target.minor}", platform]
    raise BundleError(
        f"{python} has neither pip nor ensurepip, and uv is not installed: install one of them "
        f"(on Debian and Ubuntu: apt install python{target.minor}-venv)"
    )


def _copy_project(directory: Path) -> None:
    handlers = [*(ROOT / "api").rglob("*.py"), ROOT / "lib" / "aws" / "__init__.py"]
    files = [*handlers, *_modules_of_lib(handlers)]
    migrations = ROOT / "migrations"
    files += [migrations / one.path.name for one in load(migrations)]
    files += [migrations / imported.FILE_NAME] if imported.read_imported(migrations) else []
    for path in files:
        copy = directory / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    # Not in the repository, because Vercel would make a function of it.
    (directory / "api").mkdir(exist_ok=True)
    (directory / "api" / "__init__.py").touch()


def _modules_of_lib(importers: Sequence[Path]) -> set[Path]:
    """The modules of lib/ that files import, directly or not: no command is among them."""
    found: set[Path] = set()
    waiting = list(importers)
    while waiting:
        for name in _imports(ast.parse(waiting.pop().read_text())):
            new = {path for path in _files_of(name) if path.is_file()} - found
            found |= new
            waiting += new
    return found


def _imports(tree: ast.AST) -> Iterator[str]:
    """What a file imports, but for types alone; of what it imports from a package, each name."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            yield from _imports(node)


def _files_of(name: str) -> Iterator[Path]:
    """Where a dotted name may be, and the packages that it is in."""
    parts = name.split(".") if name.partition(".")[0] == "lib" else []
    for count in range(1, len(parts) + 1):
        path = ROOT.joinpath(*parts[:count])
        yield from (path.with_suffix(".py"), path / "__init__.py")


def _compile(python: str, directory: Path) -> None:
    command = [python, "-m", "compileall", "-q", "-f"]
    command += ["--invalidation-mode", "unchecked-hash"]
    command += ["-s", str(directory), "-p", TASK_ROOT, str(directory)]
    _run(command, PYTHONHASHSEED="0")


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
            entry = zipfile.ZipInfo(name, ENTRY_DATE)
            entry.create_system, entry.external_attr = 3, 0o100644 << 16
            archive.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED, 9)
    unfinished.replace(output)


def contents(path: Path) -> Iterator[str]:
    """What is in a zip, as lines: one for each file of the project and for each package."""
    sizes: Counter[str] = Counter()
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            folder = entry.filename.partition("/")[0]
            alone = folder in PROJECT_FOLDERS and "__pycache__" not in entry.filename
            sizes[entry.filename if alone else folder] += entry.file_size
    for name, size in sorted(sizes.items()):
        yield f"{size:>10}  {name}"
    zipped, unzipped = path.stat().st_size / 1e6, sizes.total() / 1e6
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    yield f"{path}: {zipped:.2f} MB zipped, {unzipped:.1f} MB unzipped, sha256 {digest}"


def check(path: Path, requirements: Path) -> list[str]:
    """What is wrong with a zip."""
    problems = []
    if path.stat().st_size > MAX_ZIP_BYTES:
        problems.append(f"{path.stat().st_size} bytes are more than {MAX_ZIP_BYTES}")
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        problems += _wrong_names(names)
        problems += _wrong_packages(names, pins(requirements))
        problems += _wrong_binaries(names, archive.read)
    return problems


def _wrong_names(names: Sequence[str]) -> Iterator[str]:
    yield from (f"must not be in it: {name}" for name in names if UNWANTED.fullmatch(name))
    yield from (f"twice in it: {name}" for name, times in Counter(names).items() if times > 1)
    yield from (f"missing: {name}" for name in NEEDED if name not in names)
    if not any(re.fullmatch(r"migrations/\d+-.*\.sql", name) for name in names):
        yield "no migrations"


def _wrong_packages(names: Sequence[str], wanted: Sequence[Pin]) -> Iterator[str]:
    """The packages must be those of the requirements. One whose line has a marker may be for
    another platform, so it may be missing.
    """
    expected = {pin.dist_info: pin for pin in wanted}
    folders = {name.partition("/")[0] for name in names}
    present = {_normalized(name): name for name in folders if name.endswith(".dist-info")}
    for name, pin in expected.items():
        if pin.everywhere and name not in present:
            yield f"missing: {pin.package} {pin.version}"
    for name, folder in sorted(present.items()):
        if name not in expected:
            yield f"must not be in it: {folder}"


def _wrong_binaries(names: Sequence[str], read: Callable[[str], bytes]) -> Iterator[str]:
    """Extension modules must be for one Python and processor, and every module must have bytecode
    of that Python.
    """
    matches = (re.search(r"\.(cpython-[^/]*)\.so$", name) for name in names)
    extensions = {found[1] for found in matches if found}
    targets = {f"{target.tag}-{target.architecture}-linux-gnu": target for target in _targets()}
    if len(extensions) != 1 or not extensions <= set(targets):
        yield (
            "extension modules must be for one Python and processor of Lambda, not "
            f"{sorted(extensions)}"
        )
        return
    target = targets[extensions.pop()]
    wanted = {_bytecode(name, target) for name in names if name.endswith(".py")}
    present = {name for name in names if name.endswith(".pyc")}
    yield from (f"missing: {name}" for name in sorted(wanted - present))
    yield from (f"must not be in it: {name}" for name in sorted(present - wanted))
    for name in sorted(present & wanted):
        if read(name)[:8] != MAGIC[target.minor] + UNCHECKED_HASH:
            yield f"not bytecode of Python {target.minor} that is valid whatever the date: {name}"


def _targets() -> Iterator[Target]:
    return (Target(minor, architecture) for minor in MAGIC for architecture in ARCHITECTURES)


def _bytecode(name: str, target: Target) -> str:
    path = PurePosixPath(name)
    return str(path.parent / "__pycache__" / f"{path.stem}.{target.tag}.pyc")


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main(sys.argv[1:]))
