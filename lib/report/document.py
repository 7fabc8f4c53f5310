"""Plan, run and error made into dicts for machines. Pure."""

import re
from datetime import UTC, datetime
from typing import Any

from lib.errors import MigrationFailed, MigrationResult, OnwardError
from lib.events import RunResult
from lib.plan import History, MigrationStatus, Plan, State
from lib.settings.config import Config


def status_dict(
    config: Config, history: History, plan: Plan, *, full: bool = False
) -> dict[str, Any]:
    """The status for machines; `full` adds checksums and audit columns, which are not public."""
    applied = [entry.applied for entry in plan.entries if entry.applied]
    last = max(applied, key=lambda row: row.id, default=None)
    return {
        "success": True,
        "environment": config.environment,
        "database": history.database,
        "pgVersion": f"PostgreSQL {history.version.split()[0]}",
        "state": str(plan.state),
        "appliedMigrations": len(applied),
        "pendingMigrations": len(plan.in_state(State.PENDING, State.OUT_OF_ORDER)),
        "lastMigration": last
        and {"version": last.version, "name": last.name, "appliedAt": iso(last.applied_at)},
        "migrations": [_entry_dict(entry, full=full) for entry in plan.entries],
    } | ({"trusted": history.trusted, "owner": history.owner} if full else {})


def summary_dict(config: Config, history: History, plan: Plan) -> dict[str, Any]:
    """What of the status names nothing: no migration, no database, no exact version of the server."""
    status = status_dict(config, history, plan)
    kept = (
        "success",
        "environment",
        "pgVersion",
        "state",
        "appliedMigrations",
        "pendingMigrations",
    )
    return {name: status[name] for name in kept} | {
        "pgVersion": re.sub(r"(\d+).*", r"\1", status["pgVersion"])
    }


def _entry_dict(entry: MigrationStatus, *, full: bool) -> dict[str, Any]:
    row = entry.applied
    public = {
        "version": entry.version,
        "name": entry.name,
        "state": str(entry.state),
        "appliedAt": iso(row.applied_at) if row else None,
        "executionTimeMs": row.execution_time_ms if row else None,
    }
    if not full:
        return public
    return public | {
        "checksum": row.checksum if row else entry.migration and entry.migration.checksum,
        "environment": row and row.environment,
        "identity": row and row.identity,
        "gitCommit": row and row.git_commit,
        "appliedBy": row and row.applied_by,
        **({"problem": entry.problem} if entry.problem else {}),
    }


def validation_dict(plan: Plan) -> dict[str, Any]:
    """What `validate` found."""
    problems = [
        {"version": entry.version, "state": str(entry.state), "message": entry.problem}
        for entry in plan.conflicts
    ]
    return {"success": not problems, "state": str(plan.state), "problems": problems}


def run_dict(run: RunResult) -> dict[str, Any]:
    """What a run did."""
    return {
        "success": True,
        "environment": run.environment,
        "database": run.database,
        "applied": [done_dict(done) for done in run.applied],
        "remaining": list(run.remaining),
        "complete": not run.remaining,
    }


def done_dict(done: MigrationResult) -> dict[str, Any]:
    """One applied migration."""
    return {"version": done.version, "name": done.name, "executionTimeMs": done.milliseconds}


def error_dict(error: OnwardError) -> dict[str, Any]:
    """An error with everything a terminal may show; HTTP shows less."""
    found: dict[str, Any] = {
        "code": error.code,
        "message": error.message,
        "nextStep": error.next_step,
    }
    if isinstance(error, MigrationFailed):
        failure = error.failure
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
            "state": error.state,
            "message": failure.server.message,
        }
    if error.blockers:
        found["blockers"] = list(error.blockers)
    document: dict[str, Any] = {"success": False, "error": found}
    if error.applied is not None:
        document |= {
            "applied": [done_dict(done) for done in error.applied],
            "remaining": list(error.remaining),
        }
    return document


def iso(moment: datetime | None) -> str | None:
    """UTC with milliseconds, as JavaScript writes it."""
    if moment is None:
        return None
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
