"""What an importer finds in a tool's directory, and how it changes a text: lines keep their
numbers.

What reads a directory raises OSError where the system refuses; `importing` words that.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from hashlib import sha256
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple


class SourceFile(NamedTuple):
    """A file that the tool would run."""

    path: str
    """Below the tool's directory, with slashes."""
    key: str
    """What the tool's history calls it."""
    description: str
    """What its name says, without its number."""
    sql: str
    """What the tool runs of it, its own marks and what undoes it blanked."""
    number: int | None = None
    """Its own number, where these are whole and unique."""
    no_transaction: bool = False
    """Whether the tool runs it without a transaction."""
    checksums: tuple[str, ...] = ()
    """Those that the tool may have recorded of it."""


class Obstacle(NamedTuple):
    """A file that cannot be converted, and why."""

    path: str
    key: str
    reason: str


class Layout(NamedTuple):
    """A tool's directory."""

    files: tuple[SourceFile | Obstacle, ...]
    """In the order in which the tool runs them."""
    table: str | None = None
    """The tool's history, where the directory says that it has another name than usual."""


class NotConvertible(Exception):
    """A file that cannot become a migration; says why."""


def layout(
    paths: Iterable[Path],
    convert: Callable[[Path], SourceFile],
    key_of: Callable[[Path], str],
    *,
    path_of: Callable[[Path], str] = attrgetter("name"),
) -> Layout:
    """The files in this order; those that `convert` raises NotConvertible for are obstacles.

    `path_of` says where below the tool's directory a file is.
    """
    files = list[SourceFile | Obstacle]()
    for path in paths:
        try:
            files.append(convert(path))
        except NotConvertible as reason:
            files.append(Obstacle(path_of(path), key_of(path), str(reason)))
    return Layout(tuple(files))


def with_one_file_a_key(
    files: Iterable[SourceFile | Obstacle],
) -> tuple[SourceFile | Obstacle, ...]:
    """The files; where several have one key, the tool's history cannot tell which was applied."""
    files = list(files)
    times = Counter(one.key for one in files if isinstance(one, SourceFile))
    return tuple(
        Obstacle(one.path, one.key, f"another file has the version {one.key}, too")
        if times[one.key] > 1
        else one
        for one in files
    )


def read_text(path: Path) -> str:
    """A file's text, its line ends as they are. Raises NotConvertible."""
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        problem = f"not UTF-8 at offset {error.start}; save it as UTF-8"
        raise NotConvertible(problem) from None


def text_if_readable(path: Path) -> str:
    """A file's text; empty if it has none, or is a directory."""
    try:
        return read_text(path) if path.is_file() else ""
    except NotConvertible:
        return ""


def entries(directory: Path) -> list[Path]:
    """What is in a directory, by name, without hidden files."""
    return sorted(path for path in directory.iterdir() if not path.name.startswith("."))


def leading_number(name: str) -> int | None:
    """The number that a name begins with."""
    digits = re.match("[0-9]+", name)
    return int(digits[0]) if digits else None


def files_below(directory: Path) -> list[Path]:
    """The files in a directory and its folders, by path, without hidden ones."""
    found = list[Path]()
    for path in entries(directory):
        found += files_below(path) if path.is_dir() else [path]
    return found


def sha256_forms(content: bytes) -> tuple[str, ...]:
    """The SHA-256 of a text as it is, and with either line end, without repetition."""
    return tuple(sha256(form).hexdigest() for form in line_end_forms(content))


def line_end_forms(content: bytes) -> tuple[bytes, ...]:
    """A text as it is, and with either line end, without repetition."""
    lf = content.replace(b"\r\n", b"\n")
    return tuple(dict.fromkeys((content, lf, lf.replace(b"\n", b"\r\n"))))


def blank(text: str, start: int, end: int) -> str:
    """The text without what is from `start` to `end`: all lines keep their numbers.

    What follows on the last line keeps its column, too.
    """
    spaces = re.sub(r"[^\r\n]", " ", text[start:end])
    line_start = max(text.rfind("\n", 0, start), text.rfind("\r", 0, start)) + 1
    line_end = re.compile(r"[^\r\n]*").match(text, end)
    stop = line_end.end() if line_end else end
    touched = text[line_start:start] + spaces + text[end:stop]
    return text[:line_start] + re.sub(r"(?m)[ \t]+(?=\r?$)", "", touched) + text[stop:]
