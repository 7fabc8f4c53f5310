"""Migration files that are written: new drafts, and files that get another number."""

import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from lib.errors import FilesError
from lib.source.migration import DRAFT, number_of, reason_of
from lib.source.numbering import renumbered

Move = Callable[[Path, Path], object]


def create(directory: Path, description: str, date: str, number: int) -> Path:
    """Write a new draft; return its path. Raises FilesError, and never overwrites a file."""
    description = " ".join(description.split())
    path = path_of(directory, description, number)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8", newline="\n") as file:
            file.write(
                f"-- migrate: {DRAFT}\n"
                f"-- Version: {number:03}\n"
                f"-- Date: {date}\n"
                f"-- Description: {description}\n"
                "\n"
            )
    except OSError as error:
        raise FilesError(f"{directory}: cannot create a migration: {reason_of(error)}") from None
    return path


def path_of(directory: Path, description: str, number: int) -> Path:
    """Where a new file belongs. Raises FilesError for a description that makes no name."""
    words = re.findall(r"[a-z0-9]+", description.lower())
    if not (words and description.isascii() and description.isprintable()):
        raise FilesError(
            'a description consists of ASCII letters and digits, such as "add orders"; '
            f"not {description!r}"
        )
    return directory / f"{number:03}-{'-'.join(words)}.sql"


def place(path: Path, content: bytes) -> None:
    """Write a new file whole or not at all. Raises FilesError, and never overwrites a file."""
    if os.path.lexists(path):
        raise FilesError(f"{path} exists already", changed_nothing=True)
    replace(path, content)


def replace(path: Path, content: bytes) -> None:
    """Write a file whole or not at all. Raises FilesError."""
    draft = path.with_name(f".{path.name}.new")  # a hidden file is ignored
    try:
        draft.write_bytes(content)
        draft.replace(path)
    except OSError as error:
        raise FilesError(f"{path}: cannot be written: {reason_of(error)}") from None
    finally:
        with suppress(OSError):  # it is renamed, or was not written
            draft.unlink()


def renumber(path: Path, number: int, move: Move = Path.rename) -> Path:
    """Give a file another number, in its name and its header; return its new path.

    Raises FilesError, and never overwrites a file. `move` renames it.
    """
    new = path.with_name(renumbered(path.name, number))
    if new == path:
        return path
    if os.path.lexists(new):
        raise FilesError(f"{new} exists already", changed_nothing=True)
    draft = path.with_name(f".{new.name}.new")  # a hidden file is ignored
    try:
        draft.write_bytes(_with_number(path.read_bytes(), number_of(path.name), number))
        draft.chmod(path.stat().st_mode)
        move(path, new)
        draft.replace(new)
    except OSError as error:
        raise FilesError(f"{path}: cannot be renamed: {reason_of(error)}") from None
    finally:
        draft.unlink(missing_ok=True)
    return new


def _with_number(content: bytes, old: int | None, new: int) -> bytes:
    """The content with the new number in the line that `create` wrote."""

    def line(found: re.Match[bytes]) -> bytes:
        is_ours = int(found["number"]) == old
        return found["words"] + b"%03d" % new if is_ours else found[0]

    return re.sub(
        rb"(?m)^(?P<words>-- Version: *)(?P<number>[0-9]+)(?=\s*$)", line, content, count=1
    )
