"""Record a file: clean up its session, write its row, see that it is stored, COMMIT."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from lib.diagnosis import remedy_for
from lib.errors import (
    Diagnostic,
    MigrationFailed,
    MigrationResult,
    OnwardError,
    PartlyApplied,
    ServerError,
    TableBusy,
)
from lib.events import RunLog
from lib.history import TABLE, AppliedMigration
from lib.postgres.check import (
    NOT_STORED,
    OTHER_TABLE,
    ROWS_CHANGED,
    TRANSACTION_ENDED,
    Case,
    check,
)
from lib.postgres.commit_recovery import Commit, Outcome
from lib.postgres.connection import BUSY, PIN_PATH, Reply, usual_path
from lib.postgres.history_table import (
    INSPECT_TRIGGERS,
    SETTLE,
    Fingerprint,
    Row,
    insertion,
    insertion_ahead,
    other_table,
    stored,
    typed_insertion,
    verification,
)
from lib.postgres.session import DROP_LOCKS, DROP_PREPARED, RESET_SESSION, RunSession
from lib.postgres.transaction import ID_AHEAD, Transaction
from lib.quoting import literal
from lib.restore_point import RestorePoint
from lib.source.checkpoint import Replaced
from lib.source.migration import Migration

# Deferred constraints are checked first, while the file's settings hold: their triggers were
# written for these. And a temporary table with constraints outstanding cannot be dropped.
_RESET = f"""
SET CONSTRAINTS ALL IMMEDIATE;
{RESET_SESSION}
{PIN_PATH}
{DROP_LOCKS}
"""

ROLLED_BACK = "rolled back: no change of this file was kept, and it is not recorded"
ENDED_ITS_TRANSACTION = (
    "the file ended its own transaction: a part of its changes was kept, and it is not recorded"
)
LEAVE_ALONE = (
    f"A migration must not change {TABLE} or end its own transaction: fix the file and run again."
)
_NOT_RUN = "no statement of this file was run: writing its row was tried first"
_SEQUENCE_BEHIND = (
    f"The sequence of {TABLE} is behind its rows, as after a restore. Run this, then run again:\n"
    f"  SELECT setval(pg_get_serial_sequence('{TABLE}', 'id'), (SELECT max(id) FROM {TABLE}));"
)
_OTHER_SESSION = (
    f"{LEAVE_ALONE} If another session changed the history at the same time, find out which first."
)
_REMEDY_BY_CONSTRAINT = {f"{TABLE}_pkey": _SEQUENCE_BEHIND, f"{TABLE}_version_key": LEAVE_ALONE}
_REMEDY_BY_SQLSTATE = {
    NOT_STORED: INSPECT_TRIGGERS,
    TRANSACTION_ENDED: LEAVE_ALONE,
    OTHER_TABLE: _OTHER_SESSION,
    ROWS_CHANGED: _OTHER_SESSION,
}


class Recorder:
    """Records files in a run's transactions."""

    def __init__(self, session: RunSession, transaction: Transaction, log: RunLog) -> None:
        self._session = session
        self._transaction = transaction
        self._log = log

    def record(
        self,
        result: MigrationResult,
        migration: Migration,
        transaction_id: str | None,
        *,
        next_version: str,
    ) -> None:
        """Record a file that has run, and COMMIT. Raises what prevents it.

        `transaction_id` is that of the file's transaction, None for a no-transaction file.
        """
        rows = self._rows(migration, result.milliseconds, self._log.restore_point)
        sql = self._recording_sql(migration, rows, transaction_id)
        commit = Commit(
            self._session,
            self._transaction,
            migration.version,
            committed_when=_committed_when(rows, transaction_id),
        )
        committed = commit.send(
            sql, on_commit=lambda: self._log.committed(result), next_version=next_version
        )
        if committed.outcome is Outcome.ROLLED_BACK:
            raise self._failure(migration, committed.reply, result.milliseconds)
        for row_id, digest, _ in committed.rows[: len(rows)]:
            self._transaction.row_added(int(row_id or 0), int(digest or 0))

    def try_row(self, migration: Migration, begun: str) -> None:
        """Write the row of a no-transaction file and roll it back: the file cannot be undone.

        Then commit `begun`, if it is anything and succeeds. Raises what prevents the row from being
        written.
        """
        transaction_id = self._transaction.begin(migration.version)
        sql = self._recording_sql(migration, self._rows(migration, 0), transaction_id)
        reply = self._session.connection.send(f"SAVEPOINT onward;{sql}")
        if begun and not reply.failed:
            self._transaction.send_commit(f"ROLLBACK TO onward;{begun}", Reply())
        self._transaction.rollback()
        if reply.failed:
            raise self._trial_failure(migration, reply)

    def row_ahead(self, migration: Migration) -> Row:
        """The row of a file that is sent ahead, of which the server measures the time."""
        return self._row(migration, None, self._log.restore_point)._replace(measured=True)

    def ahead_sql(self, migration: Migration, after: Fingerprint, ends_at: float | None) -> str:
        """What records a file that is sent ahead, and leaves this history.

        `ends_at` is the deadline by the server's clock, in seconds of the epoch.
        """
        history = self._session.history
        row = self.row_ahead(migration)
        limits = self._session.limits.as_sql(history, ends_at=ends_at)
        return (
            f"{SETTLE}{check(_transaction_ended(ID_AHEAD), other_table(history))}"
            f"{self._reset_sql()}{limits}"
            f"{insertion_ahead(history, row)}{stored(history, after)}COMMIT;"
        )

    def clean_up_sql(self) -> str:
        """What ends a file whose transaction goes on with the next one."""
        history = self._session.history
        limits = self._session.limits.as_sql(history)
        return f"{self._reset_sql()}{limits}{usual_path(history.tenant)}"

    def insertion_sql(self, migrations: Sequence[Migration]) -> str:
        """Write the rows of files that were not run, and see that they are stored."""
        rows = (self._rows(migration, None) for migration in migrations)
        return self._insertion_sql([*chain.from_iterable(rows)])

    def takeover_sql(self, rows: Sequence[AppliedMigration]) -> str:
        """Write the rows of what another tool has applied, and see that they are stored."""
        return self._insertion_sql([self._taken_over(row) for row in rows])

    def _recording_sql(
        self, migration: Migration, rows: Sequence[Row], transaction_id: str | None
    ) -> str:
        history = self._session.history
        # The transaction that stands idle during a no-transaction file keeps no lock on the
        # history, so its owner may have changed.
        table = other_table(history, owner=not migration.transactional)
        checks = check(_transaction_ended(literal(transaction_id)), table)
        limits = self._session.limits.as_sql(history)
        return f"{self._reset_sql()}{checks}{limits}{self._insertion_sql(rows)}"

    def _reset_sql(self) -> str:
        # Nobody else's statements are prepared on a connection without a pooler.
        direct = self._session.history.direct
        return _RESET + ("DEALLOCATE ALL;" if direct else DROP_PREPARED)

    def _insertion_sql(self, rows: Sequence[Row]) -> str:
        history = self._session.history
        written = [(row.version, row.checksum) for row in rows]
        check = verification(history, self._transaction.fingerprint, written)
        return insertion(history, rows) + check

    def _rows(
        self, migration: Migration, milliseconds: int | None, before: RestorePoint | None = None
    ) -> list[Row]:
        """The file's row, after those of the files that it is applied instead of."""
        replaced = () if self._transaction.fingerprint.rows else migration.stands_for
        instead = [self._row(one, None, before) for one in replaced]
        return [*instead, self._row(migration, milliseconds, before)]

    def _row(
        self,
        migration: Migration | Replaced,
        milliseconds: int | None,
        before: RestorePoint | None = None,
    ) -> Row:
        config = self._session.config
        return Row(
            version=migration.version,
            name=migration.name,
            milliseconds=milliseconds,
            checksum=migration.checksum,
            environment=config.environment,
            identity=self._session.history.identity,
            git_commit=config.git_commit,
            applied_by=config.applied_by,
            restore_point=before,
        )

    def _taken_over(self, row: AppliedMigration) -> Row:
        return Row(
            version=row.version,
            name=row.name,
            milliseconds=row.execution_time_ms,
            checksum=row.checksum,
            environment=self._session.config.environment,
            identity=self._session.history.identity,
            git_commit=self._session.config.git_commit,
            applied_by="import",
            applied_at=row.applied_at,
        )

    def _failure(self, migration: Migration, reply: Reply, milliseconds: int | None) -> OnwardError:
        error = reply.failure
        if migration.transactional and error.sqlstate in BUSY:
            return table_busy(migration, error, self._session.blockers)
        diagnostic, remedy = _diagnosis(migration, reply)
        if not migration.transactional:
            written = self._row(migration, milliseconds, self._log.restore_point)
            row = typed_insertion(self._session.history, [written])
            state = (
                "all statements of this file were applied and remain; the file is not recorded. "
                f"This records it:\n  {row};\n"
            )
            return PartlyApplied(diagnostic, state=state, next_step=remedy)
        if error.sqlstate == TRANSACTION_ENDED:
            return PartlyApplied(diagnostic, state=ENDED_ITS_TRANSACTION, next_step=remedy)
        return MigrationFailed(diagnostic, state=ROLLED_BACK, next_step=remedy)

    def _trial_failure(self, migration: Migration, reply: Reply) -> OnwardError:
        if reply.failure.sqlstate in BUSY:
            return table_busy(migration, reply.failure, self._session.blockers)
        diagnostic, remedy = _diagnosis(migration, reply)
        return MigrationFailed(diagnostic, state=_NOT_RUN, next_step=remedy)


