import re
from collections.abc import Sequence
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.errors import HistoryConflict
from lib.history import AppliedMigration
from lib.plan import MigrationStatus, Plan, State, make_plan
from lib.remarks import Remark
from lib.report.text import next_step_text
from lib.source.migration import Migration, number_of
from tests.kit import checkpoint, file

RESET = "reset this database, or take a fresh branch of it"


def checksum(content: str) -> str:
    return sha256(content.encode()).hexdigest()


def row(version: str, content: str | None = "SELECT 1;") -> AppliedMigration:
    return AppliedMigration(1, version, "", checksum=None if content is None else checksum(content))


def plan(files: str, rows: str, **options: bool) -> Plan:
    """Files and rows by their versions; each holds `SELECT 1;`."""
    history = [row(version) for version in rows.split()]
    return make_plan([file(version) for version in files.split()], history, **options)


def is_unverified(entry: MigrationStatus) -> bool:
    return entry.remark.message == "applied without a checksum, so not verified"


def states(plan: Plan) -> str:
    return " ".join(f"{entry.version}={entry.state}" for entry in plan.entries)


@pytest.mark.parametrize(
    ("files", "rows", "expected", "state"),
    [
        ("", "", "", "current"),
        ("001-a 002-b", "", "001-a=pending 002-b=pending", "pending"),
        ("001-a 002-b", "001-a", "001-a=applied 002-b=pending", "pending"),
        ("001-a 002-b", "001-a 002-b", "001-a=applied 002-b=applied", "current"),
        ("001-a 002-b", "002-b 001-a", "001-a=applied 002-b=applied", "current"),
        ("999-a 1000-b", "999-a", "999-a=applied 1000-b=pending", "pending"),
        ("999-a 1000-b", "1000-b", "999-a=out_of_order 1000-b=applied", "conflict"),
        ("001-a", "001-a 002-b", "001-a=applied 002-b=ahead", "ahead"),
        ("001-a", "001-a 002-b 010-c", "001-a=applied 002-b=ahead 010-c=ahead", "ahead"),
        (
            "001-a 003-c",
            "001-a 002-b 003-c",
            "001-a=applied 002-b=missing 003-c=applied",
            "conflict",
        ),
        ("001-a 003-c", "001-a 002-b", "001-a=applied 002-b=missing 003-c=pending", "conflict"),
        ("001-a 002-b", "002-b", "001-a=out_of_order 002-b=applied", "conflict"),
        ("001-a 002-b", "001-a 003-c", "001-a=applied 002-b=out_of_order 003-c=ahead", "conflict"),
        ("001-a 002-b", "001-a 002-x", "001-a=applied 002-x=modified", "conflict"),
        (
            "001-a 002-b",
            "001-a 002-b 003-c 004-d",
            "001-a=applied 002-b=applied 003-c=ahead 004-d=ahead",
            "ahead",
        ),
        ("0001-a 002-b", "1-a 02-b", "1-a=applied 02-b=applied", "current"),
        ("001-a", "001-a initial", "initial=missing 001-a=applied", "conflict"),
        ("001-a", "initial", "initial=missing 001-a=pending", "conflict"),
        (
            "001-a 002-b",
            "001-a 002-x 002-b",
            "001-a=applied 002-b=applied 002-x=missing",
            "conflict",
        ),
        ("001-a", "001-a 002-x 002-b", "001-a=applied 002-x=ahead 002-b=ahead", "ahead"),
        ("001-a", "001-x 001-y", "001-x=modified 001-y=missing", "conflict"),
    ],
)
def test_files_and_rows_are_compared_as_sets(
    files: str, rows: str, expected: str, state: str
) -> None:
    found = plan(files, rows)
    assert (states(found), found.state) == (expected, state)


