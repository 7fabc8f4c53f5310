"""The SQL that compares the history with the plan, writes rows to it and sees that they are there.

What can run a team's own code (its triggers) runs on the usual path, and every name in it is
qualified. All else runs behind PIN_PATH.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from lib.history import AUDIT_COLUMNS, RESTORE_COLUMNS, TABLE, History
from lib.postgres.check import (
    NOT_STORED,
    OTHER_TABLE,
    ROWS_CHANGED,
    Case,
    check,
    check_rows,
    failure,
)
from lib.postgres.connection import PIN_PATH, usual_path
from lib.quoting import literal
from lib.restore_point import RestorePoint

INSPECT_TRIGGERS = """\
A trigger or a rule on schema_migrations changes what is written to it. List them, drop that one,
run again:
  SELECT trigger_name, action_statement FROM information_schema.triggers
    WHERE event_object_table = 'schema_migrations';
  SELECT rulename, definition FROM pg_rules WHERE tablename = 'schema_migrations';"""

# Its name is resolved again in each transaction: before anything is read or written by it, it must
# still be that of the table which the plan was made from. Its owner can hand it over only before a
# transaction of the run has read it.
_OTHER_TABLE = "to_regclass({name}) IS DISTINCT FROM {oid}::oid {or_owner}"
_OTHER_OWNER = "(SELECT relowner FROM pg_class WHERE oid = {oid}) IS DISTINCT FROM {owner}::oid"
_OTHER_ROWS = "count(*) <> {rows} OR coalesce(max(id), 0) <> {newest}"

_DIGEST = "pg_catalog.hash_record_extended(ROW({columns}), 0)"

# In a statement of its own, so that its snapshot is younger than the lock.
_COMPARE = """
{same_table}
SELECT count(*), coalesce(max(id), 0), coalesce(sum({digest}), 0) FROM {table};
"""

_COLUMNS = ("version", "name", "applied_at", "execution_time_ms", "checksum", *AUDIT_COLUMNS)

_ELAPSED_MS = (
    "CAST(EXTRACT(epoch FROM pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) "
    "pg_catalog.transaction_timestamp()) OPERATOR(pg_catalog.*) 1000 AS pg_catalog.int4)"
)

_TO_COME = """
SELECT id, {digest} FROM (
    SELECT coalesce(pg_sequence_last_value(seqrelid) + seqincrement, seqstart)
            + seqincrement * number AS id,
        number, version, checksum, environment, identity
    FROM pg_sequence, (VALUES {rows}) AS made (number, version, checksum, environment, identity)
    WHERE seqrelid = pg_get_serial_sequence({name}, 'id')::regclass
) AS row ORDER BY number
"""

# A trigger or a rule can keep a row from being stored, or change it, and the INSERT is none the
# wiser. Deferred triggers have their turn first.
SETTLE = f"SET CONSTRAINTS ALL IMMEDIATE; {PIN_PATH}"
_VERIFY = """
{settle}
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


def table_name(history: History) -> str:
    """The table's name as an SQL expression of type text."""
    return f"format('%I.{TABLE}', {literal(history.schema)})"


def same_table(history: History, *, owner: bool = False) -> str:
    """A check that the table's name, and its owner, is the same. Raises OTHER_TABLE."""
    return check(other_table(history, owner=owner))


def other_table(history: History, *, owner: bool = False) -> Case:
    """The case that the table's name, or its owner, is another."""
    return other_table_named(table_name(history), history.table_id or (0, 0), owner=owner)


def other_table_named(name: str, table_id: tuple[int, int], *, owner: bool) -> Case:
    """`other_table` for any table; `name` is an SQL expression of type text."""
    oid, its_owner = table_id
    or_owner = f"OR {_OTHER_OWNER.format(oid=oid, owner=its_owner)}" if owner else ""
    return Case(OTHER_TABLE, _OTHER_TABLE.format(name=name, oid=oid, or_owner=or_owner))


def comparison(history: History) -> str:
    """Its row makes a Fingerprint of the history as it is."""
    return _COMPARE.format(
        same_table=same_table(history, owner=True), digest=_digest(history), table=history.table
    )


def unchanged(history: History, expected: Fingerprint) -> str:
    """A check that the history is this one: its owner, the number of rows and the newest. Raises
    ROWS_CHANGED.

    The owner is read when the table is locked, so that it cannot be handed over afterwards.
    """
    oid, owner = history.table_id or (0, 0)
    other_owner = _OTHER_OWNER.format(oid=oid, owner=owner)
    changed = f"{_OTHER_ROWS.format(**expected._asdict())} OR {other_owner}"
    return check_rows(ROWS_CHANGED, history.table, changed)


