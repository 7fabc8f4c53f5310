"""The commands: each reads its settings, calls, prints, and returns its exit code."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from types import SimpleNamespace

from lib import runner
from lib.adopt import baseline, repair
from lib.cli.output import Output
from lib.cli.signals import heed_no_signal
from lib.errors import Interrupted, OnwardError, WrongEnvironment
from lib.plan import Plan, State
from lib.postgres.connection import READ_BUDGET
from lib.postgres.executor import Executor
from lib.printable import hanging
from lib.report.document import error_dict, run_dict, status_dict, validation_dict
from lib.report.text import event_text, run_text, status_text
from lib.settings.config import Config, migrations_directory, read_config
from lib.settings.environ import url_variables_set, with_env_files
from lib.settings.environment import allowed_environments
from lib.source.migration import Migration, create, load, require_runnable

_GLANCE = 5.0  # seconds, for a look that nothing depends on


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run one command and return its exit code."""
    output = Output(environ, as_json="--json" in arguments)
    try:
        options = _options(arguments)
        output.environ = with_env_files(environ)
        return _COMMANDS[options.command](options, output)
    except OnwardError as error:
        return output.failure(error)
    except Exception as error:
        return output.fault(error)


def _options(arguments: Sequence[str]) -> SimpleNamespace:
    # Not the parser's defaults: a command's would undo what stands before it on the command line.
    options = SimpleNamespace(
        command=None,
        json=False,
        allow_out_of_order=False,
        allow_nonempty=False,
        production=False,
        upgrade_check=False,
    )
    if arguments:
        from lib.cli.arguments import parser  # noqa: PLC0415 - a build has none, and does not wait for argparse

        parser().parse_args(arguments, options)
    return options


def _run(options: SimpleNamespace, output: Output) -> int:
    here, environments = allowed_environments(output.environ)
    if environments and here not in environments:
        return _apply_nothing(options, output, here, environments)
    config = _config_to_write(options, output)
    run = runner.run(config, lambda event: output.say(event_text(config, event)))
    heed_no_signal()
    output.say(run_text(run))
    output.document(run_dict(run))
    return 0


def _apply_nothing(
    options: SimpleNamespace, output: Output, here: str, environments: Sequence[str]
) -> int:
    """Let the build of an environment pass that is not to touch the database, whatever state that
    is in.
    """
    migrations = load(migrations_directory(output.environ))
    pending: int | None = None
    try:
        config = _config(options, output)
        budget = READ_BUDGET.within(_GLANCE)
        with Executor(config, budget=budget, deadline=time.monotonic() + _GLANCE) as database:
            plan = runner.read_plan(config, database, migrations)[1]
        pending = len(plan.pending)
        found = f"{pending} ({plan.state})" if plan.conflicts else str(pending)
    except Interrupted:
        raise
    except OnwardError as error:
        found = f"unknown ({error.message})"
    reason = f"{here} is not among MIGRATION_ENVIRONMENTS={','.join(environments)}"
    mark = "⚠️ " if here == "production" else "⏩"
    output.say(hanging(f"{mark} Applied nothing: {reason}. Pending: {found}."))
    output.document(
        {"success": True, "environment": here, "applied": [], "skipped": reason, "pending": pending}
    )
    return 0


def _status(options: SimpleNamespace, output: Output) -> int:
    if options.upgrade_check:
        return _upgrade_check(options, output)
    config = _config(options, output)
    history, plan = runner.connect_and_read_plan(config, budget=READ_BUDGET)
    output.say(status_text(config, history, plan))
    output.document(status_dict(config, history, plan, full=True))
    if options.check:
        return {State.CONFLICT: 3, State.PENDING: 8}.get(plan.state, 0)
    return 0


def _upgrade_check(options: SimpleNamespace, output: Output) -> int:
    """What a run of this version would refuse here, before one does. Reads only."""
    problems = list(
        _raised(lambda: _would_run(options, output), lambda: _require_good_secrets(output.environ))
    )
    for problem in problems:
        output.complain(problem)
    if not problems:
        output.say("✅ A run of this version would refuse nothing here")
    found = [error_dict(problem)["error"] for problem in problems]
    output.document(output.redacted({"success": not problems, "problems": found}))
    return problems[0].exit_code if problems else 0


def _would_run(options: SimpleNamespace, output: Output) -> None:
    config = _config(options, output)
    runner.require_run_allowed(config, *runner.connect_and_read_plan(config))


def _require_good_secrets(environ: Mapping[str, str]) -> None:
    from lib.web.auth import bearer_secret  # noqa: PLC0415 - a build does not wait for it

    for variable in ("MIGRATION_SECRET", "MIGRATION_SECRET_PREVIOUS"):
        if secret := environ.get(variable, "").strip():
            bearer_secret(variable, secret)


