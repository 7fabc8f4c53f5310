"""Which pins a team's requirements.txt lacks, and which of its lines exclude ours."""

import pytest

from scripts.adopting.requirements import conflicts, missing

OURS = "psycopg[binary]==3.3.9\nstarlette==1.10.0\n# What these need.\ntyping-extensions==4.16.0\n"


def test_only_packages_without_a_line_are_missing_however_they_are_spelled() -> None:
    theirs = "Starlette>=1\n\nTyping.Extensions  # any\n-r other.txt\n"
    assert missing(theirs, OURS) == ["psycopg[binary]==3.3.9"]
    assert missing("", OURS) == [line for line in OURS.splitlines() if "==" in line]


@pytest.mark.parametrize(
    "line",
    [
        "starlette",
        "starlette>=1,<2",
        "starlette==1.*",
        "starlette~=1.9",
        "starlette==1.10",
        "starlette!=1.9.*",
        "starlette>=0.40 ; python_version > '3'",
        "starlette-admin==0.1",
    ],
)
def test_a_line_that_includes_our_version_is_no_conflict(line: str) -> None:
    assert conflicts(line, OURS) == []


@pytest.mark.parametrize(
    "line",
    [
        "starlette==0.41.0",
        "starlette<1",
        "starlette~=0.41",
        "starlette~=1.9.0",
        "starlette==0.*",
        "starlette!=1.10.0",
        "starlette>1.10",
        "STARLETTE[full] >= 2 ; python_version > '3'",
    ],
)
def test_a_line_that_excludes_our_version_is_named_with_it(line: str) -> None:
    assert [str(one) for one in conflicts(f"flask\n{line}\n", OURS)] == [
        f"{line} excludes starlette==1.10.0"
    ]
