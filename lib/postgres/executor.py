"""What a run does to a database: read the history, apply a file and record it.

A file takes two round trips: it travels alone, and what records it travels with what begins the
next transaction. It never shares a message with a COMMIT: the server parses a message whole, so a
syntax error in one part would undo the other.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

from lib.activity import Asked
from lib.diagnosis import diagnose, remedy_for
from lib.errors import (
    DatabaseUnavailable,
    Interrupted,
    LockBusy,
    MigrationFailed,
    MigrationResult,
    OnwardError,
    PartlyApplied,
)
from lib.events import RunLog
from lib.history import History
from lib.imported import Imported
from lib.postgres.ahead import Group, Lane
from lib.postgres.connecting import CONNECT_BUDGET, Budget
from lib.postgres.connection import A_TABLE, BUSY, Connection, Reply, search_path
from lib.postgres.history_changes import HistoryChanges
from lib.postgres.no_transaction import TWO_CONNECTIONS, StatementRunner
from lib.postgres.recording import (
    ENDED_ITS_TRANSACTION,
    LEAVE_ALONE,
    ROLLED_BACK,
    Recorder,
    table_busy,
)
from lib.postgres.schema_watch import SchemaWatch
from lib.postgres.session import RunSession, limits_in_force
from lib.postgres.tool_history import find_tool_history
from lib.postgres.transaction import Transaction
from lib.quoting import literal
from lib.retry import Backoff
from lib.settings.config import Config
from lib.settings.database_url import DatabaseURL
from lib.source.migration import Migration
from lib.takeover import take_over

if TYPE_CHECKING:  # a run that observes nothing does not load it
    from lib.postgres.catalog import Observer

# pg_tle keeps extensions in tables, where CREATE EXTENSION finds them and this view does not.
_UNAVAILABLE_EXTENSIONS = """
SELECT wanted FROM unnest(ARRAY[{names}]) AS wanted
WHERE NOT EXISTS (SELECT FROM pg_available_extensions WHERE name = wanted)
    AND NOT EXISTS (SELECT FROM pg_extension WHERE extname IN (wanted, 'pg_tle'))
