"""What many tests share: files, runs in this process, roles to run as, and what a database looks
like afterwards.
"""

import os
import shutil
import socket
import subprocess
import tempfile
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit

import psycopg
import pytest

from lib import events, runner
from lib.errors import MigrationResult, OnwardError, RunFailed
from lib.history import History
from lib.postgres.connecting import connect
from lib.postgres.connection import Connection
from lib.settings.config import Config, read_config
from lib.settings.database_url import DatabaseURL, parse_url
from lib.source.checkpoint import Replaced, written
from lib.source.migration import Migration, checksum_of, load, number_of
from scripts.embedded import find_programs
from tests.conftest import Cli, Completed, Database, Server

Write = Callable[[Mapping[str, str | bytes]], Path]
Capture = pytest.CaptureFixture[str]

LOCK = 0x6F6E77617264
# A test's database often has tables before its first run; what is made of that is test_trust's and
# test_guard's.
SETTLED = {"MIGRATION_ENV": "development", "MIGRATION_ALLOW_NONEMPTY": "1"}

# Files.

HEAD = "-- migrate: no-transaction\n"
OURS = ["000-create-migration-table", "001-create-users-table", "002-add-reset-token-fields"]
ONE = {"001-one.sql": "CREATE TABLE one (id int);\n"}
TWO = {**ONE, "002-two.sql": "CREATE TABLE two (id int);\n"}
FIVE = {
    f"00{number}-f{number}.sql": f"CREATE TABLE f{number} (id int);\n" for number in range(1, 6)
}


