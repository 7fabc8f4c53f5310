"""How large the tables of a database are. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

LISTED_BYTES = 1_000_000  # smaller tables are not listed


class Size(NamedTuple):
    """A table with its indexes, in bytes and rows; rows is None where they were never counted."""

    bytes: int
    rows: int | None


class Sizes(NamedTuple):
    """The tables of a database that are listed; none at all means that no size is known."""

    tables: Mapping[str, Size] = {}
    """By qualified and quoted name."""

    def of(self, name: str) -> Size | None:
        """The size of a table by its qualified name; None if it is not known."""
        return self.tables.get(name, Size(0, None)) if self.tables else None
