"""A command as a process of its own: its streams, its signals, its exit code."""

import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

from lib.cli.main import main as migrate
from lib.cli.output import write
from lib.cli.signals import SIGNALS, ignore_further_signals, interrupt
from lib.errors import Interrupted

_STREAM_MODES = {"stdin": "r", "stdout": "w", "stderr": "w"}


def run_process(main: Callable[[Sequence[str], Mapping[str, str]], int] = migrate) -> NoReturn:
    """Run `main` with this process's arguments, environment and streams, and exit with its code.

    Raises DriverMissing.
    """
    _repair_streams()
    for number in SIGNALS:
        signal.signal(number, interrupt)
    try:
        exit_code = main(sys.argv[1:], os.environ)
    except SystemExit as usage:  # argparse has printed help, or what is wrong
        exit_code = int(usage.code or 0)
    except Interrupted as interrupted:  # the signal came just as `main` returned
        exit_code = interrupted.exit_code
    ignore_further_signals()
    for stream in (sys.stdout, sys.stderr):
        write(stream, "")  # flushes what argparse has printed
    # Python would first take all modules apart, which takes 3 % of a run with nothing to do, and
    # restore other signal handlers meanwhile.
    os._exit(exit_code)


def _repair_streams() -> None:
    """Open closed streams on /dev/null, and let no character that they cannot encode stop a run.

    A closed stream's descriptor would go to the database connection, and prints would end up there.
    """
    for name, mode in _STREAM_MODES.items():
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, os.fdopen(null, mode, encoding="utf-8", closefd=False))
        getattr(sys, name).reconfigure(errors="replace")
