"""The journal of a run: a directory with one JSON object a line for each outcome.

It is written as the run goes on, so `report` reads that of a run that goes on, or was killed, too.
"""

import fcntl
import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any, Self

from lib.errors import ConfigError
from lib.fleet.outcome import Outcome
from lib.fleet.report import Ending, Entries, Header, Record

RUNS = Path("fleet-runs")
"""In the working directory; a directory for each run."""
FILE_NAME, LOG_NAME = "report.jsonl", "log.jsonl"


class Journal:
    """Writes the journal of one run. Threads share it. Use it as a context manager."""

    def __init__(self, directory: Path, header: Header) -> None:
        """Make the directory. Raises ConfigError if it cannot be made."""
        self.header = header
        self.directory = _made(directory)
        self._lock = Lock()
        self._file = (directory / FILE_NAME).open("x", encoding="utf-8", buffering=1)
        fcntl.flock(self._file, fcntl.LOCK_EX)  # for as long as this process lives
        self._write(header._asdict())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, record: Record) -> None:
        """Write what became of a tenant."""
        place = {"wave": record.wave, "cluster": record.cluster, "action": record.action}
        self._write(record.outcome.document | place | {"at": round(record.at, 3)})

    def end(self, ending: Ending) -> None:
        """Write how the run ended."""
        self._write({"ended": ending._asdict()})

    def _write(self, document: dict[str, Any]) -> None:
        with self._lock:
            self._file.write(json.dumps(document) + "\n")


def read_journal(directory: Path) -> Entries:
    """The journal of a run. Raises ConfigError if there is none."""
    try:
        with (directory / FILE_NAME).open(encoding="utf-8") as file:
            running = _is_locked(file.fileno())
            documents = list(_documents(file.read()))
        header = _header(documents[0])
    except (OSError, ValueError, LookupError, TypeError):
        raise ConfigError(
            f"there is no report of a run in {directory}",
            next_step=f"To list the runs:\n  ls {RUNS}",
        ) from None
    endings = [Ending(**one["ended"]) for one in documents if "ended" in one]
    records = [_record(one) for one in documents if "outcome" in one]
    return Entries(header, records, endings[-1] if endings else None, running)


def last_run(runs: Path = RUNS) -> Path:
    """The directory of the last run here. Raises ConfigError if there is none."""
    found = sorted(path.parent for path in runs.glob(f"*/{FILE_NAME}"))
    if not found:
        raise ConfigError(
            f"there is no run in {runs}", next_step="To begin one:\n  scripts/fleet.py run --help"
        )
    return found[-1]


def _made(directory: Path) -> Path:
    try:
        directory.mkdir(parents=True)
        # The tenants' names are no part of a repository.
        (directory.parent / ".gitignore").write_text("*\n")
    except OSError as error:
        raise ConfigError(f"cannot write the report to {directory}: {error.strerror}") from None
    return directory


def _is_locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def _documents(text: str) -> Iterator[dict[str, Any]]:
    """The lines; a killed process may have left half of one."""
    for line in text.splitlines():
        with suppress(ValueError):
            yield json.loads(line)


def _header(document: dict[str, Any]) -> Header:
    sizes = {int(wave): clusters for wave, clusters in document["sizes"].items()}
    return Header(**document | {"sizes": sizes})


def _record(document: dict[str, Any]) -> Record:
    place = (document[name] for name in ("wave", "cluster", "action", "at"))
    return Record(Outcome.read(document), *place)
