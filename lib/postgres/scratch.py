"""Databases that are made for one command, and dropped at its end."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from lib.errors import DatabaseUnsuitable, Interrupted
from lib.postgres.connecting import READ_BUDGET, connect
from lib.postgres.connection import Connection
from lib.quoting import identifier
from lib.settings.database_url import DatabaseURL

_NAME = "onward_scratch_"
_CREATE = "CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'"
_ROLES = "SELECT rolname FROM pg_roles WHERE rolname !~ '^pg_'"
_DROP = "DROP DATABASE IF EXISTS {name} WITH (FORCE)"


@contextmanager
def scratch_database(server: DatabaseURL) -> Iterator[DatabaseURL]:
    """A new, empty database on the server of a URL, dropped at the end of the block.

    The database that the URL names is only connected to. Raises DatabaseUnavailable, and
    DatabaseUnsuitable where this role may create no database.
    """
    name = _NAME + secrets.token_hex(8)
    _create(server, name)
    try:
        yield replace(server, database=name, parameters={**server.parameters, "dbname": name})
    finally:
        _drop(server, name)


def _create(server: DatabaseURL, name: str) -> None:
    try:
        _execute(server, _CREATE.format(name=identifier(name)), "create")
    except Interrupted:  # perhaps as the server had made it
        _drop(server, name)
        raise


def _drop(server: DatabaseURL, name: str) -> None:
    _execute(server, _DROP.format(name=identifier(name)), "drop")


def _execute(server: DatabaseURL, sql: str, verb: str) -> None:
    with connect(server, "onward scratch", budget=READ_BUDGET) as connection:
        reply = connection.send(sql)
        if reply.lost:
            raise connection.error_for(reply)
        if reply.error:
            raise DatabaseUnsuitable(
                f"{server}: cannot {verb} a scratch database: {reply.error.message}",
                next_step="Use the URL of a role with CREATEDB." if verb == "create" else sql + ";",
            )


def role_names(connection: Connection) -> tuple[str, ...]:
    """The roles of a server, but for the system's. Reads only."""
    return tuple(str(name) for (name,) in connection.query(_ROLES))


def create_roles(server: DatabaseURL, names: Sequence[str]) -> None:
    """Create the roles that a throwaway server lacks, without any rights."""
    with connect(server, "onward scratch", budget=READ_BUDGET) as connection:
        there = role_names(connection)
        for name in names:
            if name not in there:
                connection.send(f"CREATE ROLE {identifier(name)}")
