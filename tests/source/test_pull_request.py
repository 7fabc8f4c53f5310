"""What a branch may not do to its base."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from lib.source.pull_request import Base, new_files, problems
from tests.kit import checkpoint_of

COMMIT = "0123456789abcdef"
RESTORE = "git restore --source=0123456789ab -- m/"
RENUMBER = "scripts/migrate.py renumber "


def base(contents: Mapping[str, bytes], *newest: str) -> Base:
    """Its tip has these files more than the merge base."""
    return Base("origin/main", COMMIT, contents, newest=[*contents, *newest])


def found(base: Base, here: Mapping[str, bytes]) -> list[tuple[str, str, tuple[str, ...]]]:
    return [(one.path.name, one.what, one.commands) for one in problems(base, here, Path("m"))]


A, B = {"001-a.sql": b"SELECT 1;\n"}, {"002-b.sql": b"SELECT 2;\n"}
CRLF = {"002-b.sql": b"SELECT 2;\r\n"}
CHECKPOINT = {
    "003-all.sql": checkpoint_of(
        {"001-a.sql": "SELECT 1;\n", "002-b.sql": "SELECT 2;\n"}, "SELECT 3;\n"
    ).encode()
}
HAS_IT = "but origin/main has it, so databases may have applied it"


@pytest.mark.parametrize(
    ("old", "here"),
    [
        (A, A),
        ({}, A),
        (A, A | B),
        (A, {"001-a.sql": b"\xef\xbb\xbfSELECT 1;\r\n"}),
        (A | {"README.md": b""}, A),
        (A | {"002-b.sql": b"-- migrate: draft\nSELECT 2;\n"}, A | B),
        (A | {"002-b.sql": b"-- migrate: draft\n"}, A),
        (A | B, CHECKPOINT),
        (A | B, B | CHECKPOINT),
        (A | B | CHECKPOINT, CHECKPOINT),
        (A | CRLF, CHECKPOINT),
    ],
)
def test_files_that_fit_the_base_have_no_problem(
    old: Mapping[str, bytes], here: Mapping[str, bytes]
) -> None:
    assert found(base(old), here) == []


def test_a_checkpoint_of_another_text_lets_nothing_be_deleted() -> None:
    other = {"001-a.sql": b"SELECT 9;\n"} | B
    assert found(base(other), CHECKPOINT) == [
        ("001-a.sql", f"deleted, {HAS_IT}", (f"{RESTORE}001-a.sql",))
    ]
    broken = {"003-all.sql": CHECKPOINT["003-all.sql"].replace(b"001-002", b"001-009")}
    assert len(found(base(A | B), broken)) == 2


@pytest.mark.parametrize(
    ("here", "what", "commands"),
    [
        (A | {"002-b.sql": b"SELECT 3;"}, "changed", [f"{RESTORE}002-b.sql"]),
        (A, "deleted", [f"{RESTORE}002-b.sql"]),
        (
            A | {"007-b.sql": b"SELECT 2;\r\n"},
            "renamed to 007-b.sql",
            [f"{RESTORE}002-b.sql", "rm m/007-b.sql"],
        ),
    ],
)
def test_what_becomes_of_a_file_of_the_base_is_told_with_its_repair(
    here: Mapping[str, bytes], what: str, commands: list[str]
) -> None:
    assert found(base(A | B), here) == [("002-b.sql", f"{what}, {HAS_IT}", tuple(commands))]


def test_what_the_base_got_since_is_not_missed_here() -> None:
    assert found(base(A, "002-c.sql"), A) == []
    merged = base(A, "002-b.sql")
    assert new_files(merged, A | B | {"003-c.sql": b""}) == ["003-c.sql"]
    assert found(merged, A | B | {"003-c.sql": b""}) == []


@pytest.mark.parametrize(
    ("newest", "name", "what"),
    [
        ("002-x.sql", "002-b.sql", "number 2 is taken by 002-x.sql"),
        ("003-x.sql", "002-b.sql", "number 2 is not above 3, the highest of origin/main"),
        ("1000-x.sql", "999-b.sql", "number 999 is not above 1000, the highest of origin/main"),
        ("0002-x.sql", "002-b.sql", "number 2 is taken by 0002-x.sql"),
    ],
)
def test_a_new_number_is_above_those_at_the_tip_of_the_base(
    newest: str, name: str, what: str
) -> None:
    command = RENUMBER + name.removesuffix(".sql")
    assert found(base(A, newest), A | {name: b""}) == [(name, what, (command,))]


def test_new_files_behind_one_with_a_new_number_get_new_ones_too() -> None:
    here = A | {"002-b.sql": b"b", "004-c.sql": b"c", "010-d.sql": b"d"}
    assert found(base(A, "002-x.sql", "003-y.sql"), here) == [
        ("002-b.sql", "number 2 is taken by 002-x.sql", (f"{RENUMBER}002-b",)),
        (
            "004-c.sql",
            "would now come before 002-b.sql, which gets a new number",
            (f"{RENUMBER}004-c",),
        ),
        (
            "010-d.sql",
            "would now come before 002-b.sql, which gets a new number",
            (f"{RENUMBER}010-d",),
        ),
    ]


def test_numbers_that_are_taken_twice_here_are_found_too() -> None:
    taken = "number 2 is taken by 002-b.sql"
    expected = [("002-c.sql", taken, (f"{RENUMBER}002-c",))]
    assert found(base(A), A | B | {"002-c.sql": b"c"}) == expected
    both = A | B | {"002-c.sql": b"c"}
    assert found(base(both), both) == expected
