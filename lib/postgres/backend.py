"""The server's process behind a connection: know it again, and end it."""

from __future__ import annotations

from typing import NamedTuple

from lib.postgres.connection import Connection

SEE_BACKEND = "SELECT pg_backend_pid(), EXTRACT(epoch FROM clock_timestamp());"
# As the role that logged in, whose process it is: an ALTER ROLE ... SET role makes it act as
# another. And not a later process that was given the same pid.
_TERMINATE = """
SET LOCAL ROLE NONE;
SELECT pg_terminate_backend(pid, {milliseconds}) FROM pg_stat_activity
WHERE pid = {pid} AND backend_start < to_timestamp({seen_at})
"""
_WAIT_MS = 1000


class Backend(NamedTuple):
    """A process of the server, and when it was seen: seconds of the epoch by the server's clock."""

    pid: int
    seen_at: float


def terminate(connection: Connection, backend: Backend) -> None:
    """End what the server may still do for a connection of the same login that is gone.

    Waits a second for it. Where it cannot be ended, the run lock says whether it is at work.
    """
    connection.read(_TERMINATE.format(milliseconds=_WAIT_MS, **backend._asdict()))
