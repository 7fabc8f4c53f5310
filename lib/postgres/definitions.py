"""Reads the definitions of a database's objects, by one query.

They are what the server prints, under settings that are always the same, and what any role may
read.
"""

from __future__ import annotations

import json
from typing import NamedTuple

from lib.drift import Schema, normal, unpacked
from lib.errors import LockBusy, OnwardError
from lib.history import TABLE, TENANT_MARK, History
from lib.postgres.connection import BUSY, Connection, Reply
from lib.postgres.history import PLATFORM_SCHEMAS
from lib.quoting import literal

# Printing some definitions locks their tables: ACCESS SHARE. And the estimate of this query's cost
# would make a server compile it.
_SETTINGS = """
SET LOCAL lock_timeout = '{lock}ms'; SET LOCAL statement_timeout = '{statement}ms';
SET LOCAL jit = off; SET LOCAL quote_all_identifiers = off;
SET LOCAL standard_conforming_strings = on; SET LOCAL TimeZone = 'UTC';
SET LOCAL DateStyle = 'ISO, YMD'; SET LOCAL IntervalStyle = 'postgres';
SET LOCAL extra_float_digits = 1; SET LOCAL bytea_output = 'hex';
SET LOCAL lc_monetary = 'C'; SET LOCAL xmlbinary = 'base64';
"""

