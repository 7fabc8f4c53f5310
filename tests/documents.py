"""The documentation as something to be tried: its pages, their blocks, and a place where a block is
followed.

A `console` block is a shell's session, with no environment activated: the lines that begin with
`$ ` are run, and print what is shown below them. A command that fails is followed by `$ echo $?`.
A `text` block is the log of a build, and `vercel.json`'s command prints it. White space does not
count, VARIES says what else does not, and `…` is whatever stands there. An `sh` block is run whole.
An `sql` block that names its file or has a directive is applied by the runner; any other is
executed as it is.
"""

import json
import os
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent
from typing import Any, cast
from urllib.parse import unquote, urlsplit

from lib.source.migration import load
from tests.conftest import ROOT, Database, Server
from tests.kit import history

PAGES = [
    ROOT / "README.md",
    ROOT / "AGENTS.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
SECRET = "canary-of-the-docs-" * 3
HOST = "ep-cool-rain-123456.eu-central-1.aws.neon.tech"

# What is not run here, and why. test_docs.py looks at how it is written instead.
NOT_RUN = {
    "aws": "needs an account",
    "docker": "needs a daemon that pulls images",
    "gh": "needs an account",
    "git push": "needs a remote",
    "sam": "needs an account",
    "vercel": "needs an account",
    ".ci/run": "it is what runs this",
    "scripts/setup": "installs a second .venv; tests/scripts/test_setup.py runs it",
    "scripts/test": "it is what runs this",
    "scripts/bundle.py": "needs Lambda's Python; tests/platform/test_bundle.py runs it",
    "scripts/invoke.py": "needs an account; tests/platform/test_lambda.py runs it on the real "
    "runtime",
    "scripts/dev/bench.py": "takes minutes; tests/scripts/test_bench.py runs it",
}
# A sandbox stays until Ctrl-C. This one types it, when all has been said.
SANDBOX = f"""\
#!{sys.executable}
import os, signal, subprocess, sys
command = [sys.executable, "scripts/sandbox.py", *sys.argv[1:]]
process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
for line in process.stdout:
    print(line, end="", flush=True)
    if line.startswith("Ctrl-C"):
        process.send_signal(signal.SIGINT)
        break
process.stdout.read()
sys.exit(process.wait())
"""

# Digits that are others each time: moments, durations, versions, processes, ports.
VARIES = re.compile(
    r"\d+-\d\d-\d\d[ T][\d:.]+|\d+(?:\.\d+)? ?m?s\b|\"executionTimeMs\": ?\d+|tried \d+ times"
    r"|(?:PostgreSQL|onward) [\d.]+|(?:pid |pg_terminate_backend\()\d+|127\.0\.0\.1:\d+"
)

# The environment that the tests run in; None if they run in the system's.
VENV = Path(sys.prefix) if sys.prefix != sys.base_prefix else None

FENCE_OR_HEADING = re.compile(
    r"^## (?P<heading>[^\n]+)|^ *```(?P<language>\w*)\n(?P<text>.*?)^ *```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """One fenced block."""

    section: str
    line: int
    language: str
    text: str

    @property
    def where(self) -> str:
        return f"{self.section.partition('#')[0]}:{self.line}"

    @property
    def steps(self) -> list[tuple[str, str]]:
        """A session's commands, each with the output that is shown below it."""
        parts = re.split(r"^\$ ((?:.*\\\n)*.*)\n?", self.text, flags=re.MULTILINE)
        assert not parts[0], f"{self.where}: a session begins with a command"
        return [
            (re.sub(r"\\\n *", "", command), shown)
            for command, shown in zip(parts[1::2], parts[2::2], strict=True)
        ]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT)) if page.is_relative_to(ROOT) else page.name


def blocks_of(page: Path) -> Iterator[Block]:
    text, section = page.read_text(), ""
    for found in FENCE_OR_HEADING.finditer(text):
        if found["heading"]:
            section = anchor(found["heading"])
        else:
            line = text.count("\n", 0, found.start()) + 1
            yield Block(
                f"{name_of(page)}#{section}", line, found["language"], dedent(found["text"])
            )


