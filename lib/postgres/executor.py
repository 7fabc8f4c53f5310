"""What is done to a database: make the history's table, apply one migration and record it,
baseline, repair.

A file takes two round trips: it travels alone, and what records it travels with what opens the next
transaction. It never shares a message with a COMMIT: the server parses a message whole, so a syntax
error in one part would undo the other.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import NamedTuple, Self

from lib.diagnosis import diagnose
from lib.errors import (
    DatabaseUnavailable,
    DatabaseUnsuitable,
    Diagnostic,
    Interrupted,
    MigrationFailed,
    MigrationResult,
    OnwardError,
    PartlyApplied,
    ServerError,
    TableBusy,
)
from lib.plan import TABLE, AppliedMigration, History
from lib.postgres.connection import (
    BUSY,
    CONNECT_BUDGET,
    PIN_PATH,
    Budget,
    Connection,
    Reply,
    ignore,
)
from lib.postgres.history_table import (
    LOOK_AT_TRIGGERS,
    NOT_STORED,
    OTHER_TABLE,
    ROWS_CHANGED,
    TRANSACTION_ENDED,
    Row,
    addition,
    creation,
    insertion,
    same_table,
    typed_insertion,
    update,
    verification,
)
from lib.postgres.no_transaction import TWO_CONNECTIONS, StatementRunner
from lib.postgres.transaction import FORGET, RESET, Transaction
from lib.quoting import literal
from lib.settings.config import Config
from lib.settings.database_url import DatabaseURL
from lib.source.migration import Migration

# Deferred constraints come first, while the file's settings hold, for which their triggers were
# written; and a temporary table with some outstanding cannot be dropped.
_CLEAN = f"""
SET CONSTRAINTS ALL IMMEDIATE;
{RESET}
{PIN_PATH}
DO $onward$
DECLARE
    prepared text;
BEGIN
    {FORGET}
    IF pg_current_xact_id_if_assigned()::text IS DISTINCT FROM {{xid}} THEN
        RAISE EXCEPTION USING ERRCODE = '{TRANSACTION_ENDED}',
            MESSAGE = 'the file ended the transaction that it ran in';
    END IF;
    {{same_table}}
END $onward$;
"""


class Job(NamedTuple):
    """One migration to apply, and what to ask and whom to tell meanwhile."""

    migration: Migration
    opens_next: Callable[[], bool]
    """Asked when the file is done: whether to send the next transaction's opening along."""
    notice: Callable[[str], None]
    note: Callable[[MigrationResult], None]
    """Told as soon as it is known that COMMIT was done; maybe twice."""
    again: Callable[[TableBusy], bool]
    """Whether to try a statement of a no-transaction file again; waits before it answers."""


