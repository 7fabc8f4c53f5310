"""Vercel on this machine: `vercel build` of a copy of the project, and what it made run by Vercel's
own runtime.

No account and no token is needed. Not imitated: the build image, the router before the functions,
upload and aliases.
"""

import base64
import json
import os
import platform
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.client import parse_headers
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

from lib.settings.environ import URL_VARIABLES
from scripts.bundle import Target, find_python, pins
from tests.conftest import ROOT
from tests.platform.cache import CACHE, cached, said

CLI, LOCK = "64.0.2", ROOT / "scripts" / "locks" / "uv.txt"
# A dependency of the CLI that a build has no use for; some of its versions are withdrawn, this one
# is not.
PACKAGE = {"private": True, "dependencies": {"vercel": CLI}, "overrides": {"sandbox": "4.5.0"}}
PYTHON = "3.12"  # Vercel's default, and the oldest that its runtime runs on
SETTINGS = {"projectId": "prj_local", "orgId": "team_local", "settings": {"nodeVersion": "24.x"}}
HOST = {"host": "onward.example", "x-forwarded-proto": "https", "x-forwarded-for": "203.0.113.9"}


@dataclass(frozen=True)
class Tools:
    """What a build needs: the CLI, and a PATH with Python, Node and uv."""

    python: str
    cli: Path
    path: str


def install() -> Tools:
    """Install what is missing into the cache. Raises BundleError without a Python, OSError without
    Node and npm.
    """
    python = find_python(Target(PYTHON, platform.machine()))
    prefix = said(python, "-c", "import sys; print(sys._base_executable)")
    node = shutil.which("node")
    if not node or not shutil.which("npm"):
        raise FileNotFoundError("node and npm are needed to build for Vercel")
    cli = cached(f"vercel-{CLI}", _install_cli) / "node_modules" / "vercel" / "dist" / "index.js"
    uv = cached(f"uv-{pins(LOCK)[0].version}", partial(_install_uv, prefix))
    # Under the names that a build asks for, ahead of shims for Pythons that are not installed.
    names = cached(f"python-{prefix.replace('/', '_')}", partial(_link, prefix))
    return Tools(
        prefix,
        cli,
        os.pathsep.join(map(str, (uv / "bin", names, Path(node).parent, "/usr/bin", "/bin"))),
    )


def _install_cli(place: Path) -> None:
    (place / "package.json").write_text(json.dumps(PACKAGE))
    said("npm", "install", "--no-audit", "--no-fund", "--loglevel=error", cwd=place)


def _install_uv(python: str, place: Path) -> None:
    options = ("--quiet", "--disable-pip-version-check", "--require-hashes", "--only-binary=:all:")
    said(python, "-m", "pip", "install", *options, "--target", str(place), "-r", str(LOCK))


def _link(python: str, place: Path) -> None:
    for name in ("python", "python3", f"python{PYTHON}"):
        (place / name).symlink_to(python)


def checkout(place: Path, root: Path = ROOT) -> Path:
    """What Vercel would build: a copy of git's files, those not added yet too, without those of
    .vercelignore.
    """
    git = (
        "git",
        "-c",
        "safe.directory=*",
        "-C",
        str(root),
        "ls-files",
        "-z",
        "--cached",
        "--others",
    )
    ignored = {
        ".gitignore",
        ".vercelignore",
        *said(*git, "--ignored", "--exclude-from=.vercelignore").split("\0"),
    }
    for name in said(*git, "--exclude-standard").split("\0"):
        if name and name not in ignored and (root / name).is_file():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / name, place / name)
    (place / ".vercel").mkdir()
    (place / ".vercel" / "project.json").write_text(json.dumps(SETTINGS))
    return place


@dataclass(frozen=True)
class Built:
    """What a build left behind: exit code, log and, below `root`, its output."""

    code: int
    log: str
    root: Path

    @property
    def output(self) -> Path:
        """What would be uploaded."""
        return self.root / ".vercel" / "output"

    @property
    def published(self) -> list[str]:
        """The static files, which anybody may read."""
        return _files(self.output / "static")

    @property
    def functions(self) -> list[str]:
        """Their names, which are their paths."""
        folder = self.output / "functions"
        return sorted(
            str(one.relative_to(folder).with_suffix("")) for one in folder.rglob("*.func")
        )

    def settings(self, function: str) -> dict[str, Any]:
        """What the builder says of a function: its limits, and which files it is made of."""
        settings: dict[str, Any] = json.loads(
            self._folder(function).joinpath(".vc-config.json").read_text()
        )
        return settings

    def bundle(self, function: str) -> dict[str, Path]:
        """A function's files by their path in it: by reference to the project, and those in its own
        directory.
        """
        folder = self._folder(function)
        own = {name: folder / name for name in _files(folder) if name != ".vc-config.json"}
        return {
            name: self.root / path for name, path in self.settings(function)["filePathMap"].items()
        } | own

    def _folder(self, function: str) -> Path:
        return self.output / "functions" / f"{function}.func"


