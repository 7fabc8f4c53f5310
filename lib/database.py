"""Every line of SQL that is ours: read the history, take the lock, apply one migration, record it.

A transaction of ours takes two round trips: the file travels alone, and what ends one transaction travels with what
opens the next. A file never shares a message with a COMMIT: the server parses a message whole, so a syntax error in
one part would undo the other.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Self, TypeVar

from lib import VERSION
from lib.blockers import Observer, holders
from lib.config import Config, Target
from lib.errors import (
    DatabaseUnavailable,
    DatabaseUnsuitable,
    Done,
    Failure,
    FilesError,
    Interrupted,
    LockBusy,
    MigrationFailed,
    OnwardError,
    OutcomeUnknown,
    PartlyApplied,
    ServerError,
    TableBusy,
)
from lib.failure import locate
from lib.history import TABLE, History, read_history
from lib.migration import Migration
from lib.piecewise import Piecewise
from lib.plan import Applied
from lib.session import BUSY, CONNECT_BUDGET, Answer, Session, Watch, connect, identifier, literal, silent
from lib.sql import split

Blocked = TypeVar("Blocked", TableBusy, PartlyApplied)

_LOCK_KEY = 0x6F6E77617264  # "onward": one run at a time in a database, whatever its schemas
_POLL = (0.05, 0.25)
_OFTEN = 0.45  # of a lock timeout
_HURRY = 5.0  # seconds to find out what became of a COMMIT when somebody wants to stop the run
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

_OPEN = """
BEGIN TRANSACTION ISOLATION LEVEL READ COMMITTED;
RESET SESSION AUTHORIZATION; RESET ROLE; RESET ALL; DISCARD TEMP;
{limits}
SELECT CASE WHEN pg_try_advisory_xact_lock({key}) THEN {proof} END, pg_backend_pid();
"""

# What a session keeps whether its transaction is committed or not. Only what was prepared by SQL is deallocated: a
# pooler keeps its other clients' prepared statements on the same connection.
_LEFT_BEHIND = """
DO $onward$
DECLARE
    prepared text;
BEGIN
    PERFORM pg_advisory_unlock_all();
    FOR prepared IN SELECT name FROM pg_prepared_statements WHERE from_sql LOOP
        EXECUTE format('DEALLOCATE %I', prepared);
    END LOOP;
END $onward$;
"""

# Deferred constraints come first, while the file's settings hold, for which their triggers were written; and a
# temporary table with some outstanding cannot be dropped.
_CLEAN = f"""
SET CONSTRAINTS ALL IMMEDIATE;
RESET SESSION AUTHORIZATION; RESET ROLE; RESET ALL; CLOSE ALL; UNLISTEN *; DISCARD TEMP; DISCARD SEQUENCES;
{_LEFT_BEHIND}
DO $onward$
BEGIN
    IF pg_current_xact_id_if_assigned()::text IS DISTINCT FROM {{xid}} THEN
        RAISE EXCEPTION USING ERRCODE = '2D000', MESSAGE = 'the file ended the transaction that it ran in';
    END IF;
    IF (SELECT count(*) FROM {{table}}) < {{count}} THEN
        RAISE EXCEPTION 'the file deleted rows of the history';
    END IF;
END $onward$;
"""

_INSERT = """
INSERT INTO {table}
    (version, name, applied_at, execution_time_ms, checksum, environment, identity, git_commit, applied_by)
