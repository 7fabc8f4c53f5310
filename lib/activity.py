"""What is going on in a database beside its history. Pure."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from enum import Enum, auto
from typing import NamedTuple


class Asked(Enum):
    """How much of it is read with the history."""

    NOTHING = auto()
    RUN = auto()
    """Only the run that is under way."""
    ALL = auto()


class RunningRun(NamedTuple):
    """The run that holds the run lock now. None is what this role may not see."""

    pid: int
    version: str | None
    """The file that it runs, as far as its session's name has room for it."""
    since: datetime | None

    def file_among(self, versions: Iterable[str]) -> str | None:
        """The version of the file that it runs, whole if it is among these."""
        shown = self.version
        return next((one for one in versions if shown and one.startswith(shown)), shown)


class PendingDetach(NamedTuple):
    """A partition that an interrupted DETACH PARTITION ... CONCURRENTLY has left. Quoted names."""

    table: str
    partition: str


class Activity(NamedTuple):
    """A run that is under way, and what interrupted statements have left."""

    running: RunningRun | None = None
    invalid_indexes: tuple[str, ...] = ()
    """Their names, qualified and quoted."""
    pending_detaches: tuple[PendingDetach, ...] = ()
    sizes: Mapping[str, tuple[int, int | None]] = {}
    """Bytes and rows of the tables of 1 MB and more, by qualified and quoted name."""
    as_of: datetime | None = None
    """When this was read, by the server's clock."""