@pytest.mark.parametrize(
    ("stored", "state", "unverified"),
    [
        (checksum("SELECT 1;\n"), State.APPLIED, False),
        (checksum("SELECT 1;\r\n"), State.APPLIED, False),
        (None, State.APPLIED, True),
        (checksum("SELECT 2;\n"), State.MODIFIED, False),
        ("", State.MODIFIED, False),
    ],
)
def test_a_stored_checksum_decides_whether_a_file_is_modified(
    stored: str | None, state: State, unverified: bool
) -> None:
    (entry,) = make_plan(
        [file("001-a", "SELECT 1;\n")], [AppliedMigration(1, "001-a", "A", checksum=stored)]
    ).entries
    assert (entry.state, is_unverified(entry)) == (state, unverified)


def test_only_what_is_applied_and_has_a_file_can_be_unverified() -> None:
    entries = make_plan(
        [file("002-b")], [row("001-a", None), row("002-x", None), row("003-c", None)]
    ).entries
    assert [(entry.state, is_unverified(entry)) for entry in entries] == [
        (State.MISSING, False),
        (State.MODIFIED, False),
        (State.AHEAD, False),
    ]


def test_files_that_were_merged_late_are_pending_where_that_is_allowed() -> None:
    found = plan("001-a 002-b 003-c 004-d", "001-a 003-c", allow_out_of_order=True)
    assert states(found) == "001-a=applied 002-b=pending 003-c=applied 004-d=pending"
    assert [one.version for one in found.pending] == ["002-b", "004-d"]
    assert found.state == State.PENDING
    assert plan("001-a 002-b", "001-a 003-c", allow_out_of_order=True).state == State.PENDING
    assert plan("001-a 002-b", "001-x 002-b", allow_out_of_order=True).state == State.CONFLICT


def test_an_entry_goes_by_its_row_and_without_one_by_its_file() -> None:
    named = make_plan(
        [file("001-b-c"), file("002-d")], [AppliedMigration(7, "001-b", "An Older Name")]
    )
    assert [(entry.version, entry.name) for entry in named.entries] == [
        ("001-b", "An Older Name"),
        ("002-d", "D"),
    ]
    assert named.in_state(State.PENDING, State.MODIFIED) == named.entries
    assert named.in_state(State.APPLIED) == ()
    assert named.conflicts == (named.entries[0],)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (
            make_plan([file("001-a", "SELECT 2;")], [row("001-a")]),
            (
                "migrations/001-a.sql: changed after it was applied "
                f"(checksum {checksum('SELECT 1;')[:12]}, now {checksum('SELECT 2;')[:12]})",
                "restore the file from version control, and put the change into a new migration",
                "accept the file as it is: scripts/migrate.py repair 001-a",
            ),
        ),
        (
            make_plan([file("001-a", "SELECT 2;"), file("002-b")], [row("001-x")]),
            (
                "migrations/001-a.sql: number 1 is applied as 001-x",
                "restore 001-x from version control, and rename the file to a number above 2, such "
                "as 003: scripts/migrate.py renumber 001-a",
            ),
        ),
        (  # without a checksum, nobody can say that it is the same SQL
            make_plan([file("001-a")], [row("001-x", None)]),
            (
                "migrations/001-a.sql: number 1 is applied as 001-x",
                "restore 001-x from version control, and rename the file to a number above 1, such "
                "as 002: scripts/migrate.py renumber 001-a",
            ),
        ),
        (
            plan("001-a", "001-x"),
            (
                "migrations/001-a.sql: number 1 is applied as 001-x",
                "rename the file back to 001-x.sql",
                "accept the new name: scripts/migrate.py repair 001-a",
            ),
        ),
        (
            plan("001-a 002-b", "001-a 010-c"),
            (
                "migrations/002-b.sql: not applied, but number 10 already is",
                "rename the file to a number above 10, such as 011: scripts/migrate.py renumber "
                "002-b",
                "apply it anyway: scripts/migrate.py --allow-out-of-order (or set "
                "MIGRATION_ALLOW_OUT_OF_ORDER=1)",
            ),
        ),
        (
            plan("001-a 020-b", "001-a 003-c 020-b 1000-d", allow_out_of_order=True),
            ("003-c: applied, but its file is gone", "restore the file from version control"),
        ),
        (
            plan("002-b", "001-a 002-b"),
            ("001-a: applied, but its file is gone", "restore the file from version control"),
        ),
        (
            plan("001-a", "001-a 001-b"),
            (
                "001-b: applied, as 001-a is, and two files cannot share a number",
                "renumber both its file and its row",
            ),
        ),
        (
            plan("001-a", "001-a initial"),
            (
                "initial: applied, but no file can have this name",
                "rename both its file and its row, so that they begin with a number",
            ),
        ),
    ],
)
def test_a_conflict_is_told_with_its_remedy(found: Plan, expected: tuple[str, ...]) -> None:
    (entry,) = found.conflicts
    assert (entry.remark.message, *entry.remark.remedies) == (*expected, RESET)


