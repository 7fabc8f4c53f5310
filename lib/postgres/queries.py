"""The statements that an application sends: which they are, and whether the server parses them."""

from __future__ import annotations

from collections.abc import Iterable

from lib.errors import DatabaseUnsuitable
from lib.observation import Parsed, Query
from lib.postgres.connection import A_TABLE, NO_TIMEOUT, USUAL_PATH, Connection
from lib.queries import listed
from lib.quoting import identifier

_EXTENSION = """
SELECT quote_ident(n.nspname) FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
WHERE e.extname = 'pg_stat_statements'
"""
# An entry has a time of its own since PostgreSQL 17. One that is younger than a minute would seem
# to run more often than it does.
_STATEMENTS = """
SELECT query, sum(calls * 60 / greatest(extract(epoch FROM now() - since), 60))::float8
FROM (
    SELECT s.query, s.calls,
        coalesce((to_jsonb(s) ->> 'stats_since')::timestamptz, i.stats_reset) AS since
    FROM {schema}.pg_stat_statements s CROSS JOIN {schema}.pg_stat_statements_info i
    WHERE s.toplevel
        AND s.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
) AS counted
GROUP BY query
"""
_HIDDEN = "<insufficient privilege>"
_LOAD = """\
The server loads it when it starts, with this setting, for which a provider may have a switch:
  shared_preload_libraries = 'pg_stat_statements'"""
_NO_EXTENSION = (
    "this database does not have the extension pg_stat_statements",
    f"Create it, as an owner who may:\n  CREATE EXTENSION pg_stat_statements;\n{_LOAD}",
)
_TOO_OLD = (
    "the extension pg_stat_statements is older than 1.9, which came with PostgreSQL 14",
    "To update it:\n  ALTER EXTENSION pg_stat_statements UPDATE;",
)
_REFUSALS = {
    "55000": ("the server has not loaded the library of pg_stat_statements", _LOAD),
    "42P01": _TOO_OLD,
    "42703": _TOO_OLD,
}

# The usual path of the role, also after a file that has set another role or path.
_AS_THE_ROLE = f"RESET SESSION AUTHORIZATION; RESET ROLE; {USUAL_PATH} SAVEPOINT onward_query"
_IN_SAVEPOINT = (
    "SAVEPOINT onward_queries;",
    "ROLLBACK TO SAVEPOINT onward_queries; RELEASE SAVEPOINT onward_queries",
)
_IN_TRANSACTION = ("BEGIN READ ONLY;", "ROLLBACK")


def running_queries(connection: Connection, role: str) -> list[Query]:
    """The statements of this database in pg_stat_statements, the most frequent first. Reads only.

    Raises DatabaseUnsuitable where it is missing, or this role may not see all of it.
    """
    schema = connection.query(_EXTENSION)
    if not schema:
        raise _unsuitable(*_NO_EXTENSION)
    reply = connection.read(_STATEMENTS.format(schema=schema[0][0]))
    if refusal := _REFUSALS.get(reply.failure.sqlstate or ""):
        raise _unsuitable(*refusal)
    if reply.failed:
        raise connection.error_for(reply)
    if any(text == _HIDDEN for text, _ in reply.rows):
        raise _unsuitable(
            f"the role {role} may not see the statements of other roles",
            f"Let a superuser run:\n  GRANT pg_read_all_stats TO {identifier(role)};",
        )
    return listed((text, float(calls or 0)) for text, calls in reply.rows if text)


def parse_all(
    connection: Connection, queries: Iterable[Query], limits: str = ""
) -> dict[Query, Parsed]:
    """What the server says of each statement. None is run; the locks of parsing are given back.

    `limits` are for a session that has none. Raises TableBusy, LockBusy and DatabaseUnavailable.
    """
    before, after = _IN_SAVEPOINT if connection.in_transaction else _IN_TRANSACTION
    _send(connection, f"{before} {limits or NO_TIMEOUT} {_AS_THE_ROLE}")
    parsed = {query: _parse(connection, query) for query in queries}
    _send(connection, after)
    return parsed


def _parse(connection: Connection, query: Query) -> Parsed:
    reply = connection.parse(query.text)
    if not reply.failed:
        return Parsed(columns=reply.columns)
    error = connection.error_for(reply, A_TABLE)
    if type(error) is not DatabaseUnsuitable:  # it says nothing of the statement
        raise error
    _send(connection, "ROLLBACK TO SAVEPOINT onward_query")
    return Parsed(error.message)


def _send(connection: Connection, sql: str) -> None:
    reply = connection.send(sql)
    if reply.failed:
        raise connection.error_for(reply)


def _unsuitable(message: str, next_step: str) -> DatabaseUnsuitable:
    return DatabaseUnsuitable(message, changed_nothing=True, next_step=next_step)
