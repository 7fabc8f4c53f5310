"""The arguments of scripts/fleet.py, and its help."""

import argparse
from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace

from lib import VERSION
from lib.cli.arguments import Parser, formatter
from lib.fleet.order import MAX_CHUNK, MAX_CONCURRENCY, read_tolerance

_PROGRAM = "scripts/fleet.py"
_DESCRIPTION = """\
Migrate a database per tenant: all tenants of an inventory, canaries first, and
so many at a time on each cluster. The same command again goes on where it
ended. All about it: docs/fleet.md

commands:
  plan INVENTORY      show waves, clusters and connections; connects to nothing
  run INVENTORY --environment NAME
                      migrate what is pending, and look at what was changed
  status INVENTORY    look at all tenants; read-only
  report [RUN]        the report of a run: of the last one, if none is named
"""
_EPILOG = """\
An INVENTORY is a file of JSON lines, - for stdin, or s3://BUCKET/KEY:
  {"tenant": "acme", "url": "postgresql://host:5432/acme",
   "secret": "secretsmanager:NAME", "wave": 0, "cluster": "c1"}

exit codes:
  0    all databases are current, or ahead of these files
  1    a migration failed for a tenant, and was rolled back
  2    the inventory, the files or the configuration are wrong
  3    files and history do not match, or wrong environment
  4    a tenant was busy
  5    a database is unreachable or unsuitable
  6    the outcome of a COMMIT is unknown: run `status`
  7    a no-transaction migration is partly applied
  8    some databases are pending, or were not reached
  70   internal error
  Of several, the first of 7, 6, 70, 1, 2, 3, 5, 4, 8.

examples:
  scripts/fleet.py plan fleet.jsonl
  scripts/fleet.py run fleet.jsonl --environment production --production
  scripts/fleet.py run s3://acme-fleet/fleet.jsonl --environment production \\
    --production --machine arn:aws:states:eu-west-1:123456789012:stateMachine:fleet
  scripts/fleet.py report --html > report.html
"""
_DEFAULTS = SimpleNamespace(
    command=None,
    json=False,
    html=False,
    environment=None,
    production=False,
    concurrency=8,
    chunk=10,
    tolerate="5%",
    machine=None,
    run=None,
)


def parse(arguments: Sequence[str]) -> SimpleNamespace:
    """The options that are given, or their defaults. Raises UsageError and ConfigError."""
    options = SimpleNamespace(**vars(_DEFAULTS), arguments=list(arguments))
    _parser().parse_args(arguments, options)
    options.tolerance = read_tolerance(options.tolerate)
    return options


def _parser() -> Parser:
    main = Parser(
        prog=_PROGRAM,
        usage=f"{_PROGRAM} command [options]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=formatter,
        allow_abbrev=False,
    )
    main.add_argument(
        "--version", action="version", version=f"onward {VERSION}", help="print the version"
    )
    commands = main.add_subparsers(
        dest="command", metavar="command", prog=_PROGRAM, required=True, help=argparse.SUPPRESS
    )
    add = partial(
        commands.add_parser,
        formatter_class=formatter,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    _add_plan(add("plan", description="Show what a run would do. Connects to nothing."))
    _add_run(add("run", description="Migrate all tenants of an inventory."))
    _add_status(add("status", description="Look at all tenants of an inventory. Read-only."))
    _add_report(add("report", description="Show the report of a run."))
    return main


def _add_plan(command: argparse.ArgumentParser) -> None:
    _add_inventory(command)
    _add_json(command)


def _add_run(command: argparse.ArgumentParser) -> None:
    _add_inventory(command)
    command.add_argument(
        "--environment", required=True, metavar="NAME", help="the environment of all tenants"
    )
    command.add_argument(
        "--production", action="store_true", help="change production from outside a deploy"
    )
    command.add_argument(
        "--tolerate",
        metavar="N[%]",
        help="how many databases of a cluster may fail in a wave before no other one there is "
        "begun (default: 5%%)",
    )
    _add_machine(command)
    _add_json(command)


def _add_status(command: argparse.ArgumentParser) -> None:
    _add_inventory(command)
    command.add_argument("--environment", metavar="NAME", help="the environment of all tenants")
    _add_machine(command)
    _add_json(command)


def _add_report(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "run", nargs="?", metavar="RUN", help="its name, or its directory (default: the last one)"
    )
    command.add_argument("--html", action="store_true", help="print one page for a browser")
    _add_machine(command)
    _add_json(command)


def _add_inventory(command: argparse.ArgumentParser) -> None:
    command.add_argument("inventory", metavar="INVENTORY", help="a file of JSON lines, - or s3://")
    command.add_argument(
        "--concurrency",
        type=partial(_number, most=MAX_CONCURRENCY),
        metavar="N",
        help="how many tenants of a cluster are worked on at a time (default: 8)",
    )
    command.add_argument(
        "--chunk",
        type=partial(_number, most=MAX_CHUNK),
        metavar="N",
        help="how many tenants a worker is given at a time (default: 10)",
    )


def _add_machine(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--machine", metavar="ARN", help="the state machine on AWS that carries it out"
    )


def _add_json(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--json",
        action="store_true",
        help="print one JSON document to stdout, and text to stderr",
    )


def _number(text: str, most: int) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= most):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to {most}")
    return int(text)
