"""Reads what is going on in a database: a run under way, and what interrupted statements left."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from lib.activity import Activity, PendingDetach, RunningRun
from lib.postgres.blockers import HOLDERS
from lib.postgres.leftovers import LEFTOVERS
from lib.postgres.lock import RUN_LOCK_KEY

# An expression of type json, for the query that reads the history: it costs no round trip.
ACTIVITY = f"""json_build_object(
    'holders', (SELECT json_agg(one)
        FROM ({HOLDERS.format(key=RUN_LOCK_KEY)}) AS one (pid, name, age, since)),
    'left', (SELECT json_agg(one) FROM ({LEFTOVERS}) AS one (kind, oid, name, parent)))
"""  # noqa: S608


def activity_of(facts: dict[str, Any]) -> Activity:
    """What `ACTIVITY` has yielded."""
    holders, left = facts["holders"] or [], facts["left"] or []
    return Activity(
        running=_running(**holders[0]) if holders else None,
        invalid_indexes=tuple(one["name"] for one in left if not one["parent"]),
        pending_detaches=tuple(
            PendingDetach(one["parent"], one["name"]) for one in left if one["parent"]
        ),
    )


def _running(pid: int, name: str | None, since: float | None, **_: object) -> RunningRun:
    begun = None if since is None else datetime.fromtimestamp(since, UTC)
    return RunningRun(pid, _version(name or ""), begun)


def _version(application_name: str) -> str | None:
    """The last word of `onward VERSION ENVIRONMENT FILE`."""
    last = application_name.rpartition(" ")[2]
    return last if last[:1].isdigit() and application_name.count(" ") > 2 else None
