#!/usr/bin/env python3
"""The command line, and the build step of a deploy."""

from __future__ import annotations  # without it an older Python would not get as far as the message below

import os
import signal
import sys

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def _leave(number: int, _: object) -> None:
    words = f"interrupted by {signal.Signals(number).name}: nothing was begun"
    os.write(2, f"❌ {words}\n".encode())
    if "--json" in sys.argv:
        document = f'{{"success": false, "error": {{"code": "interrupted", "message": "{words}", "nextStep": ""}}}}\n'
        os.write(1, document.encode())
    os._exit(128 + number)


if __name__ == "__main__":  # now, since what follows takes a moment, and there is nothing to clean up in it
    for _number in _SIGNALS:
        signal.signal(_number, _leave)

import gc
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import IO, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
gc.disable()  # looking for garbage among what is imported takes a sixth of the start, and finds none

try:
    if sys.version_info < (3, 11):  # noqa: UP036 - `python3` is older than that on many machines
        raise ImportError("it is too old")
    from lib import migration, report, runner
    from lib.config import (
        Config,
        databases_named,
        migrations_directory,
        named_targets,
        read_config,
        read_environments,
        redact,
        with_env_files,
    )
    from lib.database import Database
    from lib.errors import Interrupted, OnwardError, WrongEnvironment
    from lib.plan import Plan, State
    from lib.session import READ_BUDGET, postponed
    from lib.text import hanging, printable, printable_json
except ImportError as missing:  # most often the system's Python instead of the project's
    words = f"{' '.join(str(missing).split())} (Python {sys.version.split()[0]}, {sys.executable})"
    remedy = "Use Python 3.11 or newer with what requirements.txt names: scripts/setup makes such a one in .venv."
    print(f"❌ this Python cannot run it: {words}\nNext: {remedy}", file=sys.stderr)
    if "--json" in sys.argv:
        print(json.dumps({"success": False, "error": {"code": "internal", "message": words, "nextStep": remedy}}))
    sys.exit(2)

gc.freeze()
gc.enable()

_GLANCE = 5.0  # seconds, for a look that nothing depends on
_COLOURS = {"❌": "31", "✅": "32", "⚠": "33"}
# A shorter password stands in messages by chance, and without it they would be garbled.
_SHORTEST_SECRET = 12
_SECRET_VARIABLES = ("MIGRATION_SECRET", "MIGRATION_SECRET_PREVIOUS", "PGPASSWORD")


class Output:
    """Where words and the JSON document go. A reader that has left does not stop a run."""

    def __init__(self, environ: Mapping[str, str], *, as_json: bool) -> None:
        self.environ = environ
        self.as_json = as_json

    @property
    def environ(self) -> Mapping[str, str]:
        """What the process was given; its secrets are in nothing that is said."""
        return self._environ

    @environ.setter
    def environ(self, environ: Mapping[str, str]) -> None:
        self._environ, self._hidden = environ, _secrets(environ)

    def say(self, text: str, *, error: bool = False) -> None:
        """Words for people: stdout, or stderr for errors and where stdout is for the document.

        All words of servers, files and variables go through here: without secrets, and fit for a terminal and a CI.
        """
        stream = sys.stderr if error or self.as_json else sys.stdout
        coloured = stream.isatty() and not self.environ.get("NO_COLOR")
        text = printable(self.redacted(text))
        _write(stream, ("\n".join(map(_paint, text.split("\n"))) if coloured else text) + "\n")

    def complain(self, error: OnwardError) -> None:
        """An error for people, and on GitHub Actions for the pull request."""
        self.say(report.error_text(error), error=True)
        if self.environ.get("GITHUB_ACTIONS") == "true":
            # Not by `say`, which leaves no line a command for a CI; it is escaped as such.
            _write(sys.stderr, self.redacted(report.annotation(error, self._named_by_github)) + "\n")

    def document(self, document: Mapping[str, Any]) -> None:
        """The one JSON document, where it was asked for."""
        _heed_no_signal()
        if self.as_json:
            _write(sys.stdout, printable_json(self.redacted(document)) + "\n")

    def failure(self, error: OnwardError) -> int:
        """An error as words and as the document; returns its exit code."""
        _heed_no_signal()
        self.complain(error)
        self.document(report.error_dict(error))
        return error.exit_code

    def fault(self, error: Exception) -> int:
        """An error of ours in one line: a traceback could show what nobody has looked through for secrets."""
        _heed_no_signal()
        words = " ".join(f"{type(error).__name__}: {error}".split())
        for secret in self._hidden:
            words = words.replace(secret, "***")
        words = f"internal error{_place(error)}, please report it: {redact(words)}"
        self.say(f"❌ {words}; what is committed stays, `status` shows it", error=True)
        self.document({"success": False, "error": {"code": OnwardError.code, "message": words, "nextStep": ""}})
        return OnwardError.exit_code

    def redacted(self, value: Any) -> Any:
        """The net beneath: what a driver or a server says is redacted where it is taken over."""
        if isinstance(value, dict):
            return {name: self.redacted(inner) for name, inner in value.items()}
        if isinstance(value, list):
            return [self.redacted(inner) for inner in value]
        if not isinstance(value, str):
            return value
        for secret in self._hidden:
            if len(secret) >= _SHORTEST_SECRET:
                value = value.replace(secret, "***")
        return redact(value)

    def _named_by_github(self, path: str) -> str:
        """A file's path from the root of the workspace, wherever the run stands; outside of it, the whole path."""
        workspace = self.environ.get("GITHUB_WORKSPACE")
        if not workspace:
            return path
        file, root = Path(path).resolve(), Path(workspace).resolve()
        return str(file.relative_to(root) if file.is_relative_to(root) else file)


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
        command=None, json=False, allow_out_of_order=False, allow_nonempty=False, production=False, upgrade_check=False
    )
    if arguments:
        from scripts.arguments import parser  # noqa: PLC0415 - a build has none, and does not wait for argparse

        parser().parse_args(arguments, options)
    return options


