"""What the tests of the command line share: files, and what a database looks like afterwards."""

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.conftest import Cli, Completed, Database

Write = Callable[[Mapping[str, str | bytes]], Path]

CANARY = "C4nary-Pa55word-K7"
OURS = ["000-create-migration-table", "001-create-users-table", "002-add-reset-token-fields"]
ONE = {"001-one.sql": "CREATE TABLE one (id int);\n"}
TWO = {**ONE, "002-two.sql": "CREATE TABLE two (id int);\n"}
FIVE = {
    f"00{number}-f{number}.sql": f"CREATE TABLE f{number} (id int);\n" for number in range(1, 6)
}


def history(database: Database) -> list[str] | None:
    """The recorded versions in the order of their ids, None where there is no history."""
    if database.execute("SELECT to_regclass('public.schema_migrations')") == [(None,)]:
        return None
    rows = database.execute(
        "SELECT version FROM schema_migrations h ORDER BY (to_jsonb(h) ->> 'id')::int"
    )
    return [version for (version,) in rows]


def contents(database: Database) -> tuple[list[Any], list[Any]]:
    """All that a run could have changed: every relation that is not the server's own, and the whole
    history.
    """
    relations = database.execute(
        "SELECT relnamespace::regnamespace::text, relname, relkind, xmin::text FROM pg_class "
        "WHERE relnamespace::regnamespace::text !~ '^(pg_|information_schema)' ORDER BY 1, 2"
    )
    return relations, database.execute("TABLE schema_migrations") if history(
        database
    ) is not None else []


def tables(database: Database) -> set[str]:
    """The tables that migrations made."""
    rows = database.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'"
    )
    return {name for (name,) in rows} - {"schema_migrations"}


def words(result: Completed) -> str:
    """What was said, whichever stream it went to, without the marks and line ends that tests need
    not know.
    """
    return " ".join((result.out + result.err).split())


def bundle(project: Path, place: Path, files: Mapping[str, str | bytes]) -> Path:
    """A team's repository with the bundle and its own migrations."""
    shutil.copytree(project, place)
    shutil.rmtree(place / "migrations")
    (place / "migrations").mkdir()
    for name, content in files.items():
        (place / "migrations" / name).write_bytes(
            content.encode() if isinstance(content, str) else content
        )
    return place


def environment(cli: Cli, url: str, **more: str) -> dict[str, str]:
    """The environment that `cli` runs in, for tests that start the process themselves."""
    named = {
        "MIGRATION_DIR": str(cli.directory / "migrations"),
        "POSTGRES_URL": url,
        "PATH": os.environ["PATH"],
    }
    return named | more
