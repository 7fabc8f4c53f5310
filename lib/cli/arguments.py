"""The arguments of scripts/migrate.py, and its help."""

import argparse
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

from lib import VERSION
from lib.errors import OnwardError
from lib.report.text import SHORT_STATUS_ROWS
from lib.tool_tables import TABLES

_PROGRAM = "scripts/migrate.py"
# What people type by habit from other tools.
_RUN, _HELP, _BACK = "apply", "help", ("down", "rollback", "undo")
_OTHER_NAMES = {"apply": _RUN, "up": _RUN, "migrate": _RUN, "new": "create", "help": _HELP}
_NO_DRY_RUN = f"there is no --dry-run: {_PROGRAM} status shows what is pending"
_NO_WAY_BACK = "there are no down migrations: Onward only goes forward"
_ROLLING_BACK = "How to roll back the code, or correct a migration: docs/rolling-back.md"
_DESCRIPTION = """\
Apply the pending migrations of migrations/ to a Postgres database, or show its
status. Each file runs once, in the order of the numbers, in its own
transaction.

commands:
  (none), or apply    apply all pending files
  status [--check]    show what is applied and what is pending; read-only
  validate            check the files, and their checksums if a database URL is
                      set; read-only
  drift [--check]     show what in the schema is not as the migrations left it;
                      read-only, but for --accept and --refresh
  create "words"      create a draft with the next number
  renumber VERSION    give a file that is not applied the next free number
  check [--base REF]  for a pull request: check that no file of the base branch
                      was changed, and that the numbers are above its own
  import TOOL DIR     write another tool's files as migrations; the next
                      run takes its history over
  checkpoint ["words"]
                      write one file that makes what all files make, for new
                      databases; needs no database of yours
  baseline NNN        record the files up to NNN as applied, without running
                      them
  rehearse            for a database that is thrown away: apply all pending
                      files, and show what they block, read and break
  plan                the same in one transaction that is rolled back
  queries             print the statements that a database runs, for --queries
                      of `rehearse` and `plan`; read-only
  repair VERSION      accept a changed or renamed file: record its checksum and
                      name, without running it
"""
_EPILOG = """\
environment:
  MIGRATION_DATABASE_URL, POSTGRES_URL_NON_POOLING, DATABASE_URL_UNPOOLED,
  POSTGRES_URL, DATABASE_URL
                      the database: the first one that is set is used. All that
                      are set must name one database, unless
                      MIGRATION_DATABASE_URL is set. If none is set, the URLs
                      of .env.local are used, else those of .env.
  MIGRATION_ENV       name of the environment; else VERCEL_TARGET_ENV, else
                      VERCEL_ENV, else development
  MIGRATION_DIR       directory of the files, relative to the project
                      (default: migrations)
  MIGRATION_SCHEMA    schema of the history, if it cannot be detected
  MIGRATION_LOCK_TIMEOUT
                      maximum wait for a lock on a table (default: 1s)
  MIGRATION_STATEMENT_TIMEOUT
                      maximum duration of a statement (default: 0, no limit)
  MIGRATION_WAIT      maximum wait for another run to finish (default: 120s)
  MIGRATION_AHEAD     0: each file waits until the one before it is committed
  MIGRATION_RETRY     how long to retry while a table is busy (default: 60s)
  MIGRATION_DRIFT     what a run does about a schema that is not as the
                      migrations left it: warn (default), fail or off
  MIGRATION_ENVIRONMENTS
                      such as production,development: in any other environment
                      a run applies nothing and exits with 0
  MIGRATION_CLAIM     environment@identity, as printed by the refused run:
                      assigns that database to this environment
  MIGRATION_CONSENT   a person's own words that allow a coding assistant this
                      one change of a persistent database; not read from files
  MIGRATION_REHEARSE  1: outside production, a run shows what `rehearse` shows
  MIGRATION_PLAN_FAIL_ON
                      the findings of `rehearse` and `plan` that mean exit code
                      9: fail, warn or never (default: fail)
  MIGRATION_PLAN_LARGE
                      the size of a table, times the work on each byte, from
                      which a finding fails (default: 100MB)
  MIGRATION_WEBHOOK   https:// URL that is told of runs that applied something,
                      failed or were refused; MIGRATION_WEBHOOK_SECRET signs it
  MIGRATION_ALLOW_OUT_OF_ORDER
                      1 means --allow-out-of-order
  MIGRATION_ALLOW_NONEMPTY
                      1 means --allow-nonempty
  CI, VERCEL_DEPLOYMENT_ID
                      set by a platform: this is a deploy, which may change
                      production without --production
  NO_COLOR            disables colours
  A duration is 250ms, 5s or 2min.

exit codes:
  0         done; the database is current, or ahead of these files
  1         a migration failed and was rolled back; checkpoint: not proved
  2         files, configuration or command line are wrong; nothing was written
  3         files and history do not match, or wrong environment
  4         a lock was busy
  5         the database is unreachable or unsuitable
  6         the outcome of a COMMIT is unknown: run `status`
  7         a no-transaction migration is partly applied
  8         status --check: migrations are pending
  9         rehearse or plan found a hazard that fails
  70        internal error
  130, 143  interrupted by SIGINT or SIGTERM
  Details: docs/exit-codes.md

examples:
  scripts/migrate.py create "add orders"
  POSTGRES_URL=postgresql://me:secret@localhost/app scripts/migrate.py
  scripts/migrate.py status --check --json
"""


