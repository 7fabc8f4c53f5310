"""The fixtures: one Postgres a run, a database of its own for each test, and the command line in a
clean environment.

The server is POSTGRES_TEST_URL's (a superuser's URL; the tests create and drop databases there),
else an embedded one that pytest's first process starts and all xdist workers share; it ends with
that process, `kill -9` included.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit
from zlib import crc32

import psycopg
import pytest

from lib.cli.main import main
from lib.settings.assistant import CONSENT_VARIABLE, MARKERS
from scripts.embedded import Embedded, EmbeddedError
from tests.proxy import Proxy, proxied

if TYPE_CHECKING:
    from tests.fleet.tenants import Fleet, Tenants

ROOT = Path(__file__).resolve().parent.parent
# No fsync: nothing here outlives the run. No autovacuum: it would move the counters that some tests
# read.
SETTINGS = (
    "fsync=off",
    "synchronous_commit=off",
    "full_page_writes=off",
    "autovacuum=off",
    "max_connections=150",
    "max_prepared_transactions=5",
    "max_wal_size=256MB",
)
# No test depends on who runs it: neither here nor in the processes that it starts is a coding
# assistant known, unless the test says so.
for name in (CONSENT_VARIABLE, *(marker.variable for marker in MARKERS)):
    os.environ.pop(name, None)
SHARED = pytest.StashKey[dict[str, str]]()


@dataclass(frozen=True)
class Database:
    """A database of one test's own."""

    name: str
    url: str = field(repr=False)

    def execute(self, sql: str, parameters: Sequence[Any] | None = None) -> list[tuple[Any, ...]]:
        """Run SQL in autocommit on a connection of its own; the rows of the last statement, none if
        it has no rows.
        """
        with psycopg.connect(self.url, autocommit=True) as connection:
            cursor = connection.execute(sql.encode(), parameters)
            while cursor.nextset():
                pass
            return cursor.fetchall() if cursor.description else []


@dataclass(frozen=True)
class Server:
    """The run's Postgres; `create` and `drop` are for tests that need more databases than
    `database` gives them.
    """

    url: str = field(repr=False)
    run: str
    worker: str
    numbers: Iterator[int] = field(default_factory=count, repr=False)

    @property
    def admin(self) -> Database:
        """The database of the server's own URL: for roles, statistics and other databases'
        sessions.
        """
        return self.database(urlsplit(self.url).path.lstrip("/") or "postgres")

    def database(self, name: str) -> Database:
        """A database by its name, there or not."""
        return Database(name, urlsplit(self.url)._replace(path=f"/{name}").geturl())

    def create(self, *, template: str = "template0", name: str | None = None) -> Database:
        """A new database: empty, or a clone of the template."""
        database = self.database(name or f"{self.run}_{self.worker}_{next(self.numbers)}")
        with psycopg.connect(self.url, autocommit=True) as connection:
            strategy = " STRATEGY file_copy" if connection.info.server_version >= 150000 else ""
            connection.execute(
                f'CREATE DATABASE "{database.name}" TEMPLATE "{template}"{strategy}'.encode()
            )
        return database

    def drop(self, database: Database) -> None:
        """Drop a database and whatever still holds on to it."""
        self.admin.execute(f'DROP DATABASE IF EXISTS "{database.name}" WITH (FORCE)')


@dataclass(frozen=True)
class Completed:
    """A command that has ended: its exit code and what it printed."""

    code: int
    out: str
    err: str


