#!/usr/bin/env python3
"""The command line, and the build step of a deploy."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from types import FrameType
from typing import IO, Any, NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lib import VERSION, migration, report, runner
from lib.config import URL_VARIABLES, Config, migrations_directory, read_config, redact, with_env_files
from lib.database import Database
from lib.errors import Interrupted, OnwardError, WrongEnvironment
from lib.plan import State

_DESCRIPTION = """\
Apply the pending migrations of migrations/, or look at them.

  (no command)        apply all that are pending, each in its own transaction
  status [--check]    what is applied and what is pending; reads only
  validate            check the files; with a database, their checksums too
  create "words"      write a new draft with the next number
  baseline NNN        record the files up to NNN as applied, without running them
  repair VERSION      accept a changed file: take its checksum into the history
"""
_EPILOG = """\
environment:
  MIGRATION_DATABASE_URL, POSTGRES_URL_NON_POOLING, DATABASE_URL_UNPOOLED,
  POSTGRES_URL, DATABASE_URL
                                the database: the first that is set. All that
                                are set must name one database, unless the
                                first of them is. .env.local and .env are read
                                where the environment names none.
  MIGRATION_ENV                 the environment's name; else VERCEL_TARGET_ENV,
                                VERCEL_ENV, development
  MIGRATION_DIR                 the directory of the files (migrations)
  MIGRATION_SCHEMA              the schema of the history, if not found by itself
  MIGRATION_LOCK_TIMEOUT        wait for a lock on a table (1s)
  MIGRATION_STATEMENT_TIMEOUT   longest statement (0: no limit)
  MIGRATION_WAIT                wait for another run to finish (120s)
  MIGRATION_ALLOW_OUT_OF_ORDER  1 is --allow-out-of-order
  NO_COLOR                      no colour, on a terminal too
  Durations look like 250ms, 5s, 2min.

exit codes:
  0  done; the database is current, or ahead of these files
  1  a migration failed and was rolled back
  2  files or configuration are wrong; nothing was written
  3  files and history contradict each other, or this is the wrong environment
  4  a lock was busy
  5  the database is unreachable or unsuitable
  6  the outcome of a commit is unknown: look with `status`
  7  a no-transaction migration is partly applied
  8  status --check: migrations are pending
  130, 143  interrupted

examples:
  scripts/migrate.py create "add orders"
  POSTGRES_URL=postgresql://me:secret@localhost/app scripts/migrate.py
  scripts/migrate.py status --check --json
"""
_COLOURS = {"❌": "31", "✅": "32", "⚠": "33"}


class Output:
    """Where words and the JSON document go. A reader that has left does not stop a run."""

    def __init__(self, *, as_json: bool, environ: Mapping[str, str]) -> None:
        self._as_json = as_json
        self._environ = environ

    def say(self, text: str, *, error: bool = False) -> None:
        """Words for people: stdout, or stderr for errors and where stdout is for the document."""
        stream = sys.stderr if error or self._as_json else sys.stdout
        coloured = stream.isatty() and not self._environ.get("NO_COLOR")
        _write(stream, "\n".join(map(_paint, text.splitlines())) if coloured else text)

    def document(self, document: Mapping[str, Any]) -> None:
        """The one JSON document, where it was asked for."""
        if self._as_json:
            _write(sys.stdout, json.dumps(document, indent=2, ensure_ascii=False))


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run one command and return its exit code."""
    options = _parser().parse_args(arguments)
    output = Output(as_json=options.json, environ=environ)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    config: Config | None = None
    try:
        environ = with_env_files(environ)
        if options.command == "create":
            return _create(options, output, environ)
        if options.command == "validate" and not _names_database(environ):
            return _validate_files(output, environ)
        config = read_config(environ)
        if options.allow_out_of_order:
            config = replace(config, allow_out_of_order=True)
        return _COMMANDS[options.command](config, options, output)
    except OnwardError as error:
        _report(error, output, config, environ)
        return error.exit_code
    except Exception as error:
        words = redact(f"{type(error).__name__}: {error}", config.target if config else None)
        output.say(f"❌ Internal error, please report it: {words}", error=True)
        return OnwardError.exit_code


def _run(config: Config, options: argparse.Namespace, output: Output) -> int:
    _guard_production(config, options)
    run = runner.run(config, lambda event: output.say(report.event_text(config, event)))
    output.say(report.run_text(run))
    output.document(report.run_dict(run))
    return 0


def _status(config: Config, options: argparse.Namespace, output: Output) -> int:
    with Database(config) as database:
        history, plan = runner.look(config, database, migration.load(config.directory))
    output.document(report.status_dict(config, history, plan, full=True))
    if not options.json:
        output.say(report.status_text(config, history, plan))
    if options.check:
        return {State.CONFLICT: 3, State.PENDING: 8}.get(plan.state, 0)
    return 0


