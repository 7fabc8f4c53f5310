"""Flyway's files, and the takeover of its history in the states that it can be in."""

from pathlib import Path
from zlib import crc32

import pytest

from lib.errors import FilesError
from lib.importers import flyway
from lib.importers.conversion import Options
from lib.importers.importing import plan_import, recognised
from lib.importers.layout import Obstacle, SourceFile
from tests.conftest import Database, Here
from tests.kit import HEAD, Write, bytes_in, fill, history, recorded, rows_of, tables

FILES = {
    "V1__one.sql": "CREATE TABLE one (id int);\n",
    "V1_2__two.sql": "CREATE TABLE two (id int);\n",
    "V1.10__three.sql": "CREATE TABLE three (id int);\n",
    "V2__four.sql": "CREATE TABLE four (id int);\n",
}
KEYS = ["1", "1.2", "1.10", "2"]
VERSIONS = ["001-one", "002-two", "003-three", "004-four"]
HISTORY = "public.flyway_schema_history"
# As PostgreSQLDatabase.java makes it.
TABLE = """CREATE TABLE "flyway_schema_history" ("installed_rank" INT NOT NULL,
    "version" VARCHAR(50), "description" VARCHAR(200) NOT NULL, "type" VARCHAR(20) NOT NULL,
    "script" VARCHAR(1000) NOT NULL, "checksum" INTEGER, "installed_by" VARCHAR(100) NOT NULL,
    "installed_on" TIMESTAMP NOT NULL DEFAULT now(), "execution_time" INTEGER NOT NULL,
    "success" BOOLEAN NOT NULL)"""


def source(directory: Path, **more: str) -> Path:
    """A directory of Flyway's."""
    place = directory / "db" / "migration"
    place.mkdir(parents=True)
    return fill(place, FILES | more)


def files_of(directory: Path) -> list[tuple[str, str]]:
    return [(one.path, one.key) for one in flyway.read(directory).files]


def obstacles_of(directory: Path) -> dict[str, str]:
    found = flyway.read(directory).files
    return {one.path: one.reason for one in found if isinstance(one, Obstacle)}


def only(directory: Path, files: dict[str, str | bytes]) -> SourceFile:
    [file] = flyway.read(fill(directory, files)).files
    assert isinstance(file, SourceFile), file
    return file


# Files


def test_versions_are_ordered_part_by_part_as_numbers(tmp_path: Path) -> None:
    place = source(tmp_path, **{"V01_002_0__five.sql": "", "V1_0_1__six.sql": ""})
    (place / "V1_2__two.sql").unlink()
    (place / "more").mkdir()
    fill(place / "more", {"V1_9__in_a_folder.sql": "SELECT 1;\n"})
    assert files_of(place) == [
        ("V1__one.sql", "1"),
        ("V1_0_1__six.sql", "1.0.1"),
        ("V01_002_0__five.sql", "1.2"),
        ("more/V1_9__in_a_folder.sql", "1.9"),
        ("V1.10__three.sql", "1.10"),
        ("V2__four.sql", "2"),
    ]


def test_what_is_no_migration_of_flyways_is_passed_over(tmp_path: Path) -> None:
    place = source(tmp_path, **{"U1__one.sql": "", "V3_no_separator.sql": "", "README.md": ""})
    assert [path for path, _ in files_of(place)] == list(FILES)
    assert obstacles_of(place) == {}


@pytest.mark.parametrize(
    ("name", "key", "reason"),
    [
        ("R__view_of_all.sql", "R__view_of_all", "runs again whenever it is changed"),
        ("afterMigrate.sql", "afterMigrate.sql", "callback"),
        ("beforeEachMigrate__who.sql", "beforeEachMigrate__who.sql", "callback"),
        ("V3__Fill.java", "3", "is code"),
        ("V3__fill.sh", "3", "is code"),
        ("B2__base.sql", "B2", "stands for all migrations up to 2"),
    ],
)
def test_what_is_not_a_migration_in_sql_is_an_obstacle(
    tmp_path: Path, name: str, key: str, reason: str
) -> None:
    place = source(tmp_path, **{name: "SELECT 1;\n"})
    assert reason in obstacles_of(place)[name]
    assert (name, key) in files_of(place)
    with pytest.raises(FilesError) as caught:
        plan_import("auto", place, Options(tmp_path / "migrations"))
    assert caught.value.next_step.endswith(f"--skip {name}")
    found = plan_import("auto", place, Options(tmp_path / "migrations", skip={name}))
    assert [one.version for one in found.new] == VERSIONS


