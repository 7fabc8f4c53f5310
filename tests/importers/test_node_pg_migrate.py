"""node-pg-migrate's directories: sections, a file each way, order, programs."""

from pathlib import Path

import pytest

from lib.importers.layout import Obstacle, SourceFile
from lib.importers.node_pg_migrate import read, recognises
from tests.kit import fill

SQL = "CREATE TABLE one ();\n"


def sql(directory: Path, content: str, name: str = "1_one.sql") -> str:
    (one,) = read(fill(directory, {name: content})).files
    assert isinstance(one, SourceFile), one
    return one.sql


def keys(directory: Path, *names: str) -> list[str]:
    return [one.key for one in read(fill(directory, dict.fromkeys(names, SQL))).files]


def reasons(directory: Path, *names: str) -> dict[str, str]:
    found = read(fill(directory, dict.fromkeys(names, SQL))).files
    return {one.path: one.reason for one in found if isinstance(one, Obstacle)}


def test_what_undoes_a_file_and_the_marks_are_blank(tmp_path: Path) -> None:
    text = f"-- notes\n-- Up Migration\n{SQL}\n-- Down Migration\nDROP TABLE one;\n"
    assert sql(tmp_path, text) == f"\n\n{SQL}"


@pytest.mark.parametrize(
    "mark", ["--up migration", "-- ---- UP  MIGRATION: adds one", "  -- Up Migration"]
)
def test_marks_are_found_as_the_tool_finds_them(tmp_path: Path, mark: str) -> None:
    assert sql(tmp_path, f"{mark}\n{SQL}") == f"\n{SQL}"


def test_a_section_that_undoes_may_come_first(tmp_path: Path) -> None:
    text = f"-- Down Migration\nDROP TABLE one;\n-- Up Migration\n{SQL}"
    assert sql(tmp_path, text) == f"\n\n\n{SQL}"


def test_without_a_mark_all_of_it_runs_even_what_undoes_it(tmp_path: Path) -> None:
    text = f"{SQL}-- Down Migration\nDROP TABLE one;\n"
    assert sql(tmp_path, text) == text


def test_line_ends_stay_as_they_are(tmp_path: Path) -> None:
    text = "-- Up Migration\r\nSELECT 1;\r\n-- Down Migration\r\nSELECT 2;\r\n"
    assert sql(tmp_path, text) == "\r\nSELECT 1;\n"


def test_a_file_each_way_has_one_name_and_no_sections(tmp_path: Path) -> None:
    fill(tmp_path, {"1_one.down.sql": "DROP TABLE one;\n"})
    assert sql(tmp_path, SQL, "1_one.up.sql") == SQL
    assert keys(tmp_path) == ["1_one"]
    assert not recognises(tmp_path)


def test_numbers_come_first_then_names_with_their_numbers(tmp_path: Path) -> None:
    names = ("10_a.sql", "9_b10.sql", "9_b9.sql", "0002-a.sql")
    assert keys(tmp_path, *names) == ["0002-a", "9_b9", "9_b10", "10_a"]


def test_seventeen_digits_are_a_time_among_milliseconds(tmp_path: Path) -> None:
    names = ("20200513070724505_b.sql", "1589353644506_c.sql", "1589353644504_a.sql")
    assert keys(tmp_path, *names) == [
        "1589353644504_a",
        "20200513070724505_b",
        "1589353644506_c",
    ]


def test_other_files_are_skipped_and_programs_are_obstacles(tmp_path: Path) -> None:
    found = reasons(tmp_path, "1_a.js", "2_b.sql", "3_c.ts", "README.md", "seed.sql")
    assert list(found) == ["1_a.js", "3_c.ts", "seed.sql"]
    assert found["3_c.ts"].startswith("it is a program; write the SQL that it runs into a file")
    assert found["seed.sql"] == "its name has no number, which node-pg-migrate refuses"


def test_files_that_the_tool_refuses_are_obstacles(tmp_path: Path) -> None:
    found = reasons(tmp_path, "1_a.up.sql", "1_a.sql", "2_b.down.sql")
    assert found == {
        "1_a.up.sql": "1_a.sql is there, too, which node-pg-migrate refuses",
        "2_b.down.sql": "there is no 2_b.up.sql that it undoes",
    }


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("1_a.sql", "-- Up Migration\n"),
        ("1_a.js", "exports.up = (pgm) => {}"),
        ("1_a.ts", 'import type { MigrationBuilder } from "node-pg-migrate"'),
    ],
    ids=["sections", "js", "ts"],
)
def test_a_directory_is_recognised_by_what_its_files_say(
    tmp_path: Path, name: str, text: str
) -> None:
    assert not recognises(fill(tmp_path, {"0_plain.sql": SQL, "0_other.js": "module.exports = 1"}))
    assert recognises(fill(tmp_path, {name: text}))
