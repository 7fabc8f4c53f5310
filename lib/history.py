"""What a database says of itself and of what was applied to it: one query, and its answer taken apart."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

from lib.config import Target, unpooled
from lib.errors import HistoryConflict
from lib.plan import Applied
from lib.session import Session, identifier, literal

TABLE = "schema_migrations"
AUDIT_COLUMNS = ("environment", "identity", "git_commit", "applied_by")

# One message, one round trip, whether the table exists or not and wherever it is: the block looks for it and opens a
# cursor on one JSON document. `applied_at` of an older runner is a time of day in the server's own zone.
_QUERY = """
BEGIN TRANSACTION ISOLATION LEVEL READ COMMITTED READ ONLY;
SET LOCAL search_path TO DEFAULT;
SET LOCAL TimeZone TO DEFAULT;
{limits}
DO $onward$
DECLARE
    wanted CONSTANT text := {schema};
    path CONSTANT name[] := current_schemas(false);
    home CONSTANT text := coalesce(wanted, path[1]::text);
    tables jsonb;
    ours jsonb;
    chosen text;
    history json;
    system text;
    document refcursor := 'onward_document';
BEGIN
    SELECT jsonb_agg(to_jsonb(candidate) ORDER BY candidate.place NULLS LAST) INTO tables FROM (
        SELECT n.nspname AS schema, array_position(path, n.nspname) AS place, array_agg(a.attname) AS columns,
               c.relkind IN ('r', 'p') AND count(*) FILTER (WHERE (a.attname, t.typcategory) IN (
                   ('id', 'N'), ('version', 'S'), ('name', 'S'),
                   ('applied_at', 'D'), ('execution_time_ms', 'N'), ('checksum', 'S'))) = 6 AS ours,
               has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'INSERT') AND NOT EXISTS (
                   SELECT FROM pg_depend d JOIN pg_class s ON s.oid = d.objid AND d.classid = 'pg_class'::regclass
                   WHERE d.refobjid = c.oid AND d.deptype = 'a' AND CASE WHEN s.relkind = 'S'
                       THEN NOT has_sequence_privilege(s.oid, 'USAGE, UPDATE') END) AS writable
        FROM pg_class c
        JOIN pg_namespace n ON n.oid = c.relnamespace
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        JOIN pg_type t ON t.oid = a.atttypid
        WHERE c.relname = '{table}' AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname !~ '^pg_'
        GROUP BY n.nspname, c.oid, c.relkind
    ) candidate WHERE wanted IS NULL OR candidate.schema = wanted;
    SELECT jsonb_agg(one) INTO ours FROM jsonb_array_elements(tables) one WHERE (one ->> 'ours')::boolean;
    IF jsonb_array_length(ours) = 1 OR ours -> 0 ->> 'place' IS NOT NULL THEN
        chosen := ours -> 0 ->> 'schema';
        EXECUTE format('SELECT json_agg(h) FROM (SELECT *, extract(epoch FROM applied_at::timestamptz) AS onward_epoch'
            ' FROM %I.{table} ORDER BY id) h', chosen) INTO history;
    END IF;
    IF has_function_privilege('pg_catalog.pg_control_system()', 'EXECUTE') THEN
        EXECUTE 'SELECT system_identifier FROM pg_catalog.pg_control_system()' INTO system;
    END IF;
    OPEN document FOR SELECT json_build_object(
        'database', current_database(), 'version', current_setting('server_version'), 'role', current_user,
        'pid', pg_backend_pid(), 'system', system, 'standby', pg_is_in_recovery(),
        'read_only', current_setting('default_transaction_read_only')::boolean,
        'limits', (SELECT jsonb_agg(name) FROM pg_settings WHERE context = 'user' AND max_val <> '0' AND name IN (
            'client_connection_check_interval', 'idle_in_transaction_session_timeout', 'transaction_timeout',
            'tcp_keepalives_idle', 'tcp_keepalives_interval', 'tcp_user_timeout')),
        'home', home, 'home_exists', to_regnamespace(quote_ident(home)) IS NOT NULL,
        'may_create', coalesce(has_schema_privilege(to_regnamespace(quote_ident(home)), 'CREATE'), false),
        'tables', coalesce(tables, '[]'), 'chosen', chosen, 'history', coalesce(history, '[]'));
