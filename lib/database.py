"""What is done to a database: make the history's table, apply one migration and record it, baseline, repair.

A file takes two round trips: it travels alone, and what records it travels with what opens the next transaction. It
never shares a message with a COMMIT: the server parses a message whole, so a syntax error in one part would undo the
other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import NamedTuple, Self

from lib.config import Config, Target
from lib.errors import (
    DatabaseUnsuitable,
    Done,
    Failure,
    Interrupted,
    MigrationFailed,
    OnwardError,
    PartlyApplied,
    ServerError,
    TableBusy,
)
from lib.failure import locate
from lib.history import TABLE, History
from lib.migration import Migration
from lib.piecewise import Piecewise
from lib.plan import Applied
from lib.session import BUSY, CONNECT_BUDGET, Answer, Session, literal, silent
from lib.transactions import FORGET, RESET, Transactions

_COLUMNS = """
    id SERIAL PRIMARY KEY,
    version VARCHAR(255) UNIQUE NOT NULL,
    name VARCHAR(255) NOT NULL,
    applied_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    execution_time_ms INTEGER,
    checksum VARCHAR(64),
    environment TEXT,
    identity TEXT,
    git_commit TEXT,
    applied_by TEXT
"""

_CREATE = """
CREATE TABLE IF NOT EXISTS {table} ({columns});
DO $onward$
DECLARE
    table_name CONSTANT text := format('%I.{name}', {schema});
    relation record;
    grantee text;
BEGIN
    -- Some hosts hand every new table to their public roles by default; such a role could delete the history.
    FOR relation IN SELECT oid, oid::regclass AS name, relkind, relowner, relacl FROM pg_class
        WHERE oid IN (table_name::regclass, pg_get_serial_sequence(table_name, 'id')::regclass)
    LOOP
        FOR grantee IN SELECT DISTINCT CASE acl.grantee WHEN 0 THEN 'PUBLIC' ELSE acl.grantee::regrole::text END
            FROM aclexplode(relation.relacl) acl WHERE acl.grantee <> relation.relowner
        LOOP
            EXECUTE format('REVOKE ALL ON %s %s FROM %s',
                CASE relation.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, relation.name, grantee);
        END LOOP;
    END LOOP;
END $onward$
"""

# Deferred constraints come first, while the file's settings hold, for which their triggers were written; and a
# temporary table with some outstanding cannot be dropped.
_CLEAN = f"""
SET CONSTRAINTS ALL IMMEDIATE;
{RESET}
DO $onward$
DECLARE
    prepared text;
    running text;
    remaining bigint;
BEGIN
    {FORGET}
    SELECT pg_current_xact_id_if_assigned()::text, count(*) INTO running, remaining FROM {{table}};
    IF running IS DISTINCT FROM {{xid}} THEN
        RAISE EXCEPTION USING ERRCODE = '2D000', MESSAGE = 'the file ended the transaction that it ran in';
    END IF;
    IF remaining < {{count}} THEN
        RAISE EXCEPTION 'the file deleted rows of the history';
    END IF;
END $onward$;
"""

_INSERT = """
INSERT INTO {table}
    (version, name, applied_at, execution_time_ms, checksum, environment, identity, git_commit, applied_by)
VALUES {values} RETURNING id;
"""


class Job(NamedTuple):
    """One migration to apply, and what to ask and whom to tell meanwhile."""

    migration: Migration
    opens_next: Callable[[], bool]
    """Asked when the file is done: whether to send the next transaction's opening along."""
    notice: Callable[[str], None]
    note: Callable[[Done], None]
    """Told as soon as it is known that COMMIT was done; maybe twice."""
    again: Callable[[TableBusy], bool]
    """Whether to try a statement of a no-transaction file again; waits before it answers."""


