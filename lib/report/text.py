"""Plan, run and error as text for people. Pure.

Lines are short: what happened, where, what state the database is in, what to do.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import chain
from typing import NamedTuple

from lib.activity import Activity, RunningRun
from lib.drift import Drift, mark_of
from lib.errors import (
    AccessRefused,
    BaseConflict,
    ConfigError,
    DatabaseUnavailable,
    DatabaseUnsuitable,
    DuplicateNumbers,
    FilesError,
    HistoryConflict,
    HistoryHidden,
    HostUnknown,
    HostUnreachable,
    Interrupted,
    LockBusy,
    MigrationFailed,
    MigrationResult,
    NotEmpty,
    NotProved,
    OnwardError,
    OutcomeUnknown,
    PartlyApplied,
    PasswordRefused,
    RepositoryError,
    RunFailed,
    SchemaDrift,
    ServerError,
    TableBusy,
    UntrustedHistory,
    WrongEnvironment,
)
from lib.events import (
    Event,
    Notice,
    Progress,
    Retry,
    Running,
    RunResult,
    SentAhead,
    Started,
    TakenOver,
)
from lib.history import History, Takeover, off_path_warning
from lib.plan import MigrationStatus, Plan, State
from lib.printable import hanging
from lib.restore_point import WayBack
from lib.restoring import way_back_before_last_run
from lib.settings.assistant import Assistant
from lib.settings.config import Config
from lib.source.migration import DRAFT
from lib.source.numbering import MAX_LEAP, NextNumber
from lib.source.pull_request import Base, Problem
from lib.takeover import takeover_lines

_EXIT_CODES_PAGE = "docs/exit-codes.md#exit-codes"
_RESTORE_PAGE = "docs/rolling-back.md#restoring-a-database"
_NUMBERS_PAGE = "docs/writing-migrations.md#numbers-and-branches"
# Where the documentation explains each error. A class that is not here has its base class's page.
PAGES: dict[type[OnwardError], str] = {
    OnwardError: _EXIT_CODES_PAGE,
    ConfigError: "docs/on-call.md#exit-1-or-2",
    FilesError: "docs/on-call.md#exit-1-or-2",
    DuplicateNumbers: _NUMBERS_PAGE,
    RepositoryError: _NUMBERS_PAGE,
    HistoryConflict: "docs/on-call.md#exit-3-conflict",
    BaseConflict: _NUMBERS_PAGE,
    SchemaDrift: "docs/drift.md#what-to-do-about-it",
    NotEmpty: "docs/existing-database.md#an-existing-database",
    UntrustedHistory: "docs/security.md#other-roles-in-the-database",
    WrongEnvironment: "docs/on-call.md#exit-3-wrong-environment",
    LockBusy: "docs/on-call.md#exit-4-another-run",
    TableBusy: "docs/on-call.md#exit-4-a-busy-table",
    DatabaseUnavailable: "docs/on-call.md#exit-5-unreachable",
    HostUnreachable: "docs/on-call.md#exit-5-unreachable",
    HostUnknown: "docs/on-call.md#exit-5-unreachable",
    AccessRefused: "docs/on-call.md#exit-5-unreachable",
    PasswordRefused: "docs/on-call.md#exit-5-unreachable",
    DatabaseUnsuitable: "docs/on-call.md#exit-5-unreachable",
    HistoryHidden: "docs/security.md#other-roles-in-the-database",
    MigrationFailed: "docs/on-call.md#exit-1-or-2",
    PartlyApplied: "docs/on-call.md#exit-7-partly-applied",
    NotProved: "docs/checkpoints.md#if-it-is-not-proved",
    OutcomeUnknown: "docs/on-call.md#exit-6-outcome-unknown",
    Interrupted: _EXIT_CODES_PAGE,
}
# And the exit codes of `status --check`, which ends with no error.
CHECK_PAGES = {3: PAGES[HistoryConflict], 8: _EXIT_CODES_PAGE}

_MARKS = {State.APPLIED: "✅", State.PENDING: "⏳", State.AHEAD: "⏩"}
_CONFLICT_MARK = "❌"
_VERSION_COLUMNS = 35
_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))
SHORT_STATUS_ROWS = 20  # of applied migrations, unless more are asked for


class _Section(NamedTuple):
    """A part of the status: the entries in some states."""

    title: str
    word: str
    states: tuple[State, ...]


_APPLIED = _Section("Applied Migrations", "applied", (State.APPLIED, State.MODIFIED, State.MISSING))
_SECTIONS = (
    _APPLIED,
    _Section("Ahead of these files", "ahead", (State.AHEAD,)),
    _Section("Pending Migrations", "pending", (State.PENDING, State.OUT_OF_ORDER)),
)


class StatusView(NamedTuple):
    """What of a status is shown to people."""

    now: datetime | None = None
    """To say how long ago something was; None in a log, which is read later."""
    last: int | None = None
    """So many applied migrations, the newest; None means all of them."""
    pending_only: bool = False

    def is_short(self, plan: Plan) -> bool:
        """Whether only a part of the applied migrations is shown; then pending ones come first."""
        return self.last is not None and len(plan.in_state(*_APPLIED.states)) > self.last

    def of(
        self, part: _Section, entries: tuple[MigrationStatus, ...]
    ) -> tuple[MigrationStatus, ...]:
        """The entries of a section that are shown."""
        return entries[-self.last :] if self.last and part is _APPLIED else entries


def status_text(config: Config, history: History, plan: Plan, view: StatusView) -> str:
    """The status for people."""
    activity = history.activity or Activity()
    lines = [
        "📊 Migration Status",
        "",
        f"Database: {history.database}",
        f"Environment: {config.environment}",
        *_running_text(activity.running, plan, view.now),
        *_takeover_text(history.takeover),
    ]
    sections = [_section(part, plan, view) for part in _SECTIONS]
    if view.is_short(plan):
        lines += ["", _totals(plan)]
        sections.reverse()
    lines += chain.from_iterable(sections)
    if plan.conflicts:
        lines += ["", "Conflicts:", *(entry.text for entry in plan.conflicts)]
    warnings = [*_summary(plan.warnings), *_leftovers(activity)]
    if mark_of(history).drift is Drift.FOUND:
        warnings.append("⚠️  The schema is not as the migrations left it: scripts/migrate.py drift")
    if off_path := off_path_warning(history):
        warnings.append(f"⚠️  {off_path[0].upper()}{off_path[1:]}")
    if not history.trusted:
        warnings.append(
            f"⚠️  {history.table} belongs to {history.owner}, whom {history.role} does not trust: "
            "it is only shown"
        )
    if warnings:
        lines += ["", *warnings]
    if back := way_back_before_last_run(config, history):
        lines += ["", *_way_back_text(back)]
    return _joined(lines)


def _way_back_text(back: WayBack) -> list[str]:
    """The two facts that every host's restore wants, and the commands for this host."""
    first, *others = back.before
    more = f" and {len(others)} more" if others else ""
    lsn = f", WAL position {back.point.lsn}" if back.point.lsn else ""
    point = f"Restore point, before {first}{more}: {back.point.time:%Y-%m-%d %H:%M:%S.%f} UTC{lsn}"
    if not back.commands:
        return [point]
    return [
        f"{point}. All later writes are lost ({_RESTORE_PAGE}):",
        *map(_indented, back.commands),
    ]


