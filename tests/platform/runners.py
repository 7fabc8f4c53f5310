"""Many runs of `scripts/migrate.py` at once, each in a process of its own that costs a fork, not a
start of Python.
"""

import multiprocessing
import os
import sys
from contextlib import suppress
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any
from unittest.mock import patch

from psycopg.conninfo import conninfo_attempts

from lib.cli.process import run_process
from tests.kit import SETTLED

# The server that forks has imported all this, and has no thread and no connection.
_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload([__name__])


class Runner:
    """One run of the command. `code` and `output` wait for its end."""

    def __init__(
        self, url: str, directory: Path, log: Path, barrier: Barrier | None = None, **environ: str
    ) -> None:
        """Start it; with a barrier, it waits there just before it connects."""
        environ = {"POSTGRES_URL": url, "MIGRATION_DIR": str(directory), **SETTLED, **environ}
        self.log = log
        log.touch()  # it may be killed before it has written
        self._process = _processes.Process(target=_run, args=(environ, log, barrier), daemon=True)
        self._process.start()

    @property
    def running(self) -> bool:
        return self._process.is_alive()

    @property
    def code(self) -> int:
        """The exit code; negative if a signal ended it."""
        self._process.join()
        assert self._process.exitcode is not None
        return self._process.exitcode

    @property
    def output(self) -> str:
        self._process.join()
        return self.log.read_text()

    @property
    def applied(self) -> list[str]:
        """What it says it has applied."""
        return [
            line.split()[2] for line in self.output.splitlines() if line.startswith("✅ Applied:")
        ]

    def signal(self, number: int) -> None:
        if self.running and self._process.pid:
            with suppress(ProcessLookupError):  # it has just ended
                os.kill(self._process.pid, number)


def barrier(parties: int) -> Barrier:
    return _processes.Barrier(parties)


def _run(environ: dict[str, str], log: Path, barrier: Barrier | None) -> None:
    with log.open("wb") as output:
        for number in (1, 2):
            os.dup2(output.fileno(), number)
    os.environ.clear()
    os.environ.update(environ)
    os.chdir(log.parent)
    sys.argv = ["scripts/migrate.py"]
    if barrier:
        _meet(barrier)
    run_process()


def _meet(barrier: Barrier) -> None:
    """Wait for the others where this process is about to connect for the first time."""

    def together(parameters: Any) -> Any:
        first.stop()
        barrier.wait()
        return conninfo_attempts(parameters)

    first = patch("lib.postgres.connecting.conninfo_attempts", together)
    first.start()
