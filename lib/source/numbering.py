"""The number of a new file: above the files here, and those of branches not merged yet. Pure."""

import re
from collections.abc import Iterable
from typing import NamedTuple

from lib.source.migration import description_of, highest_number, number_of

# A number further above is a mistake, or a timestamp: nobody wants 20260101120001 after 007.
MAX_LEAP = 50


class BranchFile(NamedTuple):
    """A migration file of a branch that is not merged here."""

    branch: str
    name: str


class NextNumber(NamedTuple):
    """The next free number, and the files of branches that it depends on."""

    number: int
    taken: BranchFile | None
    """The file right below it, if only another branch has that."""
    ignored: tuple[BranchFile, ...]
    """The highest file of each branch that is too far above to be followed."""


def next_number(here: Iterable[str], elsewhere: Iterable[BranchFile] = ()) -> NextNumber:
    """The number above all files (or versions) here, and above those elsewhere within MAX_LEAP."""
    highest = highest_number(here)
    limit, taken, ignored = highest + MAX_LEAP, None, dict[str, BranchFile]()
    for file in sorted(elsewhere, key=_number):
        if _number(file) > limit:
            ignored[file.branch] = file
        elif _number(file) > highest:
            highest, taken = _number(file), file
    return NextNumber(highest + 1, taken, tuple(ignored.values()))


def same_migration(version: str, other: str) -> bool:
    """Whether two versions have one number and one description. (0007 and 7 are one number.)"""
    return (number_of(version), description_of(version)) == (
        number_of(other),
        description_of(other),
    )


def renumbered(name: str, number: int) -> str:
    """The name with another number."""
    return re.sub("^[0-9]+", f"{number:03}", name)


def shares_number(name: str, others: Iterable[str]) -> bool:
    """Whether another one of these files has the number of this one."""
    return any(one != name and number_of(one) == number_of(name) for one in others)


def _number(file: BranchFile) -> int:
    number = number_of(file.name)
    return -1 if number is None else number