def _section(part: _Section, plan: Plan, view: StatusView) -> list[str]:
    entries = plan.in_state(*part.states)
    if view.pending_only and State.PENDING not in part.states:
        return []
    if not entries:
        return [] if State.AHEAD in part.states else ["", f"{part.title}: None"]
    width = max([_VERSION_COLUMNS, *(len(entry.version) for entry in plan.entries)])
    shown = view.of(part, entries)
    hidden = f", the last {len(shown)}" if len(shown) < len(entries) else ""
    lines = [_entry_text(entry, width, view.now) for entry in shown]
    return ["", f"{part.title} ({len(entries)}{hidden}):", *lines]


def _totals(plan: Plan) -> str:
    counts = (f"{len(plan.in_state(*part.states))} {part.word}" for part in _SECTIONS)
    return f"Total: {', '.join(count for count in counts if not count.startswith('0 '))}"


def _running_text(running: RunningRun | None, plan: Plan, now: datetime | None) -> list[str]:
    if not running:
        return []
    since = f" since {_moment(running.since)}{_ago(running.since, now)}" if running.since else ""
    file = running.file_among(entry.version for entry in plan.entries)
    return [f"Running now: {file or 'a run'}{since} (pid {running.pid})"]


def _takeover_text(takeover: Takeover | None) -> list[str]:
    if not takeover:
        return []
    return [
        "",
        "To be taken over by the next run:",
        *map(_indented, takeover_lines(takeover)),
    ]


