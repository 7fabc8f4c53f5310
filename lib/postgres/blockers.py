"""Which sessions block a run: the run lock's holder, and those that hold a lock it waits for."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import NamedTuple

from lib.errors import Interrupted, OnwardError
from lib.postgres.connection import Connection

MAX_QUERY_LENGTH = 80  # characters of a query that are shown
SAMPLE_SECONDS = 1.0  # the waiting connection cannot read its own reply during a sample
# Only for a session that waits for a lock: pg_blocking_pids stops all others for a moment.
_BLOCKERS = """
SELECT DISTINCT blocking.pid, a.application_name,
    round(extract(epoch FROM clock_timestamp() - coalesce(a.xact_start, a.backend_start))), a.query
FROM pg_stat_activity waiting
CROSS JOIN LATERAL unnest(pg_blocking_pids(waiting.pid)) blocking(pid)
LEFT JOIN pg_stat_activity a ON a.pid = blocking.pid
WHERE waiting.pid = {pid} AND waiting.wait_event_type = 'Lock'
ORDER BY blocking.pid
"""
_HOLDERS = """
SELECT a.pid, a.application_name, round(extract(epoch FROM clock_timestamp() - a.xact_start))
FROM pg_locks l
JOIN pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 AND l.database = a.datid
    AND a.datname = current_database() AND l.classid::bigint << 32 | l.objid::bigint = {key}
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


class BlockerMonitor:
    """Samples, on a second connection, which sessions block the first one."""

    def __init__(self, connect: Callable[[], Connection]) -> None:
        self._connect = connect
        self._connection: Connection | None = None
        self.last_seen: tuple[str, ...] = ()
        """The blockers of the last sample that found any, each described."""

    def sample(self, pid: str) -> None:
        """See which sessions block this one. Never raises for a connection that fails."""
        try:
            self._connection = self._connection or self._connect()
            self._connection.deadline = time.monotonic() + SAMPLE_SECONDS
            rows = self._connection.query(_BLOCKERS.format(pid=pid))
        except Interrupted:
            raise
        except OnwardError:
            self.close()
        else:
            self.last_seen = tuple(_described(*row) for row in rows) or self.last_seen

    def close(self) -> None:
        """Close the second connection, if there is one."""
        if self._connection:
            self._connection.close()
        self._connection = None


def lock_holders(connection: Connection, key: int) -> list[Session]:
    """The sessions that hold an advisory lock; none if this role cannot see them."""
    rows = connection.read(_HOLDERS.format(key=key)).rows
    return [Session(str(pid), name, age) for pid, name, age in rows]


def _described(pid: str | None, name: str | None, age: str | None, query: str | None) -> str:
    if pid == "0":
        return "a prepared transaction (see pg_prepared_xacts)"
    # A string may be a value of a row, or a password.
    shown = " ".join(re.sub(_STRING, "'…'", query or "").split())
    if len(shown) > MAX_QUERY_LENGTH:
        shown = shown[:MAX_QUERY_LENGTH] + "…"
    return f"{Session(str(pid), name, age)}: {shown}"
