import pytest

from lib.errors import DuplicateNumbers
from lib.history import AppliedMigration
from lib.shared_numbers import with_applied


@pytest.mark.parametrize(
    ("rows", "sentence", "next_step"),
    [
        (
            "004-a",
            "applied as 004-a, and not as 004-b",
            " The next free number is 007:\n  scripts/migrate.py renumber 004-b",
        ),
        (
            "4-b 010-x",
            "applied as 004-b, and not as 004-a",
            " The next free number is 011:\n  scripts/migrate.py renumber 004-a",
        ),
        (
            "003-x",
            "not applied, and 2 files have it: 004-a, 004-b",
            " The next free number is 007:\n  scripts/migrate.py renumber 004-b",
        ),
        (
            "004-a 004-b",
            "applied as 004-a and as 004-b; renumber both the file and the row of one",
            "",
        ),
    ],
)
def test_a_database_tells_which_of_two_files_has_the_number(
    rows: str, sentence: str, next_step: str
) -> None:
    found = DuplicateNumbers("", next_step="", duplicates=[["004-a", "004-b"]])
    names = ["004-a.sql", "004-b.sql", "006-c.sql"]
    told = with_applied(
        found, names, [AppliedMigration(1, version, "") for version in rows.split()]
    )
    assert told.message == f"migration files share a number:\n  number 4 is {sentence}"
    assert told.next_step == f"Nothing was changed.{next_step}"
