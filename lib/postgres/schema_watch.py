"""Compares a database's schema with what is expected of it, and stores what that is."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from lib.drift import Schema, Verdict, holder_of, judge, mark_text, packed, with_begun
from lib.errors import HistoryConflict, Interrupted, OnwardError
from lib.events import RunLog
from lib.history import SCHEMA_COLUMNS, History
from lib.postgres.check import OTHER_TABLE, ROWS_CHANGED, Case, check
from lib.postgres.connection import PIN_PATH, Reply, usual_path
from lib.postgres.definitions import Limits, read_definitions
from lib.postgres.history_creation import addition
from lib.postgres.history_table import same_table
from lib.postgres.session import RunSession
from lib.postgres.transaction import HistoryChanged, Transaction
from lib.quoting import literal

READ_SECONDS = 15.0  # the definitions of 400 tables take less than 1
LONGEST_LOCK_SECONDS = 1.0
RUN_LOCK_SECONDS = 5.0  # a file of another run may be under way
_NOT_STORED = (
    "what the schema should be was not stored, so whether it has drifted is unknown from now on, "
    "until `scripts/migrate.py drift --refresh`"
)

_STORE_SCHEMA = """
UPDATE {table} SET
    schema_state = CASE WHEN id OPERATOR(pg_catalog.=) {id} THEN {document} END,
    drift = CASE WHEN id OPERATOR(pg_catalog.=) {id} THEN {mark} END
WHERE id OPERATOR(pg_catalog.=) {id} OR schema_state IS NOT NULL OR drift IS NOT NULL;
"""

_STORE_MARK = """
UPDATE {table} SET drift = {mark} WHERE id OPERATOR(pg_catalog.=) {id};
"""


class SchemaWatch:
    """What a run, or the command `drift`, knows of the schema."""

    def __init__(self, session: RunSession, transaction: Transaction, log: RunLog) -> None:
        self._session = session
        self._transaction = transaction
        self._log = log
        self._found: Schema | None = None
        self._expected: Schema | None = None
        self._run_begun = False

    def compare(self, *, strict: bool = False) -> tuple[Schema, Verdict]:
        """The schema, and how it differs from what is expected of it. Reads only.

        Raises LockBusy, or DatabaseUnavailable.
        """
        holder, gap = holder_of(self._session.history)
        found, expected = self._read(holder and holder.id)
        if expected and gap and not expected.gap:
            expected = expected._replace(gap=gap)
        self._found, self._expected = found, expected
        return found, judge(expected, found, strict=strict)

    def begin_run(self) -> Verdict | None:
        """`compare`, before the first file; None if no run has stored anything yet. Reads only.

        Raises as `compare` does; then `end_run` does nothing.
        """
        self._found = self._expected = None
        self._run_begun = False
        holder, _ = holder_of(self._session.history)
        verdict = self.compare()[1] if holder else None
        self._run_begun = True
        return verdict

    def begun_sql(self, version: str) -> str:
        """What says, before a file without a transaction, that its changes are not covered.

        Nothing where that is known anyway: no document is stored, or one of an earlier row.
        """
        history = self._session.history
        holder, gap = holder_of(history)
        if not holder or gap or holder.id != self._transaction.fingerprint.newest:
            return ""
        return _mark_storage(history, holder.id, with_begun(holder.drift or "", version))

    def end_run(self) -> None:
        """Store what is expected after a run, if there is a row to hold it.

        Tells why if it cannot; raises only Interrupted.
        """
        if not (self._run_begun and self._transaction.fingerprint.newest):
            return
        self._run_begun = False
        try:
            # Under the lock, so that no file of another run is half in what is read.
            self._transaction.begin_unplanned(until=time.monotonic() + RUN_LOCK_SECONDS)
            after, _ = self._read()
            if expected := self._expected_after(after):
                self._store(expected, after)
        except Interrupted:
            raise
        except HistoryChanged:
            self._log.tell(f"another run has changed the history: {_NOT_STORED}")
        except OnwardError as error:
            self._log.tell(f"{error.message}: {_NOT_STORED}")
        finally:
            self._transaction.rollback()

    def accept(self) -> None:
        """Expect from now on what `compare` has found.

        Raises HistoryChanged, HistoryConflict where no row can hold it, LockBusy and what a write
        meets.
        """
        assert self._found  # noqa: S101 - nothing is accepted that was not compared
        self._transaction.begin()
        try:
            self._store(self._found, self._found)
        finally:
            self._transaction.rollback()

    def _expected_after(self, after: Schema) -> Schema | None:
        """What is expected after a run; None where what was expected before it is of no use."""
        if self._found is None:
            return after
        if self._expected is None or not self._expected.is_comparable(after):
            return None
        return self._expected.plus(self._found, after)

    def _read(self, document_row: int | None = None) -> tuple[Schema, Schema | None]:
        session = self._session
        limits = Limits(
            min(session.config.lock_timeout or LONGEST_LOCK_SECONDS, LONGEST_LOCK_SECONDS),
            min(READ_SECONDS, max(session.seconds_left, 0.0)),
        )
        return read_definitions(session.connection, session.history, limits, document_row)

    def _store(self, expected: Schema, found: Schema) -> None:
        """Store what is expected in the newest row, and commit."""
        history, row = self._session.history, self._transaction.fingerprint.newest
        if not row:
            raise HistoryConflict("no migration is recorded, so no row can hold the schema")
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        mark = mark_text(judge(expected, found).drift, expected, now)
        reply = Reply()
        self._transaction.send_commit(_schema_storage(history, row, packed(expected), mark), reply)
        if reply.error and reply.error.sqlstate in (OTHER_TABLE, ROWS_CHANGED):
            raise HistoryChanged
        if reply.failed:
            raise self._session.connection.error_for(reply)


def _schema_storage(history: History, row: int, document: str, mark: str) -> str:
    """Store the expected schema in the newest row, of this id, and in no other, on the usual path.

    Adds the columns if they are missing. Raises OTHER_TABLE, or ROWS_CHANGED if there is a newer
    row.
    """
    newer = f"EXISTS (SELECT FROM {history.table} WHERE id > {row})"
    checks = PIN_PATH + same_table(history, owner=True) + check(Case(ROWS_CHANGED, newer))
    added = "" if history.keeps_schema else addition(history, SCHEMA_COLUMNS)
    stored = _STORE_SCHEMA.format(
        table=history.table, id=row, document=literal(document), mark=literal(mark)
    )
    return checks + usual_path(history.tenant) + added + stored


def _mark_storage(history: History, row: int, mark: str) -> str:
    """Change what the row of this id, which has the expected schema, says of it."""
    path = usual_path(history.tenant)
    return path + _STORE_MARK.format(table=history.table, id=row, mark=literal(mark))