class Executor:
    """The database that a Config names, in one session. Use it as a context manager."""

    def __init__(
        self,
        config: Config,
        *,
        url: DatabaseURL | None = None,
        budget: Budget = CONNECT_BUDGET,
        deadline: float | None = None,
        say: Callable[[str], None] = ignore,
    ) -> None:
        """Connect within about that budget; after `deadline` (monotonic seconds) statements are
        cancelled.

        `say` gets a line for people where something takes long or is not as it should be.
        """
        self._config = config
        self._tx = Transaction(config, url or config.url, budget=budget, deadline=deadline, say=say)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._tx.close()

    @property
    def seconds_left(self) -> float:
        """Until the deadline; infinite without one."""
        return self._tx.seconds_left

    def read(self) -> History:
        """The history and what goes with it, by one query. Reads only: creates nothing, locks
        nothing.

        Raises HistoryConflict for a table that is not ours, or several that are.
        """
        return self._tx.read()

    def prepare(self) -> None:
        """Make what a run needs: the table, its audit columns. Raises DatabaseUnsuitable if this
        role cannot.
        """
        history = self._tx.known()
        if history.obstacle:
            raise DatabaseUnsuitable(history.obstacle, next_step="Nothing was changed.")
        if history.table_id is None:
            answer = self._tx.change(lambda: creation(history), None, compare=False)
            oid, owner = (int(value or 0) for value in answer.rows[-1])
            self._tx.learned(table_id=(oid, owner))
        elif history.missing_columns:
            self._tx.change(lambda: addition(history), None)
            self._tx.learned(missing_columns=())

    def apply(self, job: Job) -> None:
        """Apply one file and record it.

        Raises HistoryChanged, LockBusy, TableBusy, MigrationFailed (rolled back), PartlyApplied,
        OutcomeUnknown.
        """
        if job.migration.transactional:
            self._apply_whole(job)
        else:
            self._apply_piecewise(job)

    def baseline(self, migrations: Sequence[Migration]) -> None:
        """Record files as applied without running them, in one transaction."""
        last = literal(migrations[-1].version)
        rows = [self._row(migration, None) for migration in migrations]
        self._tx.change(lambda: self._insertion(rows), f"version = {last}")

    def repair(self, row: AppliedMigration, migration: Migration) -> None:
        """Make a file's name and checksum those of its row."""
        version, checksum = migration.version, migration.checksum
        self._tx.change(
            lambda: (
                update(self._tx.known(), row.id, version, migration.name, checksum)
                + verification(
                    self._tx.known(), self._tx.fingerprint, [(version, checksum)], replaced=row.id
                )
            ),
            f"id = {row.id} AND version = {literal(version)} AND checksum = {literal(checksum)}",
        )

    def _apply_whole(self, job: Job) -> None:
        """A file in one transaction: alone in its message, between one that opens it and one that
        ends it.
        """
        proof = self._tx.open()
        started = time.perf_counter()
        answer = self._tx.session.send(job.migration.sql, keep=False)
        milliseconds = _since(started)
        _tell(self._tx.session, job.notice)
        if answer.error or answer.lost:
            ended = not self._tx.session.in_transaction
            self._tx.rollback()
            raise self._failed(job.migration, answer, ended=ended)
        self._record(job, milliseconds, proof)

    def _apply_piecewise(self, job: Job) -> None:
        """A no-transaction file: its statements one at a time in another session, while this one
        holds the lock.

        Nothing of it can be undone, so that its row can be written is tried before.
        """
        self._try_to_record(job.migration)
        self._tx.open(holding=True)
        started = time.perf_counter()
        with _as_second():
            work = self._tx.connect()
        with work:
            pieces = StatementRunner(
                job.migration, work, self._still_locked, lambda busy: job.again(self._blocked(busy))
            )
            pieces.lock_timeout = self._config.lock_timeout
            with (
                _as_second()
            ):  # a pooler lets it connect, and has none with the server for it when it is used
                self._limit(job, work, pieces)
            try:
                pieces.run()
            except Interrupted as error:
                error.message = f"{error.message}; of {job.migration.version}, {pieces.state}"
                raise
            except PartlyApplied as error:
                error.blockers = self._tx.blockers if error.failure.server.sqlstate in BUSY else ()
                raise
            finally:
                _tell(work, job.notice)
                self._tx.leave(work)
        self._record(job, _since(started), None)

    def _limit(self, job: Job, work: Connection, pieces: StatementRunner) -> None:
        if self._tx.known().direct:
            work.query(self._tx.limits().replace("SET LOCAL", "SET"))
            work.watch = self._tx.watching(str(work.pid))
            pieces.patience = max(self._config.busy_retry, self._config.lock_timeout)
        elif limits := self._tx.limits_of_others(work):
            job.notice(
                f"{', '.join(limits)}, as the role or the database has it: {_NOT_THROUGH_A_POOLER}"
            )

    def _record(self, job: Job, milliseconds: int, proof: str | None) -> None:
        """Clean the session, write the row, COMMIT; and open the next transaction in the same
        message.
        """
        migration, done = (
            job.migration,
            MigrationResult(job.migration.version, job.migration.name, milliseconds),
        )
        answer = self._tx.commit(
            migration.version,
            self._recording(migration, milliseconds, proof),
            # Not only the row: another run may have written that since.
            f"version = {literal(migration.version)} AND checksum = {literal(migration.checksum)}"
            + (f" AND pg_xact_status({literal(proof)}) = 'committed'" if proof else ""),
            note=lambda answer: job.note(done) if "COMMIT" in answer.tags else None,
            open_next=job.opens_next(),
        )
        if "COMMIT" not in answer.tags:
            raise self._not_recorded(migration, answer, milliseconds)
        self._tx.recorded(*(int(value or 0) for value in answer.rows[0]))

    def _try_to_record(self, migration: Migration) -> None:
        """Write the row and take it back. Raises what hinders that, with nothing done."""
        proof = self._tx.open()
        answer = self._tx.session.send(self._recording(migration, 0, proof))
        self._tx.rollback()
        if answer.error or answer.lost:
            raise self._not_recorded(migration, answer, 0, trial=True)

    def _recording(self, migration: Migration, milliseconds: int, proof: str | None) -> str:
        # The one that stood idle has read the history in a savepoint only, and does not keep its
        # owner.
        same = same_table(self._tx.known(), owner=not migration.transactional)
        clean = _CLEAN.format(xid=literal(proof), same_table=same)
        return f"{clean}{self._tx.limits()}{self._insertion([self._row(migration, milliseconds)])}"

    def _insertion(self, rows: Sequence[Row]) -> str:
        history = self._tx.known()
        written = [(row.version, row.checksum) for row in rows]
        return insertion(history, rows) + verification(history, self._tx.fingerprint, written)

    def _still_locked(self) -> bool:
        """Whether the transaction that holds the lock lives. Literal SQL: it must not keep a
        snapshot.
        """
        answer = self._tx.session.send("SELECT 1")
        return not (answer.error or answer.lost)

    def _failed(self, migration: Migration, answer: Reply, *, ended: bool) -> OnwardError:
        error = answer.failure
        if ended:
            failure = diagnose(migration, error, finished=answer.finished)
            return PartlyApplied(failure, state=_ENDED, next_step=_LEAVE_ALONE)
        if error.sqlstate in BUSY:
            return self._table_busy(migration, error)
        failure = diagnose(migration, error, finished=answer.finished)
        return MigrationFailed(failure, state=_ROLLED_BACK, next_step=_next_step(error))

    def _table_busy(self, migration: Migration, error: ServerError) -> TableBusy:
        busy = TableBusy(
            f"{migration.version}: {error.message} (SQLSTATE {error.sqlstate}); rolled back, "
            "nothing of it is kept",
            next_step="Run again when the tables that it changes are less busy, or raise "
            "MIGRATION_RETRY.",
        )
        return self._blocked(busy)

    def _blocked(self, error: TableBusy) -> TableBusy:
        error.blockers = self._tx.blockers
        return error

    def _not_recorded(
        self, migration: Migration, answer: Reply, milliseconds: int, *, trial: bool = False
    ) -> OnwardError:
        """The file ran; what came after it failed: deferred constraints, the look at its
        transaction, or its row.
        """
        error = answer.failure
        if error.sqlstate in BUSY and (migration.transactional or trial):
            return self._table_busy(migration, error)
        where, next_step = _what_came_after(answer)
        failure = Diagnostic(migration.version, str(migration.path), error, statement=where)
        if trial:
            return MigrationFailed(failure, state=_NOT_RUN, next_step=next_step)
        if not migration.transactional:
            row = typed_insertion(self._tx.known(), [self._row(migration, milliseconds)])
            state = f"all of its statements are done and stay; the file is not recorded. This records it:\n  {row};\n"
            return PartlyApplied(failure, state=state, next_step=next_step)
        if error.sqlstate == TRANSACTION_ENDED:
            return PartlyApplied(failure, state=_ENDED, next_step=next_step)
        return MigrationFailed(failure, state=_ROLLED_BACK, next_step=next_step)

    def _row(self, migration: Migration, milliseconds: int | None) -> Row:
        config, identity = self._config, self._tx.known().identity
        audit = (
            migration.checksum,
            config.environment,
            identity,
            config.git_commit,
            config.applied_by,
        )
        return Row(migration.version, migration.name, milliseconds, *audit)