def prose_of(page: Path) -> str:
    return re.sub(r"^ *```.*?^ *```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def anchor(heading: str) -> str:
    """As GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()).strip().replace(" ", "-")


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
SECTIONS = {
    section: [
        block
        for block in BLOCKS
        if block.section == section and block.language in ("console", "sh", "sql", "text")
    ]
    for section in dict.fromkeys(block.section for block in BLOCKS)
}


def not_run(command: str) -> str | None:
    """Which of NOT_RUN a command is."""
    words = f"{command} "
    return next((name for name in NOT_RUN if words.startswith(f"{name} ")), None)


@dataclass
class Place:
    """Where a section is tried."""

    root: Path
    server: Server
    database: Database
    stack: ExitStack
    environ: dict[str, str] = field(default_factory=dict)
    """What is set in the reader's shell."""
    build: dict[str, str] = field(default_factory=dict)
    """What is set in a build."""
    names: dict[str, str] = field(default_factory=dict)
    """What stands in the documentation, and what it is here."""
    applied: Callable[[], object] = lambda: None
    """Called after each migration of an `sql` block."""
    built: Callable[[], object] = lambda: None
    """Called after each build."""
    address: str = ""

    def use(self, database: Database) -> None:
        """Let it be this database that everything is about."""
        self.database = database
        self.names |= {
            "neondb": database.name,
            HOST: urlsplit(database.url).netloc.rpartition("@")[2],
        }
        self.environ = {"POSTGRES_URL": database.url, "MIGRATION_SECRET": SECRET}
        self.build = {
            "CI": "1",
            "VERCEL": "1",
            "VERCEL_DEPLOYMENT_ID": "dpl_1",
            "DATABASE_URL_UNPOOLED": database.url,
        }
        self.build |= {"VERCEL_ENV": "production", "VERCEL_TARGET_ENV": "production"}

    def start_from_nothing(self) -> None:
        """Take an empty database."""
        self.use(self.server.create())
        self.stack.callback(self.server.drop, self.database)

    def be_on_call(self) -> None:
        """Have production's shell."""
        self.environ = {"MIGRATION_DATABASE_URL": self.database.url, "MIGRATION_ENV": "production"}
        self.environ["MIGRATION_SECRET"] = SECRET

    def write(self, name: str, sql: str) -> None:
        """Put a migration there."""
        (self.root / "migrations" / name).write_text(sql)

    def migrate(self) -> None:
        """Deploy, and see that it goes well."""
        result = self.run(["scripts/migrate.py"], self.build)
        assert result.returncode == 0, result.stdout

    def follow(self, block: Block) -> None:
        """Do what a block says, and see that it comes out as it says."""
        match block.language:
            case "console":
                self.type(block)
            case "sh":
                [(code, printed)] = self.shell([f"(set -e\n{self.here(block.text)})"])
                assert code == 0, f"{block.where}:\n{printed}"
            case "text":
                self.deploy(block)
            case "sql":
                self.execute(block)

    def type(self, block: Block) -> None:
        steps = [step for step in block.steps if not not_run(step[0])]
        outputs = self.shell([self.here(command) for command, _ in steps])
        for number, ((command, shown), (code, printed)) in enumerate(
            zip(steps, outputs, strict=True)
        ):
            said = any(step[0] == "echo $?" for step in steps[number + 1 : number + 2])
            assert code == 0 or said, (
                f"{block.where}: `{command}` exits with {code}, and nothing says so:\n{printed}"
            )
            assert alike(self.here(shown), printed), (
                f"{block.where}: `{command}` prints\n{printed}\nand not\n{shown}"
            )

    def shell(self, commands: Sequence[str]) -> list[tuple[int, str]]:
        """Each command's exit code and what it printed, all in one shell."""
        script = "".join(
            f"{command}\n_code=$?; printf '\\0%s\\0' $_code; (exit $_code)\n"
            for command in commands
        )
        parts = self.run(["bash", "-c", script], self.environ).stdout.split("\0")
        return [
            (int(code), printed) for printed, code in zip(parts[0::2], parts[1::2], strict=False)
        ]

    def deploy(self, block: Block) -> None:
        command = json.loads((ROOT / "vercel.json").read_text())["buildCommand"]
        here = command.replace(".vercel/migrate-venv/bin/python", shlex.quote(sys.executable))
        result = self.run(["bash", "-c", here], self.build)
        self.built()
        failed = (
            f'Error: Command "{command}" exited with {result.returncode}\n'
            if result.returncode
            else ""
        )
        printed = result.stdout + failed
        assert alike(self.here(block.text), printed), (
            f"{block.where}: the build prints\n{printed}\nand not\n{block.text}"
        )

    def execute(self, block: Block) -> None:
        sql = self.here(block.text)
        if not (path := self.file_of(sql)):
            self.database.execute(sql)
            return
        self.write(path, sql)
        self.migrate()
        assert history(self.database)[-1] == path.removesuffix(".sql")
        self.applied()

    def file_of(self, sql: str) -> str | None:
        """The file that a block is the content of; None if it is no migration."""
        if named := re.match(r"-- migrations/(\S+\.sql)\n", sql):
            return named[1]
        if header := re.match(r"-- Version: (\d+)\n(?:-- .*\n)*-- Description: (.*)\n", sql):
            return f"{header[1]}-{header[2].lower().replace(' ', '-')}.sql"
        number = load(self.root / "migrations")[-1].number + 1
        return f"{number:03d}-example.sql" if sql.startswith("-- migrate:") else None

    def here(self, text: str) -> str:
        """The text with what the documentation's names stand for here."""
        if "https://app.example" in text:
            self.names["https://app.example"] = self.serve()
        for name, meaning in self.names.items():
            text = text.replace(name, meaning)
        return text

    def serve(self) -> str:
        """Serve the application, once."""
        if not self.address:
            listening = self.stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            environ = self.inherited | self.build | {"MIGRATION_SECRET": SECRET}
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    f"from scripts.sandbox import serve; serve({listening.fileno()})",
                ],
                cwd=self.root,
                env=environ,
                pass_fds=(listening.fileno(),),
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
            )
            self.stack.callback(process.wait)
            self.stack.callback(cast(Any, process.stdin).close)
            self.address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        return self.address

    def run(
        self, command: Sequence[str], environ: dict[str, str]
    ) -> subprocess.CompletedProcess[str]:
        """A command's result, both streams in `stdout`. Fails if it prints a password."""
        result = subprocess.run(
            command,
            cwd=self.root,
            env=self.inherited | environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            check=False,
        )
        password = unquote(urlsplit(self.database.url).password or "")
        assert len(password) < 12 or password not in result.stdout
        return result

    def start(self, command: Sequence[str], environ: dict[str, str]) -> subprocess.Popen[bytes]:
        """Start a command and go on; when the place is left, it is killed."""
        process = subprocess.Popen(
            command,
            cwd=self.root,
            env=self.inherited | environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.stack.callback(process.wait)
        self.stack.callback(process.kill)
        return process

    @property
    def inherited(self) -> dict[str, str]:
        """A newcomer's shell: the packages are in `.venv`, which is not activated."""
        paths = os.environ["PATH"].split(os.pathsep)
        if VENV:
            paths = [path for path in paths if Path(path) != VENV / "bin"]
        path = os.pathsep.join(paths)
        # Without a terminal curl would show its progress.
        return {
            "PATH": path,
            "HOME": str(self.root.parent),
            "CURL_HOME": str(self.root.parent),
            "LANG": "C.UTF-8",
        }


def alike(shown: str, printed: str) -> bool:
    """Whether that is what is shown; where nothing is shown, anything is."""
    shown = re.sub(r"[\w.-]*…", "…", shown)
    shown, printed = (
        re.sub(r"\s+", "", VARIES.sub(_without_digits, text)) for text in (shown, printed)
    )
    return not shown or bool(
        re.fullmatch(".*".join(map(re.escape, shown.split("…"))), printed, re.DOTALL)
    )


def _without_digits(found: re.Match[str]) -> str:
    return re.sub(r"\d+", "0", found[0])
