"""Many databases on a server of their own, which is thrown away with all of them."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg

from scripts.embedded import Embedded
from tests.conftest import SETTINGS, Completed, Database
from tests.kit import fill

HOSTS = ("127.0.0.1", "localhost")
"""Two names of one server: two clusters."""
EFFECT = "INSERT INTO effects DEFAULT VALUES;\n"
FILES = {
    "001-effects.sql": f"CREATE TABLE effects (id serial);\n{EFFECT}",
    "002-more.sql": EFFECT,
    "003-last.sql": f"CREATE TABLE last ();\n{EFFECT}",
}
VERSIONS = [name.removesuffix(".sql") for name in FILES]


@dataclass
class Tenants:
    """The databases of one server."""

    url: str = field(repr=False)
    _numbers: Iterator[int] = field(default_factory=count, repr=False)

    def make(self, number: int) -> list[Database]:
        """New empty databases."""
        names = [f"t{next(self._numbers):05}" for _ in range(number)]
        with psycopg.connect(self.url, autocommit=True) as connection:
            strategy = " STRATEGY wal_log" if connection.info.server_version >= 150000 else ""
            for name in names:
                connection.execute(f"CREATE DATABASE {name} TEMPLATE template0{strategy}".encode())
        return [Database(name, self._with(name)) for name in names]

    def _with(self, name: str) -> str:
        return urlsplit(self.url)._replace(path=f"/{name}").geturl()

    @property
    def admin(self) -> Database:
        """The server's own database."""
        return Database("postgres", self.url)

    @property
    def password(self) -> str:
        """What no inventory holds."""
        return urlsplit(self.url).password or ""

    def line(self, database: Database, host: str = HOSTS[0], **more: Any) -> dict[str, Any]:
        """A database's line in an inventory."""
        parts = urlsplit(self.url)
        url = f"postgresql://{parts.username}@{host}:{parts.port}/{database.name}"
        return {"tenant": database.name, "url": url, **more}


@contextmanager
def tenants() -> Iterator[Tenants]:
    """A server for them."""
    memory = Path("/dev/shm")
    place = memory if os.access(memory, os.W_OK) else None
    directory = Path(tempfile.mkdtemp(prefix="onward-tests-", dir=place))
    server = Embedded(directory, settings=SETTINGS)
    try:
        with server:
            yield Tenants(server.url())
    finally:
        server.drop()


class Fleet:
    """Runs scripts/fleet.py in a directory with migrations and an inventory, and nothing else."""

    def __init__(self, project: Path, directory: Path, tenants: Tenants) -> None:
        self.directory = directory
        self._script = project / "scripts" / "fleet.py"
        self._tenants = tenants
        self.files(FILES)

    def files(self, files: Mapping[str, str]) -> None:
        """Write migrations."""
        (self.directory / "migrations").mkdir(exist_ok=True)
        fill(self.directory / "migrations", files)

    def inventory(self, *lines: Mapping[str, Any]) -> None:
        """Write fleet.jsonl."""
        text = "".join(f"{json.dumps(line)}\n" for line in lines)
        (self.directory / "fleet.jsonl").write_text(text)

    def start(
        self, *arguments: str, stdout: int = subprocess.PIPE, **environ: Any
    ) -> subprocess.Popen[str]:
        """Start a command."""
        return subprocess.Popen(
            [sys.executable, str(self._script), *arguments],
            env={
                "PATH": os.environ["PATH"],
                "HOME": os.environ.get("HOME", "/"),
                "MIGRATION_DIR": str(self.directory / "migrations"),
                "PGPASSWORD": self._tenants.password,
                **environ,
            },
            cwd=self.directory,
            stdin=subprocess.PIPE,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
        )

    def end(self, process: subprocess.Popen[str], input: str = "") -> Completed:  # noqa: A002
        """Wait for its end. Fails if it has printed the password."""
        out, err = process.communicate(input)
        assert self._tenants.password not in (out or "") + err
        return Completed(process.returncode, out, err)

    def __call__(self, *arguments: str, input: str = "", **environ: Any) -> Completed:  # noqa: A002
        return self.end(self.start(*arguments, **environ), input)

    def run(self, *arguments: str, **environ: str) -> Completed:
        """Migrate the inventory's tenants in the environment `ci`."""
        return self("run", "fleet.jsonl", "--environment", "ci", *arguments, **environ)

    def report(self, *arguments: str) -> dict[str, Any]:
        """The document of the last run's report."""
        found: dict[str, Any] = json.loads(self("report", "--json", *arguments).out)
        parts = [found[name] for name in ("current", "ahead", "behind", "notReached")]
        assert sum(parts) == found["databases"]
        return found


def effects(database: Database) -> int | None:
    """How often a file has had its effect; None where not even the first one has."""
    if database.execute("SELECT to_regclass('effects')") == [(None,)]:
        return None
    return int(database.execute("SELECT count(*) FROM effects")[0][0])
