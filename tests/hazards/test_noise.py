"""What an ordinary history says: nothing, about tables that it makes itself."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lib.consent import Change
from lib.hazards.findings import Rehearsal
from lib.hazards.table import HAZARDS
from lib.rehearsal import prepare, rehearse
from lib.sizes import Size, Sizes
from tests.conftest import Database
from tests.kit import HEAD, config_of, fill, history, run

KINDS = (
    "ALTER TABLE {t} ADD COLUMN note text, ADD COLUMN total numeric(12,2) NOT NULL DEFAULT 0;",
    "CREATE INDEX {t}_note ON {t} (note);",
    "ALTER TABLE {t} ADD CONSTRAINT {t}_total CHECK (total >= 0);",
    "CREATE TABLE {t}_line (id bigint PRIMARY KEY, parent bigint NOT NULL REFERENCES {t});\n"
    "CREATE INDEX {t}_line_parent ON {t}_line (parent);",
    "CREATE TYPE {t}_state AS ENUM ('new', 'paid');\n"
    "ALTER TABLE {t} ADD COLUMN state {t}_state NOT NULL DEFAULT 'new';",
    "CREATE VIEW {t}_new AS SELECT id, note FROM {t};",
    "CREATE FUNCTION {t}_sum(first bigint) RETURNS numeric LANGUAGE sql\n"
    "AS 'SELECT sum(total) FROM {t} WHERE id > first';",
    "ALTER TABLE {t} ENABLE ROW LEVEL SECURITY;\nCREATE POLICY mine ON {t} USING (true);",
    "INSERT INTO {t} (id, note) SELECT g, g FROM generate_series(1, 200) g;\n"
    "UPDATE {t} SET note = 'old';",
)
LATER = (
    "DROP VIEW {t}_new; CREATE OR REPLACE VIEW {t}_new AS SELECT id FROM {t};",
    "ALTER TYPE {t}_state RENAME VALUE 'paid' TO 'settled';",
    "DROP FUNCTION {t}_sum(bigint);",
    "ALTER TABLE {t} ALTER COLUMN note SET NOT NULL;",
    "ALTER TABLE {t} ALTER COLUMN total TYPE numeric(8,2);",
    "DROP POLICY mine ON {t};",
    "ALTER TABLE {t} DISABLE TRIGGER ALL;",
    "GRANT SELECT ON {t} TO PUBLIC;",
    "ALTER TABLE {t} RENAME COLUMN note TO remark;",
)


def texts() -> Iterator[str]:
    """100 files, in the order in which a team would write them."""
    for table in "abcde":
        yield f"CREATE TABLE {table} (id bigint PRIMARY KEY);"
        yield from (sql.format(t=table) for sql in KINDS)
    for table in "abcde":
        yield from (sql.format(t=table) for sql in LATER)
        yield f"{HEAD}CREATE INDEX CONCURRENTLY {table}_sums ON {table} (total);"


def files() -> dict[str, str]:
    return {f"{number:03}-step.sql": sql for number, sql in enumerate(texts(), start=1)}


def rehearsed(database: Database, directory: Path, sizes: Sizes) -> Rehearsal:
    config = config_of(database, directory)
    prepared = prepare(config, Change.rehearse())
    prepared = prepared._replace(given=prepared.given._replace(sizes=sizes))
    return rehearse(config, lambda _: None, prepared)[1]


@pytest.mark.slow
def test_a_history_on_an_empty_database_has_no_finding(database: Database, tmp_path: Path) -> None:
    rehearsal = rehearsed(database, fill(tmp_path, files()), Sizes())
    findings = [
        (one.version, one.name, one.table) for file in rehearsal.files for one in file.findings
    ]
    assert len(history(database)) == 100
    assert findings == []


@pytest.mark.slow
@pytest.mark.parametrize("known", [True, False])
def test_tables_that_are_known_to_be_small_have_no_finding_by_size(
    database: Database, tmp_path: Path, known: bool
) -> None:
    all_files = [*files().items()]
    run(database, fill(tmp_path, dict(all_files[:50])))
    sizes = Sizes({"public.large": Size(2_000_000, 1)} if known else {})
    rehearsal = rehearsed(database, fill(tmp_path, dict(all_files[50:])), sizes)
    names = {one.name for file in rehearsal.files for one in file.findings}
    assert len(history(database)) == 100
    assert names >= {"rename", "privileges", "narrower-type", "trigger-disabled"}
    assert {name for name in names if HAZARDS[name].weight} == (
        set() if known else {"not-null-scan", "rewrite"}
    )
