"""Proves that what is applied has made the schema that is there."""

from __future__ import annotations

from typing import NamedTuple

from lib.comparison import Comparison, compare
from lib.drift import Schema
from lib.errors import HistoryConflict
from lib.history import TABLE, History
from lib.plan import Plan
from lib.postgres.connecting import READ_BUDGET
from lib.postgres.connection import Connection
from lib.postgres.executor import Executor
from lib.postgres.scratch import create_roles, role_names
from lib.postgres.tool_history import find_tool_history
from lib.runner import read_plan
from lib.scratch import made_by
from lib.settings.config import Config
from lib.settings.database_url import DatabaseURL
from lib.source.migration import Migration


class Live(NamedTuple):
    """What a proof needs of the database."""

    applied: tuple[Migration, ...]
    found: Schema
    histories: tuple[str, ...]
    """The tables of Onward and of the tool that was imported from."""
    schema: str | None
    """Of Onward's."""
    roles: tuple[str, ...]


class Proof(NamedTuple):
    """What was compared: the schema of a database, and that which the applied files make."""

    comparison: Comparison
    applied: int
    postgres: int
    """The database's major version."""
    made_by: int
    """The major version on which the files were run."""


def read_live(config: Config, migrations: tuple[Migration, ...]) -> Live:
    """The database's schema, and the files that are applied there. Reads only.

    Raises HistoryConflict if none is, and where an applied migration has no file.
    """
    with Executor(config, budget=READ_BUDGET) as database:
        history, plan = read_plan(config, database, migrations)
        applied = _applied(plan)
        found, _ = database.schema.compare()
        tables = _histories(config, history, database.connection, database.limits)
        return Live(applied, found, tables, history.schema, role_names(database.connection))


def prove(live: Live, server: DatabaseURL, *, throwaway: bool) -> Proof:
    """Run the applied files in a scratch database, and compare what they make with what is there.

    On a server that is thrown away, the roles that the files may name are created first.
    """
    if throwaway:
        create_roles(server, live.roles)
    made = made_by(server, live.applied, live.schema)
    comparison = compare(made, live.found, without_tables=live.histories)
    return Proof(comparison, len(live.applied), live.found.postgres, made.postgres)


def _applied(plan: Plan) -> tuple[Migration, ...]:
    gone = [entry.version for entry in plan.entries if entry.applied and not entry.migration]
    if gone:
        raise HistoryConflict(
            f"applied, but there is no file to run: {', '.join(gone)}",
            changed_nothing=True,
            next_step="Restore the files from version control.",
        )
    files = tuple(entry.migration for entry in plan.entries if entry.applied and entry.migration)
    if not files:
        raise HistoryConflict(
            "nothing is applied in this database, so there is nothing to prove",
            changed_nothing=True,
            next_step="Use the URL of a database that was migrated.",
        )
    return files


def _histories(
    config: Config, history: History, connection: Connection, limits: str
) -> tuple[str, ...]:
    own = (f"{history.schema}.{TABLE}",)
    tool = find_tool_history(connection, config.imported, limits) if config.imported else None
    return (*own, str(tool)) if tool else own
