"""Runs in this process, roles to run as, and what a database looks like afterwards."""

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lib import events, runner
from lib.errors import MigrationResult, OnwardError
from lib.settings.config import Config, read_config
from tests.conftest import Database, Server

LOCK = 0x6F6E77617264
# A test's database often has tables before its first run; what is made of that is test_trust's and
# test_guard's.
SETTLED = {"MIGRATION_ENV": "development", "MIGRATION_ALLOW_NONEMPTY": "1"}


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


def versions(error: OnwardError) -> list[str]:
    """What the run that an error ended had applied."""
    return [done.version for done in error.applied or ()]


def config_of(database: Database, directory: Path, **environ: str) -> Config:
    return read_config(
        {"POSTGRES_URL": database.url, "MIGRATION_DIR": str(directory), **SETTLED, **environ}
    )


def run(
    database: Database, directory: Path, events: Events | None = None, **environ: str
) -> Events:
    """Apply what is pending. Pass `events` to have them where the run raises."""
    events = events or Events()
    runner.run(config_of(database, directory, **environ), events.all.append)
    return events


def history(database: Database, table: str = "public.schema_migrations") -> list[str]:
    """The versions that are recorded, in the order of their rows."""
    return [version for (version,) in database.execute(f"SELECT version FROM {table} ORDER BY id")]


def tables(database: Database) -> list[str]:
    """The user's tables, qualified where they are not in public."""
    rows = database.execute(
        "SELECT CASE n.nspname WHEN 'public' THEN '' ELSE n.nspname || '.' END || c.relname FROM "
        "pg_class c"
        " JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p', 'f')"
        " AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' AND c.relname <> "
        "'schema_migrations'"
        " ORDER BY 1"
    )
    return [name for (name,) in rows]


def nothing_is_left_running(server: Server, database: Database) -> None:
    """Wait until the server has no session of ours in the database; then none of its locks can be
    there either.
    """
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND application_name LIKE 'onward%%'"
    until(lambda: server.admin.execute(query, [database.name]) == [(0,)])
    locks = server.admin.execute(
        "SELECT l.* FROM pg_locks l JOIN pg_database d ON d.oid = l.database"
        " WHERE d.datname = %s AND l.locktype = 'advisory'",
        [database.name],
    )
    assert locks == []


def until(there: Callable[[], Any]) -> Any:
    """Wait for a condition; pytest's own time limit is the only one."""
    while not (found := there()):
        time.sleep(0.01)
    return found


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