def test_two_files_of_one_version_are_obstacles(tmp_path: Path) -> None:
    place = source(tmp_path, **{"V2_0__four_again.sql": "SELECT 1;\n"})
    assert set(obstacles_of(place)) == {"V2__four.sql", "V2_0__four_again.sql"}


def test_a_placeholder_is_an_obstacle_unless_its_conf_says_otherwise(tmp_path: Path) -> None:
    text = "-- for ${who}\nSELECT '${a}';\n"
    place = source(tmp_path, **{"V3__who.sql": text})
    assert obstacles_of(place)["V3__who.sql"].startswith("line 1: Flyway replaces ${who}")
    fill(place, {"V3__who.sql.conf": "placeholderReplacement=false\n"})
    assert obstacles_of(place) == {}


def test_the_conf_of_a_file_says_that_it_runs_without_a_transaction(tmp_path: Path) -> None:
    sql = "CREATE INDEX CONCURRENTLY i ON one (id);\n"
    file = only(tmp_path, {"V1__x.sql": sql, "V1__x.sql.conf": "executeInTransaction = FALSE\r\n"})
    assert file.no_transaction
    found = plan_import("flyway", tmp_path, Options(tmp_path / "migrations"))
    assert [one.sql for one in found.new] == [(HEAD + sql).encode()]
    assert not only(tmp_path, {"V1__x.sql.conf": "# executeInTransaction=false"}).no_transaction


@pytest.mark.parametrize("setting", ["shouldExecute=${x}==1", "encoding=ISO-8859-1", "other=1"])
def test_a_setting_that_changes_what_runs_is_an_obstacle(tmp_path: Path, setting: str) -> None:
    fill(tmp_path, {"V1__x.sql": "SELECT 1;\n", "V1__x.sql.conf": setting})
    assert "V1__x.sql.conf" in obstacles_of(tmp_path)["V1__x.sql"]


def test_the_checksum_counts_neither_line_ends_nor_a_byte_order_mark(tmp_path: Path) -> None:
    texts = ("SELECT 'é';\nSELECT 2;\n", "SELECT 'é';\r\nSELECT 2;", "\ufeffSELECT 'é';\rSELECT 2;")
    found = {only(tmp_path, {"V1__x.sql": text.encode()}).checksums for text in texts}
    assert found == {("-380431632",)}


def test_only_flyway_recognises_its_directory(tmp_path: Path) -> None:
    assert recognised(source(tmp_path)) == "flyway"


# The takeover


@pytest.fixture
def imported(tmp_path: Path, here: Here, migrations: Write) -> Path:
    """Flyway's directory, imported."""
    place = source(tmp_path)
    migrations({})
    assert here("import", "flyway", str(place)).code == 0
    return place


def flyway_has(database: Database, *rows: tuple[str, str], run: bool = True) -> None:
    """Record rows as Flyway does, and apply the files of those that are SQL."""
    database.execute(TABLE)
    named = dict(zip(KEYS, FILES.values(), strict=True))
    for rank, (version, kind) in enumerate(rows, 1):
        checksum = None
        if kind == "SQL" and version in named:
            checksum = checksum_of(named[version])
            if run:
                database.execute(named[version])
        success = not kind.endswith("!")
        database.execute(
            "INSERT INTO flyway_schema_history VALUES (%s, %s, 'x y', %s, 'x', %s, 'me',"
            " timestamp '2024-03-01 12:00' + %s * interval '1 day', 1500, %s)",
            [rank, version or None, kind.rstrip("!"), checksum, rank, success],
        )


def checksum_of(line: str) -> int:
    """Of a text of one line, as Java's `(int) crc32.getValue()`."""
    return int.from_bytes(crc32(line.rstrip().encode()).to_bytes(4), signed=True)


ALL = [(version, "SQL") for version in KEYS]


@pytest.mark.usefixtures("imported")
def test_a_complete_history_is_taken_over_with_its_times(here: Here, database: Database) -> None:
    flyway_has(database, *ALL)
    before = rows_of(database, HISTORY)
    result = here(url=database.url)
    assert result.code == 0, result.err
    assert "4 migrations that Flyway has applied" in result.out
    assert "edited" not in result.out
    assert history(database) == VERSIONS
    times = database.execute(
        "SELECT (applied_at::timestamp)::text, execution_time_ms, applied_by FROM schema_migrations"
        " ORDER BY id LIMIT 1"
    )
    assert times == [("2024-03-02 12:00:00", 1500, "import")]
    assert here("validate", url=database.url).code == 0
    assert here(url=database.url).code == 0
    assert (history(database), rows_of(database, HISTORY)) == (VERSIONS, before)


