"""Reads what is going on in a database: a run under way, and what interrupted statements left."""

from __future__ import annotations

from datetime import UTC, datetime

from lib.activity import Activity, PendingDetach, RunningRun
from lib.postgres.blockers import Session, lock_holders
from lib.postgres.connection import Connection
from lib.postgres.leftovers import find_leftovers
from lib.postgres.lock import RUN_LOCK_KEY


def read_activity(connection: Connection) -> Activity:
    """Read it, in two round trips. Reads only; what cannot be read is left out."""
    holders = lock_holders(connection, RUN_LOCK_KEY)
    left = sorted(find_leftovers(connection) or (), key=str)
    return Activity(
        running=_running(holders[0]) if holders else None,
        invalid_indexes=tuple(name for _, _, name, parent in left if name and not parent),
        pending_detaches=tuple(
            PendingDetach(parent, name) for _, _, name, parent in left if name and parent
        ),
    )


def _running(session: Session) -> RunningRun:
    since = None if session.since is None else datetime.fromtimestamp(float(session.since), UTC)
    return RunningRun(int(session.pid), _version(session.application_name or ""), since)


def _version(application_name: str) -> str | None:
    """The last word of `onward VERSION ENVIRONMENT FILE`."""
    last = application_name.rpartition(" ")[2]
    return last if last[:1].isdigit() and application_name.count(" ") > 2 else None
