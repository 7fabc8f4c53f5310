"""Plan, run and error made into text for people and into dicts for machines. Pure."""

from collections.abc import Iterable

from lib.errors import MigrationFailed, MigrationResult, OnwardError, ServerError
from lib.events import Event, Notice, Retry, RunResult, Started
from lib.plan import History, MigrationStatus, Plan, State
from lib.printable import hanging
from lib.settings.config import Config
from lib.source.migration import DRAFT

_MARKS = {State.APPLIED: "✅", State.PENDING: "⏳", State.AHEAD: "⏩"}
_TITLES = (
    ("Applied Migrations", (State.APPLIED, State.MODIFIED, State.MISSING)),
    ("Ahead of these files", (State.AHEAD,)),
    ("Pending Migrations", (State.PENDING, State.OUT_OF_ORDER)),
)


def status_text(config: Config, history: History, plan: Plan) -> str:
    """The status for people."""
    width = max([35, *(len(entry.version) for entry in plan.entries)])
    lines = [
        "📊 Migration Status",
        "",
        f"Database: {history.database}",
        f"Environment: {config.environment}",
    ]
    for title, states in _TITLES:
        entries = plan.in_state(*states)
        if entries:
            lines += [
                "",
                f"{title} ({len(entries)}):",
                *(_entry_text(entry, width) for entry in entries),
            ]
        elif State.AHEAD not in states:
            lines += ["", f"{title}: None"]
    if plan.conflicts:
        lines += [
            "",
            "Conflicts:",
            *(f"{entry.state}: {entry.problem}" for entry in plan.conflicts),
        ]
    warnings = _warnings(plan)
    if not history.trusted:
        warnings.append(
            f"⚠️  {history.table} belongs to {history.owner}, whom {history.role} does not trust: "
            "it is only shown"
        )
    if warnings:
        lines += ["", *warnings]
    return _joined(lines)


def _entry_text(entry: MigrationStatus, width: int) -> str:
    line = f"{_MARKS.get(entry.state, '❌')} {entry.version}"
    if row := entry.applied:
        line += " " * (width - len(entry.version))
        line += (
            f" ({row.applied_at:%Y-%m-%d %H:%M:%S} UTC)" if row.applied_at else " (time unknown)"
        )
        line += f" - {row.execution_time_ms}ms" if row.execution_time_ms is not None else ""
    return line if entry.state in (State.APPLIED, State.PENDING) else f"{line}  {entry.state}"


def _warnings(plan: Plan) -> list[str]:
    warnings = []
    if unverified := [entry.version for entry in plan.entries if entry.unverified]:
        warnings.append(f"⚠️  Applied without a checksum, so not verified: {', '.join(unverified)}")
    if ahead := plan.in_state(State.AHEAD):
        warnings.append(
            f"⚠️  The database is ahead of these files by {len(ahead)}: an older build, after a "
            "rollback?"
        )
    return warnings


def event_text(config: Config, event: Event) -> str:
    """One event of a run, for people."""
    match event:
        case Started(history, plan):
            return _started_text(config, history, plan)
        case Notice(migration, text):
            return hanging(f"   {migration.version}: {text}" if migration else f"⚠️  {text}")
        case Retry(error, pause):
            return _joined([f"⏳ {error.message}; once more in {pause:.1f} s", *_blocked_by(error)])
        case MigrationResult(version, _, milliseconds):
            return f"✅ Applied: {version} ({milliseconds}ms)"


def _started_text(config: Config, history: History, plan: Plan) -> str:
    count = len(plan.pending)
    lines = [
        f"Database: {config.url}",
        f"Environment: {config.environment} (from {config.environment_source})",
        f"Pending: {count or 'none'} of {len(plan.entries)}, PostgreSQL "
        f"{history.version.split()[0]}",
        *_warnings(plan),
        *(
            f"⚠️  {one.version} has no statement in it: it is only recorded"
            for one in plan.pending
            if one.is_empty and DRAFT not in one.directives
        ),
    ]
    return _joined(lines)


def run_text(run: RunResult) -> str:
    """The last line of a run."""
    count = len(run.applied)
    if not count:
        return "✅ Nothing to do: no migration is pending"
    return f"✅ {count} migration{'' if count == 1 else 's'} applied successfully"


def error_text(error: OnwardError) -> str:
    """An error for people: what, where, what state things are in, what to do next."""
    lines = _failure_lines(error) if isinstance(error, MigrationFailed) else [f"❌ {error.message}"]
    lines += _blocked_by(error)
    if error.applied is not None:
        lines.append(
            f"Applied in this run: {', '.join(done.version for done in error.applied) or 'none'}."
        )
        if error.remaining:
            lines.append(f"Not applied: {', '.join(error.remaining)}.")
    return _joined([*lines, *([f"Next: {error.next_step}"] if error.next_step else [])])


def _joined(lines: Iterable[str]) -> str:
    """Lines of ours; one that has words of others in it may go on, but begins no other."""
    return "\n".join(map(hanging, lines))


def _blocked_by(error: OnwardError) -> list[str]:
    return [f"   Blocked by {blocker}" for blocker in error.blockers]


def _failure_lines(error: MigrationFailed) -> list[str]:
    failure, server = error.failure, error.failure.server
    place = f"{failure.path}:{failure.line}:{failure.column}" if failure.line else failure.path
    said = (("Detail", server.detail), ("Hint", server.hint), ("Context", server.context))
    return [
        f"❌ FAILED {place}   {failure.statement}".rstrip(),
        *(failure.excerpt.split("\n") if failure.excerpt else []),
        ("ERROR " if server.sqlstate else "ERROR: ") + _message(server),
        *(f"{title}: {text}" for title, text in said if text),
        f"State: {error.state}.",
    ]


def _message(server: ServerError) -> str:
    return f"{server.sqlstate}: {server.message}" if server.sqlstate else server.message
