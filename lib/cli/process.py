"""A command as a process of its own: its streams, the signals, its exit code."""

from __future__ import annotations

import os
import signal
import sys

from lib.cli.commands import main
from lib.cli.output import write
from lib.cli.signals import SIGNALS, heed_no_signal, interrupt
from lib.errors import Interrupted


def run_process() -> int:
    """`main` as a process of its own, whatever its streams are, and whoever interrupts it."""
    _mend_streams()
    for number in SIGNALS:
        signal.signal(number, interrupt)
    try:
        return main(sys.argv[1:], os.environ)
    except Interrupted as interrupted:  # in the moment in which the end was reached
        return interrupted.exit_code
    finally:
        heed_no_signal()
        for stream in (sys.stdout, sys.stderr):
            write(stream, "")  # what argparse has printed
        for number in SIGNALS:  # Python resets others at its end, before it has come to it
            signal.signal(number, signal.SIG_IGN)


def _mend_streams() -> None:
    """Let a closed stream lead nowhere: else the connection gets its number. No character stops a
    run.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(
                sys,
                name,
                os.fdopen(os.open(os.devnull, os.O_RDWR), mode, encoding="utf-8", closefd=False),
            )
        getattr(sys, name).reconfigure(errors="replace")
