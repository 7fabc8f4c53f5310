"""A run's connection, and what the run knows of the database behind it."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from lib import VERSION
from lib.activity import Asked
from lib.errors import DatabaseUnavailable
from lib.events import RunLog
from lib.history import History
from lib.postgres.blockers import SessionMonitor, Watch
from lib.postgres.connecting import Budget, connect
from lib.postgres.connection import PIN_PATH, Connection, IdleHook
from lib.postgres.history import read_history
from lib.postgres.limits import SessionLimits
from lib.postgres.lock import RunLock
from lib.retry import Backoff
from lib.settings.config import Config
from lib.settings.database_url import DatabaseURL
from lib.source.migration import Migration

MIN_FILE_SECONDS = 1.0  # no file begins when the deadline is nearer than this
# Several processes poll: at random, so that they do not come at once.
POLL_SECONDS, POLL_JITTER = 0.05, 4.0

# What a session keeps whether its transaction is committed or not. Only statements that were
# prepared by SQL are deallocated: a pooler keeps those of its other clients on the same connection.
RESET_SESSION = """
RESET SESSION AUTHORIZATION; RESET ROLE; RESET ALL;
CLOSE ALL; UNLISTEN *; DISCARD TEMP; DISCARD SEQUENCES;
"""
DROP_LOCKS = "SELECT WHERE pg_advisory_unlock_all() IS NULL;"
DROP_PREPARED = """
DO $onward$
DECLARE
    prepared text;
BEGIN
    FOR prepared IN SELECT name FROM pg_prepared_statements WHERE from_sql LOOP
        EXECUTE format('DEALLOCATE %I', prepared);
    END LOOP;
END $onward$;
"""
_CLEAN_UP = f"""
BEGIN;
{PIN_PATH}
{DROP_LOCKS} {DROP_PREPARED}
COMMIT"""
_LIMITS_IN_FORCE = """
SELECT name || ' = ' || current_setting(name) FROM pg_settings
WHERE name IN ('lock_timeout', 'statement_timeout', 'transaction_timeout') AND setting <> '0'
ORDER BY name
"""


class RunSession:
    """One run's connection, history, limits and blockers. Close it when the run ends."""

    def __init__(
        self,
        config: Config,
        url: DatabaseURL,
        *,
        budget: Budget,
        deadline: float | None,
        log: RunLog,
    ) -> None:
        self.config = config
        self.log = log
        self._url = url
        self._deadline = deadline
        self._budget = budget.within(min(config.connect_wait, self.seconds_left))
        self._history: History | None = None
        self._monitor = SessionMonitor(partial(self.connect, 0.0))
        self.lock = RunLock(config.tenant)
        self.limits = SessionLimits(config, lambda: self.seconds_left, log.tell)
        self.connection = self.connect()

    def close(self) -> None:
        """Close all connections; the server rolls back what is open."""
        self.connection.close()
        self._monitor.close()

    @property
    def application_name(self) -> str:
        """What pg_stat_activity shows of the run."""
        return f"onward {VERSION} {self.config.environment}"

    @property
    def seconds_left(self) -> float:
        """Until the deadline; infinite without one."""
        return math.inf if self._deadline is None else self._deadline - time.monotonic()

    @property
    def has_time_for_a_file(self) -> bool:
        """Whether the deadline is far enough to begin a file."""
        return self.seconds_left > MIN_FILE_SECONDS

    @property
    def history(self) -> History:
        """The history as last read, with what the run has changed since."""
        return self._history or self.read_history()

    @history.setter
    def history(self, history: History) -> None:
        self._history = history

    @property
    def blockers(self) -> tuple[str, ...]:
        """The sessions that were last seen to block the run."""
        return self._monitor.last_blockers

    @property
    def blocked_table(self) -> str:
        """The table that they were last seen to block; empty if it is none."""
        return self._monitor.last_table

    def read_history(self, *, activity: Asked = Asked.NOTHING) -> History:
        """Read the history, by one query. Reads only: creates nothing, locks nothing.

        Only now does a pooler report that its server is gone: then it reconnects, within the
        budget. Raises HistoryConflict for a table that is not Onward's, or for several.
        """
        backoff = Backoff(self._budget.seconds, first=POLL_SECONDS, jitter=POLL_JITTER)
        backoff.start()
        while True:
            try:
                self._history = self._read_once(activity=activity)
            except DatabaseUnavailable as error:
                pause = backoff.next_pause() if error.retry else None
                if pause is None:
                    raise
                if backoff.attempts == 1:
                    budget = round(self._budget.seconds)
                    self.log.tell(f"{error.message}; retrying for up to {budget} s")
                time.sleep(pause)
                self.reconnect()
            else:
                return self._history

    def _read_once(self, *, activity: Asked) -> History:
        return read_history(
            self.connection,
            schema=self.config.schema,
            tenant=self.config.tenant,
            limits=self.limits.as_sql(None),
            activity=activity,
        )

    def connect(self, longest: float = math.inf) -> Connection:
        """Open another connection; `longest` is how many seconds to try at most."""
        budget = self._budget.within(min(self.seconds_left, longest))
        return connect(
            self._url,
            self.application_name,
            budget=budget,
            deadline=self._deadline,
            tell=self.log.tell,
        )

    def reconnect(self, longest: float = math.inf) -> None:
        """Replace the connection."""
        self.connection.close()
        self.connection = self.connect(longest)

    @contextmanager
    def other_deadline(self, deadline: float) -> Iterator[None]:
        """Within the block, the run has this deadline (monotonic seconds)."""
        kept, self._deadline = self._deadline, deadline
        try:
            yield
        finally:
            self.connection.deadline = self._deadline = kept

    def watch(self, pid: str | None) -> IdleHook:
        """Sees what blocks the server's process `pid`, and reports, while a reply is waited for.

        Without a pid, as behind a pooler, it reports only that the file still runs.
        """
        self._monitor.forget()
        watch = Watch(self._monitor, pid, self.log.still_running)
        return IdleHook(watch.interval(self.config.lock_timeout), watch.look)

    def forward_notices(self, migration: Migration, connection: Connection) -> None:
        """Show the last notices of a connection, and forget them."""
        dropped = connection.notice_count - len(connection.notices)
        if dropped > 0:
            self.log.notice(migration, f"({dropped} earlier notices not shown)")
        for text in connection.notices:
            self.log.notice(migration, text)
        connection.forget_notices()

    def rollback(self) -> None:
        """End an open transaction, and drop what a file left in the session."""
        if self.connection.in_transaction:
            self.connection.send(f"ROLLBACK; {_CLEAN_UP}")

    def reset_for_pooler(self, work: Connection) -> None:
        """Through a pooler, the next client would inherit what a no-transaction file left."""
        if not self.history.direct:
            work.send("ROLLBACK")
            work.send(RESET_SESSION + _CLEAN_UP)


def limits_in_force(connection: Connection) -> list[str]:
    """The limits of the role or the database, for a session in which none can be set."""
    return [str(setting) for (setting,) in connection.query(_LIMITS_IN_FORCE)]
