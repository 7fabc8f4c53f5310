"""The run lock: one run at a time in a database, whatever its schemas."""

from __future__ import annotations

from lib.errors import LockBusy
from lib.postgres.blockers import Session, lock_holders
from lib.postgres.connection import Connection

RUN_LOCK_KEY = 0x6F6E77617264  # "onward"


def try_lock_sql(result: str) -> str:
    """Take the lock for a transaction. Its row is the result and the server's pid.

    The result is NULL if another session holds the lock.
    """
    lock = f"CASE WHEN pg_try_advisory_xact_lock({RUN_LOCK_KEY}) THEN {result} END"
    return f"SELECT {lock}, pg_backend_pid();"


def waiting_notice(connection: Connection) -> str:
    """What to tell a user while the run waits for the lock."""
    holders = lock_holders(connection, RUN_LOCK_KEY)
    return f"another run holds the lock ({_named(holders) or 'unknown'}); waiting for it"


def lock_busy(connection: Connection) -> LockBusy:
    """The error when the lock could not be had in time."""
    holders = lock_holders(connection, RUN_LOCK_KEY)
    named = f": {_named(holders)}" if holders else ""
    end = f"; or end it: SELECT pg_terminate_backend({holders[0].pid})" if holders else ""
    return LockBusy(
        f"another run holds the lock on {connection.url}{named}",
        next_step=f"Run again when it is done{end}.",
    )


def _named(holders: list[Session]) -> str:
    return "; ".join(str(holder) for holder in holders)
