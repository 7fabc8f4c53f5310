"""Transactions that hold the run's lock: one after the other in one session, each on top of the
history as planned.

What ends one transaction travels with what opens the next: that is a round trip less for each file.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from lib import VERSION
from lib.errors import (
    DatabaseUnavailable,
    HistoryConflict,
    Interrupted,
    LockBusy,
    OnwardError,
    OutcomeUnknown,
    ServerError,
    TableBusy,
)
from lib.plan import History
from lib.postgres.blockers import BlockerMonitor, holders
from lib.postgres.connection import (
    CONNECT_BUDGET,
    PIN_PATH,
    USUAL_PATH,
    Budget,
    Connection,
    IdleHook,
    Reply,
    connect,
)
from lib.postgres.history import read_history
from lib.postgres.history_table import (
    LOOK_AT_TRIGGERS,
    NOT_STORED,
    OTHER_TABLE,
    ROWS_CHANGED,
    Fingerprint,
    comparison,
    same_table,
    stored_where,
)
from lib.quoting import literal
from lib.settings.config import Config
from lib.settings.database_url import DatabaseURL

_LOCK_KEY = 0x6F6E77617264  # "onward": one run at a time in a database, whatever its schemas
_POLL = (0.05, 0.25)
_OFTEN = 0.45  # of a lock timeout
_WANTED = frozenset(("client_connection_check_interval", "idle_in_transaction_session_timeout"))
_HURRY = 5.0  # seconds to find out what became of a COMMIT when somebody wants to stop the run

_OPEN = """
BEGIN TRANSACTION ISOLATION LEVEL READ COMMITTED;
RESET SESSION AUTHORIZATION; RESET ROLE; RESET ALL; DISCARD TEMP;
SET LOCAL client_encoding = 'UTF8'; SET LOCAL application_name = {name}; -- which a pooler had SET, not the connection
{limits}
{pin}
SELECT CASE WHEN pg_try_advisory_xact_lock({key}) THEN {proof} END, pg_backend_pid();
"""

# What a session keeps whether its transaction is committed or not. Only what was prepared by SQL is
# deallocated: a pooler keeps its other clients' prepared statements on the same connection.
RESET = """
RESET SESSION AUTHORIZATION; RESET ROLE; RESET ALL; CLOSE ALL; UNLISTEN *; DISCARD TEMP; DISCARD SEQUENCES;
"""
FORGET = """
    PERFORM pg_advisory_unlock_all();
    FOREACH prepared IN ARRAY ARRAY(SELECT name FROM pg_prepared_statements WHERE from_sql) LOOP
        EXECUTE format('DEALLOCATE %I', prepared);
    END LOOP;
