"""A migration file, and the directory of all of them.

Pure but for reading files. Whatever can be refused without a database is refused here,
all problems in one error.
"""

import os
import re
from codecs import getincrementaldecoder
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import chain
from pathlib import Path

from lib.errors import DuplicateNumbers, FilesError
from lib.source import checkpoint, lexer, other_tools, rules
from lib.source.checkpoint import Replaced
from lib.source.latin1 import BOM, as_latin1, from_latin1
from lib.source.rules import Refusal

NO_TRANSACTION = "no-transaction"
DRAFT = "draft"
_CHUNK_BYTES = 1 << 20
_FILE_NAME = re.compile(r"[0-9]{3,}(?:-[a-z0-9]+)+\.sql")
ACCEPT = "-- migrate: accept NAME: reason"
_ACCEPT = r"-- migrate: accept ([a-z]+(?:-[a-z]+)*): *(\S.*)"
_DIRECTIVES = {f"-- migrate: {word}": word for word in (NO_TRANSACTION, DRAFT)}
# Whatever begins like a directive must be one: a typing error must not run a draft, or a file in
# the wrong mode.
_MEANT_AS_DIRECTIVE = r"(?i)[\s*/-]*migrate\s*:"


_FIX_FILES = "Fix the files and run again."
_RENUMBER_ONE = (
    "Where files share a number, renumber those that no database has applied; with a database, "
    "`scripts/migrate.py status` says which:"
)
_STILL_A_DRAFT = f"still a draft; remove the line `-- migrate: {DRAFT}` when the SQL is finished"


@dataclass(frozen=True, slots=True)
class Migration:
    """One file. `number` identifies it; `content` is its bytes as they are on disk."""

    number: int
    version: str
    path: Path
    content: bytes = field(repr=False)
    checksum: str
    directives: frozenset[str]
    stands_for: tuple[Replaced, ...] = ()
    """The files that a checkpoint replaces, by number; empty for any other file."""

    @property
    def name(self) -> str:
        """The description in title case: `Create Users Table` for `001-create-users-table`."""
        return checkpoint.title(self.version)

    @property
    def transactional(self) -> bool:
        """Whether the file runs in one transaction: the default."""
        return NO_TRANSACTION not in self.directives

    @property
    def sql(self) -> bytes:
        """What is sent to the server: the content without its byte order mark, else unchanged."""
        return self.content.removeprefix(BOM)

    @property
    def is_empty(self) -> bool:
        """Whether it contains no statement."""
        return lexer.is_empty(as_latin1(self.content))

    def accepted(self) -> dict[str, str]:
        """The hazards that the file accepts, by name, and the reasons."""
        comments = map(from_latin1, lexer.opening_comment(as_latin1(self.content)))
        found = (re.fullmatch(_ACCEPT, comment.rstrip()) for comment in comments)
        return {match[1]: match[2] for match in found if match}

    def text(self) -> str:
        """The SQL as text; decoded at each call, so that a large file is not held twice."""
        return self.sql.decode()

    def matches(self, checksum: str) -> bool:
        """Whether a stored checksum is this file's, whichever line ends it was taken with."""
        if checksum == self.checksum:
            return True
        return any(checksum == _digest(form) for form in _historical_forms(self.content))

    def refusals(self) -> list[str]:
        """Why this file may not run, a sentence each with its place and remedy; empty if it may."""
        text = as_latin1(self.content)
        return self._in_words(
            *rules.refusals(text, transactional=self.transactional),
            *other_tools.unfinished(text),
            *other_tools.refusals(text, transactional=self.transactional),
        )

    def unfinished(self) -> list[str]:
        """Those of the refusals that also forbid to record the file: its content, and so its
        checksum, will change.
        """
        return self._in_words(*other_tools.unfinished(as_latin1(self.content)))

    def _in_words(self, *refusals: Refusal) -> list[str]:
        sentences = []
        if DRAFT in self.directives:
            sentences.append(f"{self.path}: {_STILL_A_DRAFT}")
        for one in sorted(refusals, key=lambda refusal: (refusal.line, refusal.column or 0)):
            sentences.append(f"{self.path}:{one.place}: {from_latin1(one.what)}; {one.remedy}")
        return sentences


def number_of(version: str) -> int | None:
    """The number that a version begins with, None where it begins with none."""
    digits = re.match(r"[0-9]+", version)
    return int(digits[0]) if digits else None


def description_of(version: str) -> str:
    """What follows the number in a version: `create-users-table`."""
    return version.partition("-")[2]


def checksum_of(content: bytes) -> str:
    """The checksum that the history has of a file: byte order mark and line ends do not count."""
    return _digest(_with_lf(content))