def _files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def build(tools: Tools, root: Path, url: str, **environ: str) -> Built:
    """`vercel build` as the platform runs it, for production unless `environ` says otherwise.

    It is the project's first deployment, with no framework in its settings: the case in which
    Vercel guesses the most.
    """
    dropped = {*URL_VARIABLES, "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "GITHUB_ACTIONS"}
    environ = {
        **_kept(
            lambda name: (
                name not in dropped
                and not name.startswith(("VERCEL", "MIGRATION_", "PG", "PYTEST_"))
            )
        ),
        "PATH": tools.path,
        "CI": "1",
        "UV_CACHE_DIR": str(CACHE / "uv-cache"),
        "UV_NATIVE_TLS": "true",
        "VERCEL_TELEMETRY_DISABLED": "1",
        "VERCEL_FIRST_DEPLOYMENT": "1",
        "VERCEL_DEPLOYMENT_ID": "dpl_local",
        "VERCEL_ENV": "production",
        "VERCEL_TARGET_ENV": "production",
        "POSTGRES_URL": url,
        **environ,
    }
    command = [
        "node",
        str(tools.cli),
        "build",
        "--yes",
        "--global-config",
        str(root.parent / "vercel-settings"),
    ]
    result = subprocess.run(
        command,
        cwd=root,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        check=False,
    )
    return Built(result.returncode, result.stdout, root)


def _kept(wanted: Callable[[str], bool]) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if wanted(name)}


class Reply(NamedTuple):
    """A function's answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def document(self) -> Any:
        """Its body, taken for JSON."""
        return json.loads(self.body)


Send = Callable[..., Reply]
"""`send(method, path, headers={}, body=b"")`."""


@contextmanager
def running(
    python: str, built: Built, function: str, task: Path, way: str, **environ: str
) -> Iterator[Send]:
    """A function on Vercel's runtime, alone in `task` with the files of its bundle; `way` is a key
    of WAYS.
    """
    for name, source in built.bundle(function).items():
        (task / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, task / name)
    settings = built.settings(function)
    environ = {
        "PATH": "/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "TZ": ":UTC",
        "VERCEL": "1",
        "VERCEL_ENV": "production",
        "VERCEL_TARGET_ENV": "production",
        "AWS_LAMBDA_FUNCTION_NAME": "local",
        "LAMBDA_TASK_ROOT": str(task),
        "HANDLER": settings["handler"],
        **settings["environment"],
        **environ,
    }
    with WAYS[way](python, task, environ) as send:
        yield send


IMPORT = """
import importlib, json, os, sys
sys.path.insert(0, os.getcwd())
name, _, attribute = os.environ.pop("HANDLER").rpartition(".")
module = importlib.import_module(name)
"""
CALL = f"""{IMPORT}
for line in sys.stdin:
    answer = getattr(module, attribute)({{"Action": "Invoke", "body": line}}, None)
    print("ANSWER", json.dumps(answer), file=sys.__stdout__, flush=True)
os._exit(0)
"""


@contextmanager
def called(python: str, task: Path, environ: Mapping[str, str]) -> Iterator[Send]:
    """The way of Lambda: the handler is called with one request at a time."""
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [python, "-c", CALL], cwd=task, env=environ, stdin=pipe, stdout=pipe, text=True
    )
    assert process.stdin and process.stdout

    def send(
        method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes = b""
    ) -> Reply:
        event = {"method": method, "path": path, "headers": {**HOST, **(headers or {})}}
        event |= {"body": base64.b64encode(body).decode(), "encoding": "base64"}
        print(json.dumps(event), file=process.stdin, flush=True)
        answer = next(line for line in process.stdout or () if line.startswith("ANSWER"))
        found = json.loads(answer.removeprefix("ANSWER"))
        body = (
            base64.b64decode(found["body"])
            if found.get("encoding") == "base64"
            else found["body"].encode()
        )
        return Reply(
            found["statusCode"],
            {name.lower(): values[0] for name, values in found["headers"].items()},
            body,
        )

    with process:
        yield send
        process.stdin.close()


@contextmanager
def served(python: str, task: Path, environ: Mapping[str, str]) -> Iterator[Send]:
    """The way of today's runtime: the process names its port on a socket, and then takes plain HTTP
    there.
    """
    control = socket.socket(socket.AF_UNIX)
    control.bind(str(task.parent / "ipc"))
    control.listen(1)
    environ = {**environ, "VERCEL_IPC_PATH": str(task.parent / "ipc")}
    process = subprocess.Popen(
        [python, "-c", IMPORT], cwd=task, env=environ, stdin=subprocess.DEVNULL
    )
    with process, control, control.accept()[0] as messages:
        yield partial(_request, _port(messages))
        process.terminate()


def _port(messages: socket.socket) -> int:
    """What it says once it listens: one JSON document among others, each with a NUL behind it."""
    received = b""
    while chunk := messages.recv(65536):
        received += chunk
        for message in map(json.loads, received.split(b"\0")[:-1]):
            if message["type"] == "server-started":
                return int(message["payload"]["httpPort"])
    raise AssertionError(f"the function did not start: {received!r}")


def _request(
    port: int, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes = b""
) -> Reply:
    """By hand: an HTTP client would not show a body behind an answer to HEAD."""
    lines = {**HOST, "connection": "close", "content-length": str(len(body)), **(headers or {})}
    lines |= {"x-vercel-internal-invocation-id": "inv_1", "x-vercel-internal-request-id": "1"}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body)
        with connection.makefile("rb") as stream:
            answer = BytesIO(stream.read())
    status = int(answer.readline().split()[1])
    found = parse_headers(answer)
    return Reply(status, {name.lower(): value for name, value in found.items()}, answer.read())


WAYS = {"served": served, "called": called}
