"""The commands that read or change a database; `offline`, `observing` and `proving` have others.

Each one reads its settings, calls, prints, and returns an exit code.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

from lib import runner
from lib.activity import Asked
from lib.adopt import baseline, expect_schema, repair
from lib.cli.configured import config_of, config_to_write, emit_to
from lib.cli.output import Command, Terminal, files_passed
from lib.cli.signals import ignore_further_signals
from lib.consent import Change
from lib.drift import Drift, Mark, Verdict, holder_of, judge_against, load_schema, mark_of
from lib.errors import (
    DuplicateNumbers,
    Interrupted,
    LockBusy,
    OnwardError,
    raised_by,
)
from lib.events import RunLog, RunResult
from lib.guard import reason_to_skip, require_no_obstacle
from lib.history import History
from lib.plan import Plan, State
from lib.postgres.connecting import READ_BUDGET
from lib.postgres.executor import Executor
from lib.report.document import (
    error_dict,
    run_dict,
    status_dict,
    validation_dict,
)
from lib.report.drift import (
    accepted_text,
    drift_dict,
    drift_exit_text,
    drift_text,
    drift_warnings,
)
from lib.report.text import (
    StatusView,
    check_text,
    run_text,
    skipped_text,
    status_text,
    warning_text,
)
from lib.settings.config import Config, migrations_directory
from lib.settings.environment import allowed_environments
from lib.shared_numbers import with_applied
from lib.source.migration import Migration, load, names_in
from lib.validation import validate
from lib.webhook import Webhook

# A skipped build shows how many files are pending, but does not wait long for that.
SKIPPED_STATUS_SECONDS = 5.0


def _run(options: SimpleNamespace, terminal: Terminal) -> int:
    environment, allowed = allowed_environments(terminal.environ)
    if reason := reason_to_skip(environment, allowed):
        return _skip(options, terminal, environment, reason)
    try:
        return _run_here(options, terminal)
    except Interrupted:
        raise
    except OnwardError as error:
        ignore_further_signals()  # the error must still be shown
        _tell_webhook(terminal, Webhook(terminal.environ).tell_error(error, environment))
        raise


def _run_here(options: SimpleNamespace, terminal: Terminal) -> int:
    config = config_to_write(options, terminal, Change.run())
    if config.rehearse and not config.production:
        from lib.cli.observing import run_observed  # noqa: PLC0415 - few runs are observed

        return _tell_run(run_observed(config, terminal), terminal)
    return _tell_run(runner.run(config, emit_to(terminal, config)), terminal)


def _tell_run(result: RunResult, terminal: Terminal) -> int:
    ignore_further_signals()
    terminal.info(run_text(result))
    _tell_webhook(terminal, Webhook(terminal.environ).tell_result(result))
    terminal.json(run_dict(result, full=True))
    return 0


def _tell_webhook(terminal: Terminal, warning: str) -> None:
    if warning:
        terminal.info(warning_text(warning))


def _skip(options: SimpleNamespace, terminal: Terminal, environment: str, reason: str) -> int:
    """Apply nothing and let the build pass, whatever state the database is in."""
    migrations = load(migrations_directory(terminal.environ))
    pending: int | None = None
    try:
        plan = _read_plan_quickly(config_of(options, terminal), migrations)
        pending = len(plan.pending)
        found = f"{pending} ({plan.state})" if plan.conflicts else str(pending)
    except Interrupted:
        raise
    except OnwardError as error:
        found = f"unknown ({error.message})"
    terminal.info(skipped_text(environment, reason, found))
    terminal.json(
        {
            "success": True,
            "environment": environment,
            "applied": [],
            "skipped": reason,
            "pending": pending,
        }
    )
    return 0


def _read_plan_quickly(config: Config, migrations: tuple[Migration, ...]) -> Plan:
    budget = READ_BUDGET.within(SKIPPED_STATUS_SECONDS)
    deadline = time.monotonic() + SKIPPED_STATUS_SECONDS
    with Executor(config, budget=budget, deadline=deadline) as database:
        return runner.read_plan(config, database, migrations)[1]


def _status(options: SimpleNamespace, terminal: Terminal) -> int:
    if options.upgrade_check:
        return _upgrade_check(options, terminal)
    config = config_of(options, terminal)
    try:
        migrations = load(config.directory)
    except DuplicateNumbers as found:
        raise _with_applied(config, found) from None
    log = RunLog(emit_to(terminal, config))
    with Executor(config, log, budget=READ_BUDGET) as executor:
        history, plan = runner.read_plan(config, executor, migrations, activity=Asked.ALL)
    now = datetime.now(UTC) if terminal.is_live else None
    last = None if options.all else options.last
    view = StatusView(now, last=last, pending_only=options.pending)
    terminal.info(status_text(config, history, plan, view))
    exit_code = {State.CONFLICT: 3, State.PENDING: 8}.get(plan.state, 0) if options.check else 0
    if exit_code:
        terminal.explain_exit(check_text(exit_code))
    terminal.json(status_dict(config, history, plan, full=True))
    return exit_code


def _with_applied(config: Config, found: DuplicateNumbers) -> OnwardError:
    """The error with what this database has applied; as it is, if that cannot be read."""
    try:
        with Executor(config, budget=READ_BUDGET) as database:
            history, _ = runner.read_plan(config, database, ())
    except Interrupted:
        raise
    except OnwardError:
        return found
    return with_applied(found, names_in(config.directory), history.known)


def _upgrade_check(options: SimpleNamespace, terminal: Terminal) -> int:
    """Report what a run of this version would refuse here. Reads only."""
    problems = list(
        raised_by(
            lambda: _require_run_allowed(options, terminal),
            lambda: _require_strong_secrets(terminal.environ),
        )
    )
    found = [error_dict(problem)["error"] for problem in problems]
    document = {"success": not problems, "problems": found}
    if problems:
        return terminal.fail(*problems, document=document)
    terminal.info("✅ A run of this version would refuse nothing here")
    terminal.json(document)
    return 0


def _require_run_allowed(options: SimpleNamespace, terminal: Terminal) -> None:
    config = config_of(options, terminal)
    history, plan = runner.connect_and_read_plan(config)
    runner.require_run_allowed(config, history, plan)
    if plan.pending:
        require_no_obstacle(history)


def _require_strong_secrets(environ: Mapping[str, str]) -> None:
    from lib.web.auth import bearer_secret  # noqa: PLC0415 - a build does not need it

    for variable in ("MIGRATION_SECRET", "MIGRATION_SECRET_PREVIOUS"):
        if secret := environ.get(variable, "").strip():
            bearer_secret(variable, secret)


def _validate(options: SimpleNamespace, terminal: Terminal) -> int:
    config = config_of(options, terminal)
    migrations = load(config.directory)
    with Executor(config, budget=READ_BUDGET) as database:
        history, plan = runner.read_plan(config, database, migrations)
        verdict = _stored_verdict(config, database, history)
    found = validate(plan)
    warnings = [*found.warnings, *drift_warnings(verdict)]
    for warning in warnings:
        terminal.info(warning_text(warning))
    document = validation_dict(found) | {"warnings": warnings}
    if found.errors:
        return terminal.fail(*found.errors, document=document | error_dict(found.errors[0]))
    unchecked = "SQL syntax is checked when they run"
    terminal.info(f"{files_passed(migrations)}, and those applied are unchanged ({unchecked})")
    terminal.json(document)
    return 0


def _stored_verdict(config: Config, database: Executor, history: History) -> Verdict | None:
    """How the schema differs from what is expected; None if nothing is stored, or it is not to be
    asked.
    """
    if config.drift == "off" or not holder_of(history)[0]:
        return None
    try:
        return database.schema.compare()[1]
    except LockBusy as error:
        return Verdict(Drift.UNKNOWN, reason=error.message)


def _drift(options: SimpleNamespace, terminal: Terminal) -> int:
    if options.accept or options.refresh:
        return _expect_schema(options, terminal)
    config = config_of(options, terminal)
    saved = load_schema(options.against) if options.against else None
    with Executor(config, budget=READ_BUDGET) as database:
        history = database.read()
        found, verdict = database.schema.compare(strict=options.strict)
    if saved:
        verdict = judge_against(saved, found, options.against, strict=options.strict)
    terminal.info(drift_text(history, verdict, saved=options.against or ""))
    exit_code = 3 if options.check and verdict.drift is Drift.FOUND else 0
    if exit_code:
        terminal.explain_exit(drift_exit_text())
    terminal.json({"success": True, **drift_dict(mark_of(history), verdict, found)})
    return exit_code


def _expect_schema(options: SimpleNamespace, terminal: Terminal) -> int:
    change = Change.expect_schema(refresh=options.refresh)
    verdict = expect_schema(config_to_write(options, terminal, change), refresh=options.refresh)
    terminal.info(accepted_text(verdict))
    terminal.json({"success": True, **drift_dict(Mark(Drift.NONE), verdict)})
    return 0


def _renumber(options: SimpleNamespace, terminal: Terminal) -> int:
    from lib.cli.offline import renumber  # noqa: PLC0415 - a build does not need it

    config = config_of(options, terminal)
    with Executor(config, budget=READ_BUDGET) as database:
        applied = [row.version for row in runner.read_plan(config, database, ())[0].known]
    return renumber(options, terminal, applied)


def _baseline(options: SimpleNamespace, terminal: Terminal) -> int:
    config = config_to_write(options, terminal, Change.baseline(options.number))
    recorded = baseline(config, options.number)
    if recorded:
        text = "\n".join(f"✅ Recorded as applied: {one.version}" for one in recorded)
    else:
        text = f"✅ Nothing to record: all files up to {options.number:03} are recorded"
    terminal.info(text)
    terminal.json({"success": True, "recorded": [one.version for one in recorded]})
    return 0


def _repair(options: SimpleNamespace, terminal: Terminal) -> int:
    version = Path(options.version).name.removesuffix(".sql")
    config = config_to_write(options, terminal, Change.repair(version))
    file, changed = repair(config, version)
    if changed:
        text = f"✅ Repaired: recorded the name and checksum of {file.path}; its SQL was not run"
    else:
        text = f"✅ Nothing to repair: {file.path} already matches the history"
    terminal.info(text)
    terminal.json(
        {"success": True, "version": file.version, "checksum": file.checksum, "changed": changed}
    )
    return 0


COMMANDS: dict[str | None, Command] = {
    None: _run,
    "status": _status,
    "validate": _validate,
    "drift": _drift,
    "renumber": _renumber,
    "baseline": _baseline,
    "repair": _repair,
}
