"""SIGINT and SIGTERM end a command; the first one decides the exit code."""

import signal
from types import FrameType

from lib.errors import Interrupted
from lib.postgres.connection import postpone

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def interrupt(number: int, frame: FrameType | None) -> None:
    """A signal handler: ignores further signals, then raises Interrupted."""
    ignore_further_signals()
    error = Interrupted(
        f"interrupted by {signal.Signals(number).name}: what was not committed is rolled back",
        exit_code=128 + number,
        next_step="It is safe to run again.",
    )
    if not postpone(frame, error):
        raise error


def ignore_further_signals() -> None:
    """Let no signal cut short what a command prints at its end, or what the first one interrupts.

    Not by SIG_IGN: for a signal that is already pending, Python would print that it is ignored.
    """
    for number in SIGNALS:
        if signal.getsignal(number) is interrupt:
            signal.signal(number, lambda *_: None)
