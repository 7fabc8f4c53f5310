"""Reads the history of another migration tool, which is never changed."""

from __future__ import annotations

from lib.errors import HistoryConflict, OnwardError
from lib.history import FoundTable, Takeover, ToolRow, untrusted
from lib.imported import FILE_NAME, Imported
from lib.postgres.check import check
from lib.postgres.connection import PIN_PATH, Connection, Reply, Rows
from lib.postgres.history import TRUSTED_ROLES, hidden_rows, moment
from lib.postgres.history_table import other_table_named
from lib.quoting import identifier, literal
from lib.tool_tables import TABLES, ToolTable

_USUAL_TIME = "SET LOCAL search_path TO DEFAULT; SET LOCAL TimeZone TO DEFAULT;"
_USUAL = """
{usual_time}
{limits}
SELECT pg_catalog.set_config('onward.path',
    CAST(pg_catalog.current_schemas(false) AS pg_catalog.text), true);
"""
_FIND = """
SELECT n.nspname, c.relname, c.oid, c.relowner, pg_get_userbyid(c.relowner), current_user,
    (c.relowner = ANY (({trusted})::oid[]))::int, row_security_active(c.oid)::int,
    c.relforcerowsecurity::int,
    array_to_string(ARRAY(
        SELECT wanted FROM unnest(ARRAY[{columns}]) AS wanted
        WHERE wanted NOT IN (SELECT attname FROM pg_attribute
            WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped)), ', ')
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relname = {name} AND c.relkind = 'r' AND n.nspname = {schema}
ORDER BY array_position(current_setting('onward.path')::name[], n.nspname) LIMIT 1;
"""
_ON_PATH = "ANY (current_setting('onward.path')::name[])"
# Tables that inherit from it have owners of their own.
_ROWS = "SELECT {rows} FROM ONLY {table} t ORDER BY {order};"
# A run of the tool that is under way is waited for, and none records anything meanwhile.
_LOCK = "LOCK TABLE ONLY {table} IN SHARE MODE;"
_PERMISSION_DENIED = "42501"
# A function or operator for other types, a cast that there is not, a value that has no cast.
_OTHER_TYPES = ("42883", "42846", "42804", "22P02", "22007", "22008")


def find_tool_history(
    connection: Connection, imported: Imported, limits: str, tenant: str | None = None
) -> FoundTable | None:
    """The tool's history, if this database has it, by two queries. Reads only.

    A tenant's is in the tenant's schema, if anywhere.
    Raises HistoryConflict for a table of another shape, UntrustedHistory for another role's,
    HistoryHidden where row security hides rows.
    """
    tool = TABLES[imported.tool]
    *schema, name = imported.table.split(".", 1)
    if tenant and schema not in ([], [tenant]):
        return None
    place = literal(schema[0] if schema else tenant) if schema or tenant else _ON_PATH
    query = _FIND.format(
        trusted=TRUSTED_ROLES,
        columns=", ".join(map(literal, tool.columns)),
        name=literal(name if schema else imported.table),
        schema=place,
    )
    usual = _USUAL.format(usual_time=_USUAL_TIME, limits=limits)
    _, *found = connection.query(query, usual=usual)
    if not found:
        return None
    table = _checked(tool, found[0])
    reply = connection.read(_rows_sql(tool, table), usual=_USUAL_TIME + limits)
    if reply.failed:
        raise tool_history_error(tool, table, reply, connection, str(found[0][5]))
    return table._replace(rows=_tool_rows(reply.rows))


def locked_tool_history(takeover: Takeover) -> str:
    """SQL that keeps a tool from recording anything until the transaction ends.

    The rows that come back make `is_unchanged`'s comparison. Raises OTHER_TABLE.
    """
    table = takeover.found
    same = check(other_table_named(literal(table.sql), table.table_id, owner=True))
    rows = _rows_sql(TABLES[takeover.tool], table)
    return f"{_USUAL_TIME} {PIN_PATH} {_LOCK.format(table=table.sql)} {same} {rows}"


def is_unchanged(takeover: Takeover, reply: Reply) -> bool:
    """Whether the tool's history is what the takeover was made of."""
    return _tool_rows(reply.rows) == takeover.found.rows


def tool_history_error(
    tool: ToolTable, table: FoundTable, reply: Reply, connection: Connection, role: str
) -> OnwardError:
    """The user's error for a reading of the tool's table that failed."""
    sqlstate = reply.error.sqlstate if reply.error else None
    if sqlstate in _OTHER_TYPES:
        return _of_other_shape(
            tool, table, f"its columns have other types or values ({reply.failure.message})"
        )
    error = connection.error_for(reply, str(table))
    if sqlstate == _PERMISSION_DENIED:
        role = identifier(role)
        error.next_step = (
            "A takeover reads that table and locks it. Ask its owner or a superuser to run:\n"
            f"  GRANT USAGE ON SCHEMA {identifier(table.schema)} TO {role};\n"
            f"  GRANT SELECT, UPDATE ON {table.sql} TO {role};"
        )
    return error


def _checked(tool: ToolTable, facts: tuple[str | None, ...]) -> FoundTable:
    schema, name, oid, owner_id, owner, role, trusted, hidden, forced, missing = map(str, facts)
    table = FoundTable(schema, name, (int(oid), int(owner_id)))
    if missing:
        raise _of_other_shape(tool, table, f"it has no column {missing}")
    if not int(trusted):
        raise untrusted(table.sql, owner, role)
    if int(hidden):
        raise hidden_rows(table.sql, role, forced=bool(int(forced)))
    return table


def _of_other_shape(tool: ToolTable, table: FoundTable, how: str) -> HistoryConflict:
    return HistoryConflict(
        f"{table} is not the history of {tool.title}: {how}",
        changed_nothing=True,
        next_step=f'Name that table in {FILE_NAME}, with its schema, as "table".',
    )


def _rows_sql(tool: ToolTable, table: FoundTable) -> str:
    return _ROWS.format(rows=tool.rows, table=table.sql, order=tool.order)


def _tool_rows(rows: Rows) -> tuple[ToolRow, ...]:
    return tuple(
        ToolRow(str(key), str(state), moment(at), _milliseconds(took), checksum)
        for key, state, at, took, checksum in rows
    )


def _milliseconds(text: str | None) -> int | None:
    """The duration; None where it is not known, or infinite."""
    try:
        return None if text is None else round(float(text))
    except (ValueError, OverflowError):
        return None