_NOT_RUN = "nothing of this file was run or recorded: its row was tried first"
_ROLLED_BACK = "rolled back: nothing of this file is kept or recorded"
_ENDED = "the file ended its own transaction: part of what it did is kept; it is not recorded"
_SEQUENCE = (
    "Its ids have run behind its rows, as after a restore. Say SELECT "
    "setval(pg_get_serial_sequence("
    f"'{TABLE}', 'id'), (SELECT max(id) FROM {TABLE})); and run again."
)
_NOT_THROUGH_A_POOLER = (
    "this file runs without a transaction and through a pooler, where nothing else can be set; a "
    "direct URL in "
    "MIGRATION_DATABASE_URL is the way without"
)
_OWN_TABLE = (
    f"Onward makes {TABLE} itself, before the first file: take what names it out of the file, and "
    "run again. "
    f"`pg_dump --exclude-table='*.{TABLE}*'` writes a dump without it."
)
_LEAVE_ALONE = (
    f"A migration must leave {TABLE} and its own transaction alone: mend the file and run again."
)
_ADVICE_ON_ITS_ROW = {
    NOT_STORED: LOOK_AT_TRIGGERS,
    TRANSACTION_ENDED: _LEAVE_ALONE,
    **dict.fromkeys(
        (OTHER_TABLE, ROWS_CHANGED),
        f"{_LEAVE_ALONE} If another session changed the history meanwhile, find out which one "
        "first.",
    ),
}

