"""Reads what is not a table but breaks code when it changes: functions, values, triggers, grants.

`definitions` prints all of a schema, by name, for another day. Here an object has its oid too,
since what was renamed is the same object.
"""

from __future__ import annotations

import json

from lib.history import TABLE
from lib.observation import Object, Objects
from lib.postgres.connection import A_TABLE, NO_TIMEOUT, Connection

# Functions of triggers are called by no client. What belongs to an extension changes with it. A
# call is a function as it looks to those who leave out arguments that have defaults.
_QUERY = f"""
WITH member AS MATERIALIZED (
    SELECT classid, objid FROM pg_depend WHERE deptype = 'e'
), space AS MATERIALIZED (
    SELECT n.oid, n.nspowner, n.nspacl, quote_ident(n.nspname) AS name
    FROM pg_namespace n
    WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
        AND (n.oid, 'pg_namespace'::regclass) NOT IN (SELECT objid, classid FROM member)
), rel AS MATERIALIZED (
    SELECT c.*, space.name || '.' || quote_ident(c.relname) AS name
    FROM pg_class c JOIN space ON space.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
        AND c.relname NOT IN ('{TABLE}', '{TABLE}_id_seq')
        AND (c.oid, 'pg_class'::regclass) NOT IN (SELECT objid, classid FROM member)
), routine AS MATERIALIZED (
    SELECT p.*, space.name || '.' || quote_ident(p.proname) AS base_name,
        space.name || '.' || quote_ident(p.proname)
        || '(' || pg_get_function_identity_arguments(p.oid) || ')' AS name
    FROM pg_proc p JOIN space ON space.oid = p.pronamespace
    WHERE p.prorettype <> 'trigger'::regtype
        AND (p.oid, 'pg_proc'::regclass) NOT IN (SELECT objid, classid FROM member)
), enum AS MATERIALIZED (
    SELECT t.oid, space.name || '.' || quote_ident(t.typname) AS name
    FROM pg_type t JOIN space ON space.oid = t.typnamespace
    WHERE t.typtype = 'e'
        AND (t.oid, 'pg_type'::regclass) NOT IN (SELECT objid, classid FROM member)
), owned (class, oid, relation, name, owner, acl) AS (
    SELECT 'schema', oid, 0, name, nspowner, coalesce(nspacl, acldefault('n', nspowner)) FROM space
    UNION ALL
    SELECT 'relation', oid, oid, name, relowner, coalesce(relacl,
        acldefault(CASE relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", relowner)) FROM rel
    UNION ALL
    SELECT 'function', oid, 0, name, proowner, coalesce(proacl, acldefault('f', proowner))
    FROM routine
), found (kind, key, relation, name, value) AS (
    SELECT 'schema', oid::text, 0::oid, name, '' FROM space
    UNION ALL
    SELECT 'function', oid::text, 0, name, pg_get_function_result(oid) FROM routine
    UNION ALL
    SELECT 'call', r.oid || ' ' || omitted, 0, r.base_name || '(' || coalesce((
            SELECT string_agg(concat_ws(' ', nullif(quote_ident(r.proargnames[i]), '""'),
                format_type(r.proargtypes[i - 1], NULL)), ', ' ORDER BY i)
            FROM generate_series(1, r.pronargs - omitted) i
        ), '') || ')', pg_get_function_result(r.oid)
    FROM routine r CROSS JOIN generate_series(1, r.pronargdefaults) omitted
    WHERE NOT coalesce(r.proargmodes && '{{o,b,v}}', false)
    UNION ALL
    SELECT 'type', oid::text, 0, name, '' FROM enum
    UNION ALL
    SELECT 'enum value', e.oid::text, 0, enum.name, e.enumlabel::text
    FROM enum JOIN pg_enum e ON e.enumtypid = enum.oid
    UNION ALL
    SELECT 'trigger', g.oid::text, g.tgrelid, CASE WHEN g.tgisinternal THEN 'the trigger of '
        || coalesce(quote_ident(k.conname), quote_ident(g.tgname)) ELSE quote_ident(g.tgname) END,
        g.tgenabled::text
    FROM rel JOIN pg_trigger g ON g.tgrelid = rel.oid
    LEFT JOIN pg_constraint k ON k.oid = g.tgconstraint
    UNION ALL
    SELECT 'extension', oid::text, 0, quote_ident(extname), extversion FROM pg_extension
    UNION ALL
    SELECT DISTINCT 'replica identity', rel.oid::text, rel.oid, rel.name,
        CASE rel.relreplident WHEN 'n' THEN 'nothing' WHEN 'f' THEN 'all columns'
            ELSE coalesce('the columns of ' || (SELECT quote_ident(c.relname)
                FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
                WHERE i.indrelid = rel.oid AND CASE rel.relreplident WHEN 'd' THEN i.indisprimary
                    ELSE i.indisreplident END), 'nothing') END
    FROM rel
    JOIN pg_namespace n ON n.oid = rel.relnamespace
    JOIN pg_publication_tables b ON b.schemaname = n.nspname AND b.tablename = rel.relname
    UNION ALL
    SELECT 'owner', class || oid, relation, name, quote_ident(pg_get_userbyid(owner)) FROM owned
    UNION ALL
    SELECT DISTINCT 'privilege', concat_ws(' ', o.class || o.oid, x.grantee, x.privilege_type),
        o.relation, o.name,
        concat_ws(' ', coalesce(quote_ident(a.rolname), 'PUBLIC'), x.privilege_type)
    FROM owned o CROSS JOIN aclexplode(o.acl) x LEFT JOIN pg_roles a ON a.oid = x.grantee
    WHERE x.grantee <> o.owner
)
SELECT json_agg(json_build_array(kind, key, relation::bigint, name, value)) FROM found
"""  # noqa: S608


def read_objects(connection: Connection) -> Objects:
    """The objects of the user's schemas, by kind and oid. Reads only."""
    found = json.loads(str(connection.query(_QUERY, usual=NO_TIMEOUT, of=A_TABLE)[-1][0]))
    return {(one.kind, one.key): one for one in (Object(*fields) for fields in found or ())}
