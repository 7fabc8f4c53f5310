"""Where faults are played: a database, three files, a run of them that something happens to, and
what must hold then.

Whoever uses it in a test module imports the fixtures too.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

import psycopg
import pytest
from starlette.testclient import TestClient

from lib.web.routes import create_app
from lib.web.service import Service
from scripts.embedded import Embedded
from tests.conftest import SETTINGS, Cli, Database, Server
from tests.kit import (
    SETTLED,
    Capture,
    Write,
    kinds,
    nothing_is_left_running,
    recorded,
    tables,
    until,
)

R = TypeVar("R")

VERSIONS = ("001-one", "002-two", "003-three")
SECRET = "canary-of-a-secret-" * 2
# A file waits here while there is a row in `gate`. No lock is waited for: a limit on those does not
# end it.
WAIT = "DO $$ BEGIN WHILE EXISTS (SELECT FROM gate) LOOP PERFORM pg_sleep(0.01); END LOOP; END $$;"
ASKS_FOR_THE_LOCK = "query ~ '^ROLLBACK|advisory_xact_lock'"
AT_THE_GATE = "state = 'active' AND query LIKE '%FROM gate%'"


def recording(version: str) -> str:
    """What the message has in it that writes this version's row and commits: our spelling of a
    literal.
    """
    return f"E'{version}'"


@dataclass(frozen=True)
class Outcome:
    """What a run came to: the public code of its error, or "ok"; and all that it said, to
    whomever.
    """

    code: str
    document: dict[str, Any]
    said: str

    @property
    def error(self) -> dict[str, Any]:
        return dict(self.document.get("error", {}))

    @property
    def applied(self) -> list[str]:
        return [one["version"] for one in self.document.get("applied", ())]

    @property
    def remaining(self) -> list[str]:
        return list(self.document.get("remaining", ()))


class Running(Protocol):
    """A run that has been started."""

    @property
    def said(self) -> str:
        """What a terminal has been told so far: nothing, where there is none."""

    def finish(self) -> Outcome: ...


class Command:
    """The command line as a process of its own."""

    def __init__(self, cli: Cli, environ: Mapping[str, str], *prefix: str) -> None:
        """Start it; `prefix` is the command that starts Python where it is not to run as it is."""
        self._out, self._err = cli.directory / f"out-{id(self)}", cli.directory / f"err-{id(self)}"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                [*prefix, sys.executable, str(cli.script), "--json"],
                env={"PATH": os.environ["PATH"], **environ},
                cwd=cli.directory,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )

    @property
    def said(self) -> str:
        return self._err.read_text()

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def freeze(self) -> None:
        """Stop the process, and wait until it stands still."""
        self.send(signal.SIGSTOP)
        os.waitpid(self.process.pid, os.WUNTRACED)

    def kill(self) -> None:
        """As the out-of-memory killer does it."""
        self.process.kill()
        assert self.process.wait() == -signal.SIGKILL

    def finish(self, *, by: signal.Signals | None = None) -> Outcome:
        """Wait for its end, and compare its exit code with the code of its error. `by` is what
        interrupted it.
        """
        exit_code, out = self.process.wait(), self._out.read_text()
        document = json.loads(out)
        code = "ok" if document["success"] else document["error"]["code"]
        expected = (
            ("interrupted", 128 + by)
            if by
            else (code, 0 if code == "ok" else _KINDS[code].exit_code)
        )
        assert (code, exit_code) == expected, self.said
        assert "Traceback" not in self.said
        return Outcome(code, document, out + self.said)


class Request:
    """The emergency route, called in this process."""

    said = ""

    def __init__(
        self, pool: ThreadPoolExecutor, environ: Mapping[str, str], capture: Capture
    ) -> None:
        self._capture = capture
        self._future: Future[Any] = pool.submit(
            _post, Service({"MIGRATION_SECRET": SECRET, **environ})
        )

    def finish(self) -> Outcome:
        """Wait for the answer, and compare its status with the code of its error."""
        response = self._future.result()
        document = response.json()
        code = "ok" if document["success"] else document["error"]["code"]
        statuses = {200, 202} if code == "ok" else {_KINDS[code].http_status}
        assert response.status_code in statuses, document
        log, err = self._capture.readouterr()
        assert err == ""
        return Outcome(code, document, f"{response.headers} {response.text} {log}")


def _post(service: Service) -> Any:
    with TestClient(create_app(service)) as client:
        return client.post("/api/migrate", headers={"Authorization": f"Bearer {SECRET}"})


_KINDS = {kind.code: kind for kind in kinds()}


@dataclass
class Stage:
    """A database and three files, or four, each of which leaves a table and one row of `effects`;
    `start` runs them.
    """

    server: Server
    database: Database
    write: Write
    begin: Callable[..., Any]
    versions: tuple[str, ...] = VERSIONS
    running: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.database.execute(
            "CREATE TABLE effects (version text); CREATE TABLE gate AS SELECT 1 AS closed"
        )
        self.files()

    def files(self, *, first: str = "", second: str = "", third: str = "") -> None:
        """Write the files: what is common to them, and then this."""
        for version, more in zip(self.versions, (first, second, third, ""), strict=False):
            common = f"CREATE TABLE {version[4:]} ();\nINSERT INTO effects VALUES ('{version}');\n"
            self.directory = self.write({f"{version}.sql": f"{common}{more}\n"})

    def environ(self, url: str | None = None, **environ: str) -> dict[str, str]:
        """What a run is told; by another URL than the database's own, if one is given."""
        files = {"MIGRATION_DIR": str(self.directory), **SETTLED}
        return files | {"POSTGRES_URL": url or self.database.url} | environ

    def start(self, url: str | None = None, **environ: str) -> Any:
        """Begin a run."""
        return self.watched(self.begin(self.environ(url, **environ)))

    def watched(self, running: R) -> R:
        """A run of this stage, which ends with it."""
        self.running.append(running)
        return running

    def run(self, url: str | None = None, **environ: str) -> Outcome:
        """Run to the end."""
        return self.finish(self.start(url, **environ))

    def finish(self, running: Running, **how: Any) -> Outcome:
        """Wait for the end of a run. Nothing that it said shows a secret."""
        outcome = running.finish(**how)
        password = urlsplit(self.database.url).password or ""
        for canary in ("canary", *([password] if len(password) >= 12 else [])):
            assert canary not in outcome.said
        return outcome

    def sessions(self, condition: str = "true") -> list[int]:
        """The server's processes that work in the database and are in this state; behind a pooler,
        its own too.
        """
        query = (
            "SELECT pid FROM pg_stat_activity WHERE datname = %s"
            f" AND ({condition.replace('%', '%%')})"
        )
        return [pid for (pid,) in self.server.admin.execute(query, [self.database.name])]

    def wait(self, condition: str = AT_THE_GATE) -> int:
        """Wait until a session is in this state; its process."""
        return int(until(lambda: self.sessions(condition))[0])

    def open(self) -> None:
        """Let through who waits at the gate."""
        self.database.execute("DELETE FROM gate")

    @property
    def recorded(self) -> list[str]:
        """The versions in the history, if there is one."""
        return recorded(self.database) or []

    def settled(self, *applied: str) -> None:
        """What holds after any fault: nothing of ours runs, each row has its objects, each effect
        is there once.
        """
        until(lambda: not self.sessions())
        nothing_is_left_running(self.server, self.database)
        assert self.recorded == list(applied)
        assert self.database.execute("SELECT version FROM effects") == [
            (version,) for version in applied
        ]
        made = [version[4:] for version in self.versions if version[4:] in tables(self.database)]
        assert made == [version[4:] for version in applied]

    def completes(self) -> None:
        """A second run, with nothing in its way, does what is left and no more."""
        self.open()
        before = self.recorded
        outcome = self.run()
        assert (outcome.code, outcome.applied) == ("ok", list(self.versions[len(before) :]))
        self.settled(*self.versions)

    def close(self) -> None:
        """End what a failed test has left."""
        for running in self.running:
            if isinstance(running, Command):
                running.process.kill()
                running.process.wait()
        with suppress(psycopg.OperationalError):  # where the server itself was left stopped
            for pid in self.sessions():
                self.server.admin.execute("SELECT pg_terminate_backend(%s)", [pid])