def _transaction_ended(its_id: str) -> Case:
    """The case that the file has ended its transaction, whose id is this SQL expression."""
    ended = f"pg_current_xact_id_if_assigned()::text IS DISTINCT FROM {its_id}"
    return Case(TRANSACTION_ENDED, ended)


def table_busy(migration: Migration, error: ServerError, blockers: Sequence[str]) -> TableBusy:
    """The error for a file that met a lock; it is rolled back."""
    busy = TableBusy(
        f"{migration.version}: {error.message} (SQLSTATE {error.sqlstate}); rolled back, "
        "no change of it was kept",
        next_step="Run again when the tables that it changes are less busy, or raise "
        "MIGRATION_RETRY.",
    )
    busy.blockers = blockers
    return busy


def _committed_when(rows: Sequence[Row], transaction_id: str | None) -> str:
    written = ", ".join(f"({literal(row.version)}, {literal(row.checksum)})" for row in rows)
    stored = f"(version, checksum) IN ({written})"
    if transaction_id is None:
        return stored
    # The rows alone are not enough: another run may have written them since.
    return f"{stored} AND pg_xact_status({literal(transaction_id)}) = 'committed'"


def _diagnosis(migration: Migration, reply: Reply) -> tuple[Diagnostic, str]:
    """Which step after the file failed, and what to do."""
    error = reply.failure
    at_its_row = f"after the file, when its row was written to {TABLE}"
    remedy = _REMEDY_BY_CONSTRAINT.get(error.constraint or "") or _REMEDY_BY_SQLSTATE.get(
        error.sqlstate or ""
    )
    if remedy:
        step = at_its_row
    elif reply.lost:
        step, remedy = "at its COMMIT, which did not take effect", remedy_for(error)
    elif _failed_at_a_constraint(reply):
        step = "at its end, where deferred constraints are checked"
        remedy = remedy_for(error)
    else:
        step, remedy = at_its_row, LEAVE_ALONE
    return Diagnostic(migration.version, str(migration.path), error, statement=step), remedy


def _failed_at_a_constraint(reply: Reply) -> bool:
    """Whether the failing statement is a SET CONSTRAINTS: the first, or the one after the INSERT.

    The second finds the constraints that triggers of the history have deferred.
    """
    return not reply.tags or any(tag.startswith("INSERT") for tag in reply.tags)