VALUES {values} RETURNING id;
"""


class HistoryChanged(Exception):
    """Under the lock the history is not what the plan was made from: plan again."""


@dataclass(frozen=True, slots=True)
class Job:
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
        self._target = target or config.target
        self._deadline = deadline
        self._budget = min(budget, max(self.seconds_left, 0))
        self._say = say
        self._session = self._connect()
        self._observer = Observer(self._connect_quickly)
        self._history: History | None = None
        self._refused: set[str] = set()
        self._fingerprint = (0, 0)
        self._opened: Answer | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._session.close()
        self._observer.close()

    @property
    def seconds_left(self) -> float:
        """Until the deadline; infinite without one."""
        return math.inf if self._deadline is None else self._deadline - time.monotonic()

    def read(self) -> History:
        """The history and what goes with it, by one query. Reads only: creates nothing, locks nothing.

        A pooler shows only now that there is no server behind it: so it connects again, within the budget. Raises
        HistoryConflict for a table that is not ours, or several that are.
        """
        last = time.monotonic() + self._budget
        while True:
            try:
                self._history = self._read()
            except DatabaseUnavailable as error:
                if type(error) is not DatabaseUnavailable or time.monotonic() > last:
                    raise
                _pause(*_POLL)
                self._session.close()
                self._session = self._connect()
            else:
                self._fingerprint = self._history.fingerprint
                return self._history

    def _read(self) -> History:
        return read_history(self._session, schema=self._config.schema, limits=self._limits(optional=False))

    def prepare(self) -> None:
        """Make what a run needs: the table, its audit columns. Raises DatabaseUnsuitable if this role cannot."""
        history = self._known()
        if history.obstacle:
            raise DatabaseUnsuitable(history.obstacle, next_step="Nothing was changed.")
        if not history.exists:
            schema = literal(history.schema)
            sql = _CREATE.format(table=self._table, columns=_COLUMNS, schema=schema, name=TABLE)
            self._change(sql, None, compare=False)
        elif history.missing_columns:
            added = ", ".join(f"ADD COLUMN IF NOT EXISTS {column} TEXT" for column in history.missing_columns)
            self._change(f"ALTER TABLE {self._table} {added}", None)

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
        self._change(self._insert([self._row(migration, None) for migration in migrations]), f"version = {last}")

    def repair(self, row: Applied, migration: Migration) -> None:
        """Make a file's name and checksum those of its row."""
        version, name, checksum = map(literal, (migration.version, migration.name, migration.checksum))
        self._change(
            f"UPDATE {self._table} SET version = {version}, name = {name}, checksum = {checksum} WHERE id = {row.id}",
            f"id = {row.id} AND version = {version} AND checksum = {checksum}",
        )

    # The transaction: every change of ours goes through _open.

    def _open(self, *, holding: bool = False, compare: bool = True, until: float | None = None) -> str:
        """Begin a transaction that holds the run's lock, and return the proof of it.

        The proof is the transaction's id, or for `holding`, a transaction that will stand idle, a mere word: one with
        an id would hold back vacuum. Raises LockBusy, or HistoryChanged with nothing left open.
        """
        answer, self._opened = self._begin(self._opened, holding=holding, compare=compare), None
        until, waiting = until or time.monotonic() + self._config.wait, False
        while not (proof := self._proof(answer)):
            if time.monotonic() > until:
                self._rollback()
                raise self._busy()
            if not waiting:
                who = "; ".join(words for _, words in holders(self._session, _LOCK_KEY))
                self._say(f"another run holds the lock ({who or 'unknown'}); waiting for it")
                waiting = True
            _pause(*_POLL)
            self._session.send("ROLLBACK")
            answer = self._begin(holding=holding, compare=compare)
        if compare and tuple(map(int, answer.rows[1])) != self._fingerprint:  # type: ignore[arg-type]
            self._rollback()
            raise HistoryChanged
        self._session.watch = self._watching(str(answer.rows[0][1]))
        return proof

    def _begin(self, answer: Answer | None = None, *, holding: bool, compare: bool) -> Answer:
        """Send the opening; again without a limit that the server refuses."""
        answer = answer or self._session.send(self._opening(holding=holding, compare=compare))
        while answer.error and (refused := self._refused_limit(answer.error)):
            self._rollback()
            self._refused.add(refused)
            self._say(f"this server refuses {refused} ({answer.error.message}): going on without it")
            answer = self._session.send(self._opening(holding=holding, compare=compare))
        return answer

    def _refused_limit(self, error: ServerError) -> str | None:
        limits = self._known().limits - self._refused
        return next((name for name in limits if f'"{name}"' in error.message), None)

    def _busy(self) -> LockBusy:
        found = holders(self._session, _LOCK_KEY)
        who = "; ".join(words for _, words in found)
        end = f"; or end it: SELECT pg_terminate_backend({found[0][0]})" if found else ""
        message = f"another run holds the lock on {self._target}" + (f": {who}" if who else "")
        return LockBusy(message, next_step=f"Run again when it is done{end}.")

    def _opening(self, *, holding: bool = False, compare: bool = True) -> str:
        proof = "'held'" if holding else "pg_current_xact_id()::text"
        opening = _OPEN.format(limits=self._limits(holding=holding), key=_LOCK_KEY, proof=proof)
        # In a statement of its own, so that its snapshot is younger than the lock.
        compared = f"SELECT count(*), coalesce(max(id), 0) FROM {self._table};" if compare else ""
        # A lock on the table would stand in the way of a file that works on the whole database: REINDEX, VACUUM FULL.
        return opening + (f"SAVEPOINT onward; {compared} ROLLBACK TO onward;" if holding else compared)

    def _proof(self, answer: Answer) -> str | None:
        if answer.error or answer.lost:
            self._rollback()
            if answer.error and answer.error.sqlstate == "42P01":
                raise HistoryChanged
            raise self._session.complaint(answer)
        return answer.rows[0][0]

    def _watching(self, pid: str) -> Watch | None:
        """To see who keeps this session waiting; more often than a wait can time out."""
        self._observer.seen = ()
        timeout = self._config.lock_timeout
        return Watch(timeout * _OFTEN, partial(self._observer.look, pid)) if timeout else None

    def _change(self, sql: str, landed: str | None, *, compare: bool = True) -> None:
        self._open(compare=compare)
        self._commit("the history", f"{sql}; COMMIT", landed, self._complaint)

    def _complaint(self, answer: Answer) -> OnwardError:
        error = self._session.complaint(answer)
        return self._blocked(error) if isinstance(error, TableBusy) else error

    def _commit(
        self,
        what: str,
        sql: str,
        landed: str | None,
        complaint: Callable[[Answer], OnwardError],
        note: Callable[[Answer], None] = lambda _: None,
    ) -> Answer:
        """Send text with a COMMIT in it, and find out whether it was done where its answer is lost.

        `landed` is what holds for a row of the history if it was; without it, the plan is made again. `note` gets the
        answer at once, for a signal may come between the answer and the next step. Raises OutcomeUnknown.
        """
        answer = Answer()
        try:
            self._session.send(sql, into=answer)
            if answer.lost and "COMMIT" not in answer.tags:
                self._find_out(what, answer, landed, CONNECT_BUDGET)
            note(answer)
        except Interrupted:
            if landed and "COMMIT" not in answer.tags:
                self._find_out(what, answer, landed, _HURRY)
            note(answer)
            raise
        if "COMMIT" not in answer.tags:
            self._rollback()
            raise complaint(answer)
        return answer

    def _find_out(self, what: str, answer: Answer, landed: str | None, budget: float) -> None:
        """Whether a COMMIT was done whose answer was lost: a look under the lock, by a new connection.

        Without the lock absence would prove nothing: the COMMIT may still be on its way.
        """
        kept, self._deadline = self._deadline, time.monotonic() + max(1.0, min(budget, self.seconds_left))
        self._session.close()
        try:
            self._session = self._connect()
            self._open(compare=False, until=self._deadline)
            rows = self._session.query(f"SELECT id FROM {self._table} WHERE {landed}") if landed else []
            self._rollback()
        except OnwardError as error:
            raise OutcomeUnknown(
                f"the connection was lost while {what} was being committed, and whether it is applied could not be "
                f"found out: {error.message}",
                next_step="Look with `status`; if it is still pending, run again.",
            ) from None
        self._session.deadline = self._deadline = kept
        if landed is None:
            raise HistoryChanged
        if rows:
            answer.rows, answer.tags, answer.error, answer.lost = rows, ["COMMIT"], None, False
            self._say(f"the answer to the COMMIT of {what} was lost; confirmed after reconnecting")

    def _rollback(self) -> None:
        if self._session.in_transaction:
            self._session.send(f"ROLLBACK; {_LEFT_BEHIND}")

    # One migration.

    def _apply_whole(self, job: Job) -> None:
        """A file in one transaction: alone in its message, between one that opens it and one that ends it."""
        proof = self._open()
        started = time.perf_counter()
        answer = self._session.send(job.migration.sql, keep=False)
        milliseconds = _since(started)
        _tell(self._session, job.notice)
        if answer.error or answer.lost:
            ended = not self._session.in_transaction
            self._rollback()
            raise self._failed(job.migration, answer, ended=ended)
        self._record(job, milliseconds, proof)

    def _apply_piecewise(self, job: Job) -> None:
        """A no-transaction file: its statements one at a time in another session, while this one holds the lock."""
        self._refuse_settings(job.migration)
        self._open(holding=True)
        started = time.perf_counter()
        with self._connect() as work:
            pieces = Piecewise(job.migration, work, self._still_locked, lambda busy: job.again(self._blocked(busy)))
            if self._known().direct:
                work.query(self._limits().replace("SET LOCAL", "SET"))
                work.watch = self._watching(str(work.pid))
                pieces.patience = max(self._config.retry, self._config.lock_timeout)
            try:
                pieces.run()
            except Interrupted as error:
                error.message = f"{error.message}; of {job.migration.version}, {pieces.state}"
                raise
            except PartlyApplied as error:
                raise self._blocked(error) from None
            finally:
                _tell(work, job.notice)
        self._record(job, _since(started), None)

    def _record(self, job: Job, milliseconds: int, proof: str | None) -> None:
        """Clean the session, write the row, COMMIT; and open the next transaction in the same message."""
        migration, done = job.migration, Done(job.migration.version, job.migration.name, milliseconds)
        clean = _CLEAN.format(xid=literal(proof), table=self._table, count=self._fingerprint[0])
        row = self._insert([self._row(migration, milliseconds)])
        following = self._opening() if job.opens_next() else ""
        answer = self._commit(
            migration.version,
            f"{clean}{self._limits()}{row}COMMIT;{following}",
            f"version = {literal(migration.version)} AND checksum = {literal(migration.checksum)}",
            lambda answer: self._not_recorded(migration, answer),
            lambda answer: job.note(done) if "COMMIT" in answer.tags else None,
        )
        count, newest = self._fingerprint
        self._fingerprint = count + 1, max(newest, int(answer.rows[0][0] or 0))
        if "BEGIN" in answer.tags:
            self._opened = Answer(answer.rows[1:], error=answer.error, lost=answer.lost)

    def _still_locked(self) -> bool:
        """Whether the transaction that holds the lock lives. Literal SQL: it must not keep a snapshot."""
        answer = self._session.send("SELECT 1")
        return not (answer.error or answer.lost)

    def _refuse_settings(self, migration: Migration) -> None:
        """Through a pooler, a SET outside a transaction would reach other clients."""
        if self._known().direct:
            return
        for statement in split(migration.text()):
            if statement.keywords[:1] == ("SET",):
                raise FilesError(
                    f"{migration.path}:{statement.line}: SET would reach other clients of the pooler",
                    next_step="Take it out, or set MIGRATION_DATABASE_URL to the direct URL. Nothing of this file ran.",
                )

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

    def _blocked(self, error: Blocked) -> Blocked:
        """The error with those who were in the way, if it is that which it is about."""
        server = error.failure.server.sqlstate if isinstance(error, PartlyApplied) else BUSY[0]
        error.blockers = self._observer.seen if server in BUSY else ()
        return error

    def _not_recorded(self, migration: Migration, answer: Answer) -> OnwardError:
        """The file ran; what came after it failed: deferred constraints, the look at its transaction, or its row."""
        error = answer.failure
        if error.sqlstate in BUSY and migration.transactional:
            return self._table_busy(migration, error)
        if answer.lost:
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
        return _INSERT.format(table=self._table, values=", ".join(rows))

    def _row(self, migration: Migration, milliseconds: int | None) -> str:
        config, identity = self._config, self._known().identity
        before = (literal(migration.version), literal(migration.name), "clock_timestamp()", literal(milliseconds))
        audit = (migration.checksum, config.environment, identity, config.git_commit, config.applied_by)
        return f"({', '.join((*before, *map(literal, audit)))})"

    def _limits(self, *, holding: bool = False, optional: bool = True) -> str:
        """Settings that die with the transaction: through a pooler, others would reach the next client."""
        config = self._config
        wanted = {
            "client_connection_check_interval": 2.0,
            "idle_in_transaction_session_timeout": 0 if holding else 60.0,
            **({"transaction_timeout": 0} if holding else {}),
        }
        known = self._known().limits - self._refused if optional else frozenset()
        longest = min(config.statement_timeout or math.inf, self.seconds_left)
        limits = {
            "lock_timeout": config.lock_timeout,
            "statement_timeout": 0 if longest == math.inf else max(longest, 0.001),
        }
        limits |= {name: seconds for name, seconds in wanted.items() if name in known}
        return " ".join(f"SET LOCAL {name} = '{round(seconds * 1000)}ms';" for name, seconds in limits.items())

    def _connect(self) -> Session:
        budget = max(0.0, min(self._budget, self.seconds_left))
        return connect(self._target, self._name, budget=budget, deadline=self._deadline, say=self._say)

    def _connect_quickly(self) -> Session:
        return connect(self._target, self._name, budget=0, deadline=self._deadline)

    @property
    def _name(self) -> str:
        return f"onward {VERSION} {self._config.environment}"

    def _known(self) -> History:
        return self._history or self.read()

    @property
    def _table(self) -> str:
        return f"{identifier(self._known().schema or '')}.{TABLE}"


_ROLLED_BACK = "rolled back: nothing of this file is kept or recorded"
_ENDED = "the file ended its own transaction: part of what it did is kept; it is not recorded"
_LEAVE_ALONE = f"A migration must leave {TABLE} and its own transaction alone: mend the file and run again."


def _next_step(error: ServerError) -> str:
    match error.sqlstate:
        case "25001":
            return "Put `-- migrate: no-transaction` in the comment that opens the file, and run again."
        case "57014":
            return "The statement was cancelled, or took longer than MIGRATION_STATEMENT_TIMEOUT. Run again."
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


def _pause(least: float, most: float) -> None:
    """With jitter, so that those who wait do not come all at once."""
    time.sleep(random.uniform(least, most))  # noqa: S311 - jitter, not a secret


def _since(started: float) -> int:
    return round((time.perf_counter() - started) * 1000)
