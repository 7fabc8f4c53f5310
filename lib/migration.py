"""A migration file, the directory of all of them, and new ones.

Pure but for reading and creating files. Everything that can be known without a database is refused here, all at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from lib import sql
from lib.errors import FilesError

BOM = b"\xef\xbb\xbf"
NO_TRANSACTION = "no-transaction"
DRAFT = "draft"
_FILE_NAME = re.compile(r"([0-9]{3,})-([a-z0-9]+(?:-[a-z0-9]+)*)\.sql")
_DIRECTIVE = re.compile(rf"-- migrate: ({NO_TRANSACTION}|{DRAFT})\s*")
# `migrate:` with anything else behind it, and a directive's word alone in other clothes. A header such as
# `-- Migration: 003-add-orders` or `-- Migrate: the users` is prose and stays.
_NEAR_MISS = re.compile(
    r"(?:--|/\*)[\s*-]*(?:migrate\s*:.*|(?i:(?:migrat\w*\s*[:=]?\s*)?no[\W_]*trans\w*|migrat\w*\s*[:=]?\s*draft)\W*)",
    re.DOTALL,
)
_LONGEST_VERSION = 255


@dataclass(frozen=True, slots=True)
class Migration:
    """One file. `number` identifies it; `content` is its bytes as they stand on disk."""

    number: int
    version: str
    path: Path
    content: bytes = field(repr=False)
    checksum: str
    directives: frozenset[str]

    @property
    def name(self) -> str:
        """The description in title case."""
        return title(self.version)

    @property
    def transactional(self) -> bool:
        """Whether the file runs in one transaction (all do that do not say otherwise)."""
        return NO_TRANSACTION not in self.directives

    @property
    def sql(self) -> bytes:
        """What is sent to the server: the content without its byte order mark, otherwise untouched."""
        return self.content.removeprefix(BOM)

    @property
    def is_empty(self) -> bool:
        """Whether there is no statement in it."""
        return next(sql.split(self.text()), None) is None

    def text(self) -> str:
        """The SQL as text; computed at each call, so that a large file is not held twice."""
        return self.sql.decode()

    def matches(self, checksum: str) -> bool:
        """Whether a stored checksum is this file's, whichever line endings it was taken with."""
        return checksum == self.checksum or checksum in set(map(_digest, _variants(self.content)))

    def refusals(self) -> list[str]:
        """Why this file may not run, a sentence each with line and remedy; empty if it may."""
        found = [
            f"{self.path}:{refusal.line}: {refusal.what}; {refusal.remedy}"
            for refusal in sql.refusals(self.text(), transactional=self.transactional)
        ]
        if DRAFT in self.directives:
            found.insert(0, f"{self.path}: still a draft; take the line `-- migrate: draft` out when it is finished")
        return found


def title(version: str) -> str:
    """`001-create-users-table` -> `Create Users Table`."""
    return " ".join(word.capitalize() for word in version.partition("-")[2].split("-"))


def number_of(version: str) -> int | None:
    """The number that a version begins with, None where it begins with none."""
    digits = re.match(r"[0-9]+", version)
    return int(digits.group()) if digits else None


def load(directory: Path) -> tuple[Migration, ...]:
    """All migrations of a directory by number. Raises FilesError that names every problem at once."""
    problems: list[str] = []
    migrations: dict[int, Migration] = {}
    for path in _sql_files(directory):
        try:
            migration = _read(path, directory)
        except ValueError as error:
            problems.append(f"{path}: {error}")
            continue
        twin = migrations.setdefault(migration.number, migration)
        if twin is not migration:
            problems.append(
                f"{path}: number {migration.number} is taken by {twin.path.name}; give one of them a free one"
            )
    if problems:
        raise FilesError(
            _listed("the migration files cannot be used", problems),
            next_step="Nothing was sent to a database. Mend the files and run again.",
        )
    return tuple(migrations[number] for number in sorted(migrations))


def refuse(migrations: Iterable[Migration]) -> None:
    """Raise FilesError if any of these (pending) files may not run; reads only, names every reason."""
    problems = [refusal for migration in migrations for refusal in migration.refusals()]
    if problems:
        raise FilesError(
            _listed("pending migrations cannot run", problems),
            next_step="Nothing was changed. Mend the files and run again.",
        )


