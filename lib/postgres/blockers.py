"""Who is in the way: the session that holds a run's lock, and those that a waiting one waits for."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from lib.errors import Interrupted, OnwardError
from lib.postgres.connection import Connection

_SHOWN = 80  # characters of a query
_PATIENCE = 1.0  # seconds for a look: the one who waits cannot read its answer meanwhile
# Only while it does wait for a lock: pg_blocking_pids stops all others for a moment.
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
_LITERAL = r"(?s)'(?:[^'\\]|\\.|'')*'?|\$\w*\$.*"


class BlockerMonitor:
    """A second session, opened when it is first needed, that looks at what the first one waits for."""

    def __init__(self, connect: Callable[[], Connection]) -> None:
        self._connect = connect
        self._session: Connection | None = None
        self.seen: tuple[str, ...] = ()
        """The blockers that were last seen, in words."""

    def look(self, pid: str) -> None:
        """See which sessions keep this one waiting; where none does, what was seen before stands."""
        try:
            self._session = self._session or self._connect()
            self._session.deadline = time.monotonic() + _PATIENCE
            rows = self._session.query(_BLOCKERS.format(pid=pid))
        except Interrupted:
            raise
        except OnwardError:
            self.close()
        else:
            self.seen = tuple(_in_words(*row) for row in rows) or self.seen

    def close(self) -> None:
        """End the second session, if there is one."""
        if self._session:
            self._session.close()
        self._session = None


def holders(session: Connection, key: int) -> list[tuple[str, str]]:
    """The pids of the sessions that hold an advisory lock, each with a description; none if they
    cannot be seen.
    """
    rows = session.read(_HOLDERS.format(key=key)).rows
    return [(str(pid), _session_in_words(pid, name, age)) for pid, name, age in rows]


def _in_words(pid: str | None, name: str | None, age: str | None, query: str | None) -> str:
    if pid == "0":
        return "a prepared transaction (see pg_prepared_xacts)"
    # A literal may be a row's, or a password.
    shown = " ".join(re.sub(_LITERAL, "'…'", query or "").split())
    cut = shown[:_SHOWN] + "…" if len(shown) > _SHOWN else shown
    return f"{_session_in_words(pid, name, age)}: {cut}"


def _session_in_words(pid: str | None, name: str | None, age: str | None) -> str:
    return f"pid {pid}, {name or 'without a name'}" + (f", for {age} s" if age else "")