def is_draft(content: bytes) -> bool:
    """Whether no run may apply a file with this content yet."""
    comments = map(from_latin1, lexer.opening_comment(as_latin1(content)))
    return any(_DIRECTIVES.get(comment.rstrip()) == DRAFT for comment in comments)


def stands_for(name: str, content: bytes) -> tuple[Replaced, ...]:
    """The files that a file stands for. Raises ValueError."""
    if checkpoint.DIRECTIVE.encode() not in content:
        return ()
    comments = map(from_latin1, lexer.opening_comment(as_latin1(content)))
    return checkpoint.replaced_by(number_of(name) or 0, comments)


def load(directory: Path) -> tuple[Migration, ...]:
    """All migrations of a directory, by number. Raises FilesError that names every problem."""
    migrations, problems = [], []
    files = _sql_files(directory)
    for file in files:
        path = directory / file.name
        try:
            migrations.append(_read(file, path))
        except ValueError as error:
            problems.append(f"{path}: {error}")
    duplicates = _duplicates([file.name for file in files])
    if problems or duplicates:
        raise _invalid(problems, duplicates, directory, highest_number(one.name for one in files))
    return tuple(sorted(migrations, key=lambda migration: migration.number))


def require_runnable(migrations: Iterable[Migration]) -> None:
    """Raise FilesError, with every reason, if any of these (pending) files may not run."""
    require_no_refusal(refusal for migration in migrations for refusal in migration.refusals())


def require_no_refusal(refusals: Iterable[str]) -> None:
    """Raise FilesError that names these reasons why files may not run, if there are any."""
    _require_none("pending migrations cannot run", list(refusals))


def require_finished(migrations: Iterable[Migration]) -> None:
    """Raise FilesError if any of these may not be recorded, even without being run."""
    problems = [problem for migration in migrations for problem in migration.unfinished()]
    _require_none("migrations cannot be recorded", problems)


def names_in(directory: Path) -> list[str]:
    """The names of the .sql files of a directory, whatever they are; empty if it does not exist.

    Raises FilesError.
    """
    try:
        return sorted(path.name for path in directory.iterdir() if is_sql(path.name))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise FilesError(f"{directory}: cannot be read: {reason_of(error)}") from None


def contents_in(directory: Path) -> dict[str, bytes]:
    """The .sql files of a directory and their contents as Git has them: a link's is its target.

    Raises FilesError.
    """
    try:
        return {
            name: os.fsencode(path.readlink()) if path.is_symlink() else path.read_bytes()
            for name in names_in(directory)
            if (path := directory / name).is_symlink() or path.is_file()
        }
    except OSError as error:
        raise FilesError(f"{error.filename}: cannot be read: {reason_of(error)}") from None


def highest_number(names: Iterable[str]) -> int:
    """The highest number that one of these files or versions begins with; -1 if none does."""
    numbers = [number_of(name) for name in names]
    return max((number for number in numbers if number is not None), default=-1)


