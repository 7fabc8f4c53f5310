"""The run lock: one run at a time in a database, whatever its schemas, or in one tenant's schema.

Runs for several tenants share the database's key, and each has a key of its own. A run for the
database takes that key alone, so it waits until all of them are between two files. Meanwhile it
holds a third key, its turn, which they all pass through before they share the first one: else there
would always be one of them that runs a file.
"""

from __future__ import annotations

from hashlib import sha256
from typing import NamedTuple

from lib.errors import LockBusy
from lib.postgres.blockers import Session, lock_holders
from lib.postgres.connection import Connection

RUN_LOCK_KEY = 0x6F6E77617264  # "onward"
TURN_KEY = RUN_LOCK_KEY + 1
_EXCLUSIVE, _SHARED = "ExclusiveLock", "ShareLock"

_TRY_ALONE = f"""
CASE WHEN pg_try_advisory_xact_lock({RUN_LOCK_KEY}) THEN {{result}}
    WHEN pg_try_advisory_xact_lock({TURN_KEY}) THEN NULL END
"""
# Each CASE is there for the order. The turn is given back at once: between the two calls nothing
# can interrupt the session.
_TRY_SHARED = f"""
CASE WHEN pg_try_advisory_xact_lock({{key}}) THEN
    CASE WHEN pg_try_advisory_lock_shared({TURN_KEY}) THEN
        CASE WHEN pg_advisory_unlock_shared({TURN_KEY}) THEN
            CASE WHEN pg_try_advisory_xact_lock_shared({RUN_LOCK_KEY}) THEN {{result}} END
        END
    END
END
"""
_TAKE_TURN = f"SELECT pg_catalog.pg_try_advisory_xact_lock({TURN_KEY});"


class RunLock(NamedTuple):
    """The lock of a run for a database, or for the schema of one of its tenants."""

    tenant: str | None = None

    def try_sql(self, result: str) -> str:
        """Take the lock for a transaction. Its row is the result and the server's pid.

        The result is NULL if another session holds the lock.
        """
        return f"SELECT {self.attempt(result)}, pg_backend_pid();"

    def attempt(self, result: str) -> str:
        """An expression that takes the lock for a transaction: the result, or NULL."""
        template = _TRY_SHARED if self.tenant else _TRY_ALONE
        return template.format(key=self._key, result=result)

    @property
    def turn_sql(self) -> str:
        """Keep, for another transaction, what `try_sql` took when it did not get the lock."""
        return "" if self.tenant else _TAKE_TURN

    @property
    def held_by_a_run(self) -> str:
        """A condition on pg_locks: the lock of a run for the same."""
        return _held((self._key, _EXCLUSIVE))

    def waiting_notice(self, connection: Connection) -> str:
        """What to tell a user while the run waits for the lock."""
        holders = lock_holders(connection, self._held_by_others)
        return f"another run holds the lock ({_named(holders) or 'unknown'}); waiting for it"

    def busy(self, connection: Connection) -> LockBusy:
        """The error when the lock could not be had in time."""
        holders = lock_holders(connection, self._held_by_others)
        named = f": {_named(holders)}" if holders else ""
        end = f"; or end it: SELECT pg_terminate_backend({holders[0].pid})" if holders else ""
        of = f"the schema {self.tenant} of " if self.tenant else ""
        return LockBusy(
            f"another run holds the lock on {of}{connection.url}{named}",
            next_step=f"Run again when it is done{end}.",
        )

    @property
    def _key(self) -> int:
        if self.tenant is None:
            return RUN_LOCK_KEY
        digest = sha256(f"onward {self.tenant}".encode()).digest()
        return int.from_bytes(digest[:8], "big") >> 1  # of a bigint, positive

    @property
    def _held_by_others(self) -> str:
        """A condition on pg_locks: what keeps this run from the lock."""
        if self.tenant is None:
            return _held((RUN_LOCK_KEY, _EXCLUSIVE), (RUN_LOCK_KEY, _SHARED))
        return _held(*((key, _EXCLUSIVE) for key in (self._key, TURN_KEY, RUN_LOCK_KEY)))


def _held(*locks: tuple[int, str]) -> str:
    wanted = ", ".join(f"({key}, '{mode}')" for key, mode in locks)
    return f"(l.classid::bigint << 32 | l.objid::bigint, l.mode) IN ({wanted})"


def _named(holders: list[Session]) -> str:
    return "; ".join(str(holder) for holder in holders)