_SAFE_TO_RUN = "It is safe to run again."
_NO_TRANSACTION = (
    "Put `-- migrate: no-transaction` in the comment that opens the file, and run again."
)
_THERE_ALREADY = (
    "Something of that name is there already. If all of this file was done by other means, record "
    "it without running "
    "it: scripts/migrate.py baseline NNN, with its number. Else mend the file. Then run again."
)
_ADVICE = {
    **dict.fromkeys(("25001", "2D000"), _NO_TRANSACTION),
    **dict.fromkeys(("42P07", "42701", "42710", "42723"), _THERE_ALREADY),
    **dict.fromkeys(("57P01", "57P02", "57P03"), _SAFE_TO_RUN),
    "42501": "Grant the role what it lacks, or use the owner's URL. Then run again.",
    "53100": "The server's disk is full. The file is not at fault: free some space and run again.",
    "53200": "The server lacks memory. The file is not at fault: give it more and run again.",
    "53300": "The server has no connection left. The file is not at fault: end some, or raise its "
    "limit; run again.",
    "55P04": "A new value of an enum can be used once it is committed: use it in the next file. "
    f"Or, if this file only fails for that: {_NO_TRANSACTION[0].lower()}{_NO_TRANSACTION[1:]}",
    "57014": "The statement was cancelled, or took longer than MIGRATION_STATEMENT_TIMEOUT. Run "
    "again.",
}


def _what_came_after(answer: Reply) -> tuple[str, str]:
    """Which step behind the file failed, and what to do about it."""
    error = answer.failure
    at_its_row = f"after the file, when its row was written to {TABLE}"
    known = {f"{TABLE}_pkey": _SEQUENCE, f"{TABLE}_version_key": _LEAVE_ALONE}.get(
        error.constraint or ""
    )
    if advice := known or _ADVICE_ON_ITS_ROW.get(error.sqlstate or ""):
        return at_its_row, advice
    if answer.lost:
        return "at its COMMIT, which was not done", _next_step(error)
    if not answer.tags or any(tag.startswith("INSERT") for tag in answer.tags):
        return "at its end, where deferred constraints are checked", _next_step(error)
    return at_its_row, _LEAVE_ALONE


@contextmanager
def _as_second() -> Iterator[None]:
    """Say of a session that cannot be had, or not be used, that it is the second one."""
    try:
        yield
    except DatabaseUnavailable as error:
        error.next_step = f"{TWO_CONNECTIONS} {error.next_step}"
        raise


def _next_step(error: ServerError) -> str:
    if error.sqlstate is None:
        return _SAFE_TO_RUN
    if error.sqlstate == "42P07" and re.search(
        rf"\b{TABLE}(?:_id_seq|_pkey|_version_key)?\b", error.message
    ):
        return _OWN_TABLE
    return _ADVICE.get(
        error.sqlstate, "Mend the file and run again (or deploy again). Nothing needs repair."
    )


def _tell(session: Connection, notice: Callable[[str], None]) -> None:
    """Pass on the last notices of a session, and forget them."""
    dropped = session.notice_count - len(session.notices)
    if dropped > 0:
        notice(f"({dropped} earlier notices not shown)")
    for text in session.notices:
        notice(text)
    session.notices.clear()
    session.notice_count = 0


def _since(started: float) -> int:
    return round((time.perf_counter() - started) * 1000)
