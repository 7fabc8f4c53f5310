"""Plain small files, sent ahead: a window of them in one pipeline, without waiting for replies.

Each is a transaction of its own, under the run lock, with its row, and runs only if the history is
the one that the files before it leave. This reports no failure: whatever surprises it, the files
whose COMMIT was not answered are applied one by one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import groupby
from typing import NamedTuple

from lib.errors import Interrupted, MigrationResult
from lib.events import RunLog
from lib.postgres.backend import SEE_BACKEND, Backend
from lib.postgres.commit_recovery import INTERRUPTED_LOOKUP_SECONDS, Commit
from lib.postgres.connecting import CONNECT_BUDGET
from lib.postgres.connection import BUSY, CANCELLED, Reply, Rows, Step
from lib.postgres.history_table import Fingerprint, rows_to_come, written_by_run
from lib.postgres.recording import Recorder, table_busy
from lib.postgres.session import RunSession
from lib.postgres.transaction import HistoryChanged, Transaction
from lib.quoting import literal
from lib.source.lexer import split
from lib.source.migration import Migration

MIN_FILES, MAX_FILES = 4, 100
MAX_FILE_BYTES, MAX_WINDOW_BYTES = 64_000, 256_000
MAX_STATEMENTS = 500
# After these settings, the server reads a text otherwise than it was split into statements.
_OTHER_SYNTAX = re.compile(rb"(?i)standard_conforming_strings|client_encoding")
# By it, a server that works for nobody stops.
_CHECK_INTERVAL = "client_connection_check_interval"


class Group(NamedTuple):
    """Consecutive files, and whether they are sent ahead."""

    files: tuple[Migration, ...]
    ahead: bool


class _Window(NamedTuple):
    """Files that are sent together."""

    files: Sequence[Migration]
    before: Fingerprint
    """The history that the first of them finds."""
    rows: list[tuple[int, int]]
    """The id and digest that each one's row will have."""
    backend: Backend
    ends_at: float | None
    """The deadline by the server's clock, in seconds of the epoch."""

    @property
    def name(self) -> str:
        """The first and the last of the files."""
        return f"{self.files[0].version} to {self.files[-1].version}"


