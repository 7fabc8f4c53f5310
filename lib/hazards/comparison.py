"""Compares a file's start with its end; what the file takes back is no change. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from lib.hazards.findings import Circumstances
from lib.hazards.seen import existed
from lib.observation import FileObservation


class Comparison:
    """A file's start and end, and the lines between at which something changed."""

    def __init__(self, file: FileObservation, given: Circumstances) -> None:
        self._file, self._given = file, given
        self._start, self._end = file.start, file.end

    def _existed(self, oid: int) -> bool:
        return existed(self._file, self._given, oid)

    def _line(self, changed: Iterable[bool]) -> int:
        """The line of the last statement for which it is true."""
        lines = [step.line for step, yes in zip(self._file.steps, changed, strict=True) if yes]
        return lines[-1] if lines else 1

    def _line_of_column(self, key: tuple[int, int]) -> int:
        return self._line(
            step.before.columns.get(key) != step.after.columns.get(key) for step in self._file.steps
        )
