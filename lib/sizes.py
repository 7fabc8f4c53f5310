"""How large the tables of a database are. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from lib.errors import ConfigError
from lib.printed import read_printed, time_of

LISTED_BYTES = 1_000_000  # smaller tables are not listed


class Size(NamedTuple):
    """A table with its indexes, in bytes and rows; rows is None where they were never counted."""

    bytes: int
    rows: int | None


class Sizes(NamedTuple):
    """The tables of a database that are listed; none at all means that no size is known."""

    tables: Mapping[str, Size] = {}
    """By qualified and quoted name."""
    as_of: datetime | None = None
    """When they were read; None if the document does not say."""

    def of(self, name: str) -> Size | None:
        """The size of a table by its qualified name; None if it is not known."""
        return self.tables.get(name, Size(0, None)) if self.tables else None

    def else_of(self, others: Sizes) -> Sizes:
        """These, and the others' where a table is not listed."""
        return Sizes({**others.tables, **self.tables})


def read_sizes(path: Path) -> Sizes:
    """The sizes of a file that `status --json` wrote. Raises ConfigError."""
    return read_printed(
        path,
        lambda document: Sizes(
            {str(name): _size(*listed) for name, listed in document["sizes"].items()},
            time_of(document),
        ),
        error=ConfigError,
        otherwise="is no document of `status --json` with `sizes`",
        next_step="To write one, with the URL of the database that the sizes are of:"
        f"\n  scripts/migrate.py status --json > {path}",
    )


def _size(size: Any, rows: Any) -> Size:
    return Size(int(size), None if rows is None else int(rows))
