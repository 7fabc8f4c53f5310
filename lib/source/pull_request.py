"""What a branch may not do to the migrations of the branch that it is to be merged into. Pure."""

import shlex
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from lib.source.checkpoint import Replaced
from lib.source.migration import (
    checksum_of,
    highest_number,
    is_draft,
    is_sql,
    number_of,
    stands_for,
)


class Base(NamedTuple):
    """The branch to merge into, seen from here."""

    name: str
    commit: str
    """The merge base: what it has got since is not this branch's to change or to miss."""
    contents: Mapping[str, bytes]
    """The files in the merge base."""
    newest: Collection[str]
    """The names of the files at its tip: a merge adds the files of this branch above them."""


class Problem(NamedTuple):
    """A file, what is wrong with it, and the commands that repair it."""

    path: Path
    what: str
    commands: tuple[str, ...]


def new_files(base: Base, here: Collection[str]) -> list[str]:
    """The files that a merge adds, by number."""
    new = [name for name in here if name not in base.contents and name not in base.newest]
    return sorted(new, key=lambda name: (number_of(name) or 0, name))


def problems(base: Base, here: Mapping[str, bytes], directory: Path) -> list[Problem]:
    """Everything that is wrong with the files here: with those of the base first."""
    # A draft is not among them: no run has applied it.
    old = {
        name: checksum_of(content)
        for name, content in base.contents.items()
        if is_sql(name) and not is_draft(content)
    }
    replaced = set(_replaced(here))
    new_names = {checksum_of(here[name]): name for name in new_files(base, here)}
    gone = {
        name: new_names.get(old[name], "")
        for name in old
        if name not in here and (name.removesuffix(".sql"), old[name]) not in replaced
    }
    edited = [name for name in old if name in here and checksum_of(here[name]) != old[name]]
    kept = [name for name in here if name not in gone.values()]
    return [
        *(_gone(base, directory / name, now) for name, now in gone.items()),
        *(_of_base(base, directory / name, "changed") for name in edited),
        *_numbers(base, kept, directory),
    ]


def _replaced(here: Mapping[str, bytes]) -> Iterator[Replaced]:
    """The files that checkpoints stand for, so that they may be deleted."""
    for name, content in here.items():
        with suppress(ValueError):  # `load` names what is wrong with it
            yield from stands_for(name, content)


def _gone(base: Base, path: Path, now: str) -> Problem:
    if not now:
        return _of_base(base, path, "deleted")
    remove = shlex.join(["rm", str(path.with_name(now))])
    return _of_base(base, path, f"renamed to {now}", remove)


def _of_base(base: Base, path: Path, change: str, *commands: str) -> Problem:
    restore = shlex.join(["git", "restore", f"--source={base.commit:.12}", "--", str(path)])
    what = f"{change}, but {base.name} has it, so databases may have applied it"
    return Problem(path, what, (restore, *commands))


def _numbers(base: Base, here: Collection[str], directory: Path) -> Iterator[Problem]:
    """The files whose number is taken, or is not above those of the base."""
    new = new_files(base, here)
    highest, holders, first = highest_number(base.newest), dict[int, str](), ""
    for name in [*sorted({*here} - {*new}), *sorted({*base.newest} - {*here}), *new]:
        number = number_of(name)
        if number is None or not is_sql(name):
            continue
        holder = holders.setdefault(number, name)
        if holder != name and name in here:
            what = f"number {number} is taken by {holder}"
        elif name in new and number <= highest:
            what = f"number {number} is not above {highest}, the highest of {base.name}"
        elif name in new and first:
            what = f"would now come before {first}, which gets a new number"
        else:
            continue
        first = first or name
        command = f"scripts/migrate.py renumber {Path(name).stem}"
        yield Problem(directory / name, what, (command,))
