"""What a checkpoint says of itself: the files that it stands for, in its leading comment. Pure.

-- migrate: checkpoint 000-149
--   000-create-migration-table 5f2c...
--   001-create-users-table 09ab...
"""

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

DIRECTIVE = "-- migrate: checkpoint"
_RANGE = rf"{DIRECTIVE} ([0-9]{{3,}})-([0-9]{{3,}})"
_LINE_BEGINNING = "--   "
_LINE = rf"{_LINE_BEGINNING}([0-9]{{3,}}(?:-[a-z0-9]+)+) ([0-9a-f]{{64}})"
_REMEDY = "`scripts/migrate.py checkpoint` writes these lines: do not edit them"


class Replaced(NamedTuple):
    """A file that a checkpoint stands for, as it was when the checkpoint was written."""

    version: str
    checksum: str

    @property
    def number(self) -> int:
        """The file's number."""
        return int(self.version.partition("-")[0])

    @property
    def name(self) -> str:
        """The description in title case, as a migration has it."""
        return title(self.version)


def title(version: str) -> str:
    """The name of a version: `Create Users Table` for `001-create-users-table`."""
    words = version.partition("-")[2].split("-")
    return " ".join(word.capitalize() for word in words)


def is_directive(comment: str) -> bool:
    """Whether a comment line is the directive of a checkpoint, well formed or not."""
    return comment.startswith(DIRECTIVE)


def written(replaced: Sequence[Replaced]) -> str:
    """The lines that a checkpoint begins with."""
    first, last = (one.version.partition("-")[0] for one in (replaced[0], replaced[-1]))
    lines = [f"{_LINE_BEGINNING}{one.version} {one.checksum}\n" for one in replaced]
    return f"{DIRECTIVE} {first}-{last}\n{''.join(lines)}"


def replaced_by(number: int, comments: Iterable[str]) -> tuple[Replaced, ...]:
    """The files that the file of this number stands for, by their numbers; empty for most files.

    `comments` is the leading comment. Raises ValueError for a directive that is wrong.
    """
    lines = [comment.rstrip() for comment in comments]
    places = [place for place, line in enumerate(lines) if is_directive(line)]
    if not places:
        return ()
    if len(places) > 1:
        raise ValueError(f"several directives of a checkpoint; {_REMEDY}")
    found = re.fullmatch(_RANGE, lines[places[0]])
    if not found:
        raise ValueError(f"unknown directive `{lines[places[0]]}`; {_REMEDY}")
    replaced = tuple(_listed(lines[places[0] + 1 :]))
    _require_range(number, int(found[1]), int(found[2]), replaced)
    return replaced


def _listed(lines: Sequence[str]) -> Iterable[Replaced]:
    for line in lines:
        if not line.startswith(_LINE_BEGINNING):
            return
        found = re.fullmatch(_LINE, line)
        if not found:
            raise ValueError(f"`{line}` does not name a file and its checksum; {_REMEDY}")
        yield Replaced(found[1], found[2])


def _require_range(number: int, first: int, last: int, replaced: Sequence[Replaced]) -> None:
    numbers = [one.number for one in replaced]
    if not numbers:
        problem = "lists no file that it stands for"
    elif any(one >= other for one, other in pairwise(numbers)):
        problem = "lists files that are not in the order of their numbers"
    elif (numbers[0], numbers[-1]) != (first, last):
        problem = (
            f"lists the files {numbers[0]:03} to {numbers[-1]:03}, and not {first:03}-{last:03}"
        )
    elif last >= number:
        problem = f"stands for number {last}, which is not below its own"
    else:
        return
    raise ValueError(f"the checkpoint {problem}; {_REMEDY}")
