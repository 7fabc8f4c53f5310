"""Which files of a directory its checkpoints stand for. Pure."""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple, Self

from lib.source.checkpoint import Replaced
from lib.source.migration import Migration, number_of
from lib.source.numbering import same_migration


class Replacements(NamedTuple):
    """What the checkpoints of a directory stand for."""

    by_number: Mapping[int, tuple[Replaced, Migration]]
    """Each file that is replaced, with the newest checkpoint that stands for it."""
    checkpoints: Mapping[int, Migration]
    first: Migration | None
    """The checkpoint that a database without history begins with."""

    @classmethod
    def of(cls, migrations: Sequence[Migration], *, none_applied: bool) -> Self:
        """Those of all files; `none_applied` says that there is no history."""
        checkpoints = [file for file in migrations if file.stands_for]
        checkpoints.sort(key=lambda file: file.number)
        by_number = {one.number: (one, file) for file in checkpoints for one in file.stands_for}
        first = checkpoints[-1] if checkpoints and none_applied else None
        return cls(by_number, {file.number: file for file in checkpoints}, first)

    def place(self, number: int) -> tuple[int, int]:
        """By which numbers are ordered: a checkpoint's place is behind what it stands for."""
        if self.first and number == self.first.number:
            return -1, number
        checkpoint = self.checkpoints.get(number)
        return (checkpoint.stands_for[-1].number if checkpoint else number), number

    def leaves_out(self, file: Migration) -> bool:
        """Whether the file is not applied, because a checkpoint that was made of it is instead."""
        checkpoint = self.by_number.get(file.number, (None, None))[1]
        replaced = self.first is not None and self.first is checkpoint
        return replaced and not self.contradiction(file)

    def gone(self, checkpoint: Migration, numbers: Collection[int]) -> list[str]:
        """The versions that it stands for and that are not there: neither one of the numbers, nor
        made by the first checkpoint.
        """
        made = {one.number for one in self.first.stands_for} if self.first else set[int]()
        there = made.union(numbers)
        return [one.version for one in checkpoint.stands_for if one.number not in there]

    def covers(self, version: str) -> bool:
        """Whether a checkpoint stands for this version, so that its file may be gone."""
        listed = self.by_number.get(number_of(version) or 0)
        return listed is not None and same_migration(listed[0].version, version)

    def contradiction(self, file: Migration) -> str:
        """How a file is not the one that a checkpoint stands for; empty if it is, or none does."""
        if file.number not in self.by_number:
            return ""
        listed, checkpoint = self.by_number[file.number]
        if not same_migration(listed.version, file.version):
            return f"{checkpoint.version} stands for number {file.number} as {listed.version}"
        if not file.matches(listed.checksum):
            return f"{checkpoint.version} was made from another text of it"
        return ""
