"""COMMIT, and what became of it if its reply is lost."""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import Enum
from typing import NamedTuple

from lib.errors import DatabaseUnavailable, Interrupted, OnwardError, OutcomeUnknown
from lib.postgres.backend import Backend, terminate
from lib.postgres.connecting import CONNECT_BUDGET
from lib.postgres.connection import Reply, Rows
from lib.postgres.history_table import same_table, stored_where
from lib.postgres.session import POLL_JITTER, POLL_SECONDS, RunSession
from lib.postgres.transaction import HistoryChanged, Transaction
from lib.retry import Backoff

INTERRUPTED_LOOKUP_SECONDS = 5.0  # to resolve a COMMIT when a user wants to stop the run


class Outcome(Enum):
    """What became of a COMMIT."""

    COMMITTED = "committed"
    """The server said so, or the history does, read under the lock."""
    ROLLED_BACK = "rolled back"


class CommitResult(NamedTuple):
    """A COMMIT's outcome, its reply, and the rows that came back for it."""

    outcome: Outcome
    reply: Reply
    rows: Rows


class Commit:
    """The COMMIT of one transaction.

    `committed_when` is an SQL condition on the history that is true once it has taken effect;
    without one, a lost reply means to plan again. What follows a COMMIT that is lost is ended if it
    is known what process of the server it was `sent_to`.
    """

    def __init__(
        self,
        session: RunSession,
        transaction: Transaction,
        what: str,
        *,
        committed_when: str | None,
        sent_to: Backend | None = None,
    ) -> None:
        self._session = session
        self._transaction = transaction
        self._what = what
        self._committed_when = committed_when
        self._sent_to = sent_to

    def send(
        self,
        sql: str,
        *,
        on_commit: Callable[[], None] = lambda: None,
        next_version: str = "",
    ) -> CommitResult:
        """Send the last statements of the transaction and COMMIT. Raises OutcomeUnknown.

        `on_commit` is called at once, since a signal may come before the next step. The
        transaction for the file `next_version` begins in the same message.
        """
        reply = Reply()
        try:
            self._transaction.send_commit(sql, reply, next_version=next_version)
            lock_seconds = self._session.config.lock_wait
            result = self._result(reply, CONNECT_BUDGET.seconds, lock_seconds)
            _report(result, on_commit)
        except Interrupted:
            if self._committed_when:
                _report(self._result(reply, INTERRUPTED_LOOKUP_SECONDS, 0.0), on_commit)
            raise
        if result.outcome is Outcome.ROLLED_BACK:
            self._transaction.rollback()
        return result

    def _result(self, reply: Reply, reconnect_seconds: float, lock_seconds: float) -> CommitResult:
        """What became of the COMMIT. Raises OutcomeUnknown, and HistoryChanged."""
        if reply.completed("COMMIT"):
            return CommitResult(Outcome.COMMITTED, reply, reply.rows)
        if not reply.lost:
            return CommitResult(Outcome.ROLLED_BACK, reply, [])
        rows = self.rows_in_history(reconnect_seconds, lock_seconds)
        if self._committed_when is None:
            raise HistoryChanged
        if not rows:
            return CommitResult(Outcome.ROLLED_BACK, reply, [])
        self._session.log.tell(
            f"the reply to the COMMIT of {self._what} was lost; confirmed after reconnecting"
        )
        return CommitResult(Outcome.COMMITTED, reply, rows)

    def rows_in_history(self, reconnect_seconds: float, lock_seconds: float) -> Rows:
        """The rows for which the condition holds, read under the lock.

        Without the lock, their absence would prove nothing: the COMMIT may still be on its way.
        Raises OutcomeUnknown.
        """
        left = min(reconnect_seconds + lock_seconds, self._session.seconds_left)
        backoff = Backoff(reconnect_seconds, first=POLL_SECONDS, jitter=POLL_JITTER)
        backoff.start()
        deadline = time.monotonic() + max(1.0, left)
        with self._session.other_deadline(deadline):
            while True:
                try:
                    return self._read_under_lock(backoff.seconds_left, deadline)
                except Interrupted:
                    raise
                except OnwardError as error:
                    # Also a server that is unsuitable now: after a failover, the new primary may
                    # be reached by the same name in a moment.
                    unavailable = isinstance(error, DatabaseUnavailable)
                    again = unavailable and self._session.seconds_left > 0
                    pause = backoff.next_pause() if again else None
                    if pause is None:
                        raise self._unknown(error) from None
                    time.sleep(pause)

    def _read_under_lock(self, reconnect_seconds: float, deadline: float) -> Rows:
        self._session.reconnect(reconnect_seconds)
        if self._sent_to:
            terminate(self._session.connection, self._sent_to)
        self._transaction.begin_unplanned(until=deadline)
        rows = self._session.connection.query(self._condition()) if self._committed_when else []
        self._transaction.rollback()
        return rows

    def _condition(self) -> str:
        history = self._session.history
        condition = self._committed_when or ""
        return f"{same_table(history, owner=True)} {stored_where(history, condition)}"

    def _unknown(self, error: OnwardError) -> OutcomeUnknown:
        return OutcomeUnknown(
            f"the connection was lost during the COMMIT of {self._what}, and whether it took "
            f"effect could not be determined: {error.message}",
            next_step="Check with `scripts/migrate.py status`; if it is still pending, run again.",
        )


def _report(result: CommitResult, on_commit: Callable[[], None]) -> None:
    if result.outcome is Outcome.COMMITTED:
        on_commit()
