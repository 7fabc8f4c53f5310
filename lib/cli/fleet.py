"""The commands of scripts/fleet.py."""

from __future__ import annotations

import importlib.util
import os
import secrets
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from types import FrameType, SimpleNamespace

from lib.cli.fleet_arguments import parse
from lib.cli.output import Terminal
from lib.cli.signals import SIGNALS
from lib.consent import Change, require_words
from lib.errors import ConfigError, OnwardError, WrongEnvironment
from lib.fleet.inventory import Inventory, read_inventory
from lib.fleet.journal import LOG_NAME, RUNS, Journal, last_run, read_journal
from lib.fleet.order import Order
from lib.fleet.report import Ending, Entries, Header, Report, make_report, report_dict
from lib.fleet.text import (
    Progress,
    exit_text,
    plan_dict,
    plan_text,
    progress_text,
    report_text,
    started_text,
)
from lib.guard import reason_to_skip, require_confirmation
from lib.printable import count
from lib.report.text import consent_text, skipped_text
from lib.settings.assistant import find_assistant
from lib.settings.config import git_commit, migrations_directory
from lib.settings.environ import with_env_files
from lib.settings.environment import allowed_environments, is_deploying, read_environment
from lib.source.migration import load

Engine = Callable[[Order, Journal], Ending]
"""Carries an order out, and writes into the journal what becomes of each tenant."""

_LINE_SECONDS = 60.0
_BAR_WIDTH = 24
_STOPPING = b"\nstopping after the tenants in hand; once more to end at once\n"


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run one command and return its exit code."""
    terminal = Terminal(environ, as_json="--json" in arguments, as_markdown="--html" in arguments)
    try:
        options = parse(arguments)
        terminal.environ = with_env_files(environ)
        return _COMMANDS[options.command](options, terminal)
    except OnwardError as error:
        return terminal.fail(error)
    except Exception as error:
        return terminal.crash(error)


def _plan(options: SimpleNamespace, terminal: Terminal) -> int:
    order = _order(options, terminal.environ, "migrate")
    terminal.info(plan_text(order))
    terminal.json(plan_dict(order))
    return 0


def _run(options: SimpleNamespace, terminal: Terminal) -> int:
    order = _order(options, terminal.environ, "migrate")
    name, allowed = allowed_environments(_worker_environ(order, terminal))
    if reason := reason_to_skip(name, allowed):
        terminal.info(skipped_text(name, reason, "not looked at"))
        terminal.json({"success": True, "skipped": reason})
        return 0
    _require_permission(order, options, terminal)
    return _carry_out(order, options, terminal)


def _status(options: SimpleNamespace, terminal: Terminal) -> int:
    return _carry_out(_order(options, terminal.environ, "status"), options, terminal)


def _report(options: SimpleNamespace, terminal: Terminal) -> int:
    report = make_report(_entries(options))
    if options.html:
        from lib.fleet.page import page  # noqa: PLC0415 - the other commands do not need it

        terminal.document(page(report_dict(report), datetime.now(UTC)))
    return _tell(report, terminal)


_COMMANDS = {"plan": _plan, "run": _run, "status": _status, "report": _report}


def _order(options: SimpleNamespace, environ: Mapping[str, str], action: str) -> Order:
    """What is asked for. Raises ConfigError, FilesError and WrongEnvironment."""
    inventory = _read(options.inventory)
    migrations = load(migrations_directory(environ))
    return Order(
        run=_run_name(environ),
        action=action,
        environment=_environment(options.environment, environ),
        head=migrations[-1].version,
        inventory=inventory,
        concurrency=options.concurrency,
        chunk=options.chunk,
        tolerance=options.tolerance,
    )


def _read(source: str) -> Inventory:
    """The inventory of a file, of stdin or of S3. Raises ConfigError."""
    if source.startswith("s3://"):
        from lib.aws.calls import read_s3  # noqa: PLC0415 - boto3 is not in requirements.txt

        return read_inventory(read_s3(source))
    try:
        text = sys.stdin.read() if source == "-" else Path(source).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"cannot read the inventory {source}: {reason}") from None
    return read_inventory(text)


def _environment(given: str | None, environ: Mapping[str, str]) -> str:
    """The environment of the tenants: as given, which must be the process's if that has one."""
    own = read_environment(environ)
    if given is None:
        return own.name
    named = read_environment({**environ, "MIGRATION_ENV": given})
    if own.source != "default" and own.name != named.name:
        raise WrongEnvironment(
            f"--environment is {named.name}, but {own.source} is {own.name}",
            changed_nothing=True,
            next_step=f"Give the one that the tenants belong to, or unset {own.source}.",
        )
    return named.name


def _run_name(environ: Mapping[str, str]) -> str:
    """UTC in milliseconds, so that names sort as the runs began, the commit, and four characters
    that no other run has.
    """
    now, commit = datetime.now(UTC), (git_commit(environ) or "")[:7]
    began = f"{now:%Y%m%dT%H%M%S}{now.microsecond // 1000:03}Z"
    parts = (began, commit, secrets.token_hex(2))
    return "-".join(filter(None, parts))