class Database:
    """The database that a Config names, in one session. Use it as a context manager."""

    def __init__(
        self,
        config: Config,
        *,
        target: Target | None = None,
        budget: float = CONNECT_BUDGET,
        deadline: float | None = None,
        say: Callable[[str], None] = silent,
    ) -> None:
        """Connect within about `budget` seconds; after `deadline` (monotonic seconds) statements are cancelled.

        `say` gets a line for people where something takes long or is not as it should be.
        """
        self._config = config
        self._tx = Transactions(config, target or config.target, budget=budget, deadline=deadline, say=say)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tx.close()

    @property
    def seconds_left(self) -> float:
        """Until the deadline; infinite without one."""
        return self._tx.seconds_left

    def read(self) -> History:
        """The history and what goes with it, by one query. Reads only: creates nothing, locks nothing.

        Raises HistoryConflict for a table that is not ours, or several that are.
        """
        return self._tx.read()

    def prepare(self) -> None:
        """Make what a run needs: the table, its audit columns. Raises DatabaseUnsuitable if this role cannot."""
        history = self._tx.known()
        if history.obstacle:
            raise DatabaseUnsuitable(history.obstacle, next_step="Nothing was changed.")
        if not history.exists:
            schema = literal(history.schema)
            sql = _CREATE.format(table=self._tx.table, columns=_COLUMNS, schema=schema, name=TABLE)
            self._tx.change(sql, None, compare=False)
        elif history.missing_columns:
            added = ", ".join(f"ADD COLUMN IF NOT EXISTS {column} TEXT" for column in history.missing_columns)
            self._tx.change(f"ALTER TABLE {self._tx.table} {added}", None)

    def apply(self, job: Job) -> None:
        """Apply one file and record it.

        Raises HistoryChanged, LockBusy, TableBusy, MigrationFailed (rolled back), PartlyApplied, OutcomeUnknown.
        """
        if job.migration.transactional:
            self._apply_whole(job)
        else:
            self._apply_piecewise(job)

    def baseline(self, migrations: Sequence[Migration]) -> None:
        """Record files as applied without running them, in one transaction."""
        last = literal(migrations[-1].version)
        self._tx.change(self._insert([self._row(migration, None) for migration in migrations]), f"version = {last}")

    def repair(self, row: Applied, migration: Migration) -> None:
        """Make a file's name and checksum those of its row."""
        version, name, checksum = map(literal, (migration.version, migration.name, migration.checksum))
        values = f"version = {version}, name = {name}, checksum = {checksum}"
        landed = f"id = {row.id} AND version = {version} AND checksum = {checksum}"
        self._tx.change(f"UPDATE {self._tx.table} SET {values} WHERE id = {row.id}", landed)

    def _apply_whole(self, job: Job) -> None:
        """A file in one transaction: alone in its message, between one that opens it and one that ends it."""
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
        """A no-transaction file: its statements one at a time in another session, while this one holds the lock."""
        self._tx.open(holding=True)
        started = time.perf_counter()
        with self._tx.connect() as work:
            pieces = Piecewise(job.migration, work, self._still_locked, lambda busy: job.again(self._blocked(busy)))
            pieces.lock_timeout = self._config.lock_timeout
            if self._tx.known().direct:
                work.query(self._tx.limits().replace("SET LOCAL", "SET"))
                work.watch = self._tx.watching(str(work.pid))
                pieces.patience = max(self._config.retry, self._config.lock_timeout)
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

    def _record(self, job: Job, milliseconds: int, proof: str | None) -> None:
        """Clean the session, write the row, COMMIT; and open the next transaction in the same message."""
        migration, done = job.migration, Done(job.migration.version, job.migration.name, milliseconds)
        clean = _CLEAN.format(xid=literal(proof), table=self._tx.table, count=self._tx.count)
        row = self._insert([self._row(migration, milliseconds)])
        answer = self._tx.commit(
            migration.version,
            f"{clean}{self._tx.limits()}{row}",
            # Not only the row: another run may have written that since.
            f"version = {literal(migration.version)} AND checksum = {literal(migration.checksum)}"
            + (f" AND pg_xact_status({literal(proof)}) = 'committed'" if proof else ""),
            note=lambda answer: job.note(done) if "COMMIT" in answer.tags else None,
            open_next=job.opens_next(),
        )
        if "COMMIT" not in answer.tags:
            raise self._not_recorded(migration, answer)
        self._tx.recorded(int(answer.rows[0][0] or 0))

    def _still_locked(self) -> bool:
        """Whether the transaction that holds the lock lives. Literal SQL: it must not keep a snapshot."""
        answer = self._tx.session.send("SELECT 1")
        return not (answer.error or answer.lost)

    def _failed(self, migration: Migration, answer: Answer, *, ended: bool) -> OnwardError:
        error = answer.failure
        if ended:
            failure = locate(migration, error, finished=answer.finished)
            return PartlyApplied(failure, state=_ENDED, next_step=_LEAVE_ALONE)
        if error.sqlstate in BUSY:
            return self._table_busy(migration, error)
        failure = locate(migration, error, finished=answer.finished)
        return MigrationFailed(failure, state=_ROLLED_BACK, next_step=_next_step(error))

    def _table_busy(self, migration: Migration, error: ServerError) -> TableBusy:
        busy = TableBusy(
            f"{migration.version}: {error.message} (SQLSTATE {error.sqlstate}); rolled back, nothing of it is kept",
            next_step="Run again when the tables that it changes are less busy, or raise MIGRATION_RETRY.",
        )
        return self._blocked(busy)

    def _blocked(self, error: TableBusy) -> TableBusy:
        error.blockers = self._tx.blockers
        return error

    def _not_recorded(self, migration: Migration, answer: Answer) -> OnwardError:
        """The file ran; what came after it failed: deferred constraints, the look at its transaction, or its row."""
        error = answer.failure
        if error.sqlstate in BUSY and migration.transactional:
            return self._table_busy(migration, error)
        if error.constraint == f"{TABLE}_pkey":
            where, next_step = f"after the file, when its row was written to {TABLE}", _SEQUENCE
        elif answer.lost:
            where, next_step = "at its COMMIT, which was not done", _next_step(error)
        elif not answer.tags or any(tag.startswith("INSERT") for tag in answer.tags):
            where, next_step = "at its end, where deferred constraints are checked", _next_step(error)
        else:
            where, next_step = f"after the file, when its row was written to {TABLE}", _LEAVE_ALONE
        failure = Failure(migration.version, str(migration.path), error, statement=where)
        if not migration.transactional:
            state = "all of its statements are done and stay; the file is not recorded"
            return PartlyApplied(failure, state=state, next_step=next_step)
        if error.sqlstate == "2D000":
            return PartlyApplied(failure, state=_ENDED, next_step=next_step)
        return MigrationFailed(failure, state=_ROLLED_BACK, next_step=next_step)

    def _insert(self, rows: Sequence[str]) -> str:
        return _INSERT.format(table=self._tx.table, values=", ".join(rows))

    def _row(self, migration: Migration, milliseconds: int | None) -> str:
        config, identity = self._config, self._tx.known().identity
        before = (literal(migration.version), literal(migration.name), "clock_timestamp()", literal(milliseconds))
        audit = (migration.checksum, config.environment, identity, config.git_commit, config.applied_by)
        return f"({', '.join((*before, *map(literal, audit)))})"


_ROLLED_BACK = "rolled back: nothing of this file is kept or recorded"
_ENDED = "the file ended its own transaction: part of what it did is kept; it is not recorded"
_SEQUENCE = (
    "Its ids have run behind its rows, as after a restore. Say SELECT setval(pg_get_serial_sequence("
    f"'{TABLE}', 'id'), (SELECT max(id) FROM {TABLE})); and run again."
)
_LEAVE_ALONE = f"A migration must leave {TABLE} and its own transaction alone: mend the file and run again."


def _next_step(error: ServerError) -> str:
    match error.sqlstate:
        case "25001":
            return "Put `-- migrate: no-transaction` in the comment that opens the file, and run again."
        case "57014":
            return "The statement was cancelled, or took longer than MIGRATION_STATEMENT_TIMEOUT. Run again."
        case "42P07" | "42701" | "42710" | "42723":
            return (
                "Something of that name is there already. If this very file made it, its row is missing from the "
                f"history, {TABLE}: write it back. Else mend the file. Then run again."
            )
        case None | "57P01" | "57P02" | "57P03":
            return "It is safe to run again."
    return "Mend the file and run again (or deploy again). Nothing needs repair."


def _tell(session: Session, notice: Callable[[str], None]) -> None:
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
