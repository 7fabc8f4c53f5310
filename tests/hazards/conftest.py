"""What the tests of hazards share: files observed in a transaction that is rolled back."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lib import runner
from lib.consent import Change
from lib.hazards.findings import Circumstances, Finding
from lib.hazards.judging import find
from lib.hazards.recipes import Files
from lib.hazards.table import Level
from lib.postgres.catalog import Observer
from lib.rehearsal import prepare, rehearse
from lib.sizes import Size, Sizes
from tests.conftest import Database, Server
from tests.kit import config_of, fill, history
from tests.truth import clone_of, observed, rich_database

_DEFINITIONS = """
    SELECT 'column' AS kind, attrelid::regclass::text, attname::text, concat_ws(' ',
        format_type(atttypid, atttypmod), attnotnull, attidentity, attgenerated, attcollation,
        pg_get_expr(adbin, adrelid)) AS definition
    FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
    WHERE attrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace
        AND relkind IN ('r', 'p') AND relname <> 'schema_migrations')
        AND attnum > 0 AND NOT attisdropped
    UNION ALL
    SELECT 'constraint', conrelid::regclass::text, conname,
        concat_ws(' ', convalidated, pg_get_constraintdef(oid))
    FROM pg_constraint
    WHERE connamespace = 'public'::regnamespace AND conrelid <> 'schema_migrations'::regclass
    UNION ALL
    SELECT 'index', indrelid::regclass::text, indexrelid::regclass::text,
        concat_ws(' ', indisvalid, pg_get_indexdef(indexrelid))
    FROM pg_index
    WHERE indrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace
        AND relname <> 'schema_migrations')
    UNION ALL
    SELECT 'sequence', '', sequencename, concat_ws(' ', start_value, increment_by, cycle,
        pg_sequence_last_value(format('%I.%I', schemaname, sequencename)::regclass))
    FROM pg_sequences WHERE sequencename <> 'schema_migrations_id_seq'
    UNION ALL
    SELECT 'trigger or function', tgrelid::regclass::text, tgname, '' FROM pg_trigger
    WHERE NOT tgisinternal AND tgrelid <> 'schema_migrations'::regclass
    UNION ALL
    SELECT 'trigger or function', '', proname, '' FROM pg_proc
    WHERE pronamespace = 'public'::regnamespace
    ORDER BY 1, 2, 3, 4
"""
LARGE = 100_000_000
BIG = Sizes({"public.t": Size(9_000_000_000, 41_000_000)})


@pytest.fixture(scope="module")
def rich(server: Server) -> Iterator[Database]:
    with rich_database(server, "hazards") as database:
        yield database


@pytest.fixture
def clone(server: Server, rich: Database) -> Iterator[Database]:
    with clone_of(server, rich) as database:
        yield database


def major(database: Database) -> int:
    return int(database.execute("SHOW server_version_num")[0][0]) // 10_000


def found(
    database: Database, sql: str, sizes: Sizes | None = None, session: str = ""
) -> list[Finding]:
    given = Circumstances(major(database), sizes or Sizes(), LARGE)
    return find(observed(database, sql, session), given)


def names(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(one.name, one.level.name.lower()) for one in findings]


def statements(database: Database, sql: str) -> list[tuple[str, str]]:
    return [(one.name, one.table) for one in found(database, sql) if one.level > Level.NOTE]


def rehearsed(database: Database, directory: Path, sql: str) -> list[Finding]:
    observer = Observer()
    config = config_of(database, fill(directory, {"001-x.sql": sql}))
    runner.run(config, lambda _: None, observer=observer)
    return find(observer.files[0], Circumstances(major(database), Sizes(), LARGE))


def rehearse_recipe(database: Database, directory: Path, sql: str, name: str) -> list[Finding]:
    """Apply the recipe for a statement, and return what warns or fails in its files."""
    return rehearse_files(database, directory, recipe_of(database, sql, name))


def recipe_of(database: Database, sql: str, name: str) -> Files:
    recipe = next(one.recipe for one in found(database, f"{sql};") if one.name == name)
    assert recipe
    return recipe


def rehearse_files(database: Database, directory: Path, recipe: Files) -> list[Finding]:
    files = {f"{number:03}-step.sql": text for number, text in enumerate(recipe, start=1)}
    config = config_of(database, fill(directory, files))
    prepared = prepare(config, Change.rehearse())
    # No table is known to be small, so that every finding shows.
    prepared = prepared._replace(given=prepared.given._replace(sizes=Sizes()))
    result, rehearsal = rehearse(config, lambda _: None, prepared)
    assert [one.version for one in result.applied] == [one[:-4] for one in files]
    assert history(database) == [one[:-4] for one in files]
    return rehearsal.findings(Level.FAIL) + rehearsal.findings(Level.WARN)


def definitions(database: Database) -> list[tuple[str, ...]]:
    """All of the schema public but the order of columns."""
    return database.execute(_DEFINITIONS)
