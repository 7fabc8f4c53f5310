"""Source files made into migrations: numbers, names, and what the text needs to run here. Pure."""

import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from lib.imported import Imported, ImportedFile
from lib.importers.layout import Layout, Obstacle, SourceFile, blank
from lib.source.lexer import Statement, opening_comment, split
from lib.source.migration import NO_TRANSACTION, Migration, highest_number, migration_of
from lib.source.rules import Rule, refusals

_DIRECTIVE = f"-- migrate: {NO_TRANSACTION}"
_LONGEST_DESCRIPTION = 150
_PLAIN_BEGINS = (("BEGIN",), ("BEGIN", "TRANSACTION"), ("BEGIN", "WORK"), ("START", "TRANSACTION"))
_PLAIN_COMMITS = tuple(
    (word, *more) for word in ("COMMIT", "END") for more in ((), ("TRANSACTION",), ("WORK",))
)
_NEEDS_DIRECTIVE = (Rule.NEEDS_NO_TRANSACTION, Rule.TRANSACTION_CONTROL, Rule.TRANSACTION_MODE)


class Conversion(NamedTuple):
    """What an import writes, and what it cannot."""

    files: tuple[tuple[SourceFile, Migration], ...]
    obstacles: tuple[Obstacle, ...]
    imported: Imported


class Options(NamedTuple):
    """What an import was asked for."""

    directory: Path
    """Of the migrations."""
    table: str | None = None
    """The tool's history; None for the usual one."""
    keep_numbers: bool = False
    skip: Collection[str] = ()
    """Paths of files to leave out."""

    def kept(self, found: Layout) -> list[SourceFile]:
        """The files to convert."""
        return [
            one for one in found.files if isinstance(one, SourceFile) and one.path not in self.skip
        ]


def convert(found: Layout, earlier: Imported, names: Iterable[str], options: Options) -> Conversion:
    """Make migrations of a layout.

    A file that was imported `earlier` keeps its version. `names` are those of all files in the
    directory of the migrations.
    """
    kept = options.kept(found)
    versions = earlier.version_of
    versions |= _new_versions(kept, versions, names, keep_numbers=options.keep_numbers)
    files = list[tuple[SourceFile, Migration]]()
    obstacles = [
        one for one in found.files if isinstance(one, Obstacle) and one.path not in options.skip
    ]
    for one in kept:
        try:
            files.append((one, _migration(one, options.directory, versions[one.path])))
        except ValueError as error:
            obstacles.append(Obstacle(one.path, one.key, str(error)))
    for one, migration in files:
        reasons = (_at_its_line(migration, refusal) for refusal in migration.refusals())
        obstacles += [Obstacle(one.path, one.key, reason) for reason in reasons]
    known = (_known(one, versions, options) for one in found.files)
    return Conversion(tuple(files), tuple(obstacles), earlier._replace(files=tuple(known)))


def _at_its_line(migration: Migration, refusal: str) -> str:
    """A refusal without the path of the migration, which is not written."""
    what = refusal.removeprefix(f"{migration.path}:")
    return f"line {what}" if what[:1].isdigit() else what.strip()


def _known(
    one: SourceFile | Obstacle, versions: Mapping[str, str], options: Options
) -> ImportedFile:
    version = None if one.path in options.skip else versions.get(one.path)
    checksums = one.checksums if isinstance(one, SourceFile) else ()
    return ImportedFile(one.path, one.key, version, checksums)


def _new_versions(
    files: Sequence[SourceFile],
    versions: Mapping[str, str],
    names: Iterable[str],
    *,
    keep_numbers: bool,
) -> dict[str, str]:
    """The versions of the files that have none yet, in order, above all that are there."""
    new = [one for one in files if one.path not in versions]
    first = max(highest_number([*names, *versions.values()]), 0) + 1
    numbers = [one.number for one in new] if keep_numbers else range(first, first + len(new))
    return {one.path: _version(number or 0, one) for one, number in zip(new, numbers, strict=True)}


def _version(number: int, file: SourceFile) -> str:
    plain = unicodedata.normalize("NFKD", file.description)
    words = re.findall("[a-z0-9]+", plain.encode("ascii", "ignore").decode().lower())
    return f"{number:03}-{'-'.join(words)[:_LONGEST_DESCRIPTION].strip('-') or 'migration'}"


def _migration(file: SourceFile, directory: Path, version: str) -> Migration:
    """The migration, with the directive where the tool or the text asks for it."""
    sql = _without_enclosing_transaction(file.sql)
    needed = file.no_transaction or any(
        refusal.rule in _NEEDS_DIRECTIVE for refusal in refusals(sql, transactional=True)
    )
    content = (_with_directive(sql) if needed else sql).encode()
    return migration_of(directory / f"{version}.sql", content)


def _without_enclosing_transaction(sql: str) -> str:
    """The text, its own BEGIN and COMMIT blank if they enclose all other statements."""
    statements = list(split(sql))
    ends = [(one.offset, _end(sql, one)) for one in statements if _is_transaction_control(one)]
    encloses = (
        len(ends) == 2
        and statements[0].keywords in _PLAIN_BEGINS
        and statements[-1].keywords in _PLAIN_COMMITS
    )
    if not encloses:
        return sql
    for start, end in reversed(ends):
        sql = blank(sql, start, end)
    return sql


def _end(sql: str, statement: Statement) -> int:
    """The index behind a statement's semicolon."""
    end = statement.offset + len(statement.text)
    semicolon = re.compile(r"\s*;").match(sql, end)
    return semicolon.end() if semicolon else end


def _is_transaction_control(statement: Statement) -> bool:
    found = refusals(statement.text, transactional=True)
    return any(one.rule in (Rule.TRANSACTION_CONTROL, Rule.TRANSACTION_MODE) for one in found)


def _with_directive(sql: str) -> str:
    """The text with the directive in its leading comment: in an empty line of it, if there is one.

    Otherwise in a line of its own in front, so that all others move down by one.
    """
    if _DIRECTIVE in map(str.rstrip, opening_comment(sql)):
        return sql
    first = next((one.offset for one in split(sql)), len(sql))
    comments = [(start, start + len(text)) for start, text in _comments(sql)]
    for line in re.finditer(r"(?m)^[ \t]*(?=[\r\n])", sql):
        if line.end() < first and not any(start <= line.start() < end for start, end in comments):
            return f"{sql[: line.start()]}{_DIRECTIVE}{sql[line.end() :]}"
    line_end = "\r\n" if "\r\n" in sql else "\n"
    return f"{_DIRECTIVE}{line_end}{sql}"


def _comments(sql: str) -> Iterator[tuple[int, str]]:
    """Where each comment before the first statement begins, and its text."""
    start = 0
    for text in opening_comment(sql):
        start = sql.index(text, start)
        yield start, text
        start += len(text)
