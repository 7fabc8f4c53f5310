"""A migration file, the directory of all of them, and new ones.

Pure but for reading and creating files. Everything that can be known without a database is refused
here, all at once.
"""

import os
import re
from codecs import getincrementaldecoder
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from lib.errors import FilesError
from lib.source import lexer, other_tools, rules
from lib.source.rules import Refusal

BOM = b"\xef\xbb\xbf"
NO_TRANSACTION = "no-transaction"
DRAFT = "draft"
_PIECE = 1 << 20
_FILE_NAME = re.compile(r"[0-9]{3,}(?:-[a-z0-9]+)+\.sql")
_DIRECTIVES = {f"-- migrate: {word}": word for word in (NO_TRANSACTION, DRAFT)}
# A line of a comment that means to be a directive: `migrate:` with anything behind it, and a
# directive's word in other clothes. `-- Migration: 003-add-orders` and `-- Migrate: all users` are
# prose, as are directives inside a sentence.
_WORD = r"(?:no[\W_]*trans\w*|draft\b)"
_NEAR_MISS = rf"[\s*/-]*(?:migrate\s*:.*|(?i:migrate\s*:\s*{_WORD}.*|(?:migrat\w*[\W_]*{_WORD}|no[\W_]*trans\w*)[\W_]*))"


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
        """The description in title case: `Create Users Table` for `001-create-users-table`."""
        return " ".join(word.capitalize() for word in description_of(self.version).split("-"))

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
        return next(lexer.split(_bytewise(self.content)), None) is None

    def text(self) -> str:
        """The SQL as text; made at each call, so that a large file is not held twice."""
        return self.sql.decode()

    def matches(self, checksum: str) -> bool:
        """Whether a stored checksum is this file's, whichever line endings it was taken with."""
        return checksum == self.checksum or any(
            checksum == _digest(form) for form in _forms(self.content)
        )

    def refusals(self) -> list[str]:
        """Why this file may not run, a sentence each with its place and remedy; empty if it may."""
        text = _bytewise(self.content)
        return self._told(
            *rules.refusals(text, transactional=self.transactional),
            *other_tools.unfinished(text),
            *other_tools.refusals(text, transactional=self.transactional),
        )

    def unfinished(self) -> list[str]:
        """Those of the refusals for which its checksum is of no use to anybody: it is not yet what
        it will be.
        """
        return self._told(*other_tools.unfinished(_bytewise(self.content)))

    def _told(self, *refusals: Refusal) -> list[str]:
        draft = f"{self.path}: still a draft; take the line `-- migrate: {DRAFT}` out when it is finished"
        return [draft] * (DRAFT in self.directives) + [
            f"{self.path}:{one.line}:{f'{one.column}:' if one.column else ''} "
            f"{_readable(one.what)}; {one.remedy}"
            for one in sorted(refusals, key=lambda one: (one.line, one.column or 0))
        ]


def number_of(version: str) -> int | None:
    """The number that a version begins with, None where it begins with none."""
    digits = re.match(r"[0-9]+", version)
    return int(digits[0]) if digits else None


def description_of(version: str) -> str:
    """What a version says after its number: `create-users-table`."""
    return version.partition("-")[2]


def load(directory: Path) -> tuple[Migration, ...]:
    """All migrations of a directory by number. Raises FilesError that names every problem at once."""
    migrations, problems = [], []
    files = _sql_files(directory)
    for file in files:
        path = directory / file.name
        try:
            migrations.append(_read(file, path))
        except ValueError as error:
            problems.append(f"{path}: {error}")
    problems += _doubles(directory, [file.name for file in files])
    _require_none(problems, "the migration files cannot be used", "Nothing was sent to a database.")
    return tuple(sorted(migrations, key=lambda migration: migration.number))


def require_runnable(migrations: Iterable[Migration]) -> None:
    """Raise FilesError if any of these (pending) files may not run; reads only, names every reason."""
    problems = [refusal for migration in migrations for refusal in migration.refusals()]
    _require_none(problems, "pending migrations cannot run", "Nothing was changed.")


def require_finished(migrations: Iterable[Migration]) -> None:
    """Raise FilesError if the checksum of any of these should not be recorded, whether the file is
    run or not.
    """
    problems = [problem for migration in migrations for problem in migration.unfinished()]
    _require_none(problems, "migrations cannot be recorded", "Nothing was changed.")


def create(directory: Path, description: str, date: str) -> Path:
    """Write a new draft with the next number and return its path. Raises FilesError; overwrites
    nothing.
    """
    description = " ".join(description.split())
    words = re.findall(r"[a-z0-9]+", description.lower())
    if not (words and description.isascii() and description.isprintable()):
        raise FilesError(
            f'a description is made of ASCII letters and digits, such as "add orders"; not {description!r}'
        )
    try:
        directory.mkdir(parents=True, exist_ok=True)
        taken = [number_of(path.name) for path in directory.iterdir() if _is_sql(path.name)]
        number = f"{max((one for one in taken if one is not None), default=-1) + 1:03d}"
        path = directory / f"{number}-{'-'.join(words)}.sql"
        with path.open("x", encoding="utf-8", newline="\n") as file:
            file.write(
                f"-- migrate: {DRAFT}\n-- Version: {number}\n-- Date: {date}\n-- Description: "
                f"{description}\n\n"
            )
    except OSError as error:
        raise FilesError(f"{directory}: cannot create a migration: {_reason(error)}") from None
    return path