@pytest.mark.parametrize(
    ("files", "rows"),
    [
        ("001-a", "001-x"),
        ("001-a 002-b", "002-b"),
        ("002-b", "001-a 002-b"),
        ("001-a", "001-a 001-b"),
        ("001-a", "x"),
    ],
)
def test_production_is_never_told_to_reset_its_database(files: str, rows: str) -> None:
    assert [
        (entry.remark.message, *entry.remark.remedies) for entry in plan(files, rows).conflicts
    ] == [
        (
            entry.remark.message,
            *(one.removesuffix(" --production") for one in entry.remark.remedies),
            RESET,
        )
        for entry in plan(files, rows, production=True).conflicts
    ]


@pytest.mark.parametrize(
    ("files", "rows", "number"),
    [("001-a", "002-b", 2), ("001-a 030-c", "002-b", 30), ("001-a 030-c", "1000-b", 1000)],
)
def test_a_late_file_is_sent_above_all_files_and_all_rows(
    files: str, rows: str, number: int
) -> None:
    late = plan(files, rows).in_state(State.OUT_OF_ORDER)[0]
    assert late.remark.remedies[0] == (
        f"rename the file to a number above {number}, such as {number + 1:03}: "
        f"scripts/migrate.py renumber {late.version}"
    )


def test_all_conflicts_are_named_at_once() -> None:
    files = [file("001-a", "SELECT 2;"), file("002-b"), file("004-d"), file("005-e"), file("006-f")]
    found = make_plan(files, [row("001-a"), row("003-c"), row("005-x"), row("007-g")])
    with pytest.raises(HistoryConflict) as caught:
        found.require_no_conflict()
    heading, *lines = caught.value.message.split("\n  ")
    assert heading == "the migration files do not match the database's history:"
    named = [line for line in lines if not line.startswith("  - ")]
    assert [re.split("[:;] ", one)[:2] for one in named] == [
        ["modified", "migrations/001-a.sql"],
        ["out_of_order", "migrations/002-b.sql"],
        ["missing", "003-c"],
        ["out_of_order", "migrations/004-d.sql"],
        ["modified", "migrations/005-e.sql"],
        ["out_of_order", "migrations/006-f.sql"],
    ]
    assert (
        next_step_text(caught.value)
        == "Nothing was changed. Resolve each conflict, then run again."
    )


def test_conflicts_forbid_a_run_and_what_is_unusual_does_not() -> None:
    files = [file("001-a"), file("002-b", "SELECT 2;")]
    found = make_plan(files, [row("001-a", None), row("002-b"), row("003-c")], production=True)
    assert [(one.version, one.state, len(one.remark.remedies)) for one in found.conflicts] == [
        ("002-b", "modified", 2)
    ]
    assert [(one.version, one.state) for one in found.warnings] == [
        ("001-a", "applied"),
        ("003-c", "ahead"),
    ]
    assert found.warnings[0].remark == Remark(
        "applied without a checksum, so not verified",
        ("to record the checksum of the file: scripts/migrate.py repair 001-a",),
    )
    usual = plan("001-a", "001-a")
    assert (usual.conflicts, usual.warnings) == ((), ())


@pytest.mark.parametrize("of_row", ["001-a", "001-x"])
def test_the_repair_of_production_is_given_with_its_option(of_row: str) -> None:
    changed = file("001-a", "SELECT 2;" if of_row == "001-a" else "SELECT 1;")
    [conflict] = make_plan([changed], [row(of_row)], production=True).conflicts
    assert conflict.remark.remedies[-1].endswith(": scripts/migrate.py repair 001-a --production")


