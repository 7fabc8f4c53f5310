"""SIGINT and SIGTERM end a command; the first one decides the exit code."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from lib.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def interrupt(number: int, frame: FrameType | None) -> None:
    """A signal handler: ignores further signals, then raises Interrupted."""
    ignore_further_signals()
    error = Interrupted(
        f"interrupted by {signal.Signals(number).name}: what was not committed is rolled back",
        exit_code=128 + number,
        next_step="It is safe to run again.",
    )
    if not _postponed(frame, error):
        raise error


def _postponed(frame: FrameType | None, error: Interrupted) -> bool:
    """Whether a connection raises it later. Not imported here: most signals meet no connection, and
    some commands have no driver.
    """
    connection = sys.modules.get("lib.postgres.connection")
    return connection is not None and connection.postpone(frame, error)


@contextmanager
def signals_held() -> Iterator[None]:
    """Let signals wait until the end of the block: an import may drop what a handler raises."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_further_signals() -> None:
    """Let no signal cut short what a command prints at its end, or what the first one interrupts.

    Not by SIG_IGN: for a signal that is already pending, Python would print that it is ignored.
    """
    for number in SIGNALS:
        if signal.getsignal(number) is interrupt:
            signal.signal(number, lambda *_: None)