def create(directory: Path, description: str, date: str) -> Path:
    """Write a new draft with the next number and return its path. Raises FilesError; overwrites nothing."""
    words = re.findall(r"[a-z0-9]+", description.lower())
    if not words or not description.isascii():
        raise FilesError(
            f'a description is made of ASCII letters and digits, such as "add orders"; not {description!r}'
        )
    try:
        directory.mkdir(parents=True, exist_ok=True)
        taken = [number_of(path.name) for path in directory.iterdir() if path.suffix.lower() == ".sql"]
        number = f"{max((number for number in taken if number is not None), default=-1) + 1:03d}"
        path = directory / f"{number}-{'-'.join(words)}.sql"
        header = (
            "-- migrate: draft",
            f"-- Version: {number}",
            f"-- Date: {date}",
            f"-- Description: {description.strip()}",
        )
        with path.open("x", encoding="utf-8", newline="\n") as file:
            file.write("\n".join(header) + "\n\n")
    except OSError as error:
        raise FilesError(f"{directory}: cannot create a migration: {_reason(error)}") from None
    return path


def _sql_files(directory: Path) -> list[Path]:
    try:
        found = sorted(path for path in directory.iterdir() if path.name.lower().endswith(".sql"))
    except OSError as error:
        raise FilesError(
            f"{directory}: {_reason(error)}: no migrations can be read",
            next_step="Set MIGRATION_DIR, or add the directory to what is deployed.",
        ) from None
    if not found:
        raise FilesError(
            f"{directory}: no .sql file in it",
            next_step="Add a migration, set MIGRATION_DIR, or add the files to what is deployed.",
        )
    return found


def _read(path: Path, directory: Path) -> Migration:
    """Raises ValueError that says what is wrong with this one file."""
    name = _FILE_NAME.fullmatch(path.name)
    if not name or len(path.stem) > _LONGEST_VERSION:
        raise ValueError(
            "the name must be NNN-kebab-case.sql: three digits or more, then lower-case words joined by hyphens"
        )
    content = _content(path, directory)
    text = _text(content)
    return Migration(int(name[1]), path.stem, path, content, _digest(_unix(content)), frozenset(_directives(text)))


def _content(path: Path, directory: Path) -> bytes:
    try:
        if path.is_symlink() and not path.resolve(strict=True).is_relative_to(directory.resolve()):
            raise ValueError("a link that leads out of the directory; put the file itself here")
        if not path.is_file():
            raise ValueError("not a regular file")
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"cannot be read: {_reason(error)}") from None


def _text(content: bytes) -> str:
    if (nul := content.find(b"\0")) >= 0:
        raise ValueError(f"a NUL byte at offset {nul}: the server would stop reading there")
    try:
        return content.removeprefix(BOM).decode()
    except UnicodeDecodeError as error:
        offset = error.start + (len(BOM) if content.startswith(BOM) else 0)
        raise ValueError(
            f"not UTF-8: byte 0x{content[offset]:02x} at offset {offset}; save the file as UTF-8"
        ) from None


def _directives(text: str) -> Iterator[str]:
    for comment in sql.opening_comment(text):
        if directive := _DIRECTIVE.fullmatch(comment):
            yield directive[1]
        elif _NEAR_MISS.fullmatch(comment):
            raise ValueError(
                f"unknown directive {comment.strip()!r}; "
                f"there are `-- migrate: {NO_TRANSACTION}` and `-- migrate: {DRAFT}`"
            )


def _digest(content: bytes) -> str:
    return sha256(content).hexdigest()


def _unix(content: bytes) -> bytes:
    if b"\r" not in content and not content.startswith(BOM):
        return content
    return content.removeprefix(BOM).replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def _variants(content: bytes) -> Iterator[bytes]:
    """The forms in which an older runner may have hashed this file: as it is, and with CRLF; with and without BOM."""
    yield content
    unix = _unix(content)
    for form in (unix, unix.replace(b"\n", b"\r\n")):
        yield form
        yield BOM + form


def _listed(what: str, problems: list[str]) -> str:
    return f"{what}:\n" + "\n".join(f"  {problem}" for problem in problems)


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