def _leftovers(activity: Activity) -> list[str]:
    """What interrupted statements left, and the commands that remove it."""
    indexes = [
        f"⚠️  Invalid index, left by an interrupted or failed build: {name}\n"
        "  A pending file that builds it does so again. To drop it:\n"
        f"  DROP INDEX CONCURRENTLY {name};"
        for name in activity.invalid_indexes
    ]
    detaches = [
        f"⚠️  Partition whose detaching was interrupted: {one.partition}. To finish it:\n"
        f"  ALTER TABLE {one.table} DETACH PARTITION {one.partition} FINALIZE;"
        for one in activity.pending_detaches
    ]
    return indexes + detaches


def _entry_text(entry: MigrationStatus, width: int, now: datetime | None) -> str:
    line = f"{_MARKS.get(entry.state, _CONFLICT_MARK)} {entry.version}"
    if row := entry.applied:
        moment = _moment(row.applied_at) if row.applied_at else "time unknown"
        line += " " * (width - len(entry.version)) + f" ({moment})"
        if row.execution_time_ms is not None:
            line += f" - {row.execution_time_ms}ms"
        if row.applied_at:
            line += _ago(row.applied_at, now)
    return line if entry.state in (State.APPLIED, State.PENDING) else f"{line}  {entry.state}"


