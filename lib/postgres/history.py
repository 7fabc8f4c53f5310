"""What a database says of itself and of what was applied to it: one query, and its answer taken
apart.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from lib.activity import Asked
from lib.errors import DatabaseUnsuitable, HistoryConflict, HistoryHidden
from lib.history import (
    AUDIT_COLUMNS,
    RESTORE_COLUMNS,
    SCHEMA_COLUMNS,
    TABLE,
    TENANT_MARK,
    AppliedMigration,
    History,
    qualified,
    untrusted,
)
from lib.postgres.activity import activity_of, activity_sql
from lib.postgres.connection import Connection
from lib.postgres.limits import OPTIONAL_LIMITS
from lib.postgres.lock import RunLock
from lib.quoting import identifier, literal
from lib.restore_point import RestorePoint
from lib.settings.database_url import DatabaseURL, unpooled
from lib.tool_tables import HISTORY_TABLES

# What a host keeps in a database of its own accord.
PLATFORM_SCHEMAS = (
    "auth cron extensions graphql graphql_public information_schema neon_auth net pgbouncer "
    "pgsodium "
    "pgsodium_masks realtime storage supabase_functions vault".split()
)

_COLUMNS_READ = (
    *(name for name in AppliedMigration._fields if name not in ("applied_at", "restore_point")),
    *RESTORE_COLUMNS,
)

# A table of a role's own that has all of these is one that a run has made or completed.
_KNOWN = ("id", "version", "name", "applied_at", "execution_time_ms", "checksum", *AUDIT_COLUMNS)

# Those of them that a table has, as SQL.
_READ = (
    "string_agg(quote_ident(attname), ', ') "
    f"FILTER (WHERE attname IN ({', '.join(map(literal, _COLUMNS_READ))}))"
)

# Whose table may decide what runs: who could change what this role owns anyway, and roles that this
# one can act as. Before 16 every grant allows that; since then a grant without either option only
# lets the role be administered. pg_has_role would not do: to a superuser it is true of everybody.
TRUSTED_ROLES = """
    WITH RECURSIVE granted (role) AS (
        SELECT oid FROM pg_roles WHERE rolname IN (current_user, session_user)
        UNION
        SELECT m.roleid FROM granted JOIN pg_auth_members m ON m.member = granted.role
        WHERE coalesce((to_jsonb(m) ->> 'inherit_option')::boolean
            OR (to_jsonb(m) ->> 'set_option')::boolean, true)
    )
    SELECT array_agg(role) FROM (
        SELECT role FROM granted
        UNION SELECT datdba FROM pg_database WHERE datname = current_database()
        UNION SELECT oid FROM pg_roles WHERE rolsuper OR rolname = 'pg_database_owner') either
"""

# Read on the usual path, before ours is set: every name in it is qualified.
_USUAL = """
SET LOCAL search_path TO {path};
SET LOCAL TimeZone TO DEFAULT;
{limits}
SELECT pg_catalog.set_config('onward.path',
    CAST(pg_catalog.current_schemas(false) AS pg_catalog.text), true);
"""

# One message, one round trip, whether the table exists or not and wherever it is: the block looks
# for it and opens a cursor on one JSON document. `applied_at` of an older runner is a time of day
# in the server's own zone. A new session plans with cold catalogs, which takes far longer than what
# is planned: what only some databases need is a statement of its own, behind an IF.
_QUERY = """
DO $onward$
DECLARE
    wanted CONSTANT text := {schema};
    tenant CONSTANT boolean := {tenant};
    path CONSTANT name[] := current_setting('onward.path')::name[];
    of_connection CONSTANT boolean := {of_connection};
    home CONSTANT text := coalesce(wanted, path[1]::text);
    home_exists CONSTANT boolean := to_regnamespace(quote_ident(home)) IS NOT NULL;
    own_role CONSTANT oid := quote_ident(current_user)::regrole;
    trusted_roles oid[];
    untrusted_home text;
    tables jsonb;
    chosen jsonb;
    history json;
    occupants json;
    system text;
    lsn pg_lsn;
    document refcursor := 'onward_document';