def _run(options: SimpleNamespace, output: Output) -> int:
    here, environments = read_environments(output.environ)
    if environments and here not in environments:
        return _apply_nothing(options, output, here, environments)
    config = _config_to_write(options, output)
    run = runner.run(config, lambda event: output.say(report.event_text(config, event)))
    _heed_no_signal()
    output.say(report.run_text(run))
    output.document(report.run_dict(run))
    return 0


def _apply_nothing(options: SimpleNamespace, output: Output, here: str, environments: Sequence[str]) -> int:
    """Let the build of an environment pass that is not to touch the database, whatever state that is in."""
    migrations = migration.load(migrations_directory(output.environ))
    pending: int | None = None
    try:
        config = _config(options, output)
        budget = READ_BUDGET.within(_GLANCE)
        with Database(config, budget=budget, deadline=time.monotonic() + _GLANCE) as database:
            plan = runner.look(config, database, migrations)[1]
        pending = len(plan.pending)
        found = f"{pending} ({plan.state})" if plan.conflicts else str(pending)
    except Interrupted:
        raise
    except OnwardError as error:
        found = f"unknown ({error.message})"
    reason = f"{here} is not among MIGRATION_ENVIRONMENTS={','.join(environments)}"
    mark = "⚠️ " if here == "production" else "⏩"
    output.say(hanging(f"{mark} Applied nothing: {reason}. Pending: {found}."))
    output.document({"success": True, "environment": here, "applied": [], "skipped": reason, "pending": pending})
    return 0


def _status(options: SimpleNamespace, output: Output) -> int:
    if options.upgrade_check:
        return _upgrade_check(options, output)
    config = _config(options, output)
    history, plan = runner.look_at(config, budget=READ_BUDGET)
    output.say(report.status_text(config, history, plan))
    output.document(report.status_dict(config, history, plan, full=True))
    if options.check:
        return {State.CONFLICT: 3, State.PENDING: 8}.get(plan.state, 0)
    return 0


def _upgrade_check(options: SimpleNamespace, output: Output) -> int:
    """What a run of this version would refuse here, before one does. Reads only."""
    problems = list(_raised(lambda: _would_run(options, output), lambda: _require_good_secrets(output.environ)))
    for problem in problems:
        output.complain(problem)
    if not problems:
        output.say("✅ A run of this version would refuse nothing here")
    found = [report.error_dict(problem)["error"] for problem in problems]
    output.document(output.redacted({"success": not problems, "problems": found}))
    return problems[0].exit_code if problems else 0


def _would_run(options: SimpleNamespace, output: Output) -> None:
    config = _config(options, output)
    runner.require_runnable(config, *runner.look_at(config))


def _require_good_secrets(environ: Mapping[str, str]) -> None:
    from lib.bearer import bearer_secret  # noqa: PLC0415 - a build does not wait for it

    for variable in ("MIGRATION_SECRET", "MIGRATION_SECRET_PREVIOUS"):
        if secret := environ.get(variable, "").strip():
            bearer_secret(variable, secret)


def _validate(options: SimpleNamespace, output: Output) -> int:
    if not databases_named(output.environ):
        return _validate_offline(output)
    config = _config(options, output)
    migrations = migration.load(config.directory)
    with Database(config, budget=READ_BUDGET) as database:
        plan = runner.look(config, database, migrations)[1]
    warnings = list(_warnings(plan))
    for warning in warnings:
        output.say(hanging(f"⚠️  {warning}"))
    document = report.validation_dict(plan) | {"warnings": warnings}
    unapplied = [entry.migration for entry in plan.of(State.PENDING, State.OUT_OF_ORDER) if entry.migration]
    errors = list(_raised(plan.require_no_conflict, lambda: migration.refuse(unapplied)))
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
    output.document(document | report.error_dict(errors[0]) | {"problems": problems})
    return errors[0].exit_code


def _validate_offline(output: Output) -> int:
    migrations = migration.load(migrations_directory(output.environ))
    migration.refuse(migrations)
    output.say(f"✅ {_files(migrations)} valid (no database is named, so checksums were not compared)")
    output.document({"success": True, "state": None, "problems": [], "warnings": []})
    return 0


