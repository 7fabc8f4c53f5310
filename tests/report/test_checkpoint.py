"""What `checkpoint` says of the file that it has written."""

from pathlib import Path

import pytest

from lib.checkpoint import Written
from lib.report.checkpoint import checkpoint_text
from lib.source.checkpoint import Replaced

WRITTEN = Written(
    Path("migrations/003-all.sql"),
    (Replaced("000-a", "0" * 64), Replaced("002-b", "2" * 64)),
    postgres=18,
    objects=14,
    rows=3,
    frozen=(),
)


@pytest.mark.parametrize(
    ("count", "ending"), [(0, "PostgreSQL 18"), (2, "c1, c2"), (7, "c1, c2, c3, c4, c5 and 2 more")]
)
def test_of_many_columns_that_stay_as_they_are_now_the_first_are_named(
    count: int, ending: str
) -> None:
    columns = tuple(f"c{number}" for number in range(1, count + 1))
    text = checkpoint_text(WRITTEN._replace(frozen=columns))
    assert text.startswith("✅ Wrote migrations/003-all.sql: it makes what 000 to 002 make\n")
    assert text.endswith(ending)
