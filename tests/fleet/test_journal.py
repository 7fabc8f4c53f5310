"""The journal of a run: it is read as it was written, also while it is, or half of a line is."""

from pathlib import Path

import pytest

from lib.errors import ConfigError
from lib.fleet.journal import FILE_NAME, Journal, last_run, read_journal
from lib.fleet.outcome import Outcome
from lib.fleet.report import Ending, Entries, Header, Record

HEADER = Header("r", "migrate", "ci", "003-x", "2026-11-26T10:00:00+00:00", {0: {"c1": 2}})
RAN = Record(Outcome("acme", "migrated", "003-x", 1, 5), 0, "c1", "migrate", 1.25)
LOOKED = Record(Outcome("acme", "current", "003-x"), 0, "c1", "status", 2.5)


def test_what_is_written_is_read_back_and_whether_the_run_goes_on(tmp_path: Path) -> None:
    with Journal(tmp_path / "runs" / "r", HEADER) as journal:
        journal.add(RAN)
        journal.add(LOOKED)
        assert read_journal(journal.directory) == Entries(HEADER, [RAN, LOOKED], None, running=True)
        journal.end(Ending(3.0, stopped_after=0))
    expected = Entries(HEADER, [RAN, LOOKED], Ending(3.0, stopped_after=0), running=False)
    assert read_journal(journal.directory) == expected
    assert (tmp_path / "runs" / ".gitignore").read_text() == "*\n"


def test_half_a_line_of_a_killed_run_is_left_out(tmp_path: Path) -> None:
    with Journal(tmp_path / "r", HEADER) as journal:
        journal.add(RAN)
    with (tmp_path / "r" / FILE_NAME).open("a") as file:
        file.write('{"tenant": "beta", "outc')
    assert read_journal(tmp_path / "r") == Entries(HEADER, [RAN])


@pytest.mark.parametrize("text", [None, "", "nope\n", "[]\n", "{}\n", '{"sizes": {}}\n'])
def test_what_is_no_journal_is_refused(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / FILE_NAME).write_text(text)
    with pytest.raises(ConfigError, match="there is no report of a run in"):
        read_journal(tmp_path)


def test_a_directory_that_is_there_or_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for directory in (tmp_path, tmp_path / "file" / "r"):
        with pytest.raises(ConfigError, match="cannot write the report to"):
            Journal(directory, HEADER)


def test_the_last_run_is_the_newest_one_that_has_a_report(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no run in"):
        last_run(tmp_path)
    for name in ("20261126T1", "20261127T1"):
        with Journal(tmp_path / name, HEADER):
            pass
    (tmp_path / "20261128T1").mkdir()
    assert last_run(tmp_path) == tmp_path / "20261127T1"
