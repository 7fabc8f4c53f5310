"""The commands that restore a database to the point before a run, for the hosts that are known.

From the references of their command lines: `neon branches`, `supabase backups restore`, `aws rds
restore-db-instance-to-point-in-time` and `restore-db-cluster-to-point-in-time`. Pure.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from datetime import datetime

from lib.history import History
from lib.restore_point import RestorePoint, WayBack
from lib.settings.config import Config
from lib.settings.database_url import DatabaseURL

# Not `proxy-…`, `cluster-ro-…` or `cluster-custom-…`: these are not named after what is restored.
_RDS_HOST = re.compile(
    r"(?P<name>[a-z0-9-]+)\.(?P<cluster>cluster-)?[a-z0-9]+"
    r"\.(?P<region>[a-z0-9-]+)\.rds\.amazonaws\.com(\.cn)?"
)
_LONGEST_RDS_NAME = 63


def way_back(
    config: Config, history: History, point: RestorePoint | None, before: Sequence[str]
) -> WayBack | None:
    """How to restore this database to a point; `before` are the versions that came after it.

    None for a development database too: that is reset, not restored.
    """
    if not point or config.environment == "development":
        return None
    return WayBack(point, before, _commands(config.url, history, point))


def way_back_before_last_run(config: Config, history: History) -> WayBack | None:
    """How to restore this database to the point before the newest migration's run, if it is known.

    Only if no other row is newer: a baseline or a takeover has no such point.
    """
    newest = max(history.rows, key=lambda row: row.id, default=None)
    if not newest:
        return None
    of_run = [row.version for row in history.rows if row.restore_point == newest.restore_point]
    return way_back(config, history, newest.restore_point, of_run)


def _commands(url: DatabaseURL, history: History, point: RestorePoint) -> tuple[str, ...]:
    host = url.host.lower().rstrip(".")
    if history.neon_branch:
        return _of_neon(*history.neon_branch, point.time)
    if project := url.supabase_project:
        return _of_supabase(project, point.time)
    if rds := _RDS_HOST.fullmatch(host):
        restore = _of_aurora if rds["cluster"] else _of_rds
        return restore(rds["name"], rds["region"], point.time)
    return ()


def _of_neon(project: str, branch: str, time: datetime) -> tuple[str, ...]:
    """A new branch, which is then what its parent was at that time. The parent stays as it is."""
    new, at = f"before-{_compact(time)}", f"{branch}@{time.isoformat().replace('+00:00', 'Z')}"
    return (
        _line("neon branches create", "--project-id", project, "--name", new, "--parent", branch),
        _line("neon branches restore", new, at, "--project-id", project),
    )


def _of_supabase(project: str, time: datetime) -> tuple[str, ...]:
    """In place: there is no other way to a point in time."""
    seconds = str(int(time.timestamp()))
    return (_line("supabase backups restore", "--project-ref", project, "--timestamp", seconds),)


def _of_rds(name: str, region: str, time: datetime) -> tuple[str, ...]:
    command = "aws rds restore-db-instance-to-point-in-time"
    source = ("--source-db-instance-identifier", name)
    target = ("--target-db-instance-identifier", _new_name(name, time))
    when = ("--restore-time", _whole_seconds(time))
    return (_line(command, "--region", region, *source, *target, *when),)


def _of_aurora(name: str, region: str, time: datetime) -> tuple[str, ...]:
    """The cluster's storage; it has no instance until one is created in it."""
    command = "aws rds restore-db-cluster-to-point-in-time"
    source = ("--source-db-cluster-identifier", name)
    target = ("--db-cluster-identifier", _new_name(name, time))
    when = ("--restore-to-time", _whole_seconds(time))
    return (_line(command, "--region", region, *source, *target, *when),)


def _new_name(name: str, time: datetime) -> str:
    suffix = f"-before-{_compact(time)}"
    return name[: _LONGEST_RDS_NAME - len(suffix)].rstrip("-") + suffix


def _compact(time: datetime) -> str:
    return f"{time:%Y%m%d-%H%M%S}"


def _whole_seconds(time: datetime) -> str:
    """The second that it is in, which began before the run."""
    return f"{time:%Y-%m-%dT%H:%M:%SZ}"


def _line(command: str, *arguments: str) -> str:
    return f"{command} {shlex.join(arguments)}"