class Lane:
    """Sends files of a run ahead, until something surprises it."""

    def __init__(
        self, session: RunSession, transaction: Transaction, recorder: Recorder, log: RunLog
    ) -> None:
        self._session = session
        self._transaction = transaction
        self._recorder = recorder
        self._log = log
        self._is_open = session.config.ahead

    def groups(self, pending: Sequence[Migration]) -> list[Group]:
        """The files in order: those that are sent ahead together, and those that are not."""
        if not self._is_possible:
            return [Group(tuple(pending), ahead=False)]
        # What a deadline cuts off is left for the next run, which tells it if it is applied alone.
        alone = 0 if self._session.seconds_left == math.inf else 1
        return list(_groups(pending, alone))

    def apply(self, files: Sequence[Migration]) -> int:
        """Apply files up to one that surprises; return how many are applied.

        Raises TableBusy if the one that surprises met a lock, HistoryChanged if the connection was
        lost, and OutcomeUnknown.
        """
        window = self._window(files) if self._is_possible else None
        if window is None:
            return 0
        self._log.sent_ahead([migration.version for migration in files])
        try:
            applied, failure = self._send(window)
        except Interrupted:
            self._resolve(window, INTERRUPTED_LOOKUP_SECONDS, 0.0)
            raise
        if failure:
            self._is_open = False
            self._recover(window, files[applied], failure)
        return applied

    @property
    def _is_possible(self) -> bool:
        session, history = self._session, self._session.history
        stops_for_nobody = _CHECK_INTERVAL in session.limits.supported(history)
        has_usual_syntax = session.connection.has_standard_strings
        has_time = session.has_time_for_a_file
        return all((self._is_open, history.direct, stops_for_nobody, has_usual_syntax, has_time))

    def _window(self, files: Sequence[Migration]) -> _Window | None:
        """What is sent; None if the history has changed, or its rows to come cannot be known."""
        rows = [self._recorder.row_ahead(migration) for migration in files]
        sql = SEE_BACKEND + rows_to_come(self._session.history, rows)
        found = self._session.connection.read(sql).rows
        if len(found) != len(files) + 2:
            return None
        (pid, now), compared, *to_come = found
        before = Fingerprint(*(int(value or 0) for value in compared))
        if not self._transaction.fingerprint.matches(before):
            return None
        backend = Backend(int(pid or 0), float(now or 0))
        return _Window(
            files,
            before,
            [(int(row_id or 0), int(digest or 0)) for row_id, digest in to_come],
            backend,
            self._ends_at(backend),
        )

    def _ends_at(self, backend: Backend) -> float | None:
        # The moment is past by now, so the server's deadline is not after the run's.
        left = self._session.seconds_left
        return None if left == math.inf else backend.seen_at + left

    def _batches(self, window: _Window) -> Iterator[list[Step]]:
        """What is sent for each of the files."""
        history = window.before
        for migration, row in zip(window.files, window.rows, strict=True):
            opening = self._transaction.opening_ahead(migration.version, history, window.ends_at)
            history = history.plus(*row)
            recording = self._recorder.ahead_sql(migration, history, window.ends_at)
            of_file = [Step(statement.text, collect=False) for statement in split(migration.text())]
            yield [*_own_steps(opening), *of_file, *_own_steps(recording)]

    def _send(self, window: _Window) -> tuple[int, Reply | None]:
        """How many files are applied, and the reply to the first that is not."""
        applied, failure = 0, None
        connection = self._session.connection
        self._watch()
        with closing(connection.send_ahead(self._batches(window))) as replies:
            # To the end, which follows a reply that failed.
            for reply, migration, row in zip(replies, window.files, window.rows, strict=False):
                if reply.completed("COMMIT") and not failure:
                    self._session.forward_notices(migration, connection)
                    self._committed(migration, row, reply)
                    self._watch()
                    applied += 1
                else:
                    failure = failure or reply
        connection.forget_notices()  # of a file that will run again
        return applied, failure

    def _watch(self) -> None:
        """From now on, see what blocks the file that runs, and report how long it runs."""
        connection = self._session.connection
        connection.idle_hook = self._session.watch(str(connection.pid))

    def _committed(self, migration: Migration, row: tuple[int, int], reply: Reply) -> None:
        milliseconds = int(reply.rows[0][0] or 0)
        self._log.committed(MigrationResult(migration.version, migration.name, milliseconds))
        self._transaction.row_added(*row)
        self._log.announce(migration.version)

    def _recover(self, window: _Window, migration: Migration, failure: Reply) -> None:
        """Make the connection fit for applying files one by one, from this one on."""
        if failure.lost:
            self._resolve(window, CONNECT_BUDGET.seconds, self._session.config.lock_wait)
            self._log.tell(
                f"the connection was lost after {window.name} were sent; which of them are applied "
                "was confirmed after reconnecting"
            )
            raise HistoryChanged
        self._transaction.rollback()
        if failure.failure.sqlstate == CANCELLED and not self._session.has_time_for_a_file:
            self._log.tell(
                f"{migration.version} was cut off at the deadline and rolled back; the next run "
                "begins with it"
            )
        if failure.failure.sqlstate in BUSY:
            raise table_busy(migration, failure.failure, self._session.blockers)

    def _resolve(self, window: _Window, reconnect_seconds: float, lock_seconds: float) -> None:
        """Find out which files of a window are applied, if its replies are lost.

        The server is kept from beginning another, and what it has done is read under the lock.
        Raises OutcomeUnknown.
        """
        rows = zip((row_id for row_id, _ in window.rows), window.files, strict=True)
        written = ", ".join(f"({row_id}, {literal(one.version)})" for row_id, one in rows)
        of_this_run = written_by_run(self._session.history, self._log.restore_point)
        commit = Commit(
            self._session,
            self._transaction,
            window.name,
            committed_when=f"(id, version) IN ({written}) AND {of_this_run}",
            sent_to=window.backend,
        )
        self._report(window, commit.rows_in_history(reconnect_seconds, lock_seconds))

    def _report(self, window: _Window, found: Rows) -> None:
        """Tell which of the files have these rows, as far as that is not told yet."""
        milliseconds = {(int(row or 0), int(digest or 0)): ms for row, digest, ms in found}
        told = {result.version for result in self._log.applied}
        for migration, row in zip(window.files, window.rows, strict=True):
            if row in milliseconds and migration.version not in told:
                spent = int(milliseconds[row] or 0)
                self._log.committed(MigrationResult(migration.version, migration.name, spent))
                self._log.announce(migration.version)


def _groups(pending: Sequence[Migration], alone: int) -> Iterator[Group]:
    """`alone` is how many of the first are not sent ahead in any case."""
    one_by_one = tuple(pending[:alone])
    for plain, files in groupby(pending[alone:], key=is_plain):
        together = tuple(files)
        if not plain or len(together) < MIN_FILES:
            one_by_one += together
            continue
        if one_by_one:
            yield Group(one_by_one, ahead=False)
        yield from (Group(window, ahead=True) for window in _windows(together))
        one_by_one = ()
    if one_by_one:
        yield Group(one_by_one, ahead=False)


def _windows(files: Sequence[Migration]) -> Iterator[tuple[Migration, ...]]:
    window: tuple[Migration, ...] = ()
    for migration in files:
        size = sum(len(one.content) for one in (*window, migration))
        if window and (len(window) == MAX_FILES or size > MAX_WINDOW_BYTES):
            yield window
            window = ()
        window += (migration,)
    yield window


def is_plain(migration: Migration) -> bool:
    """Whether a file may be sent ahead, statement by statement."""
    if not migration.transactional or migration.stands_for:
        return False
    if len(migration.content) > MAX_FILE_BYTES or _OTHER_SYNTAX.search(migration.content):
        return False
    if migration.content.count(b";") < MAX_STATEMENTS:
        return True
    return sum(1 for _ in split(migration.text())) <= MAX_STATEMENTS


def _own_steps(sql: str) -> Iterator[Step]:
    # Every semicolon ends a statement there: values and names are written without one.
    for statement in filter(None, map(str.strip, sql.split(";"))):
        yield Step(statement, collect=True)