# Left out: what belongs to an extension, partitions (programs make them), the history itself,
# schemas that hosts keep, and those of tenants, which have histories of their own.
_QUERY = """
WITH
extension_member AS MATERIALIZED (
    SELECT classid, objid FROM pg_depend WHERE deptype = 'e'
), space AS MATERIALIZED (
    SELECT n.oid, n.nspname, quote_ident(n.nspname) AS name, n.nspowner, n.nspacl
    FROM pg_namespace n
    WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
        AND (n.nspname <> ALL (ARRAY[{platform}]) OR n.nspowner = {owner}::oid)
        AND (n.oid, 'pg_namespace'::regclass) NOT IN (SELECT objid, classid FROM extension_member)
        AND (n.nspname = {schema} OR NOT EXISTS (SELECT FROM pg_class c
            WHERE c.relnamespace = n.oid AND c.relname = '{table}'
                AND obj_description(c.oid, 'pg_class') = {mark}))
), rel AS MATERIALIZED (
    SELECT c.*, space.name || '.' || quote_ident(c.relname) AS name
    FROM pg_class c JOIN space ON space.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'c', 'S')
        AND NOT c.relispartition AND c.relpersistence <> 't'
        AND (c.oid, 'pg_class'::regclass) NOT IN (SELECT objid, classid FROM extension_member)
        AND NOT (space.nspname = {schema} AND c.relname IN ('{table}', '{table}_id_seq'))
        -- The sequence of an identity column is part of the column.
        AND NOT EXISTS (SELECT FROM pg_depend d
            WHERE c.relkind = 'S' AND d.classid = 'pg_class'::regclass AND d.objid = c.oid
                AND d.deptype = 'i')
), routine AS MATERIALIZED (
    SELECT p.*, space.name || '.' || quote_ident(p.proname)
        || '(' || pg_get_function_identity_arguments(p.oid) || ')' AS name
    FROM pg_proc p JOIN space ON space.oid = p.pronamespace
    WHERE (p.oid, 'pg_proc'::regclass) NOT IN (SELECT objid, classid FROM extension_member)
        AND NOT EXISTS (SELECT FROM pg_depend d
            WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'i')
), found (kind, name, definition) AS (
    SELECT 'schema', name, '' FROM space
    UNION ALL
    SELECT 'extension', quote_ident(extname), '' FROM pg_extension WHERE extname <> 'plpgsql'
    UNION ALL
    SELECT CASE r.relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view'
            WHEN 'S' THEN 'sequence' WHEN 'f' THEN 'foreign table' WHEN 'c' THEN 'type'
            ELSE 'table' END,
        r.name,
        concat_ws(' ',
            CASE WHEN r.relpersistence = 'u' AND r.relkind <> 'S' THEN 'UNLOGGED' END,
            CASE WHEN r.relkind = 'p' THEN 'PARTITION BY ' || pg_get_partkeydef(r.oid) END,
            (SELECT 'INHERITS ' || string_agg(i.inhparent::regclass::text, ', ' ORDER BY i.inhseqno)
                FROM pg_inherits i WHERE i.inhrelid = r.oid),
            CASE WHEN r.relrowsecurity THEN 'ROW LEVEL SECURITY' END,
            CASE WHEN r.relforcerowsecurity THEN 'FORCE ROW LEVEL SECURITY' END,
            CASE WHEN r.relkind IN ('r', 'p') AND r.relreplident <> 'd'
                THEN 'REPLICA IDENTITY ' || r.relreplident::text END,
            (SELECT 'FOREIGN KEYS DISABLED' FROM pg_trigger g
                WHERE g.tgrelid = r.oid AND g.tgisinternal AND g.tgenabled <> 'O' LIMIT 1),
            CASE WHEN r.relkind IN ('v', 'm') THEN (
                SELECT 'WITH ' || string_agg(o, ', ' ORDER BY o) FROM unnest(r.reloptions) o
                WHERE o ~ '^(security_|check_option)') END,
            CASE WHEN r.relkind IN ('v', 'm') THEN pg_get_viewdef(r.oid) END,
            (SELECT format('%s START %s INCREMENT %s MIN %s MAX %s CACHE %s%s',
                    format_type(s.seqtypid, NULL), s.seqstart, s.seqincrement, s.seqmin, s.seqmax,
                    s.seqcache, CASE WHEN s.seqcycle THEN ' CYCLE' END)
                FROM pg_sequence s WHERE s.seqrelid = r.oid))
    FROM rel r
    UNION ALL
    SELECT 'column', r.name || '.' || quote_ident(a.attname),
        concat_ws(' ', format_type(a.atttypid, a.atttypmod),
            CASE WHEN a.attcollation <> t.typcollation
                THEN 'COLLATE ' || a.attcollation::regcollation::text END,
            CASE WHEN a.attnotnull THEN 'NOT NULL' END,
            CASE WHEN NOT nn.convalidated THEN 'NOT VALID' END,
            CASE a.attidentity WHEN 'a' THEN 'GENERATED ALWAYS AS IDENTITY'
                WHEN 'd' THEN 'GENERATED BY DEFAULT AS IDENTITY' END,
            (SELECT format('START %s INCREMENT %s MIN %s MAX %s CACHE %s%s', s.seqstart,
                    s.seqincrement, s.seqmin, s.seqmax, s.seqcache,
                    CASE WHEN s.seqcycle THEN ' CYCLE' END)
                FROM pg_depend d JOIN pg_sequence s ON s.seqrelid = d.objid
                WHERE a.attidentity <> '' AND d.refclassid = 'pg_class'::regclass
                    AND d.refobjid = r.oid AND d.refobjsubid = a.attnum
                    AND d.classid = 'pg_class'::regclass AND d.deptype = 'i' LIMIT 1),
            CASE a.attgenerated WHEN '' THEN 'DEFAULT ' || pg_get_expr(ad.adbin, ad.adrelid)
                ELSE format('GENERATED ALWAYS AS (%s)%s', pg_get_expr(ad.adbin, ad.adrelid),
                    CASE a.attgenerated WHEN 's' THEN ' STORED' END) END)
    FROM rel r
    JOIN pg_attribute a ON a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped
        AND r.relkind IN ('r', 'p', 'f', 'c')
    JOIN pg_type t ON t.oid = a.atttypid
    LEFT JOIN pg_attrdef ad ON ad.adrelid = r.oid AND ad.adnum = a.attnum
    LEFT JOIN pg_constraint nn
        ON nn.conrelid = r.oid AND nn.contype = 'n' AND nn.conkey = ARRAY[a.attnum]
    UNION ALL
    -- NOT NULL is of the column: before 18 it has no name. A partitioned table's foreign key has a
    -- hidden one for each partition.
    SELECT 'constraint', r.name || '.' || quote_ident(k.conname), pg_get_constraintdef(k.oid)
    FROM rel r JOIN pg_constraint k
        ON k.conrelid = r.oid AND k.contype NOT IN ('n', 't') AND k.conparentid = 0
    UNION ALL
    SELECT 'index', space.name || '.' || quote_ident(c.relname),
        concat_ws(' ', pg_get_indexdef(c.oid), CASE WHEN NOT x.indisvalid THEN 'INVALID' END,
            CASE WHEN x.indisreplident THEN 'REPLICA IDENTITY' END)
    FROM rel r
    JOIN pg_index x ON x.indrelid = r.oid
    JOIN pg_class c ON c.oid = x.indexrelid
    JOIN space ON space.oid = c.relnamespace
    WHERE NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = c.oid
        AND k.conrelid = r.oid AND k.contype IN ('p', 'u', 'x'))
    UNION ALL
    SELECT 'trigger', r.name || '.' || quote_ident(g.tgname),
        concat_ws(' ', pg_get_triggerdef(g.oid), CASE g.tgenabled WHEN 'D' THEN 'DISABLED'
            WHEN 'R' THEN 'ENABLE REPLICA' WHEN 'A' THEN 'ENABLE ALWAYS' END)
    FROM rel r JOIN pg_trigger g ON g.tgrelid = r.oid AND NOT g.tgisinternal
    UNION ALL
    SELECT 'policy', r.name || '.' || quote_ident(p.polname),
        concat_ws(' ', CASE WHEN p.polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END, 'FOR',
            CASE p.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE'
                WHEN 'd' THEN 'DELETE' ELSE 'ALL' END,
            'TO', (SELECT string_agg(coalesce(quote_ident(a.rolname), 'PUBLIC'), ', '
                    ORDER BY a.rolname)
                FROM unnest(p.polroles) one LEFT JOIN pg_roles a ON a.oid = one),
            'USING ' || pg_get_expr(p.polqual, p.polrelid),
            'WITH CHECK ' || pg_get_expr(p.polwithcheck, p.polrelid))
    FROM rel r JOIN pg_policy p ON p.polrelid = r.oid
    UNION ALL
    SELECT 'rule', r.name || '.' || quote_ident(w.rulename),
        concat_ws(' ', pg_get_ruledef(w.oid), CASE w.ev_enabled WHEN 'D' THEN 'DISABLED'
            WHEN 'R' THEN 'ENABLE REPLICA' WHEN 'A' THEN 'ENABLE ALWAYS' END)
    FROM rel r JOIN pg_rewrite w ON w.ev_class = r.oid AND w.rulename <> '_RETURN'
    UNION ALL
    SELECT CASE p.prokind WHEN 'p' THEN 'procedure' WHEN 'a' THEN 'aggregate' ELSE 'function' END,
        p.name,
        CASE WHEN p.prokind = 'a' THEN (
            SELECT concat_ws(' ', 'SFUNC', a.aggtransfn::text, 'STYPE',
                format_type(a.aggtranstype, NULL), 'FINALFUNC', nullif(a.aggfinalfn, 0)::text,
                'COMBINEFUNC', nullif(a.aggcombinefn, 0)::text, 'INITCOND', a.agginitval,
                'SORTOP', nullif(a.aggsortop, 0)::regoperator::text)
            FROM pg_aggregate a WHERE a.aggfnoid = p.oid)
        ELSE pg_get_functiondef(p.oid) END
    FROM routine p
    UNION ALL
    SELECT CASE t.typtype WHEN 'd' THEN 'domain' ELSE 'type' END,
        space.name || '.' || quote_ident(t.typname),
        CASE t.typtype
            WHEN 'e' THEN (
                SELECT format('ENUM (%s)', string_agg(
                    quote_literal(e.enumlabel), ', ' ORDER BY e.enumsortorder))
                FROM pg_enum e WHERE e.enumtypid = t.oid)
            WHEN 'r' THEN (
                SELECT concat_ws(' ', 'RANGE', format_type(g.rngsubtype, NULL),
                    'COLLATE ' || nullif(g.rngcollation, 0)::regcollation::text,
                    nullif(g.rngcanonical, 0)::text, nullif(g.rngsubdiff, 0)::text)
                FROM pg_range g WHERE g.rngtypid = t.oid)
            ELSE concat_ws(' ', format_type(t.typbasetype, t.typtypmod),
                'DEFAULT ' || t.typdefault, CASE WHEN t.typnotnull THEN 'NOT NULL' END,
                (SELECT string_agg(format('CONSTRAINT %I %s', k.conname,
                        pg_get_constraintdef(k.oid)), ' ' ORDER BY k.conname)
                    FROM pg_constraint k WHERE k.contypid = t.oid AND k.contype <> 'n'))
        END
    FROM pg_type t JOIN space ON space.oid = t.typnamespace
    WHERE t.typtype IN ('e', 'd', 'r')
        AND (t.oid, 'pg_type'::regclass) NOT IN (SELECT objid, classid FROM extension_member)
    UNION ALL
    SELECT 'statistics', space.name || '.' || quote_ident(s.stxname),
        pg_get_statisticsobjdef(s.oid)
    FROM pg_statistic_ext s JOIN space ON space.oid = s.stxnamespace
), owned (name, class, oid, owner, type, acl) AS (
    SELECT name, 'pg_namespace'::regclass, oid, nspowner, 'n'::"char", nspacl FROM space
    UNION ALL
    SELECT name, 'pg_class'::regclass, oid, relowner,
        CASE relkind WHEN 'S' THEN 's' ELSE 'r' END::"char",
        CASE WHEN relkind <> 'c' THEN relacl END FROM rel
    UNION ALL
    SELECT name, 'pg_proc'::regclass, oid, proowner, 'f', proacl FROM routine
), strict (kind, name, definition) AS (
    SELECT 'owner of', name, pg_get_userbyid(owner)::text FROM owned
    UNION ALL
    SELECT 'privileges on', o.name, (
        SELECT string_agg(privilege, ', ' ORDER BY privilege) FROM (
            SELECT concat(coalesce(quote_ident(a.rolname), 'PUBLIC'), ' ', x.privilege_type,
                CASE WHEN x.is_grantable THEN ' WITH GRANT OPTION' END)
            FROM aclexplode(coalesce(o.acl, acldefault(o.type, o.owner))) x
            LEFT JOIN pg_roles a ON a.oid = x.grantee
            WHERE x.grantee <> o.owner) granted (privilege))
    FROM owned o
    UNION ALL
    SELECT 'privileges on', r.name || '.' || quote_ident(a.attname), array_to_string(
        ARRAY(SELECT one::text FROM unnest(a.attacl) one ORDER BY one::text), ', ')
    FROM rel r JOIN pg_attribute a ON a.attrelid = r.oid AND a.attacl IS NOT NULL
    UNION ALL
    SELECT 'comment on', o.name || coalesce('.' || quote_ident(a.attname), ''), d.description
    FROM owned o
    JOIN pg_description d ON d.classoid = o.class AND d.objoid = o.oid
    LEFT JOIN pg_attribute a ON o.class = 'pg_class'::regclass
        AND a.attrelid = o.oid AND a.attnum = d.objsubid AND d.objsubid > 0
)
SELECT json_object_agg(kind || ' ' || name, definition)
FROM (SELECT * FROM found UNION ALL SELECT * FROM strict) either
WHERE name IS NOT NULL AND definition IS NOT NULL;
"""
_CANCELLED = "57014"
_DOCUMENT = "SELECT schema_state FROM {table} WHERE id = {row};"


