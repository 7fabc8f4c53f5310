"""The transactions of a run: one after another, each under the run lock and on the planned history.

What ends one transaction travels with what begins the next: that saves a round trip for each file.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from enum import Enum, auto

from lib.history import History
from lib.postgres.blockers import REPORT_SECONDS
from lib.postgres.check import NO_LOCK, NO_TIME, OTHER_TABLE, Case, check
from lib.postgres.connection import PIN_PATH, Reply, usual_path
from lib.postgres.history_table import Fingerprint, comparison, other_table, unchanged
from lib.postgres.session import MIN_FILE_SECONDS, POLL_JITTER, POLL_SECONDS, RunSession
from lib.quoting import literal
from lib.retry import Backoff

_NO_SUCH_TABLE, _NO_SUCH_COLUMN = "42P01", "42703"

_BEGIN = "BEGIN TRANSACTION ISOLATION LEVEL READ COMMITTED;"
# A pooler sets client_encoding and application_name by SET, so RESET ALL resets them.
_OPENING = """
RESET SESSION AUTHORIZATION; RESET ROLE; RESET ALL; DISCARD TEMP;
SET LOCAL client_encoding = 'UTF8'; SET LOCAL application_name = {name};
{pin}
{limits}
{lock}
"""


# The id of a transaction that is sent ahead, as SQL: it is not known when it is sent.
ID_AHEAD = "current_setting('onward.transaction', true)"
_REMEMBER_ID = "set_config('onward.transaction', pg_current_xact_id()::text, true)"


class HistoryChanged(Exception):
    """Under the lock the history is not the planned one: read and plan again."""


class _Kind(Enum):
    FOR_A_FILE = auto()
    IDLE = auto()
    """Holds the lock while another connection works."""
    UNPLANNED = auto()
    """Not compared with a plan."""


class Transaction:
    """The run's transaction in its connection, of which there is one at a time."""

    def __init__(self, session: RunSession) -> None:
        self._session = session
        self._expected = Fingerprint(0, 0)
        self._begun: Reply | None = None
        self._version = ""
        """The file that the transaction is for."""

    @property
    def fingerprint(self) -> Fingerprint:
        """The history at the beginning of this transaction."""
        return self._expected

    def expect(self, history: History) -> None:
        """The next transactions must find this history."""
        self._expected = Fingerprint(*history.fingerprint)

    def row_added(self, row_id: int, digest: int) -> None:
        """The next transactions must find this row, too."""
        self._expected = self._expected.plus(row_id, digest)

    def begin(self, version: str = "") -> str:
        """Begin a transaction for a file, whose version the session shows; return its id.

        Raises LockBusy, and HistoryChanged; then nothing is left open.
        """
        self._version = version
        return self._begin(_Kind.FOR_A_FILE)

    def hold_lock(self, version: str) -> None:
        """Begin a transaction that stands idle and holds the lock. Raises as `begin` does.

        It has no id, which would hold back vacuum, and no lock on the history, which would block
        files that work on the whole database: REINDEX, VACUUM FULL.
        """
        self._version = version
        self._begin(_Kind.IDLE)

    def begin_unplanned(self, *, until: float | None = None) -> str:
        """Begin a transaction on a history that is not compared with a plan. Returns its id.

        Waits for the lock `until` (monotonic seconds). Raises LockBusy.
        """
        return self._begin(_Kind.UNPLANNED, until)

    def send_commit(self, sql: str, reply: Reply, *, next_version: str = "") -> None:
        """Send the last statements and COMMIT. Fills the reply, also if a signal interrupts it.

        The transaction for the file `next_version` begins in the same message.
        """
        self._version = next_version
        opening = _BEGIN + self._opening(_Kind.FOR_A_FILE) if next_version else ""
        self._session.connection.send(f"{sql}COMMIT;{opening}", reply=reply)
        self._begun = reply if reply.completed("BEGIN") else None

    def opening_ahead(self, version: str, expected: Fingerprint, ends_at: float | None) -> str:
        """What begins a transaction for a file that is sent ahead.

        It fails, instead of being answered, where it is not under the lock, finds another history,
        or has no time before the deadline, which is by the server's clock in seconds of the epoch.
        """
        history = self._session.history
        attempt = self._session.lock.attempt(_REMEMBER_ID)
        opening = _OPENING.format(
            name=literal(f"{self._session.application_name} {version}"),
            limits=self._session.limits.as_sql(history, ends_at=ends_at),
            pin=PIN_PATH,
            lock=check(
                *_no_time(ends_at), Case(NO_LOCK, f"({attempt}) IS NULL"), other_table(history)
            ),
        )
        return _BEGIN + opening + unchanged(history, expected) + usual_path(history.tenant)

    def rollback(self) -> None:
        """End the transaction, and drop what a file left in the session."""
        self._session.rollback()

    def _begin(self, kind: _Kind, until: float | None = None) -> str:
        session = self._session
        session.limits.drop_missing(session.history)
        reply = self._locked(kind, until)
        if kind is not _Kind.UNPLANNED:
            self._require_expected_history(reply)
        transaction_id, pid = _lock_row(kind, reply)
        session.connection.idle_hook = session.watch(str(pid))
        return str(transaction_id)

    def _locked(self, kind: _Kind, until: float | None) -> Reply:
        """The reply of an opening that got the lock. Raises LockBusy."""
        session = self._session
        wait = session.config.lock_wait if until is None else max(0.0, until - time.monotonic())
        backoff = Backoff(wait, first=POLL_SECONDS, jitter=POLL_JITTER)
        reply = self._first_opening(kind)
        next_notice = time.monotonic()
        while _lock_row(kind, reply)[0] is None:
            pause = backoff.next_pause()
            if pause is None:
                self.rollback()
                raise session.lock.busy(session.connection)
            if time.monotonic() >= next_notice:
                session.log.tell(session.lock.waiting_notice(session.connection))
                next_notice = time.monotonic() + REPORT_SECONDS
            # Through a pooler, the holder may need the server's connection that waits here.
            turn = session.lock.turn_sql if session.history.direct else ""
            session.connection.send(f"ROLLBACK; {_BEGIN if turn else ''} {turn}")
            time.sleep(pause)
            reply = self._open(kind)
        return reply

    def _first_opening(self, kind: _Kind) -> Reply:
        begun, self._begun = self._begun, None
        if begun and kind is _Kind.FOR_A_FILE:
            return self._checked(begun, kind)
        reply = self._send_opening(kind)
        if reply.lost:
            # Lost while it was idle, by an idle_session_timeout for instance: nothing was at stake.
            self._session.reconnect()
            reply = self._send_opening(kind)
        return self._checked(reply, kind)

    def _open(self, kind: _Kind) -> Reply:
        return self._checked(self._send_opening(kind), kind)

    def _send_opening(self, kind: _Kind) -> Reply:
        session = self._session
        has_turn = session.connection.in_transaction
        begin = f"ROLLBACK; {_BEGIN} {session.lock.turn_sql}" if has_turn else _BEGIN
        return session.connection.send(begin + self._opening(kind))

    def _checked(self, reply: Reply, kind: _Kind) -> Reply:
        """The reply if it succeeded, after dropping the limits that the server refuses.

        Raises HistoryChanged if the history's table is gone or another one.
        """
        session = self._session
        while reply.error and session.limits.drop_refused(session.history, reply.error):
            self.rollback()
            reply = self._send_opening(kind)
        if not reply.failed:
            return reply
        self.rollback()
        if reply.failure.sqlstate in (_NO_SUCH_TABLE, _NO_SUCH_COLUMN, OTHER_TABLE):
            raise HistoryChanged
        raise session.connection.error_for(reply)

    def _opening(self, kind: _Kind) -> str:
        """What follows BEGIN."""
        session = self._session
        idle = kind is _Kind.IDLE
        opening = _OPENING.format(
            name=literal(f"{session.application_name} {self._version}".rstrip()),
            limits=session.limits.as_sql(session.history, stays_idle=idle),
            pin=PIN_PATH,
            lock=session.lock.try_sql("'held'" if idle else "pg_current_xact_id()::text"),
        )
        compared = "" if kind is _Kind.UNPLANNED else comparison(session.history)
        if idle:
            compared = f"SAVEPOINT onward; {compared} ROLLBACK TO onward;"
        return opening + compared + usual_path(session.history.tenant)

    def _require_expected_history(self, reply: Reply) -> None:
        found = Fingerprint(*(int(value or 0) for value in reply.rows[-1]))
        if not self._expected.matches(found):
            self.rollback()
            raise HistoryChanged
        self._expected = found


def _no_time(ends_at: float | None) -> Iterator[Case]:
    if ends_at is not None:
        yield Case(NO_TIME, f"clock_timestamp() > to_timestamp({ends_at - MIN_FILE_SECONDS})")


def _lock_row(kind: _Kind, reply: Reply) -> tuple[str | None, ...]:
    """The lock's row: the last, or before the comparison's. A COMMIT's rows may be before it."""
    return reply.rows[-1 if kind is _Kind.UNPLANNED else -2]