_IMPORT = """\
Write the files of another migration tool as migrations, in its order. The next
run on a database that the tool has migrated records what it has applied there;
its table is not changed. Without --prove, no database is connected to."""


class UsageError(OnwardError):
    """The command line is wrong; nothing was read or written."""

    exit_code, code = 2, "usage"


class Parser(argparse.ArgumentParser):
    """Raises UsageError where argparse would print and exit."""

    def error(self, message: str) -> NoReturn:
        """Raise it, with the help of the whole program as the next step."""
        program, _, _ = self.prog.partition(" ")  # without the command
        raise UsageError(message, changed_nothing=True, next_step=_see_help(program))


def _see_help(program: str) -> str:
    return f"To list commands and options:\n  {program} --help"


def parse(arguments: Sequence[str], options: SimpleNamespace) -> None:
    """Set the options that are given; the defaults are the caller's. Raises UsageError."""
    main, commands = _parsers()
    if "--dry-run" in arguments and "import" not in arguments:
        raise _usage_error(_NO_DRY_RUN, f"To see it:\n  {_PROGRAM} status")
    main.parse_args(_command_first(arguments, commands), options)


def _command_first(arguments: Sequence[str], commands: Sequence[str]) -> list[str]:
    """The arguments with the command in front, by its own name."""
    # No option of a bare run takes a value, so the first word without a dash is the command.
    words = [one for one in arguments if not one.startswith("-")]
    if not words:
        return list(arguments)
    rest = list(arguments)
    rest.remove(words[0])
    command = _OTHER_NAMES.get(words[0], words[0])
    if command == _HELP:
        return _command_first([*rest, "--help"], commands)
    if command == _RUN and not words[1:]:
        return rest
    if command not in commands:
        raise _unknown(" ".join(words) if command == _RUN else command, commands)
    return [command, *rest]


def _unknown(command: str, commands: Sequence[str]) -> UsageError:
    if command in _BACK:
        return _usage_error(_NO_WAY_BACK, _ROLLING_BACK)
    alike = get_close_matches(command, [*commands, *_OTHER_NAMES], 1)
    suggestion = f"Did you mean `{_PROGRAM} {alike[0]}`? " if alike else ""
    return _usage_error(f"there is no command {command!r}", suggestion + _see_help(_PROGRAM))


def _usage_error(problem: str, next_step: str) -> UsageError:
    return UsageError(problem, changed_nothing=True, next_step=next_step)


def _parsers() -> tuple[Parser, list[str]]:
    """The parser, and the names of the commands."""
    common, production = _common_options(), _production_option()
    main = Parser(
        prog=_PROGRAM,
        usage=f"{_PROGRAM} [options] [command]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=formatter,
        parents=[common, _run_options(), production],
        allow_abbrev=False,
    )
    main.add_argument(
        "--version", action="version", version=f"onward {VERSION}", help="print the version"
    )
    commands = main.add_subparsers(
        dest="command", metavar="command", prog=_PROGRAM, help=argparse.SUPPRESS
    )
    add = partial(commands.add_parser, formatter_class=formatter, allow_abbrev=False)
    _add_status(
        add(
            "status",
            description="Show what is applied and what is pending. Read-only.",
            parents=[common],
        )
    )
    add(
        "validate",
        description="Check the files, and their checksums if a database URL is set. Read-only.",
        parents=[common],
    )
    _add_drift(
        add(
            "drift",
            description="Show what in the schema is not as the migrations left it. Read-only, but "
            "for --accept\nand --refresh.",
            parents=[common, production],
        )
    )
    _add_commands_on_files(partial(add, parents=[common]))
    _add_checkpoint(partial(add, parents=[common]))
    _add_commands_that_record(partial(add, parents=[common, production]))
    _add_commands_that_observe(partial(add, parents=[common]))
    return main, [*(commands.choices or ())]


def _add_commands_on_files(add: Callable[..., argparse.ArgumentParser]) -> None:
    create = add("create", description="Create a draft with the next number.")
    create.add_argument("description", nargs="+", help='such as "add orders"')
    renumber = add(
        "renumber", description="Give a file that is not applied yet the next free number."
    )
    renumber.add_argument("version", metavar="VERSION", help="such as 004-add-orders, or its path")
    check = add("check", description="Check the files of a branch against its base. Read-only.")
    _add_import(add("import", description=_IMPORT))
    check.add_argument(
        "--base", metavar="REF", help="such as origin/main; by default the pull request's, or main"
    )


