"""Histories of the tools written for Node, their tables made as their sources say."""

import json
from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import psycopg

from tests.conftest import Database
from tests.kit import fill, rows_of

WORDS = ("one", "two", "three", "four")
FILES = {
    f"2024010{number}000000_create_{word}": f"CREATE TABLE {word} (id bigint);\n"
    for number, word in enumerate(WORDS, 1)
}
NAMES = tuple(FILES)
VERSIONS = [f"00{number}-create-{word}" for number, word in enumerate(WORDS, 1)]
APPLIED_AT = "2024-02-03 04:05:06+00"


class Tool(NamedTuple):
    """A tool whose history can be made here."""

    title: str
    tool: str
    table: str
    create: str
    insert: str
    """Its parameters are `name`, `time`, `hash` and `at`."""
    lay_out: Callable[[Path, Sequence[str]], None]
    """Writes these of FILES into a directory as the tool has them."""

    def write(self, directory: Path, names: Sequence[str] = NAMES) -> Path:
        """A directory of the tool with these files; returns it."""
        directory.mkdir()
        self.lay_out(directory, names)
        return directory

    def apply(self, database: Database, names: Iterable[str]) -> None:
        """Apply these files as the tool does."""
        with psycopg.connect(database.url, autocommit=True) as connection:
            connection.execute("SET TimeZone TO 'UTC'")
            connection.execute(self.create.encode())
            for name in names:
                connection.execute(FILES[name].encode())
                self.record(connection, name, sha256(FILES[name].encode()).hexdigest())

    def record(self, connection: psycopg.Connection, name: str, digest: str) -> None:
        """Add a row as the tool does."""
        row = {"name": name, "time": time_of(name), "hash": digest, "at": APPLIED_AT}
        connection.execute(self.insert.encode(), row)

    def rows(self, database: Database) -> list[tuple[Any, ...]]:
        """All that the tool's table has, and which transactions wrote it."""
        return rows_of(database, self.table)


def time_of(name: str) -> int:
    """A time for the journal, in milliseconds."""
    return 1704067200000 + (NAMES.index(name) if name in NAMES else 99)


def _write_folders(directory: Path, names: Sequence[str]) -> None:
    for name in names:
        (directory / name).mkdir()
        (directory / name / "migration.sql").write_text(FILES[name])


def _write_prisma(directory: Path, names: Sequence[str]) -> None:
    _write_folders(directory, names)
    (directory / "migration_lock.toml").write_text('provider = "postgresql"\n')


def _write_drizzle_1(directory: Path, names: Sequence[str]) -> None:
    _write_folders(directory, names)
    for name in names:
        (directory / name / "snapshot.json").write_text("{}")


def _write_drizzle(directory: Path, names: Sequence[str]) -> None:
    (directory / "meta").mkdir()
    entries = [
        {"idx": place, "when": time_of(name), "tag": name} for place, name in enumerate(names)
    ]
    journal = {"version": "7", "dialect": "postgresql", "entries": entries}
    (directory / "meta" / "_journal.json").write_text(json.dumps(journal))
    fill(directory, {f"{name}.sql": FILES[name] for name in names})


def _write_node_pg_migrate(directory: Path, names: Sequence[str]) -> None:
    for name in names:
        down = FILES[name].replace("CREATE", "DROP").replace(" (id bigint)", "")
        text = f"-- Up Migration\n{FILES[name]}\n-- Down Migration\n{down}"
        (directory / f"{name}.sql").write_text(text)


PRISMA = Tool(
    "Prisma Migrate",
    "prisma",
    "public._prisma_migrations",
    """CREATE TABLE public._prisma_migrations (
        id varchar(36) PRIMARY KEY, checksum varchar(64) NOT NULL, finished_at timestamptz,
        migration_name varchar(255) NOT NULL, logs text, rolled_back_at timestamptz,
        started_at timestamptz NOT NULL DEFAULT now(), applied_steps_count int NOT NULL DEFAULT 0)
    """,
    """INSERT INTO public._prisma_migrations (id, checksum, migration_name, started_at, finished_at,
        applied_steps_count) VALUES (gen_random_uuid(), %(hash)s, %(name)s,
        CAST(%(at)s AS timestamptz) - interval '250 ms', %(at)s, 1)""",
    _write_prisma,
)
DRIZZLE = Tool(
    "Drizzle",
    "drizzle",
    "drizzle.__drizzle_migrations",
    """CREATE SCHEMA drizzle; CREATE TABLE drizzle.__drizzle_migrations (
        id serial PRIMARY KEY, hash text NOT NULL, created_at bigint)""",
    "INSERT INTO drizzle.__drizzle_migrations (hash, created_at) VALUES (%(hash)s, %(time)s)",
    _write_drizzle,
)
DRIZZLE_1 = Tool(
    "Drizzle",
    "drizzle",
    "drizzle.__drizzle_migrations",
    """CREATE SCHEMA drizzle; CREATE TABLE drizzle.__drizzle_migrations (
        id serial PRIMARY KEY, hash text NOT NULL, created_at bigint, name text,
        applied_at timestamptz DEFAULT now())""",
    """INSERT INTO drizzle.__drizzle_migrations (hash, created_at, name, applied_at)
        VALUES (%(hash)s, %(time)s, %(name)s, %(at)s)""",
    _write_drizzle_1,
)
NODE_PG_MIGRATE = Tool(
    "node-pg-migrate",
    "node-pg-migrate",
    "public.pgmigrations",
    """CREATE TABLE public.pgmigrations (
        id serial PRIMARY KEY, name varchar(255) NOT NULL, run_on timestamp NOT NULL)""",
    "INSERT INTO public.pgmigrations (name, run_on) VALUES (%(name)s, CAST(%(at)s AS timestamptz))",
    _write_node_pg_migrate,
)
TOOLS = (PRISMA, DRIZZLE, DRIZZLE_1, NODE_PG_MIGRATE)
