"""The findings of pending files, and what their levels depend on. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from lib.hazards.recipes import Files
from lib.hazards.table import Level
from lib.observation import Catalog, Objects
from lib.queries import Queries
from lib.sizes import Size, Sizes


class Circumstances(NamedTuple):
    """What the level of a finding depends on beside the file."""

    major: int
    sizes: Sizes
    large: int
    """Bytes times weight above which a finding fails."""
    known: Catalog | None = None
    """What other sessions know; None: all that was there when the file began."""
    known_objects: Objects | None = None
    """The same, of what is not a relation."""
    minor: int | None = None
    """The server's minor version, if it has one."""


class Finding(NamedTuple):
    """A hazard of a file. `recipe` is the SQL of files that make the same change without it."""

    name: str
    level: Level
    version: str
    path: str
    line: int
    table: str
    size: Size | None
    sentence: str
    remedy: str
    recipe: Files = ()
    accepted: str = ""
    """The reason, if the file accepts it."""
    queries: tuple[str, ...] = ()
    """The application's statements that it is about, the most frequent first."""


class Blocked(NamedTuple):
    """A table that was there and that a file locks: against writes, or against reads as well."""

    table: str
    size: Size | None
    reads: bool


class FileReport(NamedTuple):
    """What a pending file does; of one that did not run, or was not observed, nothing is known."""

    version: str
    transactional: bool
    ran: bool
    observed: bool = True
    at_most: bool = False
    """Whether files before it hold locks, so that it may need weaker ones itself."""
    findings: tuple[Finding, ...] = ()
    blocked: tuple[Blocked, ...] = ()


class Rehearsal(NamedTuple):
    """What the pending files do, in order."""

    files: tuple[FileReport, ...]
    server: str
    """Its version."""
    sizes_from: str
    """Where the sizes are from; empty if none is known."""
    is_plan: bool
    """Whether all files ran in one transaction: what a later one locks is an upper bound."""
    queries: Queries = Queries()
    sizes_as_of: datetime | None = None
    """When the document of the sizes was made, if it says that."""
    made_at: datetime | None = None

    def findings(self, level: Level, *, accepted: bool = False) -> list[Finding]:
        """The findings of this level that are, or are not, accepted."""
        return [
            one
            for file in self.files
            for one in file.findings
            if one.level is level and bool(one.accepted) is accepted
        ]

    @property
    def matters(self) -> bool:
        """Whether there is a finding that warns or fails."""
        return self.fails("warn")

    def fails(self, fail_on: str) -> bool:
        """Whether there are findings of the level `fail` or, if that is given, `warn`."""
        levels = {"fail": [Level.FAIL], "warn": [Level.FAIL, Level.WARN]}.get(fail_on, [])
        return any(self.findings(level) for level in levels)