class Limits(NamedTuple):
    """How long reading may wait for a lock, and take; in seconds."""

    lock: float
    statement: float


def read_definitions(
    connection: Connection, history: History, limits: Limits, document_row: int | None = None
) -> tuple[Schema, Schema | None]:
    """The schema, and what is expected of it as the row of this id says. Reads only.

    Raises LockBusy for a lock, or when it takes too long.
    """
    query = _QUERY.format(
        platform=", ".join(map(literal, PLATFORM_SCHEMAS)),
        owner=(history.table_id or (0, 0))[1],
        schema=literal(history.schema),
        table=TABLE,
        mark=literal(TENANT_MARK),
    )
    if document_row is not None:
        query += _DOCUMENT.format(table=history.table, row=document_row)
    reply = connection.read(query, usual=_settings(limits))
    if reply.failed:
        raise _failure(connection, reply)
    objects, *document = [value for (value,) in reply.rows]
    found = {name: normal(text) for name, text in json.loads(objects or "{}").items()}
    expected = unpacked(document[0]) if document else None
    return Schema(int(history.version.partition(".")[0]), found), expected


def _failure(connection: Connection, reply: Reply) -> OnwardError:
    if reply.error and reply.error.sqlstate in (*BUSY, _CANCELLED):
        return LockBusy(
            f"its definitions cannot be read now: {reply.error.message}",
            next_step="Run again later.",
        )
    return connection.error_for(reply)


def _settings(limits: Limits) -> str:
    return _SETTINGS.format(
        lock=max(1, round(limits.lock * 1000)), statement=max(1, round(limits.statement * 1000))
    )