def _validate(options: SimpleNamespace, output: Output) -> int:
    if not url_variables_set(output.environ):
        return _validate_offline(output)
    config = _config(options, output)
    migrations = load(config.directory)
    with Executor(config, budget=READ_BUDGET) as database:
        plan = runner.read_plan(config, database, migrations)[1]
    warnings = list(_warnings(plan))
    for warning in warnings:
        output.say(hanging(f"⚠️  {warning}"))
    document = validation_dict(plan) | {"warnings": warnings}
    unapplied = [
        entry.migration
        for entry in plan.in_state(State.PENDING, State.OUT_OF_ORDER)
        if entry.migration
    ]
    errors = list(_raised(plan.require_no_conflict, lambda: require_runnable(unapplied)))
    if not errors:
        output.say(f"✅ {_files(migrations)} valid, and those applied are unchanged")
        output.document(document)
        return 0
    for error in errors:
        output.complain(error)
    problems = [
        *document["problems"],
        *(
            {"version": one.version, "state": str(State.PENDING), "message": refusal}
            for one in unapplied
            for refusal in one.refusals()
        ),
    ]
    output.document(document | error_dict(errors[0]) | {"problems": problems})
    return errors[0].exit_code


def _validate_offline(output: Output) -> int:
    migrations = load(migrations_directory(output.environ))
    require_runnable(migrations)
    output.say(
        f"✅ {_files(migrations)} valid (no database is named, so checksums were not compared)"
    )
    output.document({"success": True, "state": None, "problems": [], "warnings": []})
    return 0


def _create(options: SimpleNamespace, output: Output) -> int:
    directory = migrations_directory(output.environ)
    path = create(directory, " ".join(options.description), date.today().isoformat())
    output.say(f"✅ Created {path}: write its SQL, then take out the line `-- migrate: draft`")
    output.document({"success": True, "version": path.stem, "file": str(path)})
    return 0


def _baseline(options: SimpleNamespace, output: Output) -> int:
    recorded = baseline(_config_to_write(options, output), options.number)
    nothing = f"✅ Nothing to record: all files up to {options.number:03} are recorded"
    output.say("\n".join(f"✅ Recorded as applied: {one.version}" for one in recorded) or nothing)
    output.document({"success": True, "recorded": [one.version for one in recorded]})
    return 0


def _repair(options: SimpleNamespace, output: Output) -> int:
    version = Path(options.version).name.removesuffix(".sql")
    file, changed = repair(_config_to_write(options, output), version)
    if changed:
        output.say(
            f"✅ Repaired: the history has name and checksum of {file.path} now; its SQL was not run"
        )
    else:
        output.say(f"✅ Nothing to repair: {file.path} is as the history has it")
    output.document(
        {"success": True, "version": file.version, "checksum": file.checksum, "changed": changed}
    )
    return 0


_COMMANDS: dict[str | None, Callable[[SimpleNamespace, Output], int]] = {
    None: _run,
    "status": _status,
    "validate": _validate,
    "create": _create,
    "baseline": _baseline,
    "repair": _repair,
}


def _config(options: SimpleNamespace, output: Output) -> Config:
    config = read_config(output.environ)
    return config._replace(
        allow_out_of_order=config.allow_out_of_order or options.allow_out_of_order,
        allow_nonempty=config.allow_nonempty or options.allow_nonempty,
    )


def _config_to_write(options: SimpleNamespace, output: Output) -> Config:
    """The Config of a command that writes. Raises WrongEnvironment where a person would change
    production.
    """
    config = _config(options, output)
    if config.production and not config.deploying and not options.production:
        raise WrongEnvironment(
            f"this would change production from outside a deploy: {config.url}, "
            f"environment {config.environment} (from {config.environment_source})",
            next_step="Nothing was changed. Deploy instead; or say --production if that is what "
            "you mean.",
        )
    return config


def _warnings(plan: Plan) -> Iterator[str]:
    """What is odd about applied files, and yet no reason to refuse them."""
    for entry in plan.in_state(State.APPLIED, State.MODIFIED):
        for refusal in entry.migration.refusals() if entry.migration else ():
            yield f"{refusal} (applied already, so it may stay)"
        if entry.unverified:
            yield (
                f"{entry.version}: applied without a checksum, so nobody can say whether it has "
                "changed; "
                f"`repair {entry.version}` takes the file as it is"
            )
    for entry in plan.in_state(State.AHEAD):
        yield f"{entry.version}: applied, but newer than every file here: an older build, after a rollback?"


def _raised(*checks: Callable[[], object]) -> Iterator[OnwardError]:
    for check in checks:
        try:
            check()
        except OnwardError as error:
            yield error


def _files(migrations: Sequence[Migration]) -> str:
    return "1 file is" if len(migrations) == 1 else f"{len(migrations)} files are"