def stored(history: History, expected: Fingerprint) -> str:
    """A check that the history is this one, by the digest of its rows. Raises NOT_STORED."""
    other_digest = f"coalesce(sum({_digest(history)}), 0) <> {expected.digest or 0}"
    changed = f"{_OTHER_ROWS.format(**expected._asdict())} OR {other_digest}"
    return SETTLE + check_rows(NOT_STORED, history.table, changed)


def rows_to_come(history: History, rows: Sequence[Row]) -> str:
    """The ids and digests of rows that are inserted one after the other, and nothing in between.

    Reads only; of a table whose ids are those of a sequence. In front is the row of `comparison`.
    """
    made = (
        f"({number}, {literal(row.version)}, {literal(row.checksum)}, "
        f"{literal(row.environment)}, {literal(row.identity)})"
        for number, row in enumerate(rows)
    )
    return comparison(history) + _TO_COME.format(
        name=table_name(history), digest=_digest(history), rows=", ".join(made)
    )


def insertion(history: History, rows: Sequence[Row]) -> str:
    """Write rows, on the usual path. `verification` must follow.

    Returns id, digest and milliseconds of each.
    """
    return _insertion(history, rows, f"id, {_digest(history)}, execution_time_ms")


def insertion_ahead(history: History, row: Row) -> str:
    """Write a row whose id and digest are known. `stored` must follow. Returns its milliseconds."""
    return _insertion(history, [row], "execution_time_ms")


def _insertion(history: History, rows: Sequence[Row], returned: str) -> str:
    path = usual_path(history.tenant)
    return f"{path} {typed_insertion(history, rows)} RETURNING {returned};"


def typed_insertion(history: History, rows: Sequence[Row]) -> str:
    """The same, for somebody to type."""
    columns = (*_COLUMNS, *RESTORE_COLUMNS) if history.keeps_restore_point else _COLUMNS
    values = ", ".join(_values(row, columns) for row in rows)
    return f"INSERT INTO {history.table} ({', '.join(columns)}) VALUES {values}"  # noqa: S608


def verification(
    history: History,
    others: Fingerprint,
    written: Sequence[tuple[str, str | None]],
    *,
    ours: str = "",
) -> str:
    """See that these versions with their checksums are stored once each, and that no other row was
    changed.

    `others` is the fingerprint of the rows that are not `ours`: an SQL condition, which unless
    given is true for these versions. Raises ROWS_CHANGED or NOT_STORED.
    """
    versions = ", ".join(literal(version) for version, _ in written)
    return _VERIFY.format(
        settle=SETTLE,
        table=history.table,
        written=", ".join(
            f"({literal(version)}, {literal(checksum or '')})" for version, checksum in written
        ),
        ours=ours or f"version IN ({versions})",
        digest="0" if others.digest is None else _digest(history),
        count=others.rows,
        expected=others.digest or 0,
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
    return f"{RESTORE_COLUMNS[0]} = {_time(point.time)}"


def _digest(history: History) -> str:
    """Of what decides later: which files are applied, whether they were changed, and whose database
    this is.
    """
    texts = ("version", "checksum", "environment", "identity")
    there = (
        f"CAST({name} AS pg_catalog.text)" for name in texts if name not in history.missing_columns
    )
    return _DIGEST.format(columns=", ".join(("id", *there)))


def _values(row: Row, columns: Sequence[str]) -> str:
    point = row.restore_point
    values = {
        "version": literal(row.version),
        "name": literal(row.name),
        "applied_at": _time(row.applied_at) if row.applied_at else "pg_catalog.clock_timestamp()",
        "execution_time_ms": _ELAPSED_MS if row.measured else literal(row.milliseconds),
        "checksum": literal(row.checksum),
        "environment": literal(row.environment),
        "identity": literal(row.identity),
        "git_commit": literal(row.git_commit),
        "applied_by": literal(row.applied_by),
        "restore_time": _time(point.time) if point else "NULL",
        "restore_lsn": literal(point.lsn) if point else "NULL",
    }
    return f"({', '.join(values[name] for name in columns)})"


def _time(moment: datetime) -> str:
    return f"CAST({literal(moment.isoformat())} AS pg_catalog.timestamptz)"