END $onward$;
FETCH ALL FROM onward_document;
COMMIT
"""


class History(NamedTuple):
    """What a database says of itself and of what was applied to it."""

    rows: tuple[Applied, ...]
    schema: str | None
    """Where the table is, or where it will be made; None where there is no place for it."""
    exists: bool
    missing_columns: tuple[str, ...]
    database: str
    version: str
    identity: str
    obstacle: str
    """Why this role cannot migrate this database; empty if it can."""
    direct: bool
    """Whether the session is with the server itself, and not with a pooler in front of it."""
    limits: frozenset[str]
    """The optional settings that this server lets a session change."""

    @property
    def fingerprint(self) -> tuple[int, int]:
        """Number of rows and newest id: whether anything was recorded since."""
        return len(self.rows), max((row.id for row in self.rows), default=0)


def read_history(session: Session, *, schema: str | None, limits: str) -> History:
    """Read it by one query under these `SET LOCAL` limits. Reads only: creates nothing, locks nothing, needs SELECT.

    Raises HistoryConflict for a table that is not ours, or several that are and none on the search path.
    """
    rows = session.query(_QUERY.format(table=TABLE, schema=literal(schema), limits=limits))
    facts: dict[str, Any] = json.loads(rows[0][0] or "{}")
    _require_one_table(facts)
    chosen = next((table for table in facts["tables"] if table["schema"] == facts["chosen"]), None)
    columns = chosen["columns"] if chosen else AUDIT_COLUMNS
    return History(
        rows=tuple(_applied(row) for row in facts["history"]),
        schema=facts["chosen"] or facts["home"],
        exists=chosen is not None,
        missing_columns=tuple(column for column in AUDIT_COLUMNS if column not in columns),
        database=facts["database"],
        version=facts["version"],
        identity=_identity(facts, session.target),
        obstacle=_obstacle(facts, chosen),
        direct=facts["pid"] == session.pid,
        limits=frozenset(facts["limits"] or ()),
    )


def _applied(row: dict[str, Any]) -> Applied:
    epoch = row["onward_epoch"]
    row["applied_at"] = None if epoch is None else datetime.fromtimestamp(epoch, UTC)
    values: Iterator[Any] = map(row.get, Applied._fields)
    return Applied(*values)


def _identity(facts: dict[str, Any], target: Target) -> str:
    """What tells this database from a copy of it: the cluster, its name, and on Neon the branch's endpoint."""
    host = unpooled(target.host)
    parts = [facts["system"] or ".".join(filter(None, (target.tenant, host))), facts["database"]]
    if host.startswith("ep-"):
        parts.append(host.partition(".")[0])
    return "/".join(parts)


def _require_one_table(facts: dict[str, Any]) -> None:
    if facts["chosen"]:
        return
    ours = [table["schema"] for table in facts["tables"] if table["ours"]]
    if ours:
        raise HistoryConflict(
            f"there are several histories: {TABLE} in the schemas {', '.join(sorted(ours))}, none on the search path",
            next_step="Set MIGRATION_SCHEMA to the one that counts.",
        )
    foreign = [t["schema"] for t in facts["tables"] if t["place"] is not None or t["schema"] == facts["home"]]
    if foreign:
        raise HistoryConflict(
            f"{foreign[0]}.{TABLE} is not a history of ours: its columns are others. It was not touched",
            next_step="Set MIGRATION_SCHEMA to a schema where the history may be kept, or rename that table.",
        )


def _obstacle(facts: dict[str, Any], chosen: dict[str, Any] | None) -> str:
    if facts["standby"]:
        return "this server is a standby: it can only be read"
    if facts["read_only"]:
        return "sessions of this role are read-only (default_transaction_read_only is on)"
    role = facts["role"]
    if chosen:
        table, grantee = f"{identifier(chosen['schema'])}.{TABLE}", identifier(role)
        grant = (
            f"GRANT SELECT, INSERT, UPDATE ON {table} TO {grantee}; GRANT USAGE ON SEQUENCE {table}_id_seq TO {grantee}"
        )
        refusal = f"the role {role} may not insert into {chosen['schema']}.{TABLE}; its owner can say: {grant}"
        return "" if chosen["writable"] else refusal
    if not facts["home_exists"]:
        home = f"there is no schema {facts['home']}" if facts["home"] else "the search path names no schema that exists"
        return f"{home}: {TABLE} has no place. Create the schema, or set MIGRATION_SCHEMA to one that is there"
    if not facts["may_create"]:
        home = facts["home"]
        grant = f"GRANT USAGE, CREATE ON SCHEMA {identifier(home)} TO {identifier(role)}"
        return f"the role {role} may not create tables in the schema {home}; its owner can say: {grant}"
    return ""
