"""The arguments of scripts/migrate.py, and its help."""

import argparse
from functools import partial
from typing import NoReturn

from lib import VERSION
from lib.errors import OnwardError

_PROGRAM = "scripts/migrate.py"
_DESCRIPTION = """\
Apply the pending migrations of migrations/ to a Postgres database, or show its
status. Each file runs once, in the order of the numbers, in its own
transaction.

commands:
  (none)              apply all pending files
  status [--check]    show what is applied and what is pending; read-only
  validate            check the files, and their checksums if a database URL is
                      set; read-only
  create "words"      create a draft with the next number
  renumber VERSION    give a file that is not applied the next free number
  check [--base REF]  for a pull request: check that no file of the base branch
                      was changed, and that the numbers are above its own
  baseline NNN        record the files up to NNN as applied, without running
                      them
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
  MIGRATION_RETRY     how long to retry while a table is busy (default: 60s)
  MIGRATION_ENVIRONMENTS
                      such as production,development: in any other environment
                      a run applies nothing and exits with 0
  MIGRATION_CLAIM     environment@identity, as printed by the refused run:
                      assigns that database to this environment
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
  1         a migration failed and was rolled back
  2         files, configuration or command line are wrong; nothing was written
  3         files and history do not match, or wrong environment
  4         a lock was busy
  5         the database is unreachable or unsuitable
  6         the outcome of a COMMIT is unknown: run `status`
  7         a no-transaction migration is partly applied
  8         status --check: migrations are pending
  70        internal error
  130, 143  interrupted by SIGINT or SIGTERM
  Details: docs/exit-codes.md

examples:
  scripts/migrate.py create "add orders"
  POSTGRES_URL=postgresql://me:secret@localhost/app scripts/migrate.py
  scripts/migrate.py status --check --json
"""


class UsageError(OnwardError):
    """The command line is wrong; nothing was read or written."""

    exit_code, code = 2, "usage"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        next_step = f"To list commands and options:\n  {self.prog} --help"
        raise UsageError(message, changed_nothing=True, next_step=next_step)


def parser() -> argparse.ArgumentParser:
    """The parser. It sets given options only; defaults are the caller's. Raises UsageError."""
    common = _common_options()
    main = _Parser(
        prog=_PROGRAM,
        usage=f"{_PROGRAM} [options] [command]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=_formatter,
        parents=[common],
        allow_abbrev=False,
    )
    main.add_argument(
        "--version", action="version", version=f"onward {VERSION}", help="print the version"
    )
    commands = main.add_subparsers(
        dest="command", metavar="command", prog=_PROGRAM, help=argparse.SUPPRESS
    )
    add = partial(
        commands.add_parser, formatter_class=_formatter, parents=[common], allow_abbrev=False
    )
    _add_status(add("status", description="Show what is applied and what is pending. Read-only."))
    add(
        "validate",
        description="Check the files, and their checksums if a database URL is set. Read-only.",
    )
    create = add("create", description="Create a draft with the next number.")
    create.add_argument("description", nargs="+", help='such as "add orders"')
    renumber = add(
        "renumber", description="Give a file that is not applied yet the next free number."
    )
    renumber.add_argument("version", metavar="VERSION", help="such as 004-add-orders, or its path")
    check = add("check", description="Check the files of a branch against its base. Read-only.")
    check.add_argument(
        "--base",
        metavar="REF",
        help="such as origin/main; by default the pull request's, or main",
    )
    baseline = add("baseline", description="Record files as applied, without running them.")
    baseline.add_argument(
        "number", type=_number, metavar="NNN", help="the highest number to record as applied"
    )
    repair = add("repair", description="Record the checksum and name of a changed or renamed file.")
    repair.add_argument("version", metavar="VERSION", help="such as 001-create-users-table")
    return main


def _common_options() -> _Parser:
    common = _Parser(add_help=False, argument_default=argparse.SUPPRESS)
    common.add_argument(
        "--json",
        action="store_true",
        help="print one JSON document to stdout, and text to stderr",
    )
    common.add_argument(
        "--allow-out-of-order",
        action="store_true",
        help="also apply files below the highest applied number",
    )
    common.add_argument(
        "--allow-nonempty",
        action="store_true",
        help="run all files on a database that has tables but no history",
    )
    common.add_argument(
        "--production", action="store_true", help="change production from outside a deploy"
    )
    return common


def _add_status(status: argparse.ArgumentParser) -> None:
    status.add_argument(
        "--check", action="store_true", help="exit 8 if migrations are pending, 3 on a conflict"
    )
    status.add_argument(
        "--upgrade-check",
        action="store_true",
        help="report what a run of this version would refuse here, and why",
    )


def _formatter(prog: str) -> argparse.HelpFormatter:
    """The same width on every terminal."""
    return argparse.RawDescriptionHelpFormatter(prog, max_help_position=22, width=80)


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not the number of a file, such as 002")
    return int(text)
