"""The SQL that makes the history's table, and adds the columns that it lacks.

What can run a team's own code (its event triggers) runs on the usual path, and every name in it is
qualified. All else runs behind PIN_PATH.
"""

from __future__ import annotations

from collections.abc import Sequence

from lib.history import TENANT_MARK, History
from lib.postgres.connection import PIN_PATH
from lib.postgres.history_table import table_name
from lib.quoting import identifier, literal

_COLUMNS = """
    id SERIAL PRIMARY KEY,
    version VARCHAR(255) UNIQUE NOT NULL,
    name VARCHAR(255) NOT NULL,
    applied_at TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT pg_catalog.now(),
    execution_time_ms INTEGER,
    checksum VARCHAR(64),
    environment pg_catalog.text,
    identity pg_catalog.text,
    git_commit pg_catalog.text,
    applied_by pg_catalog.text,
    restore_time TIMESTAMP WITH TIME ZONE,
    restore_lsn pg_catalog.text
"""
# Those of a table that an older runner made. Read by name: their order does not matter.
_TYPES = {"restore_time": "TIMESTAMP WITH TIME ZONE"}
_TEXT = "pg_catalog.text"

# Some hosts hand every new table to their public roles by default; such a role could delete the
# history.
_CREATE = """
CREATE TABLE {table} ({columns});
{mark}
{pin}
DO $onward$
DECLARE
    relation record;
    grantee text;
BEGIN
    FOR relation IN SELECT oid, oid::regclass AS name, relkind, relowner, relacl FROM pg_class
        WHERE oid IN (to_regclass({name}), pg_get_serial_sequence({name}, 'id')::regclass)
    LOOP
        FOR grantee IN
            SELECT DISTINCT CASE acl.grantee
                WHEN 0 THEN 'PUBLIC' ELSE acl.grantee::regrole::text END
            FROM aclexplode(relation.relacl) acl WHERE acl.grantee <> relation.relowner
        LOOP
            EXECUTE format('REVOKE ALL ON %s %s FROM %s',
                CASE relation.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END,
                relation.name, grantee);
        END LOOP;
    END LOOP;
END $onward$;
SELECT oid, relowner FROM pg_class WHERE oid = to_regclass({name});
"""


def creation(history: History) -> str:
    """Make the table, and its schema if that is missing, for its owner alone.

    The last row that comes back is the table's oid and its owner's.

    Not IF NOT EXISTS: a table that another role has made meanwhile must not be taken for this one.
    """
    schema = f"CREATE SCHEMA {identifier(history.schema or '')};" if history.creates_schema else ""
    mark = f"COMMENT ON TABLE {history.table} IS {literal(TENANT_MARK)};" if history.tenant else ""
    return schema + _CREATE.format(
        table=history.table, columns=_COLUMNS, mark=mark, name=table_name(history), pin=PIN_PATH
    )


def addition(history: History, columns: Sequence[str]) -> str:
    """Add columns that the table lacks: an older runner made it, or no run needed them yet."""
    added = (f"ADD COLUMN IF NOT EXISTS {name} {_TYPES.get(name, _TEXT)}" for name in columns)
    return f"ALTER TABLE {history.table} {', '.join(added)};"
