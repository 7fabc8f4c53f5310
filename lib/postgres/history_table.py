"""The SQL that makes the history's table, compares it with the plan, writes rows to it and sees
that they are there.

What can run a team's own code (its triggers, its event triggers) runs on the usual path, and every
name in it is qualified. All else runs behind PIN_PATH.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from lib.history import RESTORE_COLUMNS, SCHEMA_COLUMNS, TABLE, TENANT_MARK, History
from lib.postgres.check import NOT_STORED, OTHER_TABLE, ROWS_CHANGED, check, failure
from lib.postgres.connection import PIN_PATH, usual_path
from lib.quoting import identifier, literal
from lib.restore_point import RestorePoint

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

_CHANGED = """
NOT EXISTS (
    SELECT FROM (
        SELECT count(*) AS rows, coalesce(max(id), 0) AS newest,
            coalesce(sum({digest}), 0) AS digest
        FROM {table}
    ) AS found WHERE rows = {rows} AND newest = {newest} AND found.digest = {expected})
"""

_TO_COME = """
SELECT id, {digest}, extract(epoch FROM clock_timestamp()) FROM (
    SELECT coalesce(pg_sequence_last_value(seqrelid) + seqincrement, seqstart)
            + seqincrement * number AS id,
        number, version, checksum, environment, identity
    FROM pg_sequence, (VALUES {rows}) AS made (number, version, checksum, environment, identity)
    WHERE seqrelid = pg_get_serial_sequence({name}, 'id')::regclass
) AS row ORDER BY number
"""

_INSERT = (
    "INSERT INTO {table} (version, name, applied_at, execution_time_ms, checksum, environment, "
    "identity, git_commit, "
    "applied_by{restore_columns}) VALUES {values}"
)

_ELAPSED_MS = (
    "CAST(EXTRACT(epoch FROM pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) "
    "pg_catalog.transaction_timestamp()) OPERATOR(pg_catalog.*) 1000 AS pg_catalog.int4)"
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
    restore_point: RestorePoint | None = None
    """Of the run that applied it; not written to a table that has no columns for it."""
    measured: bool = False
    """Whether the server says how long the transaction has taken, instead of `milliseconds`."""


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


def restore_addition(history: History) -> str:
    """Add the columns of the restore point."""
    return _addition(history, RESTORE_COLUMNS)


def _addition(history: History, names: Sequence[str]) -> str:
    columns = (f"ADD COLUMN IF NOT EXISTS {name} {_TYPES.get(name, _TEXT)}" for name in names)
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


def unchanged(history: History, expected: Fingerprint) -> str:
    """A check that the history is this one. Raises OTHER_TABLE or ROWS_CHANGED."""
    changed = _CHANGED.format(
        table=history.table,
        digest=_digest(history),
        rows=expected.rows,
        newest=expected.newest,
        expected=expected.digest or 0,
    )
    return same_table(history, owner=True) + check(ROWS_CHANGED, changed)


def rows_to_come(history: History, rows: Sequence[Row]) -> str:
    """What `insertion` will return for rows that are inserted one after the other, and nothing in
    between. Reads only, of a table whose ids are those of a sequence.

    In front of them is the row of `comparison`. Instead of milliseconds they have the server's
    time, in seconds of the epoch.
    """
    made = (
        f"({number}, {literal(row.version)}, {literal(row.checksum)}, "
        f"{literal(row.environment)}, {literal(row.identity)})"
        for number, row in enumerate(rows)
    )
    return comparison(history) + _TO_COME.format(
        name=_name(history), digest=_digest(history), rows=", ".join(made)
    )


def insertion(history: History, rows: Sequence[Row]) -> str:
    """Write rows, on the usual path. `verification` must follow.

    Returns id, digest and milliseconds of each.
    """
    path = usual_path(history.tenant)
    returned = f"id, {_digest(history)}, execution_time_ms"
    return f"{path} {typed_insertion(history, rows)} RETURNING {returned};"


def typed_insertion(history: History, rows: Sequence[Row]) -> str:
    """The same, for somebody to type."""
    kept = history.keeps_restore_point
    return _INSERT.format(
        table=history.table,
        restore_columns=f", {', '.join(RESTORE_COLUMNS)}" if kept else "",
        values=", ".join(_values(row, kept=kept) for row in rows),
    )


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
    found = f"id, {_digest(history)}, execution_time_ms"
    return f"SELECT {found} FROM {history.table} WHERE {condition}"  # noqa: S608


def written_by_run(history: History, point: RestorePoint | None) -> str:
    """A condition: a row was written by the run with this restore point, as far as rows say so."""
    if not (history.keeps_restore_point and point):
        return "true"
    return f"{RESTORE_COLUMNS[0]} = {_instant(point.time)}"


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


def _values(row: Row, *, kept: bool) -> str:
    """`kept` says that the table has the columns of the restore point."""
    before = (
        literal(row.version),
        literal(row.name),
        _moment(row.applied_at),
        _ELAPSED_MS if row.measured else literal(row.milliseconds),
    )
    audit = (row.checksum, row.environment, row.identity, row.git_commit, row.applied_by)
    restore = _restore_values(row.restore_point) if kept else ()
    return f"({', '.join((*before, *map(literal, audit), *restore))})"


def _restore_values(point: RestorePoint | None) -> tuple[str, str]:
    return (_instant(point.time), literal(point.lsn)) if point else ("NULL", "NULL")


def _moment(applied_at: datetime | None) -> str:
    return _instant(applied_at) if applied_at else "pg_catalog.clock_timestamp()"


def _instant(moment: datetime) -> str:
    return f"CAST({literal(moment.isoformat())} AS pg_catalog.timestamptz)"
