"""How large the tables of a database are. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from lib.errors import ConfigError

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

    def else_of(self, others: Sizes) -> Sizes:
        """These, and the others' where a table is not listed."""
        return Sizes({**others.tables, **self.tables})


def read_sizes(path: Path) -> Sizes:
    """The sizes of a file that `status --json` wrote. Raises ConfigError."""
    try:
        listed = json.loads(path.read_bytes())["sizes"]
        return Sizes({name: Size(int(size), rows) for name, (size, rows) in listed.items()})
    except OSError as error:
        problem = f"cannot be read: {(error.strerror or str(error)).lower()}"
    except (ValueError, KeyError, TypeError, AttributeError):
        problem = "is no document of `status --json` with `sizes`"
    raise ConfigError(
        f"{path} {problem}",
        next_step="To write one, with the URL of the database that the sizes are of:"
        f"\n  scripts/migrate.py status --json > {path}",
    )
