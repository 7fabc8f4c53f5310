"""goose's directories: which part of a file becomes the migration, and what cannot."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from lib.importers.goose import read, recognises
from lib.importers.layout import Obstacle, SourceFile
from tests.kit import fill

SECTIONS = "-- +goose Up\nCREATE TABLE one (id int);\n\n-- +goose Down\nDROP TABLE one;\n"


def files(directory: Path, written: Mapping[str, str]) -> tuple[SourceFile | Obstacle, ...]:
    return read(fill(directory, written)).files


def file(directory: Path, sql: str) -> SourceFile:
    (one,) = files(directory, {"00001_one.sql": sql})
    assert isinstance(one, SourceFile)
    return one


def reason(directory: Path, sql: str) -> str:
    (one,) = files(directory, {"00001_one.sql": sql})
    assert isinstance(one, Obstacle)
    return one.reason


def test_the_section_up_keeps_its_lines_and_down_goes(tmp_path: Path) -> None:
    one = file(tmp_path, SECTIONS)
    assert one == SourceFile(
        "00001_one.sql", "1", "one", "\nCREATE TABLE one (id int);\n", number=1
    )


def test_files_come_by_number_and_others_are_skipped_as_goose_does(tmp_path: Path) -> None:
    names = ("10_b.sql", "9_a.sql", "0_no.sql", "x_no.sql", "readme.md", "3_no_test.go")
    found = files(tmp_path, dict.fromkeys(names, SECTIONS))
    assert [one.path for one in found] == ["9_a.sql", "10_b.sql"]
    assert [one.key for one in found] == ["9", "10"]


@pytest.mark.parametrize("mark", ["--  +goose   up", "--+goose UP", "-- +goose Up --"])
def test_marks_are_read_in_any_case_and_spacing(tmp_path: Path, mark: str) -> None:
    assert file(tmp_path, f"{mark}\nSELECT 1;\n").sql == "\nSELECT 1;\n"


def test_prose_that_names_goose_is_no_mark(tmp_path: Path) -> None:
    sql = "-- +goose Up\n-- see +goose Down\nSELECT 1;\n"
    assert file(tmp_path, sql).sql == "\n-- see +goose Down\nSELECT 1;\n"


def test_a_statement_without_semicolon_gets_one_where_goose_ends_it(tmp_path: Path) -> None:
    body = "DO $$ BEGIN\n PERFORM 1;\nEND $$"
    begin, end = "-- +goose StatementBegin", "-- +goose StatementEnd"
    sql = f"-- +goose Up\n{begin}\n{body}\n{end}\n{begin}\nSELECT 2; -- two\n{end}\nSELECT 3;\n"
    assert file(tmp_path, sql).sql == f"\n\n{body}\n;\n\nSELECT 2; -- two\n\nSELECT 3;\n"


def test_line_ends_stay_as_they_are(tmp_path: Path) -> None:
    assert file(tmp_path, SECTIONS.replace("\n", "\r\n")).sql.startswith("\r\nCREATE TABLE one")


def test_no_transaction_counts_wherever_it_is(tmp_path: Path) -> None:
    one = file(tmp_path, f"{SECTIONS}-- +goose NO TRANSACTION\n")
    assert one.no_transaction
    assert one.sql == "\nCREATE TABLE one (id int);\n"
    before = file(tmp_path, f"-- +goose NO TRANSACTION\n{SECTIONS}")
    assert before.no_transaction
    assert before.sql == "\n\nCREATE TABLE one (id int);\n"


def test_a_program_a_template_and_a_file_without_section_are_obstacles(tmp_path: Path) -> None:
    (go,) = files(tmp_path, {"00001_one.go": "package migrations\n"})
    assert go == Obstacle("00001_one.go", "1", "it is a program in Go")
    (tmp_path / "00001_one.go").unlink()
    template = "-- +goose Up\n-- +goose ENVSUB ON\nCREATE ROLE ${NAME};\n"
    assert "ENVSUB ON" in reason(tmp_path, template)
    assert reason(tmp_path, "SELECT 1;\n") == "it has no line `-- +goose Up`"


def test_a_template_below_down_is_none(tmp_path: Path) -> None:
    sql = f"{SECTIONS}-- +goose ENVSUB ON\nDROP ROLE ${{NAME}};\n"
    assert file(tmp_path, sql).sql == "\nCREATE TABLE one (id int);\n"


def test_only_files_with_marks_are_recognised(tmp_path: Path) -> None:
    assert not recognises(fill(tmp_path, {"1_one.sql": "SELECT 1;\n"}))
    assert recognises(fill(tmp_path, {"2_two.sql": SECTIONS}))
