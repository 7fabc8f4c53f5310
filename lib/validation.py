"""What forbids a run of a plan, and what is unusual about it: for `validate`. Pure."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from lib.errors import FilesError, OnwardError, raised_by
from lib.plan import MigrationStatus, Plan, State, make_plan
from lib.source.migration import Migration, require_no_refusal


class Validation(NamedTuple):
    """The files and the history of a plan, examined."""

    plan: Plan
    refusals: tuple[tuple[Migration, str], ...]
    """Why files that are not applied cannot run: each reason with its file."""
    warnings: tuple[str, ...]
    """What is unusual about applied migrations, but no reason to refuse a run."""
    errors: tuple[OnwardError, ...]
    """What a run would raise: the conflict first, then the files that cannot run."""


def validate(plan: Plan) -> Validation:
    """Examine all files, applied or not."""
    entries = plan.in_state(State.PENDING, State.OUT_OF_ORDER)
    unapplied = [entry.migration for entry in entries if entry.migration]
    refusals = tuple((one, refusal) for one in unapplied for refusal in one.refusals())
    errors = raised_by(
        plan.require_no_conflict,
        lambda: require_no_refusal(refusal for _, refusal in refusals),
    )
    return Validation(plan, refusals, warnings=tuple(_warnings(plan)), errors=tuple(errors))


def require_checkpoints_fit(migrations: Sequence[Migration]) -> None:
    """Raise FilesError if a file is not the one that a checkpoint stands for. Asks no database."""
    plan = make_plan(migrations, ())
    if plan.conflicts:
        raise FilesError(
            f"the migration files contradict each other:{plan.conflicts_text}",
            changed_nothing=True,
        )


def _warnings(plan: Plan) -> Iterator[str]:
    for entry in plan.in_state(State.APPLIED, State.MODIFIED, State.AHEAD):
        for refusal in entry.migration.refusals() if entry.migration else ():
            yield f"{refusal} (already applied, so it may stay)"
        if entry.is_unusual:
            yield _warning(entry)


def _warning(entry: MigrationStatus) -> str:
    return "\n  - ".join((f"{entry.version}: {entry.remark.message}", *entry.remark.remedies))