def fill(directory: Path, files: Mapping[str, str | bytes]) -> Path:
    """Write files as they are; returns their directory."""
    for name, content in files.items():
        (directory / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return directory


def bytes_in(directory: Path) -> dict[str, bytes]:
    """The files of a directory, as they are."""
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def file(version: str, content: str = "SELECT 1;") -> Migration:
    """A file that is on no disk, and asks for nothing."""
    number = number_of(version)
    assert number is not None
    path = Path("migrations", f"{version}.sql")
    encoded = content.encode()
    return Migration(number, version, path, encoded, sha256(encoded).hexdigest(), frozenset())


def checkpoint(version: str, *replaced: Migration) -> Migration:
    """A checkpoint of these files, on no disk."""
    listed = tuple(Replaced(one.version, one.checksum) for one in replaced)
    return replace(file(version), stands_for=listed)


def checkpoint_of(files: Mapping[str, str], sql: str) -> str:
    """The content of a checkpoint of these files."""
    replaced = [
        Replaced(name.removesuffix(".sql"), checksum_of(files[name].encode())) for name in files
    ]
    return written(replaced) + sql


def bundle(project: Path, place: Path, files: Mapping[str, str | bytes]) -> Path:
    """A team's repository with the bundle and its own migrations."""
    shutil.copytree(project, place)
    shutil.rmtree(place / "migrations")
    (place / "migrations").mkdir()
    fill(place / "migrations", files)
    return place


def read(content: str | bytes) -> Migration:
    """A file with this content, as it is loaded."""
    with tempfile.TemporaryDirectory() as directory:
        return load(fill(Path(directory), {"001-x.sql": content}))[0]


def git(directory: Path, *arguments: str) -> str:
    """Run git as a person of no special configuration; returns what it prints."""
    person = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    for role_ in ("AUTHOR", "COMMITTER"):
        person |= {f"GIT_{role_}_NAME": "Ada", f"GIT_{role_}_EMAIL": "ada@example.org"}
    result = subprocess.run(
        ["git", "-C", directory, *arguments],
        env={"PATH": os.environ["PATH"], **person},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def commit(directory: Path, branch: str, files: Mapping[str, str | bytes]) -> None:
    """Commit files to a branch of the directory's repository; makes either where it is missing."""
    directory.mkdir(exist_ok=True)
    if not (directory / ".git").exists():
        git(directory, "init", "-q", "-b", branch)
    elif git(directory, "branch", "--show-current") != branch:
        there = git(directory, "branch", "--list", branch)
        git(directory, "switch", "-q", *([] if there else ["-c"]), branch)
    (directory / "migrations").mkdir(exist_ok=True)
    fill(directory / "migrations", files)
    git(directory, "add", "-A")
    git(directory, "commit", "-q", "--allow-empty", "-m", f"On {branch}")


# The columns of the history as the runner before this one made it.
OLD_SHAPE = """(
    id SERIAL PRIMARY KEY, version VARCHAR(255) UNIQUE NOT NULL, name VARCHAR(255) NOT NULL,
    applied_at TIMESTAMP DEFAULT now(), execution_time_ms INTEGER, checksum VARCHAR(64)
)"""


# The history of an empty database, by a role that may do all in it.
HISTORY = History(
    rows=(),
    schema="public",
    table_id=(16384, 10),
    owner="app",
    trusted=True,
    occupants=(),
    missing_columns=(),
    database="app",
    version="18.1",
    identity="1/app",
    role="app",
    obstacle="",
    direct=True,
    limits=frozenset(),
)


# URLs, secrets and settings. A canary is a password that nobody may see.

CANARY = "C4nary-Pa55word-K7"
KANARIE = "kanarie7"
LOCAL = "postgresql://me:secret@localhost/app"
NEON = "postgresql://me:secret@ep-cool-1{}.eu-central-1.aws.neon.tech/neondb?sslmode=require"
SUPABASE = "postgres://postgres.{}:secret@aws-0-eu-central-1.pooler.supabase.com:{}/postgres"
SECRET = "s3cret-of-this-test-" * 3
BEARER = {"authorization": f"Bearer {SECRET}"}


def config(**environ: str) -> Config:
    """The settings of an environment that has a database's URL."""
    return read_config({"DATABASE_URL": LOCAL, **environ})


def config_of(database: Database, directory: Path, **environ: str) -> Config:
    """The settings of a run of this directory's files."""
    return read_config(
        {"POSTGRES_URL": database.url, "MIGRATION_DIR": str(directory), **SETTLED, **environ}
    )


def parsed(url: str, **environ: str) -> DatabaseURL:
    return parse_url("DATABASE_URL", url, environ)


def parameters(url: str, **environ: str) -> dict[str, str]:
    return dict(parsed(url, **environ).parameters)


def environment(cli: Cli, url: str, **more: str) -> dict[str, str]:
    """The environment that `cli` runs in, for tests that start the process themselves."""
    named = {
        "MIGRATION_DIR": str(cli.directory / "migrations"),
        "POSTGRES_URL": url,
        "PATH": os.environ["PATH"],
    }
    return named | more


# Runs.


@dataclass
class Events:
    """What a run emitted."""

    all: list[events.Event] = field(default_factory=list)

    @property
    def applied(self) -> list[str]:
        return [event.version for event in self.all if isinstance(event, MigrationResult)]

    @property
    def notices(self) -> list[str]:
        return [event.text for event in self.all if isinstance(event, events.Notice)]


def run(
    database: Database, directory: Path, events: Events | None = None, **environ: str
) -> Events:
    """Apply what is pending. Pass `events` to have them where the run raises."""
    events = events or Events()
    runner.run(config_of(database, directory, **environ), events.all.append)
    return events


def until(there: Callable[[], Any]) -> Any:
    """Wait for a condition; pytest's own time limit is the only one."""
    while not (found := there()):
        time.sleep(0.01)
    return found


def words(result: Completed) -> str:
    """What was said, whichever stream it went to, without the marks and line ends that tests need
    not know.
    """
    return " ".join((result.out + result.err).split())


# Errors.


def kinds(error: type[OnwardError] = OnwardError) -> set[type[OnwardError]]:
    """All errors that a run can end with: the classes of lib/errors.py."""
    return {error}.union(
        *map(kinds, (one for one in error.__subclasses__() if one.__module__ == "lib.errors"))
    )


E = TypeVar("E", bound=OnwardError)


class Ended(Generic[E]):
    """A run that was ended by an error: `value` is the cause, as with `pytest.raises`."""

    value: E
    failed: RunFailed
    applied: list[str]
    remaining: list[str]


@contextmanager
def run_fails(kind: type[E] | tuple[type[E], ...], match: str | None = None) -> Iterator[Ended[E]]:
    """Expect that a run, after it had begun, is ended by an error of this kind."""
    ended = Ended[E]()
    with pytest.raises(RunFailed, match=match) as caught:
        yield ended
    cause = caught.value.cause
    assert isinstance(cause, kind), repr(cause)
    ended.value, ended.failed = cause, caught.value
    ended.applied = [done.version for done in caught.value.applied]
    ended.remaining = list(caught.value.remaining)


def cause_of(run: Future[Any]) -> BaseException | None:
    """What ended a run, once it has ended."""
    error = run.exception()
    return error.cause if isinstance(error, RunFailed) else error


def everything(error: BaseException) -> str:
    """All that a careless printer could show of an error."""
    chain = [error, error.__cause__, error.__context__]
    return "".join(traceback.format_exception(error)) + "".join(
        f"{one} {one!r} {getattr(one, '__dict__', '')}" for one in chain
    )


# Sessions and roles.


def target_of(database: Database) -> DatabaseURL:
    """Where a database is, as its URL says."""
    return parse_url("POSTGRES_URL", database.url, {})


def session_of(database: Database) -> Connection:
    """A session of ours, without a run."""
    return connect(target_of(database), "onward test")


def changed(database: Database, *, query: str = "", **parts: str) -> Database:
    """The database by a URL in which user, password, host or port are others."""
    url = urlsplit(database.url)
    found = {
        "user": url.username,
        "password": url.password,
        "host": url.hostname,
        "port": url.port,
    } | parts
    netloc = f"{found['user']}:{found['password']}@{found['host']}:{found['port']}"
    return Database(database.name, url._replace(netloc=netloc, query=query).geturl())


def by_name(database: Database, host: str) -> Database:
    """The same database by another name of its server; the name need not exist, for the address
    goes with it.
    """
    parts = urlsplit(database.url)
    netloc = f"{parts.netloc.rpartition('@')[0]}@{host}:{parts.port or 5432}"
    query = f"hostaddr={_address(database)}&sslmode=prefer"
    return replace(database, url=parts._replace(netloc=netloc, query=query).geturl())


def _address(database: Database) -> str:
    return socket.gethostbyname(urlsplit(database.url).hostname or "localhost")


@contextmanager
def holding(database: Database, sql: str) -> Iterator[psycopg.Connection]:
    """Another session in a transaction that has run this."""
    with psycopg.connect(database.url, application_name="reporting") as connection:
        connection.execute(sql.encode())
        yield connection
        connection.rollback()


@contextmanager
def login(server: Server, database: Database, options: str = "") -> Iterator[Database]:
    """The database as a new plain role sees it; its name is that of `role`. Drops the database with
    the role.
    """
    name, password = f"{database.name}_{uuid.uuid4().hex[:6]}", f"canary-{uuid.uuid4().hex}"
    server.admin.execute(f"CREATE ROLE \"{name}\" LOGIN PASSWORD '{password}' {options}")
    parts = urlsplit(database.url)
    address = parts.netloc.rpartition("@")[2]
    try:
        yield Database(
            database.name, parts._replace(netloc=f"{name}:{password}@{address}").geturl()
        )
    finally:
        server.drop(database)
        server.admin.execute(f'DROP ROLE "{name}"')


def role(database: Database) -> str:
    """The role that a database's URL names, quoted."""
    return f'"{urlsplit(database.url).username}"'


def dump_and_restore(source: Database, target: Database) -> None:
    """Make a database what another is, by the server's own programs."""
    dump = subprocess.check_output([find_programs() / "pg_dump", "-d", source.url], text=True)
    restore = [str(find_programs() / "psql"), "-q", "-v", "ON_ERROR_STOP=1", "-d", target.url]
    subprocess.run(restore, input=dump, text=True, check=True, stdout=subprocess.DEVNULL)


# What is there afterwards.


def rows(url: str, sql: str) -> list[tuple[Any, ...]]:
    """The rows of a statement in the database of a URL."""
    return Database("", url).execute(sql)


def history(database: Database, table: str = "public.schema_migrations") -> list[str]:
    """The versions that are recorded, in the order of their rows."""
    return [version for (version,) in database.execute(f"SELECT version FROM {table} ORDER BY id")]


def recorded(database: Database) -> list[str] | None:
    """The versions that are recorded, in the order of their ids if they have any; None where there
    is no history.
    """
    if database.execute("SELECT to_regclass('public.schema_migrations')") == [(None,)]:
        return None
    rows = database.execute(
        "SELECT version FROM schema_migrations h ORDER BY (to_jsonb(h) ->> 'id')::int"
    )
    return [version for (version,) in rows]


def rows_of(database: Database, table: str) -> list[tuple[Any, ...]]:
    """All that a table has, and which transactions wrote it: what only a look leaves the same."""
    return database.execute(f"SELECT t.xmin::text, t.ctid::text, t::text FROM {table} t")


def tables(database: Database) -> list[str]:
    """The user's tables, qualified where they are not in public."""
    rows = database.execute(
        "SELECT CASE n.nspname WHEN 'public' THEN '' ELSE n.nspname || '.' END || c.relname"
        " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE c.relkind IN ('r', 'p', 'f') AND n.nspname !~ '^pg_'"
        " AND n.nspname <> 'information_schema' AND c.relname <> 'schema_migrations' ORDER BY 1"
    )
    return [name for (name,) in rows]


def places(database: Database) -> list[str]:
    """The schemas that have something called schema_migrations."""
    rows = database.execute(
        "SELECT relnamespace::regnamespace::text FROM pg_class WHERE relname = 'schema_migrations' "
        "ORDER BY 1"
    )
    return [schema for (schema,) in rows]


def contents(database: Database) -> tuple[list[Any], list[Any]]:
    """All that a run could have changed: every relation that is not the server's own, by the
    transaction that touched it last, and the whole history.
    """
    relations = database.execute(
        "SELECT relnamespace::regnamespace::text, relname, relkind, xmin::text FROM pg_class "
        "WHERE relnamespace::regnamespace::text !~ '^(pg_|information_schema)' ORDER BY 1, 2"
    )
    if recorded(database) is None:
        return relations, []
    return relations, database.execute("SELECT xmin::text, * FROM schema_migrations ORDER BY 2")


def nothing_is_left_running(server: Server, database: Database) -> None:
    """Wait until the server has no session of ours in the database; then none of its locks can be
    there either.
    """
    sessions = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = %s AND application_name LIKE 'onward%%'"
    )
    until(lambda: server.admin.execute(sessions, [database.name]) == [(0,)])
    locks = server.admin.execute(
        "SELECT l.* FROM pg_locks l JOIN pg_database d ON d.oid = l.database"
        " WHERE d.datname = %s AND l.locktype = 'advisory'",
        [database.name],
    )
    assert locks == []


def processes(directory: Path) -> list[str]:
    """The command lines of all processes that name the directory: server, programs, and the one
    that watches us.
    """
    listed = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it has ended meanwhile
            continue
        if str(directory) in command and entry.name != str(os.getpid()):
            listed.append(command)
    return listed


def wait_until_gone(directory: Path) -> None:
    """Wait for the processes of the directory to end; pytest's own time limit is the only one."""
    until(lambda: not processes(directory))