class Cli:
    """Runs `scripts/migrate.py` in a directory whose `migrations` it uses, with a clean
    environment.
    """

    def __init__(self, project: Path, directory: Path) -> None:
        self.script = project / "scripts" / "migrate.py"
        self.directory = directory

    def __call__(
        self,
        *arguments: str,
        url: str | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        input: str | None = None,  # noqa: A002  (subprocess.run's own name for it)
    ) -> Completed:
        """Run it to its end; `url` stands for POSTGRES_URL in `env`. Fails if it prints the
        password of a URL.
        """
        passed = {"MIGRATION_DIR": str(self.directory / "migrations")} | dict(env or {})
        if url:
            passed["POSTGRES_URL"] = url
        result = subprocess.run(
            [sys.executable, str(self.script), *arguments],
            env={name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
            | passed,
            cwd=cwd or self.directory,
            input=input or "",
            encoding="utf-8",
            capture_output=True,
            check=False,
        )
        for password in filter(None, map(_canary, passed.values())):
            assert password not in result.stdout + result.stderr, "the command printed a password"
        return Completed(result.returncode, result.stdout, result.stderr)


class Here:
    """Runs `main` in this process."""

    def __init__(self, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.directory = directory
        self._capsys = capsys

    def __call__(
        self, *arguments: str, url: str | None = None, env: Mapping[str, str] | None = None
    ) -> Completed:
        """Run one command; a `.env` of the developer's own decides nothing that a test needs."""
        environ = {
            "MIGRATION_DIR": str(self.directory / "migrations"),
            "MIGRATION_ENV": "development",
        }
        if url:
            environ["POSTGRES_URL"] = url
        code = main(arguments, environ | dict(env or {}))
        out, err = self._capsys.readouterr()
        if url and len(password := urlsplit(url).password or "") >= 12:
            assert password not in out + err, "the command printed a password"
        return Completed(code, out, err)


def _canary(value: str) -> str | None:
    """The password in a URL, if it is too long to be there by chance."""
    with suppress(ValueError):
        password = unquote(urlsplit(value).password or "")
        return password if len(password) >= 12 else None
    return None


# In CI, a fifth of the slow tests takes its turn; a platform has turns of its own.
TURN = os.environ.get("ONWARD_TURN")
TURNS = 5


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where ONWARD_TURN is set, a number, deselect the slow tests whose turn it is not."""
    if TURN:
        waiting = [item for item in items if not _has_its_turn(item, int(TURN))]
        config.hook.pytest_deselected(items=waiting)
        items[:] = [item for item in items if _has_its_turn(item, int(TURN))]


def _has_its_turn(item: pytest.Item, turn: int) -> bool:
    if not item.get_closest_marker("slow") or item.nodeid.startswith("tests/platform"):
        return True
    return crc32(item.nodeid.encode()) % TURNS == turn % TURNS


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """More processes than processors: most of the tests wait, for a server or for a process of
    their own.
    """
    return 2 * (os.cpu_count() or 1)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell an xdist worker which server to use."""
    node.workerinput.update(_shared(node.config))


def _shared(config: pytest.Config) -> dict[str, str]:
    """The server's URL and the prefix of this run's databases: the same in every process of the
    run.
    """
    if hasattr(config, "workerinput"):
        return {name: config.workerinput[name] for name in ("postgres_url", "postgres_run")}
    if SHARED not in config.stash:
        run = f"onward_{uuid.uuid4().hex[:8]}"
        given = os.environ.get("POSTGRES_TEST_URL")
        if given:
            server = Server(given, run, "")
            config.add_cleanup(lambda: server.drop(server.database(f"{run}_template")))
        config.stash[SHARED] = {
            "postgres_url": given or _start_embedded(config),
            "postgres_run": run,
        }
    return config.stash[SHARED]


def _start_embedded(config: pytest.Config) -> str:
    memory = Path("/dev/shm")
    place = memory if _roomy(memory) else Path(tempfile.gettempdir())
    for lock in place.glob("onward-tests-*/lock"):
        with suppress(EmbeddedError):  # what a killed run left behind; a live one is locked
            Embedded(lock.parent).drop(patience=0)
    server = Embedded(Path(tempfile.mkdtemp(prefix="onward-tests-", dir=place)), settings=SETTINGS)
    config.add_cleanup(server.drop)
    config.add_cleanup(server.stop)
    try:
        return server.start().url()
    except EmbeddedError as error:
        pytest.exit(f"no Postgres for the tests: {error}", 3)


def _roomy(directory: Path) -> bool:
    """Whether databases fit in there, and programs may be run from there: containers often have it
    small and noexec.
    """
    if not directory.is_dir() or not os.access(directory, os.W_OK):
        return False
    return (
        shutil.disk_usage(directory).free > 2 * 2**30
        and not os.statvfs(directory).f_flag & os.ST_NOEXEC
    )


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest) -> Server:
    """The run's Postgres, shared by all workers: prefer `database`."""
    shared = _shared(request.config)
    worker: str = getattr(request.config, "workerinput", {}).get("workerid", "main")
    return Server(shared["postgres_url"], shared["postgres_run"], worker)


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what a team copies into its repository; no `.env` of the developer's is in it."""
    copy = tmp_path_factory.mktemp("project")
    for folder in ("api", "lib", "migrations", "public", "scripts"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


@pytest.fixture(scope="session")
def template(server: Server, project: Path) -> str:
    """The name of a database that `scripts/migrate.py` has brought up to date with `migrations/`,
    once for the run.
    """
    wanted = server.database(f"{server.run}_template")
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("SELECT pg_advisory_lock(hashtext(%s))", [wanted.name])
        ready = "SELECT 1 FROM pg_database WHERE datname = %s AND NOT datallowconn"
        if not connection.execute(ready, [wanted.name]).fetchall():
            server.drop(wanted)
            result = Cli(project, project)(url=server.create(name=wanted.name).url)
            assert result.code == 0, result.out + result.err
            server.admin.execute(f'ALTER DATABASE "{wanted.name}" ALLOW_CONNECTIONS false')
    return wanted.name


@pytest.fixture
def database(server: Server) -> Iterator[Database]:
    """A fresh, empty database."""
    database = server.create()
    yield database
    server.drop(database)


@pytest.fixture
def migrated(server: Server, template: str) -> Iterator[Database]:
    """A fresh database to which `migrations/` has been applied."""
    database = server.create(template=template)
    yield database
    server.drop(database)


@pytest.fixture(scope="session", name="tenants")
def all_tenants() -> Iterator["Tenants"]:
    """The databases of a server that is thrown away."""
    from tests.fleet.tenants import tenants  # noqa: PLC0415 - it imports this module

    with tenants() as found:
        yield found


@pytest.fixture
def fleet(project: Path, tmp_path: Path, tenants: "Tenants") -> "Fleet":
    """`fleet.run()` migrates the tenants of `fleet.inventory(...)`."""
    from tests.fleet.tenants import Fleet  # noqa: PLC0415 - it imports this module

    return Fleet(project, tmp_path, tenants)


@pytest.fixture
def scratch_databases(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], list[tuple[Any, ...]]]:
    """`scratch_databases()` lists those of this test; other workers have theirs on the server."""
    prefix = f"{server.run}_{server.worker}_scratch_"
    monkeypatch.setattr("lib.postgres.scratch._NAME", prefix)
    names = "SELECT datname FROM pg_database WHERE starts_with(datname, %s)"
    return lambda: server.admin.execute(names, [prefix])


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    """A proxy in front of the run's server."""
    with proxied(server.url) as proxy:
        yield proxy


@pytest.fixture
def cli(project: Path, tmp_path: Path) -> Cli:
    """`cli("status", url=database.url)` runs the command in `tmp_path`, where `migrations` writes
    its files.
    """
    return Cli(project, tmp_path)


@pytest.fixture
def migrations(tmp_path: Path) -> Callable[[Mapping[str, str | bytes]], Path]:
    """`migrations({"001-a.sql": "SELECT 1"})` writes files as they are into `tmp_path/migrations`,
    and returns that.
    """

    def write(files: Mapping[str, str | bytes]) -> Path:
        directory = tmp_path / "migrations"
        directory.mkdir(exist_ok=True)
        for name, content in files.items():
            (directory / name).write_bytes(
                content.encode() if isinstance(content, str) else content
            )
        return directory

    return write


@pytest.fixture
def here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Here:
    """`here("status", url=database.url)` is `cli` without the process: for the many tests that need
    none.
    """
    monkeypatch.chdir(tmp_path)
    return Here(tmp_path, capsys)
