"""What is said of a migration whose file and row do not agree, and what can be done. Pure."""

import shlex
from collections.abc import Sequence
from typing import NamedTuple

from lib.history import AppliedMigration
from lib.source.migration import Migration, number_of

_RESET = "reset this database, or take a fresh branch of it"


class Remark(NamedTuple):
    """What is wrong with a migration or unusual about it, and the options; mostly empty."""

    message: str = ""
    remedies: tuple[str, ...] = ()


AHEAD = Remark("applied, but newer than every file here (an older build, after a rollback?)")


class Remarks(NamedTuple):
    """The remarks on one comparison of files with history."""

    newest: int
    """The highest number of a file or a row."""
    production: bool
    """Whether no remedy may be to reset the database, and a command needs its option."""

    def late(self, file: Migration, newest_row: int) -> Remark:
        """Of a file that is not applied, below a number that is."""
        return self._conflict(
            f"{file.path}: not applied, but number {newest_row} already is",
            self._renumber(file),
            "apply it anyway: scripts/migrate.py --allow-out-of-order "
            "(or set MIGRATION_ALLOW_OUT_OF_ORDER=1)",
        )

    def changed(self, file: Migration, applied: str) -> Remark:
        """Of a file that does not have the checksum with which it was applied."""
        return self._conflict(
            f"{file.path}: changed after it was applied "
            f"(checksum {applied:.12}, now {file.checksum:.12})",
            "restore the file from version control, and put the change into a new migration",
            f"accept the file as it is: {self._repair(file)}",
        )

    def of_another_name(self, file: Migration, row: AppliedMigration) -> Remark:
        """Of a file whose number is applied with another description."""
        problem = f"{file.path}: number {file.number} is applied as {row.version}"
        if row.checksum is not None and file.matches(row.checksum):
            return self._conflict(
                problem,
                f"rename the file back to {row.version}.sql",
                f"accept the new name: {self._repair(file)}",
            )
        return self._conflict(
            problem, f"restore {row.version} from version control, and {self._renumber(file)}"
        )

    def without_parts(self, checkpoint: Migration, gone: Sequence[str]) -> Remark:
        """Of a checkpoint for versions that are neither applied nor files."""
        return self._conflict(
            f"{checkpoint.path}: stands for migrations that are not applied here, and whose files "
            f"are gone: {', '.join(gone)}",
            f"restore their files, run again, and delete them again:{_restoring(checkpoint, gone)}",
        )

    def not_as_replaced(self, file: Migration, contradiction: str) -> Remark:
        """Of a file that is not the one that a checkpoint stands for."""
        return self._conflict(
            f"{file.path}: {contradiction}",
            "restore the file from version control, or delete the checkpoint and write it again",
        )

    def without_file(self, row: AppliedMigration, twin: Migration | None) -> Remark:
        """Of a row that has no file; `twin` is the file of another row of its number."""
        if twin:
            problem = f"as {twin.version} is, and two files cannot share a number"
            remedy = "renumber both its file and its row"
        elif number_of(row.version) is None:
            problem = "but no file can have this name"
            remedy = "rename both its file and its row, so that they begin with a number"
        else:
            problem = "but its file is gone"
            remedy = "restore the file from version control"
        return self._conflict(f"{row.version}: applied, {problem}", remedy)

    def _conflict(self, problem: str, *remedies: str) -> Remark:
        last_resort = () if self.production else (_RESET,)
        return Remark(problem, (*remedies, *last_resort))

    def _repair(self, file: Migration) -> str:
        return _repair(file.version) + (" --production" if self.production else "")

    def _renumber(self, file: Migration) -> str:
        return (
            f"rename the file to a number above {self.newest}, such as {self.newest + 1:03}:"
            f" scripts/migrate.py renumber {file.version}"
        )


def unverified(row: AppliedMigration) -> Remark:
    """Of a row without a checksum, so that a change of its file would not show."""
    return Remark(
        "applied without a checksum, so not verified",
        (f"to record the checksum of the file: {_repair(row.version)}",),
    )


def _repair(version: str) -> str:
    return f"scripts/migrate.py repair {version}"


def _restoring(checkpoint: Migration, versions: Sequence[str]) -> str:
    """The commands that bring deleted files back, a line each."""
    paths = (shlex.quote(str(checkpoint.path.with_name(f"{one}.sql"))) for one in versions)
    return "".join(
        f'\n      git restore --source="$(git rev-list -1 HEAD -- {path})^" -- {path}'
        for path in paths
    )
