"""What a checkpoint says of itself, and what is refused of it."""

from pathlib import Path

import pytest

from lib.errors import FilesError
from lib.source.checkpoint import Replaced, replaced_by, written
from lib.source.migration import load
from tests.kit import fill

ONE, TWO = Replaced("001-one", "1" * 64), Replaced("002-two-words", "2" * 64)
HEAD = f"-- migrate: checkpoint 001-002\n--   001-one {'1' * 64}\n--   002-two-words {'2' * 64}\n"


def test_what_is_written_is_read_again_and_ends_with_the_next_line(tmp_path: Path) -> None:
    assert written([ONE, TWO]) == HEAD
    fill(tmp_path, {"003-x.sql": f"{HEAD}-- Version: 003\n--   004-four\nSELECT 1;\n"})
    (found,) = load(tmp_path)
    assert found.stands_for == (ONE, TWO)
    assert [(one.number, one.name) for one in found.stands_for] == [(1, "One"), (2, "Two Words")]


def test_it_may_stand_below_other_comments_and_with_any_line_ends(tmp_path: Path) -> None:
    text = f"-- Ours\r\n\r\n{HEAD}\nSELECT 1;\n".replace("\n", "\r\n")
    fill(tmp_path, {"003-x.sql": text.replace("\r\r", "\r")})
    assert load(tmp_path)[0].stands_for == (ONE, TWO)


def test_behind_the_leading_comment_it_is_none(tmp_path: Path) -> None:
    fill(tmp_path, {"003-x.sql": f"SELECT 1;\n{HEAD}"})
    assert load(tmp_path)[0].stands_for == ()


LINE = f"--   001-one {'1' * 64}"
REMEDY = "; `scripts/migrate.py checkpoint` writes these lines: do not edit them"


@pytest.mark.parametrize(
    ("comment", "problem"),
    [
        ("-- migrate: checkpoint", "unknown directive `-- migrate: checkpoint`"),
        (f"-- migrate: checkpoint 1-1\n{LINE}", "unknown directive `-- migrate: checkpoint 1-1`"),
        ("-- migrate: checkpoint 001-001", "the checkpoint lists no file that it stands for"),
        (
            f"-- migrate: checkpoint 001-001\n\n-- Words\n{LINE}",
            "the checkpoint lists no file that it stands for",
        ),
        (
            f"-- migrate: checkpoint 001-001\n{LINE}0",
            f"`{LINE}0` does not name a file and its checksum",
        ),
        (
            "-- migrate: checkpoint 001-001\n--   001-one",
            "`--   001-one` does not name a file and its checksum",
        ),
        (
            f"-- migrate: checkpoint 000-001\n{LINE}",
            "the checkpoint lists the files 001 to 001, and not 000-001",
        ),
        (
            f"-- migrate: checkpoint 001-001\n{LINE}\n{LINE}",
            "the checkpoint lists files that are not in the order of their numbers",
        ),
        (
            f"-- migrate: checkpoint 003-003\n--   003-three {'3' * 64}",
            "the checkpoint stands for number 3, which is not below its own",
        ),
        (
            f"-- migrate: checkpoint 004-004\n--   004-four {'4' * 64}",
            "the checkpoint stands for number 4, which is not below its own",
        ),
        (f"{HEAD}{HEAD}", "several directives of a checkpoint"),
    ],
)
def test_a_directive_that_is_wrong_is_refused(tmp_path: Path, comment: str, problem: str) -> None:
    fill(tmp_path, {"003-x.sql": f"{comment}\nSELECT 1;\n"})
    with pytest.raises(FilesError) as caught:
        load(tmp_path)
    assert caught.value.message == (
        f"the migration files are invalid:\n  {tmp_path / '003-x.sql'}: {problem}{REMEDY}"
    )


def test_a_checkpoint_without_a_transaction_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, {"003-x.sql": f"-- migrate: no-transaction\n{HEAD}SELECT 1;\n"})
    with pytest.raises(FilesError, match="a checkpoint runs in one transaction"):
        load(tmp_path)


def test_most_files_stand_for_none() -> None:
    assert replaced_by(7, ["-- Version: 007", "--   001-one"]) == ()
