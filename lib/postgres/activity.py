"""Reads what is going on in a database: a run under way, and what interrupted statements left."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

from lib.activity import Activity, Asked, PendingDetach, RunningRun
from lib.postgres.blockers import HOLDERS
from lib.postgres.leftovers import LEFTOVERS
from lib.postgres.lock import RunLock
from lib.sizes import LISTED_BYTES

# Of pg_class, as the last VACUUM or ANALYZE left it: pg_total_relation_size would wait for locks. A
# partitioned table has the size of its partitions.
_SIZES = f"""
WITH RECURSIVE stored AS (
    SELECT c.oid, c.relpages + coalesce((SELECT sum(i.relpages) FROM pg_index x
            JOIN pg_class i ON i.oid = x.indexrelid
            WHERE x.indrelid IN (c.oid, c.reltoastrelid)), 0)
        + coalesce((SELECT t.relpages FROM pg_class t WHERE t.oid = c.reltoastrelid), 0) AS pages,
        CASE WHEN c.reltuples < 0 THEN nullif(pg_stat_get_live_tuples(c.oid), 0)
            ELSE c.reltuples END AS rows
    FROM pg_class c WHERE c.relkind IN ('r', 'm')
), counted (oid, pages, rows) AS (
    SELECT oid, pages, rows FROM stored WHERE pages > 0
    UNION ALL
    SELECT i.inhparent, pages, rows FROM counted JOIN pg_inherits i ON i.inhrelid = counted.oid
    JOIN pg_class c ON c.oid = counted.oid AND c.relispartition
)
SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname) AS name,
    sum(pages)::bigint * current_setting('block_size')::bigint AS bytes, sum(rows)::bigint AS rows
FROM counted JOIN pg_class c USING (oid) JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
GROUP BY 1 HAVING sum(pages) * current_setting('block_size')::bigint >= {LISTED_BYTES}
"""  # noqa: S608

_HOLDERS = f"""
    'now', extract(epoch FROM clock_timestamp()), 'holders', (SELECT json_agg(one)
        FROM ({HOLDERS}) AS one (pid, name, age, since))
"""  # noqa: S608
_REST = f"""
    'sizes', (SELECT json_object_agg(name, json_build_array(bytes, rows))
        FROM ({_SIZES}) AS one),
    'left', (SELECT json_agg(one) FROM ({LEFTOVERS}) AS one (kind, oid, name, parent))
"""  # noqa: S608
# Whoever takes the lock has set this name, perhaps to something else.
_NAME_OF_A_RUN = r"onward \S+ .+ ([0-9]{3,}-[a-z0-9-]*)"


def activity_sql(asked: Asked, lock: RunLock) -> str:
    """An expression of type json, for the query that reads the history: it costs no round trip."""
    if asked is Asked.NOTHING:
        return "NULL"
    holders = _HOLDERS.format(held=lock.held_by_a_run)
    rest = f", {_REST}" if asked is Asked.ALL else ""
    return f"json_build_object({holders}{rest})"


def activity_of(facts: dict[str, Any]) -> Activity:
    """What `activity_sql` has yielded."""
    holders, left = facts["holders"] or [], facts.get("left") or []
    return Activity(
        running=_running(**holders[0]) if holders else None,
        invalid_indexes=tuple(one["name"] for one in left if not one["parent"]),
        pending_detaches=tuple(
            PendingDetach(one["parent"], one["name"]) for one in left if one["parent"]
        ),
        as_of=datetime.fromtimestamp(facts["now"], UTC),
        sizes={name: (size, rows) for name, (size, rows) in (facts.get("sizes") or {}).items()},
    )


def _running(pid: int, name: str | None, since: float | None, **_: object) -> RunningRun:
    begun = None if since is None else datetime.fromtimestamp(since, UTC)
    return RunningRun(pid, _version(name or ""), begun)


def _version(application_name: str) -> str | None:
    """The last word of `onward VERSION ENVIRONMENT FILE`."""
    found = re.fullmatch(_NAME_OF_A_RUN, application_name)
    return found[1] if found else None
