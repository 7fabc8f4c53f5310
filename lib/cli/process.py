"""A command as a process of its own: its streams, its signals, its exit code."""

import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence

from lib.cli.main import main as migrate
from lib.cli.output import write
from lib.cli.signals import SIGNALS, ignore_further_signals, interrupt
from lib.errors import Interrupted

_STREAM_MODES = {"stdin": "r", "stdout": "w", "stderr": "w"}


def run_process(main: Callable[[Sequence[str], Mapping[str, str]], int] = migrate) -> int:
    """Run `main` with this process's arguments, environment and streams; return the exit code.

    Raises DriverMissing.
    """
    _repair_streams()
    for number in SIGNALS:
        signal.signal(number, interrupt)
    try:
        return main(sys.argv[1:], os.environ)
    except Interrupted as interrupted:  # the signal came just as `main` returned
        return interrupted.exit_code
    finally:
        ignore_further_signals()
        for stream in (sys.stdout, sys.stderr):
            write(stream, "")  # flushes what argparse has printed
        for number in SIGNALS:  # Python restores other handlers while it is still shutting down
            signal.signal(number, signal.SIG_IGN)


def _repair_streams() -> None:
    """Open closed streams on /dev/null, and let no character that they cannot encode stop a run.

    A closed stream's descriptor would go to the database connection, and prints would end up there.
    """
    for name, mode in _STREAM_MODES.items():
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, os.fdopen(null, mode, encoding="utf-8", closefd=False))
        getattr(sys, name).reconfigure(errors="replace")