@pytest.mark.parametrize(
    ("files", "rows"), [("001-a", ""), ("001-a", "001-a"), ("001-a", "001-a 002-b")]
)
def test_what_is_pending_current_or_ahead_is_no_conflict(files: str, rows: str) -> None:
    plan(files, rows).require_no_conflict()


versions = st.builds(
    "{:03d}-{}".format, st.integers(0, 12) | st.integers(998, 1001), st.sampled_from("ab")
)
some_files = st.lists(versions, max_size=8, unique_by=number_of)
some_rows = st.lists(versions | st.sampled_from(["initial", "1-a", "x-1"]), max_size=8, unique=True)


@given(some_files, some_rows, st.booleans())
def test_every_file_and_every_row_has_one_state(
    files: list[str], rows: list[str], allowed: bool
) -> None:
    history = [row(version) for version in rows]
    found = make_plan([file(version) for version in files], history, allow_out_of_order=allowed)
    assert sorted(entry.migration.version for entry in found.entries if entry.migration) == sorted(
        files
    )
    assert sorted(entry.applied.version for entry in found.entries if entry.applied) == sorted(rows)
    numbers = [
        -1 if number is None else number
        for number in (number_of(entry.version) for entry in found.entries)
    ]
    assert numbers == sorted(numbers)
    highest = max(
        [number for version in rows if (number := number_of(version)) is not None], default=-1
    )
    for entry in found.entries:
        assert entry.state == expected_state(entry, files, highest, allowed)
        remarked = entry in found.conflicts or entry.state is State.AHEAD
        assert bool(entry.remark.message) == remarked
    kinds = [entry.state for entry in found.entries]
    assert (found.state == State.CONFLICT) == any(
        one in kinds for one in ("modified", "missing", "out_of_order")
    )
    assert [one.number for one in found.pending] == sorted(one.number for one in found.pending)


def expected_state(entry: MigrationStatus, files: list[str], highest: int, allowed: bool) -> str:
    """By the words of the contract."""
    if entry.migration and entry.applied:
        same = entry.migration.version.partition("-")[2] == entry.applied.version.partition("-")[2]
        return "applied" if same else "modified"
    if entry.migration:
        return "out_of_order" if highest > entry.migration.number and not allowed else "pending"
    number = number_of(entry.version)
    is_ahead = number is not None and all(number > (number_of(version) or 0) for version in files)
    return "ahead" if is_ahead else "missing"


# Checkpoints

A, B, C = file("001-a"), file("002-b"), file("003-c")
OF_TWO = checkpoint("004-all", A, B)
LATER = file("005-later")


def planned(files: Sequence[Migration], rows: str, **options: bool) -> Plan:
    return make_plan(files, [row(version) for version in rows.split()], **options)


