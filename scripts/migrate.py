#!/usr/bin/env python3
"""The command line, and the build step of a deploy."""

# Up to the check of its version, this file must also run on an older Python.
import os
import signal
import sys

_EXPLAINED_AT = "docs/exit-codes.md#exit-codes"


def _exit_on_signal(number: int, _: object) -> None:
    """A signal handler for the time before `run_process`: there is nothing to clean up yet."""
    message = f"interrupted by {signal.Signals(number).name}: nothing was started"
    exit_code = 128 + number
    os.write(2, f"❌ {message}\n(exit {exit_code}, {_EXPLAINED_AT})\n".encode())
    if "--json" in sys.argv:
        error = f'{{"code": "interrupted", "message": "{message}", "nextStep": ""}}'
        os.write(1, f'{{"success": false, "error": {error}}}\n'.encode())
    os._exit(exit_code)


if __name__ == "__main__":  # before the imports, which take a moment
    for _number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(_number, _exit_on_signal)

import gc
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
# To search the imported modules for garbage takes a sixth of the start, and finds none.
gc.disable()


def _hand_over(missing: ImportError) -> None:
    """Run in the project's .venv: usually this is the system's Python. If not, say what to do."""
    from scripts.in_venv import hand_over  # noqa: PLC0415 - a deploy does not need it

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)  # an ignored signal would stay ignored there
    hand_over(missing)


try:
    if sys.version_info < (3, 11):  # noqa: UP036 - `python3` is older than that on many machines
        raise ImportError("it is too old")
    from lib.cli.main import DriverMissing, preload
    from lib.cli.process import run_process

    preload(sys.argv[1:])
except ImportError as missing:
    _hand_over(missing)

gc.freeze()
gc.enable()

if __name__ == "__main__":
    try:
        run_process()
    except DriverMissing as missing:
        _hand_over(missing)
