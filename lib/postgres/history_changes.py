"""What changes the history without running a file: its table, a takeover, baseline and repair."""

from __future__ import annotations

from collections.abc import Sequence

from lib.errors import DatabaseUnsuitable, HistoryConflict, OnwardError, TableBusy
from lib.events import RunLog
from lib.guard import require_no_obstacle
from lib.history import RESTORE_COLUMNS, AppliedMigration, History, Takeover
from lib.postgres.check import NOT_STORED, OTHER_TABLE, ROWS_CHANGED
from lib.postgres.commit_recovery import Commit, CommitResult, Outcome
from lib.postgres.connection import Reply, usual_path
from lib.postgres.history_creation import addition, creation
from lib.postgres.history_table import INSPECT_TRIGGERS, verification
from lib.postgres.recording import Recorder
from lib.postgres.session import RunSession
from lib.postgres.tool_history import is_unchanged, locked_tool_history, tool_history_error
from lib.postgres.transaction import HistoryChanged, Transaction
from lib.quoting import literal
from lib.source.migration import Migration
from lib.tool_tables import TABLES

_ALREADY_EXISTS = ("42P07", "42P06")  # a table, a schema
_OTHER_NOW = ("42P01", "42703", "42809", OTHER_TABLE)  # no such table, no such column, no table
_UPDATE = """
{path}
UPDATE {table} SET version = {version}, name = {name}, checksum = {checksum}
WHERE id OPERATOR(pg_catalog.=) {id};
"""


class HistoryChanges:
    """Changes the history in transactions of its own, each whole or not at all.

    Each raises HistoryChanged if another session was first: then read and plan again.
    """

    def __init__(
        self, session: RunSession, transaction: Transaction, recorder: Recorder, log: RunLog
    ) -> None:
        self._session = session
        self._transaction = transaction
        self._recorder = recorder
        self._log = log

    def prepare(self) -> None:
        """Create the history's table, its schema, or its columns, where they are missing.

        Raises DatabaseUnsuitable if this role cannot; for the columns of the restore point it only
        tells so.
        """
        history = self._session.history
        require_no_obstacle(history)
        if history.table_id is None:
            self._transaction.begin_unplanned()
            created = self._commit(creation(history), committed_when=None)
            oid, owner = (int(value or 0) for value in created.rows[-1])
            self._session.history = history._replace(table_id=(oid, owner), creates_schema=False)
            self._tell_of_schema(history.schema if history.creates_schema else None)
        elif history.missing_columns:
            self._transaction.begin()
            self._commit(addition(history, history.missing_columns), committed_when=None)
            self._session.history = history._replace(missing_columns=())
        if not history.keeps_restore_point:
            self._add_restore_columns()

    def take_over(self, takeover: Takeover) -> None:
        """Record what another tool has applied, in one transaction with the table that holds it.

        Raises HistoryChanged also if the tool has recorded anything since, or if the COMMIT's
        answer is lost; DatabaseUnsuitable, LockBusy.
        """
        history = self._session.history
        require_no_obstacle(history)
        self._log.running("the takeover")
        if history.table_id is None:
            self._transaction.begin_unplanned()
            self._send(creation(history))
        else:
            self._transaction.begin()
            if history.missing_columns:
                self._send(addition(history, history.missing_columns))
        self._lock_tool_history(takeover)
        self._commit(self._recorder.takeover_sql(takeover.rows), committed_when=None)
        self._tell_of_schema(history.schema if history.creates_schema else None)

    def baseline(self, migrations: Sequence[Migration]) -> None:
        """Record files as applied without running them, in one transaction."""
        self._transaction.begin()
        self._commit(
            self._recorder.insertion_sql(migrations),
            committed_when=f"version = {literal(migrations[-1].version)}",
        )

    def repair(self, row: AppliedMigration, migration: Migration) -> None:
        """Give a row the name and checksum of its file."""
        version, checksum, its_row = migration.version, migration.checksum, f"id = {row.id}"
        self._transaction.begin()
        history, before = self._session.history, self._transaction.fingerprint
        # The digest that is known covers this row as it was: the other rows are only counted.
        others = before._replace(rows=before.rows - 1, digest=None)
        check = verification(history, others, [(version, checksum)], ours=its_row)
        stored = f"version = {literal(version)} AND checksum = {literal(checksum)}"
        self._commit(
            _update(history, row, migration) + check, committed_when=f"{its_row} AND {stored}"
        )

    def _add_restore_columns(self) -> None:
        """Add them if this role may: a run does without them, and says so."""
        sql = addition(self._session.history, RESTORE_COLUMNS)
        self._transaction.begin()
        try:
            self._commit(sql, committed_when=None)
        except DatabaseUnsuitable as error:
            self._log.tell(
                f"{error.message}: the restore point of this run is not recorded. To record it, "
                f"let the table's owner run:\n  {sql}"
            )
            return
        self._session.history = self._session.history._replace(keeps_restore_point=True)

    def _tell_of_schema(self, created: str | None) -> None:
        if created:
            self._log.tell(f"created the schema {created} for the history")

    def _lock_tool_history(self, takeover: Takeover) -> None:
        reply = self._session.connection.send(locked_tool_history(takeover))
        if not reply.failed and is_unchanged(takeover, reply):
            return
        self._transaction.rollback()
        if not reply.failed or reply.failure.sqlstate in _OTHER_NOW:
            raise HistoryChanged
        tool, role = TABLES[takeover.tool], self._session.history.role
        raise self._with_blockers(
            tool_history_error(tool, takeover.found, reply, self._session.connection, role)
        )

    def _send(self, sql: str) -> None:
        """Send what the transaction goes on after."""
        reply = self._session.connection.send(sql)
        if reply.failed:
            self._transaction.rollback()
            raise self._failure(reply)

    def _commit(self, sql: str, *, committed_when: str | None) -> CommitResult:
        commit = Commit(
            self._session, self._transaction, "the history", committed_when=committed_when
        )
        result = commit.send(sql)
        if result.outcome is Outcome.ROLLED_BACK:
            raise self._failure(result.reply)
        return result

    def _failure(self, reply: Reply) -> Exception:
        failure = reply.failure
        if failure.sqlstate in (*_ALREADY_EXISTS, OTHER_TABLE):
            return HistoryChanged()
        if failure.sqlstate in (NOT_STORED, ROWS_CHANGED):
            message = f"{failure.message}; rolled back"
            return HistoryConflict(message, next_step=INSPECT_TRIGGERS)
        return self._with_blockers(self._session.connection.error_for(reply))

    def _with_blockers(self, error: OnwardError) -> OnwardError:
        if isinstance(error, TableBusy):
            error.blockers = self._session.blockers
        return error


def _update(history: History, row: AppliedMigration, migration: Migration) -> str:
    return _UPDATE.format(
        path=usual_path(history.tenant),
        table=history.table,
        id=row.id,
        version=literal(migration.version),
        name=literal(migration.name),
        checksum=literal(migration.checksum),
    )
