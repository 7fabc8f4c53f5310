"""The number of a new file."""

import pytest

from lib.source.numbering import BranchFile, next_number


def branch(name: str, *files: str) -> list[BranchFile]:
    return [BranchFile(name, file) for file in files]


@pytest.mark.parametrize(
    ("here", "number"),
    [
        ([], 0),
        (["000-x.sql"], 1),
        (["000-x.sql", "007_misnamed.SQL"], 8),
        (["999-x.sql", "x.sql"], 1000),
        (["000-x.sql", "012-applied"], 13),
    ],
)
def test_a_number_is_one_above_the_highest_here(here: list[str], number: int) -> None:
    assert next_number(here) == (number, None, ())


def test_a_number_is_above_those_of_branches_and_says_of_which() -> None:
    topic, other = branch("topic", "001-a.sql", "005-t.sql"), branch("other", "003-o.sql")
    assert next_number(["001-a.sql"], other + topic) == (6, topic[1], ())
    assert next_number(["005-a.sql"], other + topic) == (6, None, ())
    assert next_number([], branch("b", "x.sql")) == (0, None, ())


def test_of_two_branches_with_one_number_the_first_is_named() -> None:
    files = branch("new", "005-n.sql") + branch("old", "005-o.sql")
    assert next_number(["001-a.sql"], files).taken == files[0]


def test_a_number_far_above_is_named_and_not_followed() -> None:
    near, far = branch("near", "051-a.sql"), branch("far", "052-b.sql", "20260101120001-c.sql")
    assert next_number(["001-a.sql"], near + far) == (52, near[0], (far[1],))
    assert next_number(["001-a.sql"], far + branch("far", "003-d.sql")).number == 4