"""
_ONE_BY_ONE = (
    "A plan has all files in one transaction, without those that have none; a run commits them one "
    "by one, so this file may work there. Try it on a database that is thrown away:\n"
    "  scripts/migrate.py rehearse\nIf it fails there, too:"
)
# The classes of what is missing, held or not satisfied: 42830, 55P04, 55006, 23503.
_FOR_WANT_OF_A_COMMIT = ("23", "42", "55")
_NO_LIMITS_THROUGH_A_POOLER = (
    "this file runs without a transaction and through a pooler, where Onward cannot set limits. "
    "To have its limits, set MIGRATION_DATABASE_URL to the direct URL"
)


class Executor:
    """Applies files to the database of a Config. Use it as a context manager."""

    def __init__(
        self,
        config: Config,
        log: RunLog | None = None,
        *,
        url: DatabaseURL | None = None,
        budget: Budget = CONNECT_BUDGET,
        deadline: float | None = None,
    ) -> None:
        """Connect within the budget; at `deadline` (monotonic seconds) statements are cancelled."""
        self._config = config
        self._observer: Observer | None = None
        self._log = log or RunLog()
        self._session = RunSession(
            config, url or config.url, budget=budget, deadline=deadline, log=self._log
        )
        self._transaction = Transaction(self._session)
        self._recorder = Recorder(self._session, self._transaction, self._log)
        self.changes = HistoryChanges(self._session, self._transaction, self._recorder, self._log)
        self.schema = SchemaWatch(self._session, self._transaction, self._log)
        self._lane = Lane(self._session, self._transaction, self._recorder, self._log)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    @property
    def connection(self) -> Connection:
        """The run's connection, to read by what a run itself does not read."""
        return self._session.connection

    def observe(self, observer: Observer) -> None:
        """Have the files sent by the observer, which sees each statement."""
        self._observer = observer
        observer.failed = self._observing_failed

    @property
    def limits(self) -> str:
        """The run's limits, as SQL for one transaction on its connection."""
        return self._session.limits.as_sql(self._session.history)

    @property
    def seconds_left(self) -> float:
        """Until the deadline; infinite without one."""
        return self._session.seconds_left

    @property
    def has_time_for_a_file(self) -> bool:
        """Whether the deadline is far enough to begin a file."""
        return self._session.has_time_for_a_file

    def read(self, *, activity: Asked = Asked.NOTHING) -> History:
        """Read the history, by one query. Reads only: creates nothing, locks nothing.

        It also says what is asked of what is going on in the database.
        Raises HistoryConflict for a table that is not Onward's, or for several.
        """
        history = self._session.read_history(activity=activity)
        self._transaction.expect(history)
        return history

    def takeover(self, imported: Imported, migrations: Sequence[Migration]) -> History:
        """The history, with what is to be taken over from another tool's. Reads only.

        Raises HistoryConflict where the tool's history does not say what is applied.
        """
        history = self._session.history
        found = find_tool_history(
            self._session.connection, imported, self.limits, self._config.tenant
        )
        if found:
            takeover = take_over(imported, found, migrations, history.rows)
            history = self._session.history = history.with_takeover(takeover, found)
        return history

    def unavailable_extensions(self, names: Iterable[str]) -> set[str]:
        """Those of the extensions that the server cannot create. Reads only.

        Empty if this role may not know.
        """
        connection = self._session.connection
        reply = connection.read(
            _UNAVAILABLE_EXTENSIONS.format(names=", ".join(map(literal, names)))
        )
        if reply.lost:
            raise connection.error_for(reply)
        return set() if reply.error else {str(name) for (name,) in reply.rows}

    def groups(self, pending: Sequence[Migration]) -> list[Group]:
        """The files in order: those that are sent ahead together, and those that are not."""
        if self._observer:
            return [Group(tuple(pending), ahead=False)]
        return self._lane.groups(pending)

    def apply_ahead(self, files: Sequence[Migration]) -> int:
        """Apply the first of these files without waiting for replies; return how many.

        The others are to be applied one by one. Raises TableBusy, HistoryChanged, OutcomeUnknown.
        """
        return self._lane.apply(files)

    def apply(self, migration: Migration, following: Migration | None, backoff: Backoff) -> None:
        """Apply one file and record it. A file that follows begins in the same message.

        `backoff` is for statements of a no-transaction file that meet a busy table. Raises
        HistoryChanged, LockBusy, TableBusy, MigrationFailed (rolled back), PartlyApplied,
        OutcomeUnknown.
        """
        if self._is_recorded_only(migration):
            self._record_only(migration, following)
        elif migration.transactional:
            self._apply_in_transaction(migration, following)
        else:
            self._apply_statements(migration, following, backoff)

    def plan(self, migrations: Sequence[Migration]) -> None:
        """Run files in one transaction and roll it back; those without a transaction are left out.

        What it does not take back: sequences moved, and dead rows. Raises as `apply` does.
        """
        if self._session.history.table_id is None:
            self._transaction.begin_unplanned()
        else:
            self._transaction.begin()
        try:
            for migration in migrations:
                if migration.transactional and not self._is_recorded_only(migration):
                    with _others_before(migration is not migrations[0]):
                        self._run_for_plan(migration)
        finally:
            self._transaction.rollback()

    def _run_for_plan(self, migration: Migration) -> None:
        connection = self._session.connection
        self._log.running(migration.version)
        reply = self._send(migration, connection)
        self._session.forward_notices(migration, connection)
        if not reply.failed:
            reply = connection.send(self._recorder.clean_up_sql())
        if reply.failed:
            raise self._failure(migration, reply, ended=not connection.in_transaction)

    def _is_recorded_only(self, migration: Migration) -> bool:
        """Whether a checkpoint comes to a database that has what it stands for, or a part of it."""
        return bool(migration.stands_for and self._transaction.fingerprint.rows)

    def _record_only(self, migration: Migration, following: Migration | None) -> None:
        transaction_id = self._transaction.begin(migration.version)
        result = MigrationResult(migration.version, migration.name, None)
        self._record(result, migration, transaction_id, following)

    def _apply_in_transaction(self, migration: Migration, following: Migration | None) -> None:
        """The file is alone in its message, between one that begins its transaction and COMMIT."""
        transaction_id = self._transaction.begin(migration.version)
        connection = self._session.connection
        self._log.running(migration.version)
        started = time.perf_counter()
        reply = self._send(migration, connection)
        result = _result(migration, started)
        self._session.forward_notices(migration, connection)
        if reply.failed:
            ended = not connection.in_transaction
            self._transaction.rollback()
            raise self._failure(migration, reply, ended=ended)
        self._record(result, migration, transaction_id, following)

    def _send(self, migration: Migration, connection: Connection) -> Reply:
        if not self._observer:
            return connection.send(migration.sql, collect=False)
        try:
            return self._observer.send(migration, connection)
        except OnwardError:
            self._transaction.rollback()
            raise

    def _observing_failed(self, migration: Migration, error: OnwardError, required: bool) -> None:
        """Raise the error, with what was waited for; where no file need be observed, tell it."""
        if isinstance(error, LockBusy):
            error.blockers = self._session.blockers
            table = self._session.blocked_table
            error.message = error.message.replace(A_TABLE, table or A_TABLE)
        if required:
            raise error
        blocked = "".join(f"; blocked by {session}" for session in error.blockers)
        self._log.notice(migration, f"applied, but not observed: {error.message}{blocked}")

    def _apply_statements(
        self, migration: Migration, following: Migration | None, backoff: Backoff
    ) -> None:
        """A no-transaction file runs on a second connection, while this one holds the lock."""
        self._recorder.try_row(migration, self.schema.begun_sql(migration.version))
        self._transaction.hold_lock(migration.version)
        self._log.running(migration.version)
        started = time.perf_counter()
        with _second_connection():
            work = self._session.connect()
        with work:
            self._run_statements(migration, work, backoff)
        self._record(_result(migration, started), migration, None, following)

    def _run_statements(self, migration: Migration, work: Connection, backoff: Backoff) -> None:
        runner = StatementRunner(migration, work, self._session, self._log, backoff)
        runner.observer = self._observer
        # A pooler accepts a connection before it has one to the server.
        with _second_connection():
            self._set_limits(migration, work, runner)
        try:
            runner.run()
        except Interrupted as error:
            raise error.during(f"of {migration.version}, {runner.state}") from None
        except PartlyApplied as error:
            if error.failure.server.sqlstate in BUSY:
                error.blockers = self._session.blockers
            raise
        finally:
            self._session.forward_notices(migration, work)
            self._session.reset_for_pooler(work)

    def _set_limits(self, migration: Migration, work: Connection, runner: StatementRunner) -> None:
        direct = self._session.history.direct
        work.idle_hook = self._session.watch(str(work.pid) if direct else None)
        if direct:
            limits = self._session.limits.as_sql(self._session.history, scope="SESSION")
            work.query(f"{limits} {self._path_of_tenant()}")
            runner.concurrent_lock_timeout = max(self._config.busy_retry, self._config.lock_timeout)
        elif limits_found := limits_in_force(work):
            self._log.notice(
                migration,
                f"{', '.join(limits_found)}, set for the role or the database: "
                f"{_NO_LIMITS_THROUGH_A_POOLER}",
            )

    def _path_of_tenant(self) -> str:
        tenant = self._config.tenant
        return f"SET search_path TO {search_path(tenant)};" if tenant else ""

    def _record(
        self,
        result: MigrationResult,
        migration: Migration,
        transaction_id: str | None,
        following: Migration | None,
    ) -> None:
        begins = following and following.transactional and self.has_time_for_a_file
        next_version = following.version if following and begins else ""
        self._recorder.record(result, migration, transaction_id, next_version=next_version)

    def _failure(self, migration: Migration, reply: Reply, *, ended: bool) -> OnwardError:
        """The error for a file that failed; `ended` says that it ended its own transaction."""
        error = reply.failure
        if error.sqlstate in BUSY and not ended:
            return table_busy(migration, error, self._session.blockers)
        diagnostic = diagnose(migration, error, finished=reply.finished)
        if ended:
            return PartlyApplied(diagnostic, state=ENDED_ITS_TRANSACTION, next_step=LEAVE_ALONE)
        return MigrationFailed(diagnostic, state=ROLLED_BACK, next_step=remedy_for(error))


@contextmanager
def _second_connection() -> Iterator[None]:
    """An error within the block says that a no-transaction file needs a second connection."""
    try:
        yield
    except DatabaseUnavailable as error:
        error.next_step = f"{TWO_CONNECTIONS} {error.next_step}"
        raise


@contextmanager
def _others_before(others: bool) -> Iterator[None]:
    """If there are any, an error of a file within the block says that a run may not meet it."""
    try:
        yield
    except MigrationFailed as error:
        state = error.failure.server.sqlstate or ""
        if others and state.startswith(_FOR_WANT_OF_A_COMMIT):
            error.next_step = f"{_ONE_BY_ONE} {error.next_step}"
        raise


def _result(migration: Migration, started: float) -> MigrationResult:
    milliseconds = round((time.perf_counter() - started) * 1000)
    return MigrationResult(migration.version, migration.name, milliseconds)
