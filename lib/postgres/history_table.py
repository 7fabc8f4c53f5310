"""The SQL that makes the history's table, compares it with the plan, writes rows to it and sees
that they are there.

What can run a team's own code (its triggers, its event triggers) runs on the usual path, and every
name in it is qualified. All else runs behind PIN_PATH.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from lib.history import SCHEMA_COLUMNS, TABLE, TENANT_MARK, History
from lib.postgres.check import NOT_STORED, OTHER_TABLE, ROWS_CHANGED, check, failure
from lib.postgres.connection import PIN_PATH, usual_path
from lib.quoting import identifier, literal

INSPECT_TRIGGERS = """\
A trigger or a rule on schema_migrations changes what is written to it. List them, drop that one,
run again:
  SELECT trigger_name, action_statement FROM information_schema.triggers
    WHERE event_object_table = 'schema_migrations';
  SELECT rulename, definition FROM pg_rules WHERE tablename = 'schema_migrations';"""

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
    applied_by pg_catalog.text
"""

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

# Its name is resolved again in each transaction: before anything is read or written by it, it must
# still be that of the table which the plan was made from. Its owner can hand it over only before a
# transaction of the run has read it.
_OTHER_TABLE = "to_regclass({name}) IS DISTINCT FROM {oid}::oid {or_owner}"
_OR_OWNER = "OR (SELECT relowner FROM pg_class WHERE oid = {oid}) IS DISTINCT FROM {owner}::oid"

_DIGEST = "pg_catalog.hash_record_extended(ROW({columns}), 0)"

# In a statement of its own, so that its snapshot is younger than the lock.
_COMPARE = """
{same_table}
SELECT count(*), coalesce(max(id), 0), coalesce(sum({digest}), 0) FROM {table};
"""

_INSERT = (
    "INSERT INTO {table} (version, name, applied_at, execution_time_ms, checksum, environment, "
    "identity, git_commit, "
    "applied_by) VALUES {values}"
)

_UPDATE = """
UPDATE {table} SET version = {version}, name = {name}, checksum = {checksum}
WHERE id OPERATOR(pg_catalog.=) {id};
"""

_STORE_SCHEMA = """
UPDATE {table} SET
    schema_state = CASE WHEN id OPERATOR(pg_catalog.=) {id} THEN {document} END,
    drift = CASE WHEN id OPERATOR(pg_catalog.=) {id} THEN {mark} END
WHERE id OPERATOR(pg_catalog.=) {id} OR schema_state IS NOT NULL OR drift IS NOT NULL;
"""

_STORE_MARK = """
UPDATE {table} SET drift = {mark} WHERE id OPERATOR(pg_catalog.=) {id};
"""

# A trigger or a rule can keep a row from being stored, or change it, and the INSERT is none the
# wiser. Deferred triggers have their turn first.
_VERIFY = """
SET CONSTRAINTS ALL IMMEDIATE;
{pin}
SELECT {failure} FROM (
    SELECT count(*) FILTER (WHERE (version, coalesce(checksum, '')) IN ({written})) AS stored,
        count(*) FILTER (WHERE NOT ({ours})) AS others,
        coalesce(sum({digest}) FILTER (WHERE NOT ({ours})), 0) AS digest
    FROM {table}
) AS found WHERE stored <> {rows} OR others <> {count} OR digest <> {expected};
"""


class Fingerprint(NamedTuple):
    """What tells a history from one that was changed meanwhile."""

    rows: int
    newest: int
    """The highest id."""
    digest: int | None = None
    """Of all rows, in no order; None where it is not known yet."""

    def matches(self, found: Fingerprint) -> bool:
        """Whether the history is still this one."""
        return found[:2] == self[:2] and self.digest in (None, found.digest)

    def plus(self, row: int, digest: int) -> Fingerprint:
        """The fingerprint with one row more, of this id and digest."""
        return Fingerprint(self.rows + 1, max(self.newest, row), (self.digest or 0) + digest)


class Row(NamedTuple):
    """A row to write."""

    version: str
    name: str
    milliseconds: int | None
    checksum: str | None
    """None for a file that is gone."""
    environment: str
    identity: str
    git_commit: str | None
    applied_by: str
    applied_at: datetime | None = None
    """None for the time at which the row is written."""


def creation(history: History) -> str:
    """Make the table, and its schema if that is missing, for its owner alone.

    The last row that comes back is the table's oid and its owner's.

    Not IF NOT EXISTS: a table that another role has made meanwhile must not be taken for this one.
    """
    schema = f"CREATE SCHEMA {identifier(history.schema or '')};" if history.creates_schema else ""
    mark = f"COMMENT ON TABLE {history.table} IS {literal(TENANT_MARK)};" if history.tenant else ""
    return schema + _CREATE.format(
        table=history.table, columns=_COLUMNS, mark=mark, name=_name(history), pin=PIN_PATH
    )


def addition(history: History) -> str:
    """Add the audit columns that an older runner's table lacks."""
    return _addition(history, history.missing_columns)


def _addition(history: History, names: Sequence[str]) -> str:
    columns = (f"ADD COLUMN IF NOT EXISTS {name} pg_catalog.text" for name in names)
    return f"ALTER TABLE {history.table} {', '.join(columns)};"


