"""Plan, run and error as JSON documents. Pure."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from lib.activity import Activity
from lib.drift import Drift, mark_of
from lib.errors import MigrationFailed, MigrationResult, OnwardError, RunFailed
from lib.events import RunResult
from lib.history import AppliedMigration, History, Takeover
from lib.plan import MigrationStatus, Plan, State
from lib.remarks import Remark
from lib.report.text import next_step_text
from lib.restore_point import WayBack
from lib.restoring import way_back_before_last_run
from lib.settings.config import Config
from lib.source.numbering import BranchFile, NextNumber
from lib.source.pull_request import Base, Problem
from lib.validation import Validation

_SUMMARY_KEYS = (
    "success",
    "environment",
    "pgVersion",
    "state",
    "appliedMigrations",
    "pendingMigrations",
)


def status_dict(
    config: Config,
    history: History,
    plan: Plan,
    *,
    full: bool = False,
) -> dict[str, Any]:
    """The status. `full` adds what is not public: checksums, audit columns, what is going on."""
    rows = [entry.applied for entry in plan.entries if entry.applied]
    last = max(rows, key=lambda row: row.id, default=None)
    mark = mark_of(history)
    document: dict[str, Any] = {
        "success": True,
        "environment": config.environment,
        "database": history.database,
        "pgVersion": f"PostgreSQL {history.version.split()[0]}",
        "state": str(plan.state),
        "appliedMigrations": len(rows),
        "pendingMigrations": len(plan.in_state(State.PENDING, State.OUT_OF_ORDER)),
        "lastMigration": _last_dict(last) if last else None,
        "drift": str(mark.drift),
        "driftAsOf": iso(mark.as_of),
        "running": _running_dict(history.activity, plan, full=full),
        "migrations": [_entry_dict(entry, full=full) for entry in plan.entries],
    }
    if full:
        document |= {"trusted": history.trusted, "owner": history.owner}
        document |= {"schemaHash": mark.hash}
        document |= restore_point_dict(way_back_before_last_run(config, history))
        if history.takeover:
            document |= {"takeover": _takeover_dict(history.takeover)}
        if history.activity:
            document |= _activity_dict(history.activity)
    return document


def _takeover_dict(takeover: Takeover) -> dict[str, Any]:
    return {
        "tool": takeover.tool,
        "table": str(takeover.found),
        "versions": [row.version for row in takeover.rows],
        "edited": list(takeover.edited),
        "skipped": list(takeover.skipped),
    }


def _activity_dict(activity: Activity) -> dict[str, Any]:
    return {
        "asOf": iso(activity.as_of),
        "invalidIndexes": list(activity.invalid_indexes),
        "pendingDetaches": [one._asdict() for one in activity.pending_detaches],
        "sizes": {name: list(size) for name, size in sorted(activity.sizes.items())},
    }


def _running_dict(activity: Activity | None, plan: Plan, *, full: bool) -> dict[str, Any] | None:
    if not activity or not (running := activity.running):
        return None
    version = running.file_among(entry.version for entry in plan.entries)
    document = {"version": version, "since": iso(running.since)}
    return document | {"pid": running.pid} if full else document


def summary_dict(config: Config, history: History, plan: Plan) -> dict[str, Any]:
    """The status without names: of no migration, no database, no exact version of the server."""
    status = status_dict(config, history, plan)
    summary = {name: status[name] for name in _SUMMARY_KEYS}
    return summary | {"pgVersion": re.sub(r"(\d+).*", r"\1", status["pgVersion"])}


def _last_dict(row: AppliedMigration) -> dict[str, Any]:
    return {"version": row.version, "name": row.name, "appliedAt": iso(row.applied_at)}


def _entry_dict(entry: MigrationStatus, *, full: bool) -> dict[str, Any]:
    row = entry.applied
    document: dict[str, Any] = {
        "version": entry.version,
        "name": entry.name,
        "state": str(entry.state),
        "appliedAt": iso(row.applied_at) if row else None,
        "executionTimeMs": row.execution_time_ms if row else None,
    }
    if full:
        document |= {
            "checksum": row.checksum if row else entry.migration and entry.migration.checksum,
            "environment": row and row.environment,
            "identity": row and row.identity,
            "gitCommit": row and row.git_commit,
            "appliedBy": row and row.applied_by,
        }
        if entry.is_conflict:
            document["problem"] = _sentence(entry.remark)
    return document


def validation_dict(found: Validation) -> dict[str, Any]:
    """What `validate` found out about files and history."""
    problems = [
        _problem_dict(one.version, one.state, _sentence(one.remark)) for one in found.plan.conflicts
    ]
    problems += [
        _problem_dict(migration.version, State.PENDING, refusal)
        for migration, refusal in found.refusals
    ]
    return {"success": not problems, "state": str(found.plan.state), "problems": problems}


def _problem_dict(version: str, state: State, message: str) -> dict[str, str]:
    return {"version": version, "state": str(state), "message": message}


def _sentence(remark: Remark) -> str:
    return f"{remark.message}; {'; or '.join(remark.remedies)}"


def run_dict(run: RunResult, *, full: bool = False) -> dict[str, Any]:
    """What a run applied, and what remains.

    `full` adds the restore point, whose commands name the host's instance or project.
    """
    return {
        "success": True,
        "environment": run.environment,
        "database": run.database,
        **progress_dict(run),
        **({"drift": str(Drift.FOUND)} if run.drift_found else {}),
        **(restore_point_dict(run.way_back) if full else {}),
        "complete": not run.remaining,
    }


def progress_dict(run: RunResult | RunFailed) -> dict[str, Any]:
    """How far a run came."""
    document: dict[str, Any] = {
        "applied": [done_dict(done) for done in run.applied],
        "remaining": list(run.remaining),
    }
    if run.taken_over:
        document |= {"takenOver": list(run.taken_over)}
    return document


def restore_point_dict(back: WayBack | None) -> dict[str, Any]:
    """The point before a run with the commands that restore to it; empty without one."""
    if not back:
        return {}
    point = {"time": iso(back.point.time), "lsn": back.point.lsn, "before": list(back.before)}
    return {"restorePoint": point | {"commands": list(back.commands)}}


def done_dict(done: MigrationResult) -> dict[str, Any]:
    """One applied migration."""
    return {"version": done.version, "name": done.name, "executionTimeMs": done.milliseconds}


def number_dict(found: NextNumber) -> dict[str, Any]:
    """The files of other branches that have to do with the number of a file."""
    return {
        "takenBy": found.taken and _branch_file_dict(found.taken),
        "notFollowed": [_branch_file_dict(one) for one in found.ignored],
    }


def _branch_file_dict(one: BranchFile) -> dict[str, str]:
    return {"branch": one.branch, "file": one.name}


def check_dict(base: Base, new: Sequence[str], problems: Sequence[Problem]) -> dict[str, Any]:
    """What `check` has found out about the files of a branch."""
    return {
        "success": not problems,
        "base": base.name,
        "mergeBase": base.commit,
        "newFiles": list(new),
        "problems": [
            {"file": str(one.path), "message": one.what, "commands": list(one.commands)}
            for one in problems
        ],
    }


def error_dict(error: OnwardError) -> dict[str, Any]:
    """An error with everything that a terminal may show; HTTP shows less."""
    cause = error.cause
    found: dict[str, Any] = {
        "code": cause.code,
        "message": cause.message,
        "nextStep": next_step_text(error),
    }
    if isinstance(cause, MigrationFailed):
        failure = cause.failure
        found |= {
            "version": failure.version,
            "file": failure.path,
            "line": failure.line,
            "column": failure.column,
            "statement": failure.statement or None,
            "sqlstate": failure.server.sqlstate,
            "detail": failure.server.detail,
            "hint": failure.server.hint,
            "constraint": failure.server.constraint,
            "state": cause.state,
            "message": failure.server.message,
        }
    if cause.blockers:
        found["blockers"] = list(cause.blockers)
    document: dict[str, Any] = {"success": False, "error": found}
    if isinstance(error, RunFailed):
        document |= progress_dict(error) | restore_point_dict(error.way_back)
    return document


def error_document(code: str, message: str, **details: Any) -> dict[str, Any]:
    """The form that every public error has, whoever sends it."""
    return {"success": False, "error": {"code": code, "message": message, **details}}


def public_error_dict(error: OnwardError) -> dict[str, Any]:
    """What may be said of an error to anybody, in fixed words.

    Of a failed migration also where and by which SQLSTATE; of a run, how far it came.
    """
    document = error_document(error.code, error.public_message, **_public_details(error.cause))
    return document | progress_dict(error) if isinstance(error, RunFailed) else document


def _public_details(cause: OnwardError) -> dict[str, Any]:
    if not isinstance(cause, MigrationFailed):
        return {}
    failure = cause.failure
    return {
        "version": failure.version,
        "sqlstate": failure.server.sqlstate,
        "constraint": failure.server.constraint,
        "line": failure.line,
    }


def iso(moment: datetime | None) -> str | None:
    """UTC with milliseconds, as JavaScript writes it."""
    if moment is None:
        return None
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
