"""Recipes are files that run, and have no finding themselves."""

from pathlib import Path

import pytest

from lib.guard import Change
from lib.hazards.table import Level
from lib.rehearsal import prepare, rehearse
from lib.sizes import Sizes
from tests.conftest import Database
from tests.hazards.conftest import found
from tests.kit import config_of, fill, history


def recipe_cases() -> list[tuple[str, str]]:
    """A statement for each hazard that has a recipe in SQL."""
    return [
        ("constraint-scan", "ALTER TABLE t ADD CONSTRAINT n CHECK (a > 0)"),
        ("constraint-scan", "ALTER TABLE other ADD CONSTRAINT n FOREIGN KEY (k) REFERENCES t (id)"),
        ("not-null-scan", "ALTER TABLE t ALTER COLUMN b SET NOT NULL"),
        ("rewrite", "ALTER TABLE t ADD COLUMN z uuid DEFAULT gen_random_uuid()"),
        ("rewrite", "REFRESH MATERIALIZED VIEW mv"),
        ("index-blocks-writes", "CREATE UNIQUE INDEX n ON t (nn) WHERE a > 5"),
        ("index-blocks-writes", "CREATE INDEX n ON part (v)"),
        ("constraint-builds-index", "ALTER TABLE t ADD CONSTRAINT n UNIQUE (nn) DEFERRABLE"),
        ("constraint-builds-index", "ALTER TABLE part_no ADD CONSTRAINT n PRIMARY KEY (v)"),
        ("index-drop", "DROP INDEX t_a_idx"),
        ("scan-under-lock", "REINDEX TABLE t"),
        (
            "scan-under-lock",
            "ALTER TABLE part ATTACH PARTITION part_no "
            "FOR VALUES FROM ('2022-01-01') TO ('2023-01-01')",
        ),
        ("detach-locks-parent", "ALTER TABLE part DETACH PARTITION part_1"),
        (
            "partition-locks-parent",
            "CREATE TABLE part_3 PARTITION OF part "
            "FOR VALUES FROM ('2023-01-01') TO ('2024-01-01')",
        ),
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "sql"), recipe_cases())
def test_a_recipe_runs_and_has_no_finding_of_its_own(
    clone: Database, tmp_path: Path, name: str, sql: str
) -> None:
    recipe = next(one.recipe for one in found(clone, f"{sql};") if one.name == name)
    assert recipe
    files = {f"{number:03}-step.sql": text for number, text in enumerate(recipe, start=1)}
    config = config_of(clone, fill(tmp_path, files))
    prepared = prepare(config, Change.rehearse())
    # No table is known to be small, so that every finding shows.
    prepared = prepared._replace(given=prepared.given._replace(sizes=Sizes()))
    result, rehearsal = rehearse(config, lambda _: None, prepared)
    assert [one.version for one in result.applied] == [one[:-4] for one in files]
    assert rehearsal.findings(Level.FAIL) + rehearsal.findings(Level.WARN) == []
    assert history(clone) == [one[:-4] for one in files]