def same_table(history: History, *, owner: bool = False) -> str:
    """A check that the table's name, and its owner, is the same. Raises OTHER_TABLE."""
    return same_table_named(_name(history), history.table_id or (0, 0), owner=owner)


def same_table_named(name: str, table_id: tuple[int, int], *, owner: bool) -> str:
    """`same_table` for any table; `name` is an SQL expression of type text."""
    oid, its_owner = table_id
    or_owner = _OR_OWNER.format(oid=oid, owner=its_owner) if owner else ""
    return check(OTHER_TABLE, _OTHER_TABLE.format(name=name, oid=oid, or_owner=or_owner))


def comparison(history: History) -> str:
    """Its row makes a Fingerprint of the history as it is."""
    return _COMPARE.format(
        same_table=same_table(history, owner=True), digest=_digest(history), table=history.table
    )


def insertion(history: History, rows: Sequence[Row]) -> str:
    """Write rows, on the usual path. Returns id and digest of each. `verification` must follow."""
    path = usual_path(history.tenant)
    return f"{path} {typed_insertion(history, rows)} RETURNING id, {_digest(history)};"


def typed_insertion(history: History, rows: Sequence[Row]) -> str:
    """The same, for somebody to type."""
    return _INSERT.format(table=history.table, values=", ".join(map(_values, rows)))


def update(history: History, row: int, version: str, name: str, checksum: str) -> str:
    """Change the row of this id, on the usual path. `verification` must follow."""
    written = {"version": literal(version), "name": literal(name), "checksum": literal(checksum)}
    path = usual_path(history.tenant)
    return path + _UPDATE.format(table=history.table, id=row, **written)


def schema_storage(history: History, row: int, document: str, mark: str) -> str:
    """Store the expected schema in the newest row, of this id, and in no other, on the usual path.

    Adds the columns if they are missing. Raises OTHER_TABLE, or ROWS_CHANGED if there is a newer
    row.
    """
    newer = f"EXISTS (SELECT FROM {history.table} WHERE id > {row})"
    checks = PIN_PATH + same_table(history, owner=True) + check(ROWS_CHANGED, newer)
    added = "" if history.keeps_schema else _addition(history, SCHEMA_COLUMNS)
    stored = _STORE_SCHEMA.format(
        table=history.table, id=row, document=literal(document), mark=literal(mark)
    )
    return checks + usual_path(history.tenant) + added + stored


def mark_storage(history: History, row: int, mark: str) -> str:
    """Change what the row of this id, which has the expected schema, says of it."""
    path = usual_path(history.tenant)
    return path + _STORE_MARK.format(table=history.table, id=row, mark=literal(mark))


def verification(
    history: History,
    before: Fingerprint,
    written: Sequence[tuple[str, str | None]],
    *,
    replaced: int | None = None,
) -> str:
    """See that these versions with their checksums are stored once each, and nothing else was
    changed.

    `replaced` is the id of a row that was updated: what it was before is not part of the digest
    that is known. Raises ROWS_CHANGED or NOT_STORED.
    """
    versions = ", ".join(literal(version) for version, _ in written)
    digest = _digest(history)
    return _VERIFY.format(
        pin=PIN_PATH,
        table=history.table,
        written=", ".join(
            f"({literal(version)}, {literal(checksum or '')})" for version, checksum in written
        ),
        ours=f"version IN ({versions})" if replaced is None else f"id = {replaced}",
        digest=digest if replaced is None else "0",
        count=before.rows - (replaced is not None),
        expected=before.digest or 0 if replaced is None else 0,
        rows=len(written),
        failure=failure(
            f"CASE WHEN stored <> {len(written)} THEN '{NOT_STORED}' ELSE '{ROWS_CHANGED}' END"
        ),
    )


def stored_where(history: History, condition: str) -> str:
    """The rows, as `insertion` returns them, for which a condition holds."""
    return f"SELECT id, {_digest(history)} FROM {history.table} WHERE {condition}"  # noqa: S608


def _name(history: History) -> str:
    """The table's name as an SQL expression of type text."""
    return f"format('%I.{TABLE}', {literal(history.schema)})"


def _digest(history: History) -> str:
    """Of what decides later: which files are applied, whether they were changed, and whose database
    this is.
    """
    texts = ("version", "checksum", "environment", "identity")
    there = (
        f"CAST({name} AS pg_catalog.text)" for name in texts if name not in history.missing_columns
    )
    return _DIGEST.format(columns=", ".join(("id", *there)))


def _values(row: Row) -> str:
    before = (
        literal(row.version),
        literal(row.name),
        _moment(row.applied_at),
        literal(row.milliseconds),
    )
    audit = (row.checksum, row.environment, row.identity, row.git_commit, row.applied_by)
    return f"({', '.join((*before, *map(literal, audit)))})"


def _moment(applied_at: datetime | None) -> str:
    if applied_at is None:
        return "pg_catalog.clock_timestamp()"
    return f"CAST({literal(applied_at.isoformat())} AS pg_catalog.timestamptz)"