"""
_FORGET_ALL = (
    f"BEGIN; {PIN_PATH} DO $onward$ DECLARE prepared text; BEGIN {FORGET} END $onward$; COMMIT"
)


_THEIRS = """
SELECT name || ' = ' || current_setting(name) FROM pg_settings
WHERE name IN ('lock_timeout', 'statement_timeout', 'transaction_timeout') AND setting <> '0' ORDER BY name
"""


class HistoryChanged(Exception):
    """Under the lock the history is not what the plan was made from: plan again."""


class Transaction:
    """The session of a run, what it knows of the database, and the transactions in it."""

    def __init__(
        self,
        config: Config,
        url: DatabaseURL,
        *,
        budget: Budget,
        deadline: float | None,
        say: Callable[[str], None],
    ) -> None:
        self._config = config
        self._url = url
        self._deadline = deadline
        self._budget = budget.within(self.seconds_left)
        self._say = say
        self.session = self.connect()
        self._observer = BlockerMonitor(partial(self.connect, 0.0))
        self._history: History | None = None
        self._refused: set[str] = set()
        self._fingerprint = Fingerprint(0, 0)
        self._opened: Reply | None = None

    def close(self) -> None:
        """End all sessions; what is open in them is rolled back."""
        self.session.close()
        self._observer.close()

    @property
    def seconds_left(self) -> float:
        """Until the deadline; infinite without one."""
        return math.inf if self._deadline is None else self._deadline - time.monotonic()

    @property
    def blockers(self) -> tuple[str, ...]:
        """The sessions that were last seen in the way of this transaction."""
        return self._observer.seen

    @property
    def fingerprint(self) -> Fingerprint:
        """What the history is at the beginning of this transaction."""
        return self._fingerprint

    def recorded(self, row: int, digest: int) -> None:
        """One row more, of this id and digest, is what the next transaction is compared with."""
        self._fingerprint = self._fingerprint.plus(row, digest)

    def learned(self, **changed: Any) -> None:
        """What this run itself has changed about the table since it was read."""
        self._history = self.known()._replace(**changed)

    def read(self) -> History:
        """The history and what goes with it, by one query. Reads only: creates nothing, locks
        nothing.

        A pooler shows only now that there is no server behind it: so it connects again, within the
        budget. Raises HistoryConflict for a table that is not ours, or several that are.
        """
        last, said = time.monotonic() + self._budget.seconds, False
        while True:
            try:
                self._history = self._read()
            except DatabaseUnavailable as error:
                if type(error) is not DatabaseUnavailable or time.monotonic() > last:
                    raise
                if not said:
                    self._say(
                        f"{error.message}; trying again for {round(self._budget.seconds)} s at most"
                    )
                    said = True
                _pause(*_POLL)
                self.session.close()
                self.session = self.connect()
            else:
                self._fingerprint = Fingerprint(*self._history.fingerprint)
                return self._history

    def _read(self) -> History:
        return read_history(
            self.session, schema=self._config.schema, limits=self.limits(optional=False)
        )

    def open(
        self, *, holding: bool = False, compare: bool = True, until: float | None = None
    ) -> str:
        """Begin a transaction that holds the run's lock, and return the proof of it.

        The proof is the transaction's id, or for `holding`, a transaction that will stand idle, a
        mere word: one with an id would hold back vacuum. Raises LockBusy, or HistoryChanged with
        nothing left open.
        """
        for name in sorted(_WANTED - self.known().limits - self._refused):
            self._go_without(name, "it is fixed there")
        opened, self._opened = self._opened, None
        answer = self._begin(opened, holding=holding, compare=compare)
        if (
            answer.lost and not opened
        ):  # while it stood idle, when nothing was at stake: an idle_session_timeout may be
            self.session.close()
            self.session = self.connect()
            answer = self._begin(holding=holding, compare=compare)
        until, waiting = until or time.monotonic() + self._config.lock_wait, False
        while not (lock := self._lock(answer, compare=compare)):
            if time.monotonic() > until:
                self.rollback()
                raise self._busy()
            if not waiting:
                who = "; ".join(words for _, words in holders(self.session, _LOCK_KEY))
                self._say(f"another run holds the lock ({who or 'unknown'}); waiting for it")
                waiting = True
            self.session.send(
                "ROLLBACK"
            )  # a pooler's connection that is waited in is one that the holder may need
            _pause(*_POLL)
            answer = self._begin(holding=holding, compare=compare)
        if compare:
            found = Fingerprint(*(int(value or 0) for value in answer.rows[-1]))
            if not self._fingerprint.matches(found):
                self.rollback()
                raise HistoryChanged
            self._fingerprint = found
        proof, pid = lock
        self.session.watch = self.watching(pid)
        return proof

    def _begin(self, answer: Reply | None = None, *, holding: bool, compare: bool) -> Reply:
        """Send the opening; again without a limit that the server refuses."""
        answer = answer or self.session.send(self._opening(holding=holding, compare=compare))
        while answer.error and (refused := self._refused_limit(answer.error)):
            self.rollback()
            self._go_without(refused, answer.error.message)
            answer = self.session.send(self._opening(holding=holding, compare=compare))
        return answer

    def _go_without(self, limit: str, why: str) -> None:
        self._refused.add(limit)
        self._say(
            f"this server does not take {limit} from a session ({why}): if this process is killed "
            "or freezes, its "
            "locks may stay for a while"
        )

    def _refused_limit(self, error: ServerError) -> str | None:
        limits = self.known().limits - self._refused
        return next((name for name in limits if f'"{name}"' in error.message), None)

    def _busy(self) -> LockBusy:
        found = holders(self.session, _LOCK_KEY)
        who = "; ".join(words for _, words in found)
        end = f"; or end it: SELECT pg_terminate_backend({found[0][0]})" if found else ""
        message = f"another run holds the lock on {self._url}" + (f": {who}" if who else "")
        return LockBusy(message, next_step=f"Run again when it is done{end}.")

    def _opening(self, *, holding: bool = False, compare: bool = True) -> str:
        proof = "'held'" if holding else "pg_current_xact_id()::text"
        limits = self.limits(holding=holding)
        name = literal(self._name)
        opening = _OPEN.format(name=name, limits=limits, pin=PIN_PATH, key=_LOCK_KEY, proof=proof)
        compared = comparison(self.known()) if compare else ""
        # A lock on the table would stand in the way of a file that works on the whole database:
        # REINDEX, VACUUM FULL.
        compared = f"SAVEPOINT onward; {compared} ROLLBACK TO onward;" if holding else compared
        return opening + compared + USUAL_PATH

    def _lock(self, answer: Reply, *, compare: bool) -> tuple[str, str] | None:
        """The proof of a lock and the pid that has it; None where another session has it."""
        if answer.error or answer.lost:
            self.rollback()
            if answer.error and answer.error.sqlstate in (
                "42P01",
                "42703",
                OTHER_TABLE,
            ):  # no such table, or column
                raise HistoryChanged
            raise self.session.complaint(answer)
        proof, pid = answer.rows[
            -2 if compare else -1
        ]  # behind those of a COMMIT that travelled with it
        return (proof, str(pid)) if proof else None

    def watching(self, pid: str) -> IdleHook | None:
        """To see who keeps this session waiting; more often than a wait can time out."""
        self._observer.seen = ()
        timeout = self._config.lock_timeout
        return IdleHook(timeout * _OFTEN, partial(self._observer.look, pid)) if timeout else None

    def change(self, sql: Callable[[], str], landed: str | None, *, compare: bool = True) -> Reply:
        """A whole transaction of ours, without a file; `sql` is asked for when the history is
        compared.
        """
        self.open(compare=compare)
        answer = self.commit("the history", sql(), landed)
        if "COMMIT" not in answer.tags:
            sqlstate = answer.failure.sqlstate
            if sqlstate in ("42P07", OTHER_TABLE):
                raise HistoryChanged
            if sqlstate in (NOT_STORED, ROWS_CHANGED):
                raise HistoryConflict(
                    f"{answer.failure.message}; rolled back", next_step=LOOK_AT_TRIGGERS
                )
            error = self.session.complaint(answer)
            error.blockers = self.blockers if isinstance(error, TableBusy) else ()
            raise error
        return answer

    def commit(
        self,
        what: str,
        sql: str,
        landed: str | None,
        *,
        note: Callable[[Reply], None] = lambda _: None,
        open_next: bool = False,
    ) -> Reply:
        """Send the end of a transaction and COMMIT; where the answer is lost, find out whether that
        was done.

        `landed` is what holds for a row of the history if it was; without it, the plan is made
        again. `note` gets the answer at once, for a signal may come between the answer and the next
        step. `open_next` opens the next one in the same message. Without COMMIT among the answer's
        tags it was not done. Raises OutcomeUnknown.
        """
        answer = Reply()
        try:
            self.session.send(f"{sql}COMMIT;" + (self._opening() if open_next else ""), into=answer)
            if answer.lost and "COMMIT" not in answer.tags:
                self._find_out(what, answer, landed, CONNECT_BUDGET.seconds, self._config.lock_wait)
            note(answer)
        except Interrupted:
            if landed and "COMMIT" not in answer.tags:
                self._find_out(what, answer, landed, _HURRY, 0.0)
            note(answer)
            raise
        if "COMMIT" not in answer.tags:
            self.rollback()
        if "BEGIN" in answer.tags:
            self._opened = answer
        return answer

    def _find_out(
        self, what: str, answer: Reply, landed: str | None, away: float, wait: float
    ) -> None:
        """Whether a COMMIT was done whose answer was lost: a look under the lock, by a new
        connection.

        Without the lock absence would prove nothing: the COMMIT may still be on its way. The
        database may stay `away` for so many seconds, and another run hold the lock for `wait`
        seconds more.
        """
        now = time.monotonic()
        kept, self._deadline = self._deadline, now + max(1.0, min(away + wait, self.seconds_left))
        while (rows := self._look_again(what, landed, now + away)) is None:
            _pause(*_POLL)
        self.session.deadline = self._deadline = kept
        if landed is None:
            raise HistoryChanged
        if rows:
            answer.rows, answer.tags, answer.error, answer.lost = rows, ["COMMIT"], None, False
            self._say(f"the answer to the COMMIT of {what} was lost; confirmed after reconnecting")

    def _look_again(
        self, what: str, landed: str | None, away: float
    ) -> list[tuple[str | None, ...]] | None:
        """What has landed; None if this connection is lost too, and it is not yet `away` (monotonic
        seconds).
        """
        self.session.close()
        try:
            self.session = self.connect(away - time.monotonic())
            self.open(compare=False, until=self._deadline)
            rows = self.session.query(self._stored(landed)) if landed else []
            self.rollback()
        except Interrupted:
            raise
        except OnwardError as error:
            if (
                isinstance(error, DatabaseUnavailable)
                and time.monotonic() < away
                and self.seconds_left > 0
            ):
                return None
            raise OutcomeUnknown(
                f"the connection was lost while {what} was being committed, and whether it is "
                "applied could not be "
                f"found out: {error.message}",
                next_step="Look with `status`; if it is still pending, run again.",
            ) from None
        return rows

    def _stored(self, condition: str) -> str:
        """The rows of the history for which a condition holds, if it is still the same table."""
        history = self.known()
        return f"DO $onward$ BEGIN {same_table(history, owner=True)} END $onward$; {stored_where(history, condition)}"

    def rollback(self) -> None:
        """End the transaction, if one is open, and what a file left behind in the session."""
        if self.session.in_transaction:
            self.session.send(f"ROLLBACK; {_FORGET_ALL}")

    def leave(self, work: Connection) -> None:
        """Let a pooler's next client find nothing of a file that ran without a transaction."""
        if not self.known().direct:
            work.send("ROLLBACK")
            work.send(RESET + _FORGET_ALL)

    def limits(self, *, holding: bool = False, optional: bool = True) -> str:
        """Settings that die with the transaction: through a pooler, others would reach the next
        client.
        """
        config = self._config
        wanted = {
            "client_connection_check_interval": 2.0,
            "idle_in_transaction_session_timeout": 0 if holding else 60.0,
            # The role's or the database's own are meant for the application.
            "idle_session_timeout": 0,
            "transaction_timeout": 0,
            # The server's side of what the client's has too: for a client that vanished from the
            # network.
            "tcp_keepalives_idle": 5.0,
            "tcp_keepalives_interval": 2.0,
            "tcp_user_timeout": 15.0,
        }
        known = self.known().limits - self._refused if optional else frozenset()
        longest = min(config.statement_timeout or math.inf, self.seconds_left)
        limits = {
            "lock_timeout": config.lock_timeout,
            "statement_timeout": 0 if longest == math.inf else max(longest, 0.001),
        }
        limits |= {name: seconds for name, seconds in wanted.items() if name in known}
        return " ".join(
            f"SET LOCAL {name} = '{round(seconds * 1000)}ms';" for name, seconds in limits.items()
        )

    def limits_of_others(self, work: Connection) -> list[str]:
        """The limits of the role or the database that hold in a session in which none can be set."""
        return [f"{setting}" for (setting,) in work.query(_THEIRS)]

    def connect(self, longest: float = math.inf) -> Connection:
        """Another session with the same database, tried for so many seconds at most."""
        budget = self._budget.within(min(self.seconds_left, longest))
        return connect(self._url, self._name, budget=budget, deadline=self._deadline, say=self._say)

    @property
    def _name(self) -> str:
        return f"onward {VERSION} {self._config.environment}"

    def known(self) -> History:
        """The history as it was last read."""
        return self._history or self.read()


def _pause(least: float, most: float) -> None:
    """With jitter, so that those who wait do not come all at once."""
    time.sleep(random.uniform(least, most))  # noqa: S311 - jitter, not a secret
