"""Files that share a number: which of them a database has applied, and which to renumber. Pure."""

from collections.abc import Iterable, Sequence

from lib.errors import DuplicateNumbers
from lib.history import AppliedMigration
from lib.source.migration import highest_number, number_of, renumber_commands
from lib.source.numbering import same_migration


def with_applied(
    found: DuplicateNumbers, names: Iterable[str], history: Iterable[AppliedMigration]
) -> DuplicateNumbers:
    """The same error, with which of the files that share a number a database has applied.

    `names` are those of all files.
    """
    rows = [row.version for row in history]
    sentences, commands = [], list[str]()
    for sharing in found.duplicates:
        applied = [one for one in sharing if any(same_migration(one, row) for row in rows)]
        rest = [one for one in sharing if one not in applied]
        sentences.append(f"\n  number {number_of(sharing[0])} is {_applied_as(applied, rest)}")
        commands += rest if applied else rest[1:]
    number = highest_number([*names, *rows]) + 1
    free = f" The next free number is {number:03}:{renumber_commands(commands)}" if commands else ""
    return DuplicateNumbers(
        f"migration files share a number:{''.join(sentences)}",
        next_step=f"Nothing was changed.{free}",
        duplicates=found.duplicates,
    )


def _applied_as(applied: Sequence[str], rest: Sequence[str]) -> str:
    if not applied:
        return f"not applied, and {len(rest)} files have it: {', '.join(rest)}"
    if rest:
        return f"applied as {', '.join(applied)}, and not as {', '.join(rest)}"
    return f"applied as {' and as '.join(applied)}; renumber both the file and the row of one"