MakeStage = Callable[..., Stage]


@pytest.fixture
def stages(
    server: Server, database: Database, migrations: Write, cli: Cli, capsys: Capture
) -> Iterator[MakeStage]:
    """`stages("command")` and `stages("route")` differ in what they start."""
    made: list[Stage] = []
    with ThreadPoolExecutor() as pool:
        ways = {
            "command": lambda environ: Command(cli, environ),
            "route": lambda environ: Request(pool, environ, capsys),
        }

        def make(
            way: str, server: Server = server, database: Database = database, **more: Any
        ) -> Stage:
            made.append(Stage(server, database, migrations, ways[way], **more))
            return made[-1]

        try:
            yield make
        finally:
            for stage in made:
                stage.close()


@pytest.fixture
def command(stages: MakeStage) -> Stage:
    """A stage for the command line alone: what happens to a process, and what only a terminal is
    told.
    """
    return stages("command")


FOUR = (*VERSIONS, "004-four")
"""As many as are sent ahead."""


@pytest.fixture
def window(stages: MakeStage) -> Stage:
    """A stage of the command line whose files are sent ahead."""
    return stages("command", versions=FOUR)


@pytest.fixture(params=["command", "route"])
def stage(request: pytest.FixtureRequest, stages: MakeStage) -> Stage:
    """A stage for the command line, and one for the emergency route."""
    return stages(request.param)


@contextmanager
def embedded(*settings: str) -> Iterator[Embedded]:
    """A server of a test's own."""
    place = "/dev/shm" if Path("/dev/shm").is_dir() else None
    # Where the server is stopped at once, what was committed must be there.
    usual = [setting for setting in SETTINGS if setting != "synchronous_commit=off"]
    # Another name than the run's own: what is called so and is stopped is cleared away by the next
    # run that begins.
    server = Embedded(
        Path(tempfile.mkdtemp(prefix="onward-stage-", dir=place)), settings=[*usual, *settings]
    )
    try:
        with server:
            yield server
    finally:
        server.drop()


@pytest.fixture(scope="module")
def own() -> Iterator[Embedded]:
    """A server that a test may stop."""
    with embedded() as server:
        yield server


def stop(server: Embedded, number: signal.Signals = signal.SIGINT) -> None:
    """Stop a server as `pg_ctl stop` does: fast by SIGINT, at once by SIGQUIT."""
    os.kill(int((server.directory / "data" / "postmaster.pid").read_text().split()[0]), number)
    server.wait()
    server.stop()
