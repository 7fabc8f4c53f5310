"""What a name may hold, in the comment of a pull request and in annotations."""

import re
from datetime import UTC, datetime, timedelta

import pytest

from lib.hazards.findings import Blocked, FileReport, Finding, Rehearsal
from lib.hazards.table import Level
from lib.queries import Queries
from lib.report.document import iso
from lib.report.rehearsal import (
    finding_annotations,
    rehearsal_dict,
    rehearsal_markdown,
    rehearsal_text,
)

NAME = '"a```\n````sql | b\n::error::100%\r\n<!--"'
RECIPE = f"CREATE INDEX CONCURRENTLY ON {NAME} (i);"


def rehearsal(name: str = NAME, recipe: str = RECIPE) -> Rehearsal:
    """A file with a finding about a table of this name, which it locks."""
    finding = Finding(
        *("lock", Level.FAIL, "001-a", "migrations/001-a.sql", 1, name, None),
        *(f"Nobody reads {name}.", "Wait.", (recipe, recipe)),
    )
    file = FileReport(
        "001-a", True, ran=True, findings=(finding,), blocked=(Blocked(name, None, reads=True),)
    )
    return Rehearsal((file,), "18.1", "a|b.json", is_plan=False)


def test_no_name_ends_the_fence_around_the_sql() -> None:
    comment = rehearsal_markdown(rehearsal(), fails=True)
    (fenced,) = re.findall(r"^`{5}sql\n(.*?)\n`{5}$", comment, re.DOTALL | re.MULTILINE)
    assert fenced == f"{RECIPE}\n-- and in a file of its own:\n{RECIPE}"
    assert not re.search("^`{6}", comment, re.MULTILINE)


def test_sql_without_backticks_has_the_usual_fence() -> None:
    comment = rehearsal_markdown(rehearsal("a", "SELECT 1;"), fails=True)
    assert "\n```sql\nSELECT 1;\n-- and in a file of its own:\nSELECT 1;\n```\n" in comment


def test_a_row_of_the_comments_table_stays_one_whatever_the_names() -> None:
    comment = rehearsal_markdown(rehearsal(), fails=True).replace(RECIPE, "")
    (row,) = [line for line in comment.split("\n") if line.startswith("| ❌")]
    assert row.count("|") - row.count(r"\|") == 4
    assert row.endswith(" |")
    assert "```" not in comment.replace("`````", "")
    assert "<!--" not in comment.removeprefix("<!-- onward:plan -->")
    assert r"sizes: a\|b.json" in comment


def test_no_name_begins_another_workflow_command() -> None:
    (command,) = finding_annotations(rehearsal(), lambda path: f"{path}::,%")
    head = "::error file=migrations/001-a.sql%3A%3A%2C%25,line=1,title=lock::Nobody reads"
    assert command.startswith(head)
    assert not {"\n", "\r"} & set(command)
    assert "%0A\\x3a:error::100%25%0A<" in command


@pytest.mark.parametrize(
    ("hours", "words"),
    [
        (-5, "less than an hour old"),
        (0, "less than an hour old"),
        (1, "1 hour old"),
        (23, "23 hours old"),
        (47, "1 day old"),
        (48, "2 days old"),
    ],
)
def test_the_report_says_how_old_sizes_and_queries_are(hours: int, words: str) -> None:
    now = datetime(2026, 11, 26, 14, 0, tzinfo=UTC)
    made = now - timedelta(hours=hours)
    queries = Queries("queries.json", 2, (), made)
    found = rehearsal()._replace(
        sizes_from="sizes.json", sizes_as_of=made, queries=queries, made_at=now
    )
    counted = "2 of 2 could not be parsed before"
    said = f"sizes: sizes.json ({words}) · queries: queries.json ({words}), {counted}"
    assert said in rehearsal_text(found, fails=True)
    assert said in rehearsal_markdown(found, fails=True)
    assert rehearsal_dict(found, fails=True)["sizesAsOf"] == iso(made)


def test_the_report_does_not_guess_the_age_of_an_older_document() -> None:
    found = rehearsal()._replace(made_at=datetime(2026, 11, 26, 14, 0, tzinfo=UTC))
    assert " old" not in rehearsal_text(found, fails=True)