def _sql_files(directory: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            found = sorted(
                (entry for entry in entries if _is_sql(entry.name)), key=lambda entry: entry.name
            )
        problem = "no .sql file in it"
    except OSError as error:
        found, problem = [], f"no migrations can be read: {_reason(error)}"
    if not found:
        raise FilesError(
            f"{directory}: {problem}",
            next_step="Add a migration, set MIGRATION_DIR, or add the directory to what is "
            "deployed.",
        )
    return found


def _is_sql(name: str) -> bool:
    # Hidden files are leavings of tools: a Mac's `._001-x.sql`, an editor's lock `.#001-x.sql`.
    return name.lower().endswith(".sql") and not name.startswith(".")


def _doubles(directory: Path, names: Sequence[str]) -> Iterator[str]:
    holders: dict[int, str] = {}
    for name in names:
        number = number_of(name)
        if number is not None and holders.setdefault(number, name) != name:
            yield f"{directory / name}: number {number} is taken by {holders[number]}; give one of them a free one"


def _read(file: os.DirEntry[str], path: Path) -> Migration:
    """Raises ValueError that says what is wrong with this one file."""
    if not _FILE_NAME.fullmatch(file.name):
        raise ValueError(
            "the name must be NNN-kebab-case.sql: three digits or more, then lower-case words "
            "joined by hyphens"
        )
    content = _content(file, path)
    _require_text(content)
    version, directives = file.name.removesuffix(".sql"), frozenset(_directives(content))
    return Migration(
        int(version.partition("-")[0]), version, path, content, _digest(_unix(content)), directives
    )


def _content(file: os.DirEntry[str], path: Path) -> bytes:
    try:
        if file.is_symlink():
            file.stat()  # fails where the link leads nowhere
            if not path.resolve().is_relative_to(path.parent.resolve()):
                raise ValueError("a link that leads out of the directory; put the file itself here")
        if not file.is_file():
            raise ValueError("not a regular file")
        with path.open("rb", buffering=0) as opened:  # all at once, and a fifth faster
            return opened.read()
    except OSError as error:
        raise ValueError(f"cannot be read: {_reason(error)}") from None


def _require_text(content: bytes) -> None:
    """Raises ValueError with the offset of what is not text. In pieces: a str of it all may be four
    times as large.
    """
    decoder = getincrementaldecoder("utf-8")()
    for start in range(0, len(content) + 1, _PIECE):
        behind = len(decoder.getstate()[0])
        try:
            decoder.decode(content[start : start + _PIECE], final=start + _PIECE > len(content))
        except UnicodeDecodeError as error:
            at = start - behind + error.start
            raise ValueError(
                f"not UTF-8: byte 0x{content[at]:02x} at offset {at}; save the file as UTF-8"
            ) from None
    if (nul := content.find(b"\0")) >= 0:
        raise ValueError(
            f"a NUL byte at offset {nul}, where the server would stop reading; save the file as "
            "UTF-8"
        )


def _bytewise(content: bytes) -> str:
    """The SQL with a character for each byte: lexed alike, and one emoji does not make it four
    times as large.
    """
    return content.removeprefix(BOM).decode("latin-1")


def _readable(bytewise: str) -> str:
    return bytewise.encode("latin-1").decode(errors="replace")


def _directives(content: bytes) -> Iterator[str]:
    unknown = []
    for comment in map(str.rstrip, map(_readable, lexer.opening_comment(_bytewise(content)))):
        if comment in _DIRECTIVES:
            yield _DIRECTIVES[comment]
        else:
            # Another tool's mark, dbmate's `-- migrate:up`, is refused where it would be run.
            lines = [line for line in comment.splitlines() if not other_tools.is_mark(line.strip())]
            unknown += [_quoted(line.strip()) for line in lines if re.fullmatch(_NEAR_MISS, line)]
    if unknown:
        known = " and ".join(f"`{directive}`" for directive in _DIRECTIVES)
        raise ValueError(
            f"unknown directive {', '.join(unknown)}; there are {known}, each on a line of its own"
        )


def _quoted(directive: str) -> str:
    return f"`{directive}`" + (
        " (sqlx's, without effect here: take the line out)"
        if directive == "-- no-transaction"
        else ""
    )


def _digest(content: bytes) -> str:
    return sha256(content).hexdigest()


def _unix(content: bytes) -> bytes:
    if b"\r" not in content and not content.startswith(BOM):
        return content
    return content.removeprefix(BOM).replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def _forms(content: bytes) -> Iterator[bytes]:
    """The forms in which an older runner may have hashed this file: as it is, with LF or CRLF, with
    or without BOM.
    """
    yield content
    unix = _unix(content)
    for form in (unix, unix.replace(b"\n", b"\r\n")):
        yield form
        yield BOM + form


def _require_none(problems: Sequence[str], what: str, unharmed: str) -> None:
    if problems:
        listed = "".join(f"\n  {problem}" for problem in problems)
        raise FilesError(f"{what}:{listed}", next_step=f"{unharmed} Mend the files and run again.")


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