BEGIN
    -- Mostly the history is this role's own table, in its home: then nothing else is asked.
    SELECT to_jsonb(own) INTO chosen FROM (
        SELECT c.oid::bigint, home AS schema, CASE WHEN wanted IS NULL THEN 1 END AS place,
               current_user AS owner, own_role::bigint AS owner_oid, true AS trusted,
               false AS hidden, true AS readable,
               has_table_privilege(c.oid, 'INSERT') AS insertable,
               has_sequence_privilege(pg_get_serial_sequence(quote_ident(home) || '.{table}', 'id'),
                   'USAGE, UPDATE') IS NOT false AS numbered, a.columns, a.read
        FROM pg_class c
        CROSS JOIN LATERAL (SELECT array_agg(attname) AS columns, {read} AS read
            FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped) a
        WHERE c.oid = to_regclass(quote_ident(home) || '.{table}') AND c.relkind = 'r'
            AND c.relowner = own_role AND NOT row_security_active(c.oid)
            AND has_table_privilege(c.oid, 'SELECT') AND a.columns @> ARRAY[{known}]::name[]
    ) own;

    IF chosen IS NULL THEN
        trusted_roles := ({trusted});

        SELECT jsonb_agg(to_jsonb(candidate) ORDER BY place NULLS LAST) INTO tables FROM (
            SELECT c.oid::bigint, n.nspname AS schema, array_position(path, n.nspname) AS place,
                   pg_get_userbyid(c.relowner) AS owner, c.relowner::bigint AS owner_oid,
                   c.relowner = ANY (trusted_roles) AS trusted,
                   row_security_active(c.oid) AS hidden,
                   row_security_active(c.oid) AND c.relforcerowsecurity AS forced,
                   array_agg(attname) AS columns, {read} AS read,
                   c.relkind IN ('r', 'p') AND count(*) FILTER (WHERE (attname, typcategory) IN (
                       ('id', 'N'), ('version', 'S'), ('name', 'S'),
                       ('applied_at', 'D'), ('execution_time_ms', 'N'), ('checksum', 'S'))
                       AND (attname <> 'id' OR coalesce(nullif(typbasetype, 0), t.oid)
                           IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype))) = 6 AS ours,
                   has_table_privilege(c.oid, 'SELECT') AS readable,
                   has_table_privilege(c.oid, 'INSERT') AS insertable,
                   NOT EXISTS (
                       SELECT FROM pg_depend d
                       JOIN pg_class s ON s.oid = d.objid AND d.classid = 'pg_class'::regclass
                       WHERE d.refobjid = c.oid AND d.deptype = 'a' AND CASE WHEN s.relkind = 'S'
                           THEN NOT has_sequence_privilege(s.oid, 'USAGE, UPDATE') END) AS numbered,
                   -- What the server would call, as this role, while it plans or prints a mere
                   -- SELECT.
                   c.relkind = 'r' AND bool_and(t.oid < 16384) AND NOT c.relhassubclass
                   AND NOT EXISTS (SELECT FROM pg_index x WHERE x.indrelid = c.oid
                       AND (x.indexprs IS NOT NULL OR x.indpred IS NOT NULL))
                   AND NOT EXISTS (
                       SELECT FROM pg_constraint k WHERE k.conrelid = c.oid AND k.contype = 'c')
                   AND NOT EXISTS (SELECT FROM pg_statistic_ext e WHERE e.stxrelid = c.oid) AS inert
            FROM pg_class c
            JOIN pg_namespace n ON n.oid = c.relnamespace
            JOIN pg_attribute ON attrelid = c.oid AND attnum > 0 AND NOT attisdropped
            JOIN pg_type t ON t.oid = atttypid
            WHERE c.relname = '{table}' AND n.nspname !~ '^pg_'
                AND (wanted IS NULL OR NOT (tenant OR home_exists) OR n.nspname = wanted)
                -- A tenant's history says nothing of the rest of the database.
                AND (n.nspname = wanted OR n.nspname = ANY (path)
                    OR obj_description(c.oid, 'pg_class') IS DISTINCT FROM {mark})
            GROUP BY n.nspname, c.oid, relkind, relowner, relforcerowsecurity, relhassubclass
        ) candidate;

        -- One on the path before others, and one off the path only if it is the only one, for a
        -- path that was changed must not make a migrated database look new. Another role's is read
        -- only by a role that could not add to it.
        WITH eligible AS (
            SELECT one, (one ->> 'trusted')::boolean AS trusted, (one ->> 'place')::int AS place
            FROM jsonb_array_elements(tables) one
            WHERE (one ->> 'ours')::boolean AND (wanted IS NULL OR home_exists)
                AND (wanted IS NOT NULL OR NOT of_connection OR one ->> 'place' IS NOT NULL)
                AND ((one ->> 'trusted')::boolean OR (
                    (one ->> 'readable')::boolean AND NOT (one ->> 'insertable')::boolean
                    AND (one ->> 'inert')::boolean))
        ), ranked AS (
            SELECT one, place, count(*) OVER () AS rivals,
                row_number() OVER (ORDER BY place NULLS LAST) AS rank
            FROM eligible WHERE trusted OR NOT EXISTS (SELECT FROM eligible WHERE trusted)
        )
        SELECT one INTO chosen FROM ranked WHERE rank = 1 AND (rivals = 1 OR place IS NOT NULL);
    END IF;

    IF NOT (chosen ->> 'hidden')::boolean THEN
        EXECUTE format('SELECT json_agg(h ORDER BY id) FROM (SELECT %s,'
            ' extract(epoch FROM applied_at::timestamptz) AS onward_epoch FROM %I.{table}) h',
            chosen ->> 'read', chosen ->> 'schema') INTO history;
    END IF;
    IF history IS NULL THEN
        SELECT json_agg(name) INTO occupants FROM (
            SELECT format('%I.%I', n.nspname, c.relname) AS name, tool
            FROM pg_class c
            JOIN pg_namespace n ON n.oid = c.relnamespace
            CROSS JOIN LATERAL (
                SELECT c.relname IN ({tools})
                    OR n.nspname || '.' || c.relname IN ({tools}) AS tool) of
            WHERE c.relkind IN ('r', 'p', 'f') AND (n.nspname = wanted OR NOT tenant)
                AND (tool OR c.relname <> '{table}' AND n.nspname !~ '^pg_'
                    AND n.nspname = ANY (path) AND n.nspname <> ALL (ARRAY[{platform}]))
                AND NOT EXISTS (SELECT FROM pg_depend d
                    WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
            ORDER BY tool DESC, 1 LIMIT 20
        ) found;
        -- Whose owner could drop the history. That of the path is taken as it is: hosts have public
        -- from roles of their own.
        SELECT pg_get_userbyid(nspowner) INTO untrusted_home FROM pg_namespace
        WHERE wanted <> 'public' AND nspname = wanted AND nspowner <> ALL (trusted_roles);
    END IF;
    IF has_function_privilege('pg_control_system()', 'EXECUTE') THEN
        EXECUTE 'SELECT system_identifier FROM pg_control_system()' INTO system;
    END IF;
    BEGIN
        lsn := pg_current_wal_insert_lsn();
    EXCEPTION WHEN OTHERS THEN
        NULL;  -- a standby, a role without the privilege, a host that has no such function
    END;
    OPEN document FOR SELECT json_build_object(
        'database', current_database(), 'version', current_setting('server_version'),
        'role', current_user,
        'pid', pg_backend_pid(), 'system', system, 'standby', pg_is_in_recovery(),
        'epoch', extract(epoch FROM clock_timestamp()), 'lsn', lsn,
        'neon_project', current_setting('neon.project_id', true),
        'neon_branch', current_setting('neon.branch_id', true),
        'read_only', current_setting('default_transaction_read_only')::boolean,
        'limits', json_build_object({limits}),
        'of_connection', of_connection, 'home', home, 'path', to_json(path),
        'home_exists', home_exists,
        'untrusted_home', untrusted_home,
        'may_create_schema', has_database_privilege(current_database(), 'CREATE'),
        'may_create',
            coalesce(has_schema_privilege(to_regnamespace(quote_ident(home)), 'CREATE'), false),
        'tables', coalesce(tables, '[]'), 'chosen', chosen, 'history', coalesce(history, '[]'),
        'occupants', coalesce(occupants, '[]'), 'activity', {activity});
END $onward$;
FETCH ALL FROM onward_document
"""


def read_history(
    session: Connection,
    *,
    schema: str | None,
    limits: str,
    tenant: str | None = None,
    activity: Asked = Asked.NOTHING,
) -> History:
    """Read it by one query under these `SET LOCAL` limits. Reads only: creates nothing, locks
    nothing, needs SELECT.

    With a `tenant`, which is the schema then, no other schema is looked at.
    Raises HistoryConflict for a table that is not ours, or several that are and none on the search
    path; UntrustedHistory for another role's; HistoryHidden where row security hides rows.
    """
    query = _QUERY.format(
        table=TABLE,
        trusted=TRUSTED_ROLES,
        schema=literal(schema),
        tenant=literal(tenant is not None),
        mark=literal(TENANT_MARK),
        read=_READ,
        platform=_literals(PLATFORM_SCHEMAS),
        tools=_literals(HISTORY_TABLES),
        of_connection=literal("search_path" in dict(session.url.deciding_options)),
        limits=", ".join(f"'{name}', current_setting('{name}', true)" for name in OPTIONAL_LIMITS),
        known=_literals(_KNOWN),
        activity=activity_sql(activity, RunLock(tenant)),
    )
    usual = _USUAL.format(path=identifier(tenant) if tenant else "DEFAULT", limits=limits)
    rows = session.query(query, usual=usual)
    facts: dict[str, Any] = json.loads(rows[-1][0] or "{}")
    direct = facts["pid"] == session.pid
    if not direct and re.search(r"(^|\s)(-c|--)", session.url.parameters.get("options", "")):
        # It drops them, or sets them when it likes, and a run resets that: a file would run in
        # another schema.
        raise DatabaseUnsuitable(
            f"{session.url} is reached through a pooler, which does not keep the options of its "
            "URL",
            changed_nothing=True,
            next_step="Take options out of the URL, or use the direct URL.",
        )
    chosen: dict[str, Any] | None = facts["chosen"]
    creates_schema = schema is not None and tenant is None and not facts["home_exists"]
    if creates_schema:
        _require_only_history(facts)
    elif chosen is None:
        _require_free_place(facts)
    elif chosen["hidden"]:
        raise hidden_rows(qualified(chosen["schema"]), facts["role"], forced=chosen["forced"])
    columns = chosen["columns"] if chosen else AUDIT_COLUMNS
    return History(
        rows=tuple(_applied(row) for row in facts["history"]),
        schema=chosen["schema"] if chosen else facts["home"],
        table_id=(chosen["oid"], chosen["owner_oid"]) if chosen else None,
        owner=chosen["owner"] if chosen else None,
        trusted=chosen["trusted"] if chosen else True,
        occupants=tuple(facts["occupants"]),
        missing_columns=tuple(column for column in AUDIT_COLUMNS if column not in columns),
        database=facts["database"],
        version=facts["version"],
        identity=_identity(facts, session.url),
        role=facts["role"],
        obstacle=_obstacle(facts, chosen, creates_schema=creates_schema, tenant=tenant),
        direct=direct,
        limits=frozenset(name for name, value in facts["limits"].items() if value is not None),
        creates_schema=creates_schema,
        keeps_schema=all(column in columns for column in SCHEMA_COLUMNS),
        keeps_restore_point=not chosen or all(column in columns for column in RESTORE_COLUMNS),
        read_at=_restore_point(moment(facts["epoch"]), facts["lsn"]),
        neon_branch=_neon_branch(facts),
        activity=activity_of(facts["activity"]) if facts["activity"] else None,
        tenant=tenant,
        off_path=_path_missed(facts, chosen) if schema is None else "",
    )


def _path_missed(facts: dict[str, Any], chosen: dict[str, Any] | None) -> str:
    """The search path that a history was not found on although its first schema exists."""
    is_off_path = chosen and chosen["place"] is None and facts["home_exists"]
    return ", ".join(facts["path"]) if is_off_path else ""


def _literals(names: Iterable[str]) -> str:
    return ", ".join(map(literal, names))


def _applied(row: dict[str, Any]) -> AppliedMigration:
    row["applied_at"] = moment(row["onward_epoch"])
    row["restore_point"] = _restore_point(_instant(row.get("restore_time")), row.get("restore_lsn"))
    values: Iterator[Any] = map(row.get, AppliedMigration._fields)
    return AppliedMigration(*values)


def _restore_point(time: datetime | None, lsn: str | None) -> RestorePoint | None:
    return RestorePoint(time, lsn) if time else None


def _instant(text: str | None) -> datetime | None:
    """A timestamptz as JSON has it; None as for `moment`."""
    with suppress(ValueError, OverflowError):
        return datetime.fromisoformat(text).astimezone(UTC) if text else None
    return None


def _neon_branch(facts: dict[str, Any]) -> tuple[str, str] | None:
    project, branch = facts["neon_project"], facts["neon_branch"]
    return (project, branch) if project and branch else None


def moment(epoch: float | str | None) -> datetime | None:
    """The time; None where it is not known, is infinite, or is not in the years 1 to 9999."""
    try:
        return None if epoch is None else datetime.fromtimestamp(float(epoch), UTC)
    except (ValueError, OverflowError):
        return None


def _identity(facts: dict[str, Any], url: DatabaseURL) -> str:
    """What tells this database from a copy of it: the cluster, its name, and on Neon the branch's
    endpoint.
    """
    host = unpooled(url.host)
    parts = [facts["system"] or ".".join(filter(None, (url.tenant, host))), facts["database"]]
    if host.startswith("ep-"):
        parts.append(host.partition(".")[0])
    return "/".join(parts)


def _require_free_place(facts: dict[str, Any]) -> None:
    """Raise unless a new history may be made: no table of its name is in the way, and none may be
    the real one.
    """
    in_the_way = [
        one for one in facts["tables"] if one["place"] is not None or one["schema"] == facts["home"]
    ]
    ours = [one for one in facts["tables"] if one["ours"] and not facts["of_connection"]]
    rivals = [one for one in ours if one["trusted"]] or [one for one in ours if _is_only_read(one)]
    if len(rivals) > 1:
        schemas = ", ".join(sorted(one["schema"] for one in rivals))
        raise HistoryConflict(
            f"there are several histories: {TABLE} in the schemas {schemas}, none on the search "
            "path",
            next_step="Set MIGRATION_SCHEMA to the one that counts.",
        )
    if not in_the_way:
        return
    first = in_the_way[0]
    if first["ours"]:
        raise untrusted(qualified(first["schema"]), first["owner"], facts["role"])
    raise HistoryConflict(
        f"{first['schema']}.{TABLE} was created by another tool: it has other columns",
        changed_nothing=True,
        next_step="If it is the history of dbmate or golang-migrate, take it over "
        "(docs/importing.md):\n  scripts/migrate.py import auto DIRECTORY\n"
        "Otherwise set MIGRATION_SCHEMA to the schema that is to hold the history.",
    )


def _require_only_history(facts: dict[str, Any]) -> None:
    """Raise unless a schema may be made for the history: with a name that is mistyped, everything
    would run again.
    """
    found = sorted(one["schema"] for one in facts["tables"] if one["ours"] and one["trusted"])
    if found:
        raise HistoryConflict(
            f"the history is to be in {facts['home']} (by MIGRATION_SCHEMA, or imported.json), and "
            f"this database has no such schema; its history is in {', '.join(found)}",
            changed_nothing=True,
            next_step=f"Set MIGRATION_SCHEMA to {found[0]}. For a second history, first create its "
            f"schema:\n  CREATE SCHEMA {identifier(facts['home'])};",
        )


def _is_only_read(table: dict[str, Any]) -> bool:
    """Whether another role's table may be read: by who could not add to it, and without calling
    anything of its.
    """
    return bool(table["readable"] and not table["insertable"] and table["inert"])


def hidden_rows(table: str, role: str, *, forced: bool = False) -> HistoryHidden:
    """The error for a history, of this qualified name, of which a role may not see all rows."""
    off = "NO FORCE" if forced else "DISABLE"
    return HistoryHidden(
        f"row security hides rows of {table} from the role {role}, so what is applied cannot be "
        "read",
        changed_nothing=True,
        next_step="Let its owner or a superuser run one of these:\n"
        f"  ALTER ROLE {identifier(role)} BYPASSRLS;\n  ALTER TABLE {table} {off} ROW LEVEL "
        "SECURITY;",
    )


def _obstacle(
    facts: dict[str, Any],
    chosen: dict[str, Any] | None,
    *,
    creates_schema: bool,
    tenant: str | None,
) -> str:
    """Why this role cannot migrate this database; empty if it can."""
    if facts["standby"]:
        return "this server is a standby: it can only be read"
    if facts["read_only"]:
        return "sessions of this role are read-only (default_transaction_read_only is on)"
    if chosen:
        return _obstacle_to_writing(chosen, facts)
    if tenant and not facts["home_exists"]:
        # As a database that is missing: it would be made for any name that is mistyped.
        return f"there is no schema {tenant} in this database, so it has no such tenant"
    return _obstacle_to_creating(facts, creates_schema=creates_schema)


def _obstacle_to_writing(chosen: dict[str, Any], facts: dict[str, Any]) -> str:
    if chosen["readable"] and chosen["insertable"] and chosen["numbered"]:
        return ""
    role, table = facts["role"], qualified(chosen["schema"])
    grantee = identifier(role)
    return (
        f"the role {role} may not insert into {chosen['schema']}.{TABLE}; its owner can run:\n"
        f"  GRANT SELECT, INSERT, UPDATE ON {table} TO {grantee};\n"
        f"  GRANT USAGE ON SEQUENCE {table}_id_seq TO {grantee};"
    )


def _obstacle_to_creating(facts: dict[str, Any], *, creates_schema: bool) -> str:
    role, schema = facts["role"], facts["home"]
    if creates_schema:
        return "" if facts["may_create_schema"] else _may_not_create_schema(facts)
    if not facts["home_exists"]:
        return (
            f"no schema of the search path exists, so {TABLE} cannot be created. Create one, or "
            "set MIGRATION_SCHEMA"
        )
    if owner := facts["untrusted_home"]:
        return (
            f"the schema {schema} belongs to the role {owner}, which the role {role} does not "
            "trust: its owner could drop the history. Set MIGRATION_SCHEMA to another name, or let "
            "its owner or a superuser run one of these:\n"
            f"  ALTER SCHEMA {identifier(schema)} OWNER TO {identifier(role)};\n"
            f"  GRANT {identifier(owner)} TO {identifier(role)};"
        )
    if not facts["may_create"]:
        grant = f"GRANT USAGE, CREATE ON SCHEMA {identifier(schema)} TO {identifier(role)};"
        return (
            f"the role {role} may not create tables in the schema {schema}; its owner can run:\n"
            f"  {grant}"
        )
    return ""


def _may_not_create_schema(facts: dict[str, Any]) -> str:
    role, schema, database = facts["role"], facts["home"], facts["database"]
    return (
        f"there is no schema {schema} for {TABLE}, and the role {role} may not create one; the "
        "owner of the database can run one of these:\n"
        f"  CREATE SCHEMA {identifier(schema)} AUTHORIZATION {identifier(role)};\n"
        f"  GRANT CREATE ON DATABASE {identifier(database)} TO {identifier(role)};"
    )