def _add_import(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "tool",
        choices=["auto", *TABLES],
        metavar="TOOL",
        help=f"auto, or one of {', '.join(TABLES)}",
    )
    command.add_argument("source", type=Path, metavar="DIR", help="the tool's directory")
    command.add_argument(
        "--dry-run", action="store_true", help="show what would be written, and write nothing"
    )
    command.add_argument(
        "--prove",
        action="store_true",
        help="also run the applied files in a scratch database, and compare the schema that they "
        "make with that of the database; reads only",
    )
    command.add_argument(
        "--scratch",
        metavar="URL",
        help="a server for the scratch database, which is made there and dropped again; by "
        "default a Postgres is started on this machine",
    )
    command.add_argument(
        "--skip", action="append", default=[], metavar="FILE", help="leave a file of DIR out"
    )
    command.add_argument(
        "--keep-numbers",
        action="store_true",
        help="keep the tool's own numbers, where these are whole and unique",
    )
    command.add_argument(
        "--table",
        metavar="NAME",
        help="the tool's history, if it has not its usual name; with its schema, if that is not on "
        "the search path",
    )


def _add_checkpoint(add: Callable[..., argparse.ArgumentParser]) -> None:
    checkpoint = add(
        "checkpoint",
        description="Write a file that new databases apply instead of all that are here now.",
    )
    checkpoint.add_argument("description", nargs="*", help='such as "version two"')
    checkpoint.add_argument(
        "--scratch",
        metavar="URL",
        help="a server to try it on, instead of one that is started for it: databases are made on "
        "this server and dropped again, and the one that the URL names is not touched",
    )


def _add_commands_that_record(add: Callable[..., argparse.ArgumentParser]) -> None:
    baseline = add("baseline", description="Record files as applied, without running them.")
    baseline.add_argument(
        "number", type=_number, metavar="NNN", help="the highest number to record as applied"
    )
    repair = add("repair", description="Record the checksum and name of a changed or renamed file.")
    repair.add_argument("version", metavar="VERSION", help="such as 001-create-users-table")


def _add_commands_that_observe(add: Callable[..., argparse.ArgumentParser]) -> None:
    for name, description in (
        ("rehearse", "Apply the pending files to a database that is thrown away, observed."),
        ("plan", "Run the pending files in one transaction, observed, and roll it back."),
    ):
        command = add(name, description=description)
        command.add_argument(
            "--markdown",
            action="store_true",
            help="print a pull request's comment to stdout, and text to stderr",
        )
        command.add_argument(
            "--sizes-from",
            type=Path,
            metavar="FILE",
            help="sizes of tables under 1 MB here, printed by `status --json` of another database",
        )
        command.add_argument(
            "--queries",
            type=Path,
            metavar="FILE",
            help="statements that must not break: what `queries` of another database has printed",
        )
    add(
        "queries",
        description="Print the statements of pg_stat_statements as a JSON document. Read-only.",
    )


def _options() -> Parser:
    return Parser(add_help=False, argument_default=argparse.SUPPRESS)


def _common_options() -> Parser:
    common = _options()
    common.add_argument(
        "--json",
        action="store_true",
        help="print one JSON document to stdout, and text to stderr",
    )
    return common


def _run_options() -> Parser:
    run = _options()
    run.add_argument(
        "--allow-out-of-order",
        action="store_true",
        help="also apply files below the highest applied number",
    )
    run.add_argument(
        "--allow-nonempty",
        action="store_true",
        help="run all files on a database that has tables but no history",
    )
    return run


def _production_option() -> Parser:
    production = _options()
    production.add_argument(
        "--production", action="store_true", help="change production from outside a deploy"
    )
    return production


def _add_status(status: argparse.ArgumentParser) -> None:
    status.add_argument(
        "--check", action="store_true", help="exit 8 if migrations are pending, 3 on a conflict"
    )
    status.add_argument("--pending", action="store_true", help="show pending migrations only")
    status.add_argument(
        "--last",
        type=_positive,
        metavar="N",
        help=f"show the last N applied migrations (default: {SHORT_STATUS_ROWS})",
    )
    status.add_argument("--all", action="store_true", help="show all applied migrations")
    status.add_argument(
        "--upgrade-check",
        action="store_true",
        help="report what a run of this version would refuse here, and why",
    )


def _add_drift(drift: argparse.ArgumentParser) -> None:
    drift.add_argument("--check", action="store_true", help="exit 3 if there is drift")
    drift.add_argument(
        "--strict", action="store_true", help="also compare owners, privileges and comments"
    )
    instead = drift.add_mutually_exclusive_group()
    instead.add_argument(
        "--against",
        metavar="FILE",
        help="compare with the schema in FILE, which `drift --json` has printed elsewhere",
    )
    instead.add_argument(
        "--accept", action="store_true", help="from now on expect the schema with these differences"
    )
    instead.add_argument(
        "--refresh",
        action="store_true",
        help="expect the schema as it is, where it is unknown what was expected",
    )


def formatter(prog: str) -> argparse.HelpFormatter:
    """The same width on every terminal."""
    return argparse.RawDescriptionHelpFormatter(prog, max_help_position=22, width=80)


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return int(text)


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not the number of a file, such as 002")
    return int(text)
