"""What a run waits for: the run lock's holder, sessions that hold a lock it needs, a long build."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import NamedTuple

from lib.errors import Interrupted, OnwardError
from lib.postgres.connection import Connection, Rows

MAX_QUERY_LENGTH = 80  # characters of a query that are shown
REPORT_SECONDS = 10.0  # that a file still runs
# Sampled more often than a wait can time out.
BLOCKER_SAMPLE_FRACTION = 0.45  # of the lock timeout
SAMPLE_SECONDS = 1.0  # the waiting connection cannot read its own reply during a sample
# Only for a session that waits for a lock: pg_blocking_pids stops all others for a moment.
_BLOCKERS = """
SELECT DISTINCT blocking.pid, a.application_name,
    round(extract(epoch FROM clock_timestamp() - coalesce(a.xact_start, a.backend_start))), a.query,
    (SELECT max(relation::regclass::text) FROM pg_locks
    WHERE pid = waiting.pid AND NOT granted AND locktype = 'relation')
FROM pg_stat_activity waiting
CROSS JOIN LATERAL unnest(pg_blocking_pids(waiting.pid)) blocking(pid)
LEFT JOIN pg_stat_activity a ON a.pid = blocking.pid
WHERE waiting.pid = {pid} AND waiting.wait_event_type = 'Lock'
ORDER BY blocking.pid
"""
_INDEX_BUILD = """
SELECT relid::regclass, phase, CASE WHEN blocks_total > 0 THEN 100 * blocks_done / blocks_total
    WHEN tuples_total > 0 THEN 100 * tuples_done / tuples_total END
FROM pg_stat_progress_create_index WHERE pid = {pid} AND datname = current_database()
"""
HOLDERS = """
SELECT a.pid, a.application_name, round(extract(epoch FROM clock_timestamp() - a.xact_start)),
    extract(epoch FROM a.xact_start)
FROM pg_locks l
JOIN pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 AND l.database = a.datid
    AND a.datname = current_database() AND a.pid <> pg_backend_pid() AND {held}
"""
_STRING = r"(?s)'(?:[^'\\]|\\.|'')*'?|\$\w*\$.*"


class Session(NamedTuple):
    """A session of the server. `str` describes it."""

    pid: str
    application_name: str | None
    age_seconds: str | None

    def __str__(self) -> str:
        age = f", for {self.age_seconds} s" if self.age_seconds else ""
        return f"pid {self.pid}, {self.application_name or 'without a name'}{age}"


class SessionMonitor:
    """Sees, on a second connection, what the first one waits for."""

    def __init__(self, connect: Callable[[], Connection]) -> None:
        self._connect = connect
        self._connection: Connection | None = None
        self.blockers: tuple[str, ...] = ()
        """The sessions that block now, each described."""
        self.last_blockers: tuple[str, ...] = ()
        """Those of the last sample that found any."""
        self.last_table = ""
        """The table that was waited for then, qualified and quoted."""

    def forget(self) -> None:
        """Forget the blockers: another file begins."""
        self.blockers = self.last_blockers = ()
        self.last_table = ""

    def sample(self, pid: str) -> None:
        """See which sessions block this one."""
        found = self._rows(_BLOCKERS, pid)
        self.blockers = tuple(_described(*session) for *session, _ in found)
        if found:
            self.last_blockers = self.blockers
            self.last_table = found[0][-1] or ""

    def index_build(self, pid: str) -> tuple[str, ...]:
        """How far the index build of this session is, if it builds one."""
        return tuple(_build_described(*row) for row in self._rows(_INDEX_BUILD, pid))

    def close(self) -> None:
        """Close the second connection, if there is one."""
        if self._connection:
            self._connection.close()
        self._connection = None

    def _rows(self, query: str, pid: str) -> Rows:
        """The rows of a query about this session; none if the second connection fails."""
        try:
            self._connection = self._connection or self._connect()
            self._connection.deadline = time.monotonic() + SAMPLE_SECONDS
            return self._connection.query(query.format(pid=pid))
        except Interrupted:
            raise
        except OnwardError:
            self.close()
            return []


class Watch:
    """Watches the session that a file runs in, and reports every ten seconds that it still runs."""

    def __init__(
        self,
        monitor: SessionMonitor,
        pid: str | None,
        report: Callable[[float, tuple[str, ...]], None],
    ) -> None:
        """`pid` is the server's process; None if it is not known, behind a pooler."""
        self._monitor = monitor
        self._pid = pid
        self._report = report
        self._started = time.monotonic()
        self._next_report = self._started + REPORT_SECONDS

    def interval(self, lock_timeout: float) -> float:
        """How often to look, in seconds."""
        sample_seconds = lock_timeout * BLOCKER_SAMPLE_FRACTION or REPORT_SECONDS
        return min(sample_seconds, REPORT_SECONDS)

    def look(self) -> None:
        """Sample what blocks the session; report when it is time to."""
        if self._pid:
            self._monitor.sample(self._pid)
        now = time.monotonic()
        if now >= self._next_report:
            self._next_report = now + REPORT_SECONDS
            self._report(now - self._started, self._details())

    def _details(self) -> tuple[str, ...]:
        if not self._pid:
            return ()
        blocked = tuple(f"Blocked by {session}" for session in self._monitor.blockers)
        return blocked + self._monitor.index_build(self._pid)


def lock_holders(connection: Connection, held: str) -> list[Session]:
    """The other sessions that hold an advisory lock; none if this role cannot see them.

    `held` is a condition on the lock, a row `l` of pg_locks.
    """
    rows = connection.read(HOLDERS.format(held=held)).rows
    return [Session(str(pid), name, age) for pid, name, age, _ in rows]


def _described(pid: str | None, name: str | None, age: str | None, query: str | None) -> str:
    if pid == "0":
        return "a prepared transaction (see pg_prepared_xacts)"
    # A string may be a value of a row, or a password.
    shown = " ".join(re.sub(_STRING, "'…'", query or "").split())
    if len(shown) > MAX_QUERY_LENGTH:
        shown = shown[:MAX_QUERY_LENGTH] + "…"
    return f"{Session(str(pid), name, age)}: {shown}"


def _build_described(table: str | None, phase: str | None, percent: str | None) -> str:
    done = f", {percent} %" if percent else ""
    return f"Building an index on {table}: {phase}{done}"