def _require_permission(order: Order, options: SimpleNamespace, terminal: Terminal) -> None:
    """Raise WrongEnvironment if nobody has allowed the run. Each tenant's own guard comes later."""
    assistant = find_assistant(terminal.environ)
    databases = count(len(order.inventory.tenants), "database")
    place = f"\n  Inventory: {databases}\n  Environment: {order.environment}"
    deploying = is_deploying(terminal.environ) and not assistant
    require_confirmation(order.environment, confirmed=options.production or deploying, place=place)
    if not assistant:
        return
    if options.machine or not order.inventory.is_on_this_machine:
        require_words(
            assistant,
            Change("apply the pending migrations to", _command_line(options)),
            f"{databases} of {options.inventory} (environment {order.environment})",
            place=place,
            look=f"scripts/fleet.py status {shlex.quote(options.inventory)}",
        )
    terminal.info(consent_text(assistant))


def _command_line(options: SimpleNamespace) -> str:
    return shlex.join(["scripts/fleet.py", *options.arguments])


def _carry_out(order: Order, options: SimpleNamespace, terminal: Terminal) -> int:
    """Have the engine carry an order out, and tell what became of it."""
    engine = _machine(order, options.machine) if options.machine else None
    terminal.info(started_text(order))
    directory = RUNS / order.run
    began = datetime.now(UTC).isoformat(timespec="milliseconds")
    with Journal(directory, Header.of(order, began)) as journal:
        terminal.info(f"Report: {directory}\n")
        engine = engine or _embedded(order, terminal, directory / LOG_NAME)
        ending = engine(order, journal)
        journal.end(ending)
    report = make_report(read_journal(directory))
    if ending.interrupted and not report.success:
        terminal.info(f"To go on: {_command_line(options)}")
    return _tell(report, terminal)


def _entries(options: SimpleNamespace) -> Entries:
    """The journal that is asked for. Raises ConfigError."""
    directory = _directory(options.run) if options.run else last_run()
    if options.machine:
        from lib.aws.machine import Machine  # noqa: PLC0415 - boto3 is not in requirements.txt

        return Machine(options.machine, stop=Event()).entries(options.run or directory.name)
    return read_journal(directory)


def _tell(report: Report, terminal: Terminal) -> int:
    terminal.info(report_text(report))
    if report.exit_code:
        terminal.explain_exit(exit_text(report.exit_code))
    terminal.json(report_dict(report))
    return report.exit_code


def _directory(run: str) -> Path:
    named = RUNS / run
    return named if named.is_dir() else Path(run)


def _worker_environ(order: Order, terminal: Terminal) -> dict[str, str]:
    return {**terminal.environ, "MIGRATION_ENV": order.environment}


def _embedded(order: Order, terminal: Terminal, log: Path) -> Engine:
    """The engine in this process. Raises ConfigError, if it could not read a secret."""
    from lib.fleet.pool import Pool  # noqa: PLC0415 - a plan and a report need no driver
    from lib.fleet.worker import Worker  # noqa: PLC0415
    from lib.web.service import as_given  # noqa: PLC0415

    environ = _worker_environ(order, terminal)
    resolve = as_given
    if order.inventory.has_references:
        resolve = _references()
    applied_by = "build" if is_deploying(environ) else "cli"

    def engine(order: Order, journal: Journal) -> Ending:
        stop = Event()
        with log.open("x", encoding="utf-8") as lines, _stopped_by_signals(stop, _STOPPING):
            worker = Worker(environ, resolve, applied_by=applied_by, log=lines)
            return Pool(worker.outcomes, tell=_Meter(terminal).tell, stop=stop)(order, journal)

    return engine


def _machine(order: Order, arn: str) -> Engine:
    """The engine on AWS. Raises ConfigError if it cannot take the order, LockBusy if it is busy."""
    from lib.aws.machine import Machine  # noqa: PLC0415 - boto3 is not in requirements.txt

    stop = Event()
    machine = Machine(arn, stop=stop)
    machine.check(order)

    def engine(order: Order, journal: Journal) -> Ending:
        with _stopped_by_signals(stop, b"\n"):
            return machine(order, journal)

    return engine


def _references() -> Callable[..., Iterator[Mapping[str, str]]]:
    from lib.aws.calls import NO_BOTO3  # noqa: PLC0415 - it imports what only Lambda needs
    from lib.aws.secrets import SecretReferences  # noqa: PLC0415

    if not importlib.util.find_spec("boto3"):
        raise ConfigError(
            "the inventory refers to secrets, and boto3 is not installed", next_step=NO_BOTO3
        )
    return SecretReferences()


@contextmanager
def _stopped_by_signals(stop: Event, words: bytes) -> Iterator[None]:
    """The first signal is for the engine to end, with these words, the second one ends at once."""

    def handle(number: int, _: FrameType | None) -> None:
        # Not by print: the signal may come while something is being printed.
        if stop.is_set():
            os.write(2, b"\nended at once; what was not committed is rolled back\n")
            os._exit(128 + number)
        stop.set()
        os.write(2, words)

    before = {number: signal.signal(number, handle) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Meter:
    """Shows how far a run is: a bar on a terminal, elsewhere a line a minute."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._last = time.monotonic()

    def tell(self, progress: Progress) -> None:
        """Show it, if it is time to."""
        text = f"Wave {progress.wave}: {progress_text(progress)}"
        if self._terminal.is_live:
            self._terminal.redraw("" if progress.ended else f"{_bar(progress)} {text}")
        if progress.ended or (self._is_due and not self._terminal.is_live):
            self._last = time.monotonic()
            self._terminal.info(text)

    @property
    def _is_due(self) -> bool:
        return time.monotonic() - self._last >= _LINE_SECONDS


def _bar(progress: Progress) -> str:
    full = _BAR_WIDTH * progress.done // progress.total
    return "█" * full + "░" * (_BAR_WIDTH - full)
