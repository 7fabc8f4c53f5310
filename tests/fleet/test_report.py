"""The report of a fleet: sums that always add up, errors by their reason, the exit code."""

from collections.abc import Sequence

import pytest

from lib.errors import OnwardError
from lib.fleet.outcome import Outcome, exit_codes
from lib.fleet.report import (
    NEXT_STEPS,
    Ending,
    Entries,
    Header,
    Record,
    Report,
    Tally,
    add,
    make_report,
    report_dict,
)
from lib.fleet.text import report_text
from tests.kit import kinds

ENDED = Ending(2.0)


def record(
    tenant: str, outcome: str, action: str = "migrate", wave: int = 1, **more: object
) -> Record:
    return Record(Outcome(tenant, outcome, **more), wave, "c1", action, 1.0)  # type: ignore[arg-type]


def report(*records: Record, size: int = 1, ending: Ending | None = ENDED) -> Report:
    header = Header(
        "r", "migrate", "ci", "003-x", "2026-11-26T10:00:00.000+00:00", {1: {"c1": size}}
    )
    found = make_report(Entries(header, records, ending))
    document = report_dict(found)
    parts = [document[name] for name in ("current", "ahead", "behind", "notReached")]
    assert sum(parts) == document["databases"] == size
    return found


def sums(found: Report) -> tuple[int, int, int, int]:
    total = found.total
    return total.current, total.ahead, total.behind, total.not_reached


FAILED = record("a", "migration_failed", version="002-x", sqlstate="42P01")


@pytest.mark.parametrize(
    ("records", "expected", "exit_code"),
    [
        ([record("a", "current")], (1, 0, 0, 0), 0),
        ([record("a", "ahead")], (0, 1, 0, 0), 0),
        ([record("a", "migrated"), record("a", "current", "status")], (1, 0, 0, 0), 0),
        # Nobody has looked: what the run says is not enough.
        ([record("a", "migrated")], (0, 0, 0, 1), 8),
        ([], (0, 0, 0, 1), 8),
        ([record("a", "not_reached")], (0, 0, 0, 1), 8),
        ([FAILED], (0, 0, 1, 0), 1),
        ([FAILED, record("a", "pending", "status")], (0, 0, 1, 0), 1),
        ([record("a", "migrated"), record("a", "not_reached", "status")], (0, 0, 0, 1), 8),
        ([FAILED, record("a", "not_reached", "status")], (0, 0, 1, 0), 1),
        # Somebody else has repaired it meanwhile.
        ([FAILED, record("a", "current", "status")], (1, 0, 0, 0), 0),
        (
            [record("a", "busy"), record("a", "migrated"), record("a", "current", "status")],
            (1, 0, 0, 0),
            0,
        ),
        ([record("a", "migrated"), record("a", "pending", "status")], (0, 0, 1, 0), 8),
        ([record("a", "migrated"), record("a", "database_unavailable", "status")], (0, 0, 1, 0), 5),
        ([record("a", "pending", "status")], (0, 0, 1, 0), 8),
        ([record("a", "conflict", "status")], (0, 0, 1, 0), 3),
        ([record("a", "outcome_unknown")], (0, 0, 1, 0), 6),
        ([record("a", "another_bundle")], (0, 0, 1, 0), 3),
        ([record("a", "never_heard_of")], (0, 0, 1, 0), 70),
    ],
)
def test_the_last_look_at_a_tenant_is_the_verdict(
    records: Sequence[Record], expected: tuple[int, int, int, int], exit_code: int
) -> None:
    found = report(*records)
    assert (sums(found), found.exit_code, found.success) == (expected, exit_code, exit_code == 0)
    assert ("✅" in report_text(found)) == (exit_code == 0)
    assert not (found.success and found.errors)


def test_a_run_that_did_not_come_to_its_end_is_no_success() -> None:
    found = report(record("a", "current"), ending=None)
    assert (found.success, found.exit_code) == (False, 8)
    assert "was killed" in report_text(found)


@pytest.mark.parametrize(
    ("codes", "exit_code"),
    [
        (["partly_applied", "outcome_unknown", "migration_failed"], 7),
        (["busy", "outcome_unknown", "migration_failed"], 6),
        (["history_conflict", "migration_failed", "busy"], 1),
        (["busy", "history_conflict", "database_unavailable"], 3),
        (["busy", "database_unavailable"], 5),
        (["busy", "pending"], 4),
    ],
)
def test_of_several_kinds_the_worst_is_the_exit_code(codes: list[str], exit_code: int) -> None:
    found = report(*(record(code, code) for code in codes), size=len(codes))
    assert found.exit_code == exit_code


def test_errors_are_grouped_by_code_version_and_sqlstate_the_most_frequent_first() -> None:
    failing = [
        record(f"t{number}", "migration_failed", version="002-x", sqlstate=sqlstate)
        for number, sqlstate in enumerate(["42P01"] * 30 + ["23505"])
    ]
    # Where a tenant is pending from is no reason.
    pending = [record(f"p{n}", "pending", "status", version=f"00{n}-x") for n in range(2)]
    found = report_dict(report(*failing, *pending, size=40))
    assert [
        (one["code"], one["version"], one["sqlstate"], one["databases"]) for one in found["errors"]
    ] == [
        ("migration_failed", "002-x", "42P01", 30),
        ("pending", None, None, 2),
        ("migration_failed", "002-x", "23505", 1),
    ]
    assert len(found["errors"][0]["tenants"]) == 20
    assert found["notReached"] == 7


def test_what_was_migrated_before_the_last_look_is_counted() -> None:
    found = report(record("a", "migrated"), record("a", "current", "status"))
    assert (found.total.migrated, found.total.current) == (1, 1)


def test_the_rate_is_of_what_was_seen_from_the_first_begin_to_the_last_end() -> None:
    first = record("a", "current", milliseconds=1000)._replace(at=2.0)
    last = record("b", "current")._replace(at=5.0)
    found = report(first, last, size=4, ending=Ending(9.0))
    [cluster] = report_dict(found)["waves"][0]["clusters"]
    assert (found.total.seconds, cluster["rate"]) == (4.0, 0.5)
    assert report_dict(found)["seconds"] == 9.0
    assert report_dict(report(first, last, size=4, ending=None))["seconds"] == 4.0


def test_clusters_at_the_same_time_take_as_long_as_the_slowest_one() -> None:
    found = add([Tally(1, 1, 0, 0, 0, seconds) for seconds in (2.0, 3.0)])
    assert (found.databases, found.seconds) == (2, 3.0)


def test_every_code_of_an_error_has_an_exit_code_and_what_a_tenant_meets_a_next_step() -> None:
    codes = {error.code for error in kinds(OnwardError)}
    assert codes <= exit_codes().keys()
    assert NEXT_STEPS.keys() <= exit_codes().keys()
    for code in NEXT_STEPS:
        assert NEXT_STEPS[code] in report_text(report(record("a", code)))


def test_an_outcome_is_read_back_as_it_was_written() -> None:
    outcome = Outcome("a", "migration_failed", "002-x", 1, 5, "42P01", 3)
    assert Outcome.read(outcome.document) == outcome