def _create(options: SimpleNamespace, output: Output) -> int:
    directory = migrations_directory(output.environ)
    path = migration.create(directory, " ".join(options.description), date.today().isoformat())
    output.say(f"✅ Created {path}: write its SQL, then take out the line `-- migrate: draft`")
    output.document({"success": True, "version": path.stem, "file": str(path)})
    return 0


def _baseline(options: SimpleNamespace, output: Output) -> int:
    recorded = runner.baseline(_config_to_write(options, output), options.number)
    nothing = f"✅ Nothing to record: all files up to {options.number:03} are recorded"
    output.say("\n".join(f"✅ Recorded as applied: {one.version}" for one in recorded) or nothing)
    output.document({"success": True, "recorded": [one.version for one in recorded]})
    return 0


def _repair(options: SimpleNamespace, output: Output) -> int:
    version = Path(options.version).name.removesuffix(".sql")
    file, changed = runner.repair(_config_to_write(options, output), version)
    if changed:
        output.say(f"✅ Repaired: the history has name and checksum of {file.path} now; its SQL was not run")
    else:
        output.say(f"✅ Nothing to repair: {file.path} is as the history has it")
    output.document({"success": True, "version": file.version, "checksum": file.checksum, "changed": changed})
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
    """The Config of a command that writes. Raises WrongEnvironment where a person would change production."""
    config = _config(options, output)
    if config.production and not config.deploying and not options.production:
        raise WrongEnvironment(
            f"this would change production from outside a deploy: {config.target}, "
            f"environment {config.environment} (from {config.environment_source})",
            next_step="Nothing was changed. Deploy instead; or say --production if that is what you mean.",
        )
    return config


def _warnings(plan: Plan) -> Iterator[str]:
    """What is odd about applied files, and yet no reason to refuse them."""
    for entry in plan.of(State.APPLIED, State.MODIFIED):
        for refusal in entry.migration.refusals() if entry.migration else ():
            yield f"{refusal} (applied already, so it may stay)"
        if entry.unverified:
            yield (
                f"{entry.version}: applied without a checksum, so nobody can say whether it has changed; "
                f"`repair {entry.version}` takes the file as it is"
            )
    for entry in plan.of(State.AHEAD):
        yield f"{entry.version}: applied, but newer than every file here: an older build, after a rollback?"


def _raised(*checks: Callable[[], object]) -> Iterator[OnwardError]:
    for check in checks:
        try:
            check()
        except OnwardError as error:
            yield error


def _files(migrations: Sequence[migration.Migration]) -> str:
    return "1 file is" if len(migrations) == 1 else f"{len(migrations)} files are"


def _secrets(environ: Mapping[str, str]) -> list[str]:
    """The passwords in the environment, longest first: those of URLs that nobody can read or asked for, too."""
    found = {secret for target in named_targets(environ) for secret in target.secrets}
    found.update(environ.get(variable, "").strip() for variable in _SECRET_VARIABLES)
    for value in environ.values():
        found.update(re.findall("://[^:]*:(.*)@", value, re.DOTALL))
    shown = {name for target in named_targets(environ) for name in (target.host, target.database)}
    return sorted(found - shown - {""}, key=len, reverse=True)


def _place(error: Exception) -> str:
    """Where it was raised."""
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    return f" at {Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace else ""


def _paint(line: str) -> str:
    colour = _COLOURS.get(line[:1])
    return f"\033[{colour}m{line}\033[0m" if colour else line


def _write(stream: IO[str], text: str) -> None:
    try:
        stream.write(text)
        stream.flush()
    except OSError:  # nobody reads any more, or the disk is full: from here on it is said to nobody
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _process() -> int:
    """`main` as a process of its own, whatever its streams are, and whoever interrupts it."""
    _mend_streams()
    for number in _SIGNALS:
        signal.signal(number, _interrupt)
    try:
        return main(sys.argv[1:], os.environ)
    except Interrupted as interrupted:  # in the moment in which the end was reached
        return interrupted.exit_code
    finally:
        _heed_no_signal()
        for stream in (sys.stdout, sys.stderr):
            _write(stream, "")  # what argparse has printed
        for number in _SIGNALS:  # Python resets others at its end, before it has come to it
            signal.signal(number, signal.SIG_IGN)


def _mend_streams() -> None:
    """Let a closed stream lead nowhere: else the connection gets its number. No character stops a run."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode, encoding="utf-8", closefd=False))
        getattr(sys, name).reconfigure(errors="replace")


def _interrupt(number: int, frame: FrameType | None) -> None:
    _heed_no_signal()
    error = Interrupted(
        f"interrupted by {signal.Signals(number).name}: what was not committed is rolled back",
        exit_code=128 + number,
        next_step="It is safe to run again.",
    )
    if not postponed(frame, error):
        raise error


def _heed_no_signal() -> None:
    """The first signal decides, and so does an end that is reached: what there is to do and to say is not cut short.

    Not SIG_IGN: of a signal that has come and was not dealt with yet, Python would print that it ignores it.
    """
    for number in _SIGNALS:
        if signal.getsignal(number) is _interrupt:
            signal.signal(number, lambda *_: None)


if __name__ == "__main__":
    sys.exit(_process())