@pytest.mark.parametrize(
    ("files", "rows", "expected", "state"),
    [
        # None applied: the checkpoint is first, instead of what it stands for.
        ([A, B, OF_TWO, LATER], "", "004-all=pending 005-later=pending", "pending"),
        ([OF_TWO, LATER], "", "004-all=pending 005-later=pending", "pending"),
        ([A, B, C, OF_TWO], "", "004-all=pending 003-c=pending", "pending"),
        # All applied: it is recorded behind them, whatever was applied since.
        ([A, B, OF_TWO], "001-a 002-b", "001-a=applied 002-b=applied 004-all=pending", "pending"),
        ([OF_TWO], "001-a 002-b", "001-a=applied 002-b=applied 004-all=pending", "pending"),
        (
            [OF_TWO, LATER],
            "001-a 002-b 005-later",
            "001-a=applied 002-b=applied 004-all=pending 005-later=applied",
            "pending",
        ),
        ([OF_TWO], "001-a 002-b 004-all", "001-a=applied 002-b=applied 004-all=applied", "current"),
        # Some applied: the others come first, where they are there.
        ([A, B, OF_TWO], "001-a", "001-a=applied 002-b=pending 004-all=pending", "pending"),
        ([A, B, OF_TWO], "002-b", "001-a=out_of_order 002-b=applied 004-all=pending", "conflict"),
        ([OF_TWO], "001-a", "001-a=applied 004-all=out_of_order", "conflict"),
        ([OF_TWO], "initial", "initial=missing 004-all=out_of_order", "conflict"),
        # A row of another name is not one of those.
        ([OF_TWO], "001-x 002-b", "001-x=missing 002-b=applied 004-all=pending", "conflict"),
        # Nor is a second row of a number that a file here has.
        (
            [A, B, OF_TWO],
            "001-a 1-a 002-b",
            "001-a=applied 1-a=missing 002-b=applied 004-all=pending",
            "conflict",
        ),
        # What follows the last file that is replaced does not wait for a row of the checkpoint.
        (
            [A, B, C, OF_TWO],
            "001-a 002-b 004-all",
            "001-a=applied 002-b=applied 004-all=applied 003-c=pending",
            "pending",
        ),
    ],
)
def test_a_checkpoint_is_applied_recorded_or_in_conflict(
    files: Sequence[Migration], rows: str, expected: str, state: str
) -> None:
    found = planned(files, rows)
    assert (states(found), found.state) == (expected, state)


def test_of_several_checkpoints_the_newest_one_counts() -> None:
    newest = checkpoint("006-all", A, B, OF_TWO, LATER)
    files = [A, B, OF_TWO, LATER, newest]
    assert states(planned(files, "")) == "006-all=pending"
    assert states(planned([newest], "001-a 002-b 004-all 005-later")) == (
        "001-a=applied 002-b=applied 004-all=applied 005-later=applied 006-all=pending"
    )
    assert states(planned(files, "001-a 002-b")) == (
        "001-a=applied 002-b=applied 004-all=pending 005-later=pending 006-all=pending"
    )


def test_the_files_that_are_gone_are_named_with_how_to_restore_them() -> None:
    (problem,) = planned([OF_TWO], "001-a").conflicts
    assert problem.remark.message == (
        "migrations/004-all.sql: stands for migrations that are not applied here, and whose files "
        "are gone: 002-b"
    )
    path = "migrations/002-b.sql"
    assert problem.remark.remedies == (
        "restore their files, run again, and delete them again:\n      "
        f'git restore --source="$(git rev-list -1 HEAD -- {path})^" -- {path}',
        RESET,
    )
    (problem,) = planned([OF_TWO], "001-a", production=True).conflicts
    assert len(problem.remark.remedies) == 1


@pytest.mark.parametrize("rows", ["", "001-a 002-b", "001-a 002-b 004-all"])
def test_a_file_that_the_checkpoint_was_not_made_from_is_a_conflict(rows: str) -> None:
    other = checkpoint("004-all", file("001-a", "SELECT 2;"), B)
    (problem,) = planned([A, B, other], rows).conflicts
    assert (problem.state, problem.version) == (State.MODIFIED, "001-a")
    assert (
        problem.remark.message == "migrations/001-a.sql: 004-all was made from another text of it"
    )
    assert problem.remark.remedies[0] == (
        "restore the file from version control, or delete the checkpoint and write it again"
    )


def test_a_file_with_a_number_that_a_checkpoint_stands_for_is_a_conflict() -> None:
    (problem,) = planned([file("001-new"), B, OF_TWO], "").conflicts
    assert problem.remark.message == "migrations/001-new.sql: 004-all stands for number 1 as 001-a"


def test_a_file_that_was_changed_after_it_was_applied_is_modified_as_ever() -> None:
    changed = file("001-a", "SELECT 2;")
    (problem,) = planned([changed, B, OF_TWO], "001-a 002-b").conflicts
    assert "changed after it was applied" in problem.remark.message


def test_of_what_is_replaced_no_checksum_is_asked_for() -> None:
    found = make_plan([OF_TWO], [row("001-a", None), row("002-b", None)])
    assert found.warnings == ()
