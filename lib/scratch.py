"""What migration files make of an empty database, by the one run loop, in a scratch database."""

from __future__ import annotations

from collections.abc import Sequence

from lib import runner
from lib.drift import Schema
from lib.errors import RunFailed
from lib.events import Event
from lib.postgres.executor import Executor
from lib.postgres.scratch import scratch_database
from lib.settings.config import Config, read_config
from lib.settings.database_url import DatabaseURL
from lib.source.migration import Migration

# Nobody's environment decides what a scratch database gets.
_ENVIRON = {"MIGRATION_DATABASE_URL": "postgresql://localhost", "MIGRATION_ENV": "ci"}


def made_by(server: DatabaseURL, migrations: Sequence[Migration], schema: str | None) -> Schema:
    """The objects that files make, in a database that is made on this server and dropped again.

    `schema` is that of the history. Raises as `apply` does, and as `scratch_database` does.
    """
    with scratch_database(server) as url:
        config = scratch_config(url, schema)
        apply(config, migrations)
        return definitions(config)


def scratch_config(url: DatabaseURL, schema: str | None) -> Config:
    """The settings of a run on a scratch database."""
    config = read_config(_ENVIRON)
    return config._replace(url=url, status_url=url, imported=None, schema=schema, drift="off")


def apply(config: Config, migrations: Sequence[Migration]) -> None:
    """Apply files to a scratch database. Raises what ends the run; the database is of no use then.

    Raises FilesError for files that no run would apply, drafts among them.
    """
    try:
        runner.run(config, _ignore, migrations=tuple(migrations))
    except RunFailed as failed:
        raise failed.cause from failed


def definitions(config: Config) -> Schema:
    """The objects of a scratch database. Reads only."""
    with Executor(config) as database:
        database.read()
        return database.schema.compare()[0]


def _ignore(_: Event) -> None:
    pass
