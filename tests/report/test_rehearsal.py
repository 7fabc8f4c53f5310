"""What a name may hold, in the comment of a pull request and in annotations."""

import re

from lib.hazards.findings import Blocked, FileReport, Finding, Rehearsal
from lib.hazards.table import Level
from lib.report.rehearsal import finding_annotations, rehearsal_markdown

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