@pytest.mark.usefixtures("imported")
def test_three_pending_files_run_after_the_takeover(here: Here, database: Database) -> None:
    flyway_has(database, ALL[0])
    assert here(url=database.url).code == 0
    assert history(database) == VERSIONS
    assert tables(database) == ["flyway_schema_history", "four", "one", "three", "two"]


@pytest.mark.usefixtures("imported")
def test_a_file_that_flyway_never_ran_is_out_of_order(here: Here, database: Database) -> None:
    flyway_has(database, ALL[0], *ALL[2:])
    result = here(url=database.url)
    assert (result.code, recorded(database)) == (3, None)
    assert "002-two" in result.err
    assert here("--allow-out-of-order", url=database.url).code == 0
    assert history(database) == ["001-one", "003-three", "004-four", "002-two"]
    assert "two" in tables(database)


@pytest.mark.usefixtures("imported")
def test_a_failed_row_is_refused_with_flyways_remedy(here: Here, database: Database) -> None:
    flyway_has(database, ALL[0], ("1.2", "SQL!"))
    before = rows_of(database, HISTORY)
    for words in ((), ("status",)):
        result = here(*words, url=database.url)
        assert result.code == 3
        assert "Flyway has not finished 1.2" in result.err
        assert "flyway repair" in result.err
    assert (recorded(database), rows_of(database, HISTORY)) == (None, before)


@pytest.mark.usefixtures("imported")
@pytest.mark.parametrize("row", [("3", "SQL"), ("3", "JDBC"), ("", "SQL")])
def test_a_row_without_a_file_is_refused(
    here: Here, database: Database, row: tuple[str, str]
) -> None:
    flyway_has(database, *ALL, row)
    result = here(url=database.url)
    assert (result.code, recorded(database)) == (3, None)
    assert f"has applied {row[0] or 'R__x_y'} (" in result.err


@pytest.mark.usefixtures("imported")
@pytest.mark.parametrize(
    ("rows", "applied"),
    [
        ([("", "SCHEMA"), ("1.0", "SQL"), ("1.02", "SQL")], VERSIONS[:2]),
        ([("1.5", "BASELINE")], VERSIONS[:2]),
        ([("1.10", "SQL_BASELINE"), ("2", "SQL")], VERSIONS),
        ([("1", "SQL"), ("1.2", "SQL"), ("1.2", "UNDO_SQL")], VERSIONS[:1]),
        ([("1", "SQL"), ("1.2", "SQL"), ("1.2", "DELETE"), ("1.2", "SQL")], VERSIONS[:2]),
        ([("1", "SQL"), ("7", "SQL"), ("7", "DELETE"), ("", "DELETE")], VERSIONS[:1]),
        ([("0", "BASELINE")], []),
    ],
)
def test_each_type_of_row_counts_as_in_flyway(
    here: Here, database: Database, rows: list[tuple[str, str]], applied: list[str]
) -> None:
    flyway_has(database, *rows, run=False)
    assert here(url=database.url).code == 0
    assert history(database) == VERSIONS
    by_hand = "SELECT version FROM schema_migrations WHERE applied_by = 'import' ORDER BY id"
    assert [version for (version,) in database.execute(by_hand)] == applied


@pytest.mark.usefixtures("imported")
def test_a_file_that_was_edited_since_is_told(here: Here, database: Database) -> None:
    flyway_has(database, *ALL)
    database.execute("UPDATE flyway_schema_history SET checksum = 5 WHERE version = '1.10'")
    result = here(url=database.url)
    assert result.code == 0
    assert "edited after Flyway had applied it: 003-three" in result.out
    assert history(database) == VERSIONS


def test_the_same_import_twice_gives_the_same_bytes(
    here: Here, imported: Path, tmp_path: Path
) -> None:
    before = bytes_in(tmp_path / "migrations")
    assert here("import", "auto", str(imported)).code == 0
    assert bytes_in(tmp_path / "migrations") == before
    assert sorted(before) == [*(f"{version}.sql" for version in VERSIONS), "imported.json"]
