"""What forbids a run of a plan, and what is unusual about it: for `validate`. Pure."""

from collections.abc import Iterator
from typing import NamedTuple

from lib.errors import OnwardError, raised_by
from lib.plan import Plan, State
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


def _warnings(plan: Plan) -> Iterator[str]:
    findings = {finding.version: finding for finding in plan.findings().warnings}
    for entry in plan.in_state(State.APPLIED, State.MODIFIED, State.AHEAD):
        for refusal in entry.migration.refusals() if entry.migration else ():
            yield f"{refusal} (already applied, so it may stay)"
        if finding := findings.get(entry.version):
            yield str(finding)
