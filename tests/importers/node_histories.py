"""Histories of the tools written for Node, their tables made as their sources say."""

import json
from collections.abc import Callable, Iterable
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import psycopg

from tests.conftest import Database

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
    write: Callable[[Path], None]
    """Writes FILES into a directory as the tool has them."""

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
        return database.execute(f"SELECT t.xmin::text, t.ctid::text, t::text FROM {self.table} t")


def time_of(name: str) -> int:
    """A time for the journal, in milliseconds."""
    return 1704067200000 + (NAMES.index(name) if name in NAMES else 99)


def _write_folders(directory: Path) -> None:
    for name, sql in FILES.items():
        (directory / name).mkdir()
        (directory / name / "migration.sql").write_text(sql)


def _write_prisma(directory: Path) -> None:
    _write_folders(directory)
    (directory / "migration_lock.toml").write_text('provider = "postgresql"\n')


def _write_drizzle_1(directory: Path) -> None:
    _write_folders(directory)
    for name in FILES:
        (directory / name / "snapshot.json").write_text("{}")


def _write_drizzle(directory: Path) -> None:
    (directory / "meta").mkdir()
    entries = [
        {"idx": place, "when": time_of(name), "tag": name} for place, name in enumerate(FILES)
    ]
    journal = {"dialect": "postgresql", "entries": entries}
    (directory / "meta" / "_journal.json").write_text(json.dumps(journal))
    for name, sql in FILES.items():
        (directory / f"{name}.sql").write_text(sql)


def _write_node_pg_migrate(directory: Path) -> None:
    for name, sql in FILES.items():
        down = sql.replace("CREATE", "DROP").replace(" (id bigint)", "")
        (directory / f"{name}.sql").write_text(f"-- Up Migration\n{sql}\n-- Down Migration\n{down}")


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
