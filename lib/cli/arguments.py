"""The command line of scripts/migrate.py: what it takes, and what `--help` says of it."""

import argparse
from functools import partial
from typing import NoReturn

from lib import VERSION
from lib.errors import OnwardError

_DESCRIPTION = """\
Apply the pending migrations of migrations/ to a Postgres database, or look at
them. Each file runs once, in the order of the numbers, in its own transaction.

commands:
  (none)              apply all files that are pending
  status [--check]    show what is applied and what is pending; reads only
  validate            check the files; where a database is named, their
                      checksums too; reads only
  create "words"      write a new draft with the next number
  baseline NNN        record the files up to NNN as applied without running
                      them
  repair VERSION      accept a changed or renamed file: take its checksum and
                      name into the history without running it
"""
_EPILOG = """\
environment:
  MIGRATION_DATABASE_URL, POSTGRES_URL_NON_POOLING, DATABASE_URL_UNPOOLED,
  POSTGRES_URL, DATABASE_URL
                      the database: the first that is set. All that are set
                      must name one database, unless the first of them is set.
                      Where none is, those of .env.local count, else of .env.
  MIGRATION_ENV       the environment's name; else VERCEL_TARGET_ENV, else
                      VERCEL_ENV, else development
  MIGRATION_DIR       the directory of the files; as a relative path it begins
                      at the project (default: migrations)
  MIGRATION_SCHEMA    the schema of the history, where it is not found by itself
  MIGRATION_LOCK_TIMEOUT
                      longest wait for a lock on a table (default: 1s)
  MIGRATION_STATEMENT_TIMEOUT
                      longest statement (default: 0, no limit)
  MIGRATION_WAIT      longest wait for another run to finish (default: 120s)
  MIGRATION_RETRY     how long to try again while a table is busy (default: 60s)
  MIGRATION_ENVIRONMENTS
                      such as production,development: in any other environment
                      nothing is applied, and the exit code is 0
  MIGRATION_CLAIM     environment@identity, as a refused run prints it: makes
                      that database this environment's
  MIGRATION_ALLOW_OUT_OF_ORDER
                      1 is --allow-out-of-order
  MIGRATION_ALLOW_NONEMPTY
                      1 is --allow-nonempty
  CI, VERCEL_DEPLOYMENT_ID
                      set by a platform: this is a deploy, so production may be
                      changed without --production
  NO_COLOR            no colour, on a terminal too
  A duration is 250ms, 5s or 2min.

exit codes:
  0         done; the database is current, or ahead of these files
  1         a migration failed and was rolled back
  2         files, configuration or command line are wrong; nothing was written
  3         files and history disagree, or this is the wrong environment
  4         a lock was busy
  5         the database is unreachable or unsuitable
  6         the outcome of a commit is unknown: look with `status`
  7         a no-transaction migration is partly applied
  8         status --check: migrations are pending
  70        a fault of this program
  130, 143  interrupted by SIGINT or SIGTERM

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
        raise UsageError(
            message, next_step=f"`{self.prog} --help` says what there is. Nothing was changed."
        )


def parser() -> argparse.ArgumentParser:
    """It sets what is given only: the defaults are the caller's. Raises UsageError."""
    common = _Parser(add_help=False, argument_default=argparse.SUPPRESS)
    common.add_argument(
        "--json", action="store_true", help="one JSON document on stdout; words go to stderr"
    )
    common.add_argument(
        "--allow-out-of-order", action="store_true", help="apply files that were merged late, too"
    )
    common.add_argument(
        "--allow-nonempty",
        action="store_true",
        help="run all files in a database with tables and no history",
    )
    common.add_argument(
        "--production", action="store_true", help="change production from outside a deploy"
    )
    found = _Parser(
        prog="scripts/migrate.py",
        usage="scripts/migrate.py [options] [command]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=_formatter,
        parents=[common],
        allow_abbrev=False,
    )
    found.add_argument(
        "--version", action="version", version=f"onward {VERSION}", help="show the version"
    )
    commands = found.add_subparsers(
        dest="command", metavar="command", prog="scripts/migrate.py", help=argparse.SUPPRESS
    )
    add = partial(
        commands.add_parser, formatter_class=_formatter, parents=[common], allow_abbrev=False
    )
    status = add("status", description="Show what is applied and what is pending. Reads only.")
    status.add_argument(
        "--check", action="store_true", help="exit 8 if migrations are pending, 3 on a conflict"
    )
    status.add_argument(
        "--upgrade-check",
        action="store_true",
        help="say what a run of this version would refuse here, and why",
    )
    add(
        "validate",
        description="Check the files; where a database is named, their checksums too. Reads only.",
    )
    create = add("create", description="Write a new draft with the next number.")
    create.add_argument("description", nargs="+", help='such as "add orders"')
    baseline = add("baseline", description="Record files as applied without running them.")
    baseline.add_argument(
        "number", type=_number, metavar="NNN", help="the last number that counts as applied"
    )
    repair = add(
        "repair", description="Take a changed or renamed file's checksum and name into the history."
    )
    repair.add_argument("version", metavar="VERSION", help="such as 001-create-users-table")
    return found


def _formatter(prog: str) -> argparse.HelpFormatter:
    """The same on every terminal."""
    return argparse.RawDescriptionHelpFormatter(prog, max_help_position=22, width=80)


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not the number of a file, such as 002")
    return int(text)