def _moment(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def _ago(moment: datetime, now: datetime | None) -> str:
    """How long ago, in the largest unit that has passed; empty in a log."""
    if now is None:
        return ""
    seconds = (now - moment).total_seconds()
    for size, unit in _UNITS:
        if seconds >= size:
            return f", {seconds // size:.0f} {unit} ago"
    return ", just now"


def _summary(warnings: Iterable[MigrationStatus]) -> list[str]:
    """One line for each kind of warning, with the versions that it is about."""
    versions: dict[str, list[str]] = {}
    for warning in warnings:
        versions.setdefault(warning.remark.message, []).append(warning.version)
    return [
        f"⚠️  {message[0].upper()}{message[1:]}: {', '.join(found)}"
        for message, found in versions.items()
    ]


def warning_text(warning: str) -> str:
    """One warning of `validate`."""
    return hanging(f"⚠️  {warning}")


def check_text(exit_code: int) -> str:
    """The last line of a `status --check` that fails."""
    return _exit_line(exit_code, CHECK_PAGES[exit_code])


def number_lines(found: NextNumber) -> list[str]:
    """What other branches have to do with the number of a file."""
    lines = []
    if taken := found.taken:
        lines.append(f"   The branch {taken.branch} has {taken.name}")
    for ignored in found.ignored:
        why = f"more than {MAX_LEAP} above the files here, so not followed"
        lines.append(f"⚠️  The branch {ignored.branch} has {ignored.name}: {why}")
    return lines


def base_check_text(base: Base, new: Sequence[str]) -> str:
    """What `check` says of files that fit the base branch."""
    files = "1 new file" if len(new) == 1 else f"{len(new) or 'no'} new files"
    return f"✅ {files}, above all files of {base.name}; none of these was changed"


def base_conflict(problem: Problem) -> BaseConflict:
    """The error for one problem that `check` has found."""
    commands = "".join(f"\n  {command}" for command in problem.commands)
    return BaseConflict(str(problem.path), problem.what, next_step=f"To repair it:{commands}")


def skipped_text(environment: str, reason: str, pending: str) -> str:
    """What a run prints that applies nothing because of MIGRATION_ENVIRONMENTS."""
    mark = "⚠️ " if environment == "production" else "⏩"
    return hanging(f"{mark} Skipped: {reason}. Pending: {pending}.")


def consent_text(assistant: Assistant) -> str:
    """Who makes a change in the place of a person, and the words that the person said, if any."""
    lines = [f"Run by a coding assistant: {assistant.name} ({assistant.variable})"]
    if assistant.consent:
        lines.append(f"Consent: {assistant.consent}")
    return _joined(lines)


def event_text(config: Config, event: Event) -> str:
    """One event of a run."""
    match event:
        case Started(history, plan):
            return _started_text(config, history, plan)
        case TakenOver(takeover):
            return _joined(["✅ Taken over:", *map(_indented, takeover_lines(takeover))])
        case Notice(migration, text):
            return hanging(f"   {migration.version}: {text}" if migration else f"⚠️  {text}")
        case Running() | SentAhead():
            return _begun_text(event)
        case Progress() | Retry():
            return _waiting_text(event)
        case MigrationResult():
            return _applied_text(event)


def _applied_text(result: MigrationResult) -> str:
    if result.milliseconds is None:
        return f"✅ Recorded: {result.version} (its migrations are applied)"
    return f"✅ Applied: {result.version} ({result.milliseconds}ms)"


def _begun_text(event: Running | SentAhead) -> str:
    match event:
        case Running(version):
            return f"▶ {version}"
        case SentAhead(versions):
            return f"▶ {versions[0]} to {versions[-1]}: {len(versions)} files, sent together"


def _waiting_text(event: Progress | Retry) -> str:
    match event:
        case Progress(version, seconds, details):
            lines = [f"⏳ {version}: running for {seconds:.0f} s", *map(_indented, details)]
        case Retry(error, pause):
            lines = [f"⏳ {error.message}; retrying in {pause:.1f} s", *_blocked_by(error)]
    return _joined(lines)


def _started_text(config: Config, history: History, plan: Plan) -> str:
    pending = f"{len(plan.pending) or 'none'} of {len(plan.entries)}"
    lines = [
        f"Database: {config.url}",
        f"Environment: {config.environment} (from {config.environment_source})",
        f"Pending: {pending}, PostgreSQL {history.version.split()[0]}",
        *_summary(plan.warnings),
    ]
    for migration in plan.pending:
        if migration.is_empty and DRAFT not in migration.directives:
            lines.append(f"⚠️  {migration.version} contains no SQL: it will only be recorded")
    return _joined(lines)


def run_text(run: RunResult) -> str:
    """The last line of a run that succeeded."""
    match len(run.applied):
        case 0:
            return "✅ Database is up to date: no migration is pending"
        case 1:
            return "✅ 1 migration applied successfully"
        case count:
            return f"✅ {count} migrations applied successfully"


def error_text(error: OnwardError) -> str:
    """An error: what happened, where, what state the database is in, what to do next."""
    cause = error.cause
    lines = _failure_lines(cause) if isinstance(cause, MigrationFailed) else [f"❌ {cause.message}"]
    lines += _blocked_by(cause)
    if isinstance(error, RunFailed):
        applied = ", ".join(done.version for done in error.applied)
        lines.append(f"Applied in this run: {applied or 'none'}.")
        if error.remaining:
            lines.append(f"Not applied: {', '.join(error.remaining)}.")
        if error.way_back:
            lines += _way_back_text(error.way_back)
    if next_step := next_step_text(error):
        lines.append(f"Next: {next_step}")
    return _joined(lines)


def next_step_text(error: OnwardError) -> str:
    """What to do about an error, after the assurance that it changed nothing."""
    cause = error.cause
    if not cause.changed_nothing:
        return cause.next_step
    more = " more" if isinstance(error, RunFailed) and error.applied else ""
    return f"Nothing{more} was changed. {cause.next_step}".rstrip()


def exit_text(error: OnwardError) -> str:
    """The last line of a command that fails: its exit code, and the page that explains it."""
    return _exit_line(error.exit_code, page_of(type(error.cause)))


def page_of(kind: type[OnwardError]) -> str:
    """The page and section of the documentation that explains a class of errors."""
    return next(PAGES[base] for base in kind.__mro__ if base in PAGES)


def _exit_line(exit_code: int, page: str) -> str:
    return f"(exit {exit_code}, {page})"


def _joined(lines: Iterable[str]) -> str:
    """The lines, each with its own further lines indented.

    Text from a server or a file may have several lines, and none of them may pass for one of
    Onward's.
    """
    return "\n".join(map(hanging, lines))


def _indented(line: str) -> str:
    return f"   {line}"


def _blocked_by(error: OnwardError) -> list[str]:
    return [_indented(f"Blocked by {blocker}") for blocker in error.blockers]


def _failure_lines(error: MigrationFailed) -> list[str]:
    failure, server = error.failure, error.failure.server
    place = f"{failure.path}:{failure.line}:{failure.column}" if failure.line else failure.path
    lines = [f"❌ FAILED {place}   {failure.statement}".rstrip()]
    if failure.excerpt:
        lines += failure.excerpt.split("\n")
    lines.append(("ERROR " if server.sqlstate else "ERROR: ") + server_message(server))
    details = {"Detail": server.detail, "Hint": server.hint, "Context": server.context}
    lines += [f"{title}: {text}" for title, text in details.items() if text]
    return [*lines, f"State: {error.state}."]


def server_message(server: ServerError) -> str:
    """The message of a server, after its SQLSTATE if there is one."""
    return f"{server.sqlstate}: {server.message}" if server.sqlstate else server.message