def _sql_files(directory: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            files = [entry for entry in entries if is_sql(entry.name)]
        problem = "contains no .sql file"
    except OSError as error:
        files, problem = [], f"cannot be read: {reason_of(error)}"
    if not files:
        raise FilesError(
            f"{directory}: {problem}",
            next_step="Add a migration, set MIGRATION_DIR, or include the directory in the "
            "deployment.",
        )
    return sorted(files, key=lambda file: file.name)


def is_sql(name: str) -> bool:
    """Whether a name means a migration file, well formed or not."""
    # Tools leave hidden files behind: a Mac's `._001-x.sql`, an editor's lock `.#001-x.sql`.
    return name.lower().endswith(".sql") and not name.startswith(".")


def _duplicates(names: Sequence[str]) -> list[list[str]]:
    """The files that share a number, for each such number."""
    holders = defaultdict[int | None, list[str]](list)
    for name in names:
        holders[number_of(name)].append(name)
    return [sharing for number, sharing in holders.items() if number is not None and sharing[1:]]


def _invalid(
    problems: Sequence[str], duplicates: list[list[str]], directory: Path, highest: int
) -> FilesError:
    """The error of `load`; its kind says whether shared numbers are the only problem."""
    shared = [
        f"{directory / name}: number {number_of(name)} is taken by {sharing[0]}; "
        f"rename one of them, the next free number is {highest + 1:03}"
        for sharing in duplicates
        for name in sharing[1:]
    ]
    message = _listed("the migration files are invalid", [*problems, *shared])
    next_step = f"Nothing was sent to a database. {_FIX_FILES}"
    if not duplicates:
        return FilesError(message, next_step=next_step)
    versions = [[name.removesuffix(".sql") for name in sharing] for sharing in duplicates]
    next_step += f"\n{_RENUMBER_ONE}{renumber_commands(chain(*versions))}"
    if problems:
        return FilesError(message, next_step=next_step)
    return DuplicateNumbers(message, next_step=next_step, duplicates=versions)


def renumber_commands(versions: Iterable[str]) -> str:
    """The commands that give these files the next free numbers, a line each."""
    return "".join(f"\n  scripts/migrate.py renumber {version}" for version in versions)


def _read(file: os.DirEntry[str], path: Path) -> Migration:
    """Raises ValueError that names what is wrong with this one file."""
    if not _FILE_NAME.fullmatch(file.name):
        raise ValueError(
            "the name must be NNN-kebab-case.sql: three digits or more, then lower-case words "
            "joined by hyphens"
        )
    content = _content(file, path)
    _require_text(content)
    return migration_of(path, content)


def migration_of(path: Path, content: bytes) -> Migration:
    """The migration of a file with such a name. Raises ValueError for a wrong directive."""
    version = path.name.removesuffix(".sql")
    directives, replaced = frozenset(_directives(content)), stands_for(path.name, content)
    if replaced and NO_TRANSACTION in directives:
        raise ValueError(f"a checkpoint runs in one transaction: remove `{NO_TRANSACTION}`")
    return Migration(
        number=int(version.partition("-")[0]),
        version=version,
        path=path,
        content=content,
        checksum=checksum_of(content),
        directives=directives,
        stands_for=replaced,
    )


def _content(file: os.DirEntry[str], path: Path) -> bytes:
    try:
        if file.is_symlink():
            file.stat()  # fails where the link's target does not exist
            if not path.resolve().is_relative_to(path.parent.resolve()):
                raise ValueError("a symlink to a file outside the directory; copy that file here")
        if not file.is_file():
            raise ValueError("not a regular file")
        with path.open("rb", buffering=0) as opened:  # one read call: a fifth faster
            return opened.read()
    except OSError as error:
        raise ValueError(f"cannot be read: {reason_of(error)}") from None


def _require_text(content: bytes) -> None:
    """Raises ValueError with the offset of what is not text."""
    # In chunks: one str of the whole content may be four times as large.
    decoder = getincrementaldecoder("utf-8")()
    for start in range(0, len(content) + 1, _CHUNK_BYTES):
        end = start + _CHUNK_BYTES
        carried_over = len(decoder.getstate()[0])
        try:
            decoder.decode(content[start:end], final=end > len(content))
        except UnicodeDecodeError as error:
            offset = start - carried_over + error.start
            raise ValueError(
                f"not UTF-8: byte 0x{content[offset]:02x} at offset {offset}; save the file as "
                "UTF-8"
            ) from None
    if (offset := content.find(b"\0")) >= 0:
        raise ValueError(
            f"a NUL byte at offset {offset}, where the server would stop reading; save the file as "
            "UTF-8"
        )


def _directives(content: bytes) -> Iterator[str]:
    unknown = []
    for comment in lexer.opening_comment(as_latin1(content)):
        text = from_latin1(comment).rstrip()
        if text in _DIRECTIVES:
            yield _DIRECTIVES[text]
        elif not (checkpoint.is_directive(text) or re.fullmatch(_ACCEPT, text)):
            unknown += [f"`{line}`" for line in _unknown_directives(text)]
    if unknown:
        known = " or ".join(f"`{directive}`" for directive in (*_DIRECTIVES, ACCEPT))
        raise ValueError(
            f"unknown directive {', '.join(unknown)}; write {known} on a line of its own, or "
            "reword the comment"
        )


def _unknown_directives(comment: str) -> Iterator[str]:
    for line in map(str.strip, comment.splitlines()):
        # Another tool's mark, dbmate's `-- migrate:up`, is refused where it would be run.
        if re.match(_MEANT_AS_DIRECTIVE, line) and not other_tools.is_mark(line):
            yield line


def _digest(content: bytes) -> str:
    return sha256(content).hexdigest()


def _with_lf(content: bytes) -> bytes:
    """The content without its byte order mark, all its line ends LF."""
    content = content.removeprefix(BOM)
    if b"\r" not in content:
        return content
    return content.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def _historical_forms(content: bytes) -> Iterator[bytes]:
    """The forms in which an older runner may have hashed this file: unchanged, or with LF or CRLF,
    with a byte order mark or without.
    """
    yield content
    with_lf = _with_lf(content)
    for form in (with_lf, with_lf.replace(b"\n", b"\r\n")):
        yield form
        yield BOM + form


def _require_none(what: str, problems: Sequence[str]) -> None:
    if problems:
        raise FilesError(_listed(what, problems), changed_nothing=True, next_step=_FIX_FILES)


def _listed(what: str, problems: Sequence[str]) -> str:
    lines = "".join(f"\n  {problem}" for problem in problems)
    return f"{what}:{lines}"


def reason_of(error: OSError) -> str:
    """Why the system refuses, in lower case."""
    return (error.strerror or str(error)).lower()
