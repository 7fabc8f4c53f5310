"""What a command has printed with --json, read from the file in which it was saved. Reads only."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from lib.errors import OnwardError

T = TypeVar("T")

# What a function meets in a document of another shape; JSON's numbers may be infinite, too.
_OTHER_SHAPE = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)


class OtherFormat(Exception):
    """The document is of another version of Onward; says which."""


def read_printed(
    path: Path,
    find: Callable[[Any], T],
    *,
    error: type[OnwardError],
    otherwise: str,
    next_step: str,
) -> T:
    """What `find` finds in the document; `otherwise` says what the file is if that is nothing.

    Raises `error`.
    """
    try:
        return find(json.loads(path.read_bytes()))
    except OSError as failure:
        problem = f"cannot be read: {(failure.strerror or str(failure)).lower()}"
    except OtherFormat as other:
        problem = str(other)
    except _OTHER_SHAPE:
        problem = otherwise
    raise error(f"{path} {problem}", changed_nothing=True, next_step=next_step)


def time_of(document: Any) -> datetime | None:
    """When a document says that it was made; None if it says nothing, as older ones do.

    Raises ValueError or TypeError for what is no time.
    """
    said = document.get("asOf")
    return None if said is None else datetime.fromisoformat(said).astimezone(UTC)