def _validate(config: Config, _: argparse.Namespace, output: Output) -> int:
    migrations = migration.load(config.directory)
    with Database(config) as database:
        plan = runner.look(config, database, migrations)[1]
    for entry in plan.of(State.APPLIED, State.MODIFIED):
        for refusal in entry.migration.refusals() if entry.migration else ():
            output.say(f"⚠️  {refusal} (applied already, so it may stay)")
    migration.refuse(one.migration for one in plan.of(State.PENDING, State.OUT_OF_ORDER) if one.migration)
    plan.require_no_conflict()
    output.say(f"✅ {len(migrations)} files are valid, and those applied are unchanged")
    output.document(report.validation_dict(plan))
    return 0


def _validate_files(output: Output, environ: Mapping[str, str]) -> int:
    migrations = migration.load(migrations_directory(environ))
    migration.refuse(migrations)
    output.say(f"✅ {len(migrations)} files are valid (no database is named, so checksums were not compared)")
    output.document({"success": True, "state": None, "problems": []})
    return 0


def _create(options: argparse.Namespace, output: Output, environ: Mapping[str, str]) -> int:
    path = migration.create(migrations_directory(environ), options.description, date.today().isoformat())
    output.say(f"✅ Created {path}: write its SQL, then take out the line `-- migrate: draft`")
    output.document({"success": True, "file": str(path)})
    return 0


def _baseline(config: Config, options: argparse.Namespace, output: Output) -> int:
    _guard_production(config, options)
    recorded = runner.baseline(config, options.number)
    output.say("\n".join(f"✅ Recorded as applied: {one.version}" for one in recorded))
    output.document({"success": True, "recorded": [one.version for one in recorded]})
    return 0


def _repair(config: Config, options: argparse.Namespace, output: Output) -> int:
    _guard_production(config, options)
    repaired = runner.repair(config, options.version)
    output.say(f"✅ Repaired: the history has the checksum of {repaired.path} now; its SQL was not run")
    output.document({"success": True, "version": repaired.version, "checksum": repaired.checksum})
    return 0


_COMMANDS: dict[str | None, Callable[[Config, argparse.Namespace, Output], int]] = {
    None: _run,
    "status": _status,
    "validate": _validate,
    "baseline": _baseline,
    "repair": _repair,
}


def _guard_production(config: Config, options: argparse.Namespace) -> None:
    if config.production and not config.deploying and not options.production:
        raise WrongEnvironment(
            f"this would change production ({config.target}) from outside a deploy",
            next_step="Deploy instead; or say --production if that is what you mean. Nothing was changed.",
        )


def _report(error: OnwardError, output: Output, config: Config | None, environ: Mapping[str, str]) -> None:
    target = config.target if config else None
    output.say(redact(report.error_text(error), target), error=True)
    if environ.get("GITHUB_ACTIONS") == "true":
        output.say(redact(report.annotation(error), target), error=True)
    output.document(json.loads(redact(json.dumps(report.error_dict(error)), target)))


def _names_database(environ: Mapping[str, str]) -> bool:
    return any(environ.get(variable) for variable in URL_VARIABLES)


def _interrupt(number: int, _: FrameType | None) -> NoReturn:
    signal.signal(number, signal.SIG_IGN)  # a second one must not cut the clean-up short
    name = signal.Signals(number).name
    raise Interrupted(
        f"interrupted by {name}: what was not committed is rolled back",
        exit_code=128 + number,
        next_step="It is safe to run again.",
    )


def _paint(line: str) -> str:
    colour = _COLOURS.get(line[:1])
    return f"\033[{colour}m{line}\033[0m" if colour else line


def _write(stream: IO[str], text: str) -> None:
    try:
        print(text, file=stream, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    common.add_argument("--json", action="store_true", help="one JSON document on stdout; words go to stderr")
    common.add_argument("--allow-out-of-order", action="store_true", help="apply files that were merged late, too")
    common.add_argument("--production", action="store_true", help="change production from outside a deploy")
    parser = argparse.ArgumentParser(
        prog="scripts/migrate.py",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[common],
    )
    parser.add_argument("--version", action="version", version=f"onward {VERSION}")
    parser.set_defaults(json=False, allow_out_of_order=False, production=False, command=None)
    commands = parser.add_subparsers(dest="command", metavar="command")
    status = commands.add_parser("status", parents=[common], help="what is applied and what is pending")
    status.add_argument("--check", action="store_true", help="exit 8 if migrations are pending, 3 on a conflict")
    commands.add_parser("validate", parents=[common], help="check files, and checksums where a database is named")
    create = commands.add_parser("create", parents=[common], help="write a new draft")
    create.add_argument("description", help='such as "add orders"')
    baseline = commands.add_parser("baseline", parents=[common], help="record files as applied without running them")
    baseline.add_argument("number", type=int, metavar="NNN", help="the last number that counts as applied")
    repair = commands.add_parser("repair", parents=[common], help="accept a changed file's checksum")
    repair.add_argument("version", metavar="VERSION", help="such as 001-create-users-table")
    return parser


if __name__ == "__main__":
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    sys.exit(main(sys.argv[1:], os.environ))
