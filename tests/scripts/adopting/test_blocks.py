"""Our lines in a team's own file."""

import pytest

from scripts.adopting import AdoptError
from scripts.adopting.blocks import HASH, block_in, with_block, without_block

NAME = ".gitignore"


@pytest.mark.parametrize("theirs", ["", "dist\n", "dist", "dist\r\nnode_modules\r\n"])
def test_the_teams_lines_stay_and_ours_are_found_again(theirs: str) -> None:
    text = with_block(NAME, theirs, "/.venv/\n")
    assert text.startswith(theirs)
    assert block_in(NAME, text) == "/.venv/\n"
    assert ("\r\n" in theirs) == ("\r\n/.venv/\r\n" in text)
    assert with_block(NAME, text, "/.venv/\n") == text


def test_a_newer_block_takes_the_place_of_the_older() -> None:
    text = with_block(NAME, "dist\n", "/.venv/\n") + "later\n"
    newer = with_block(NAME, text, "/.venv/\n/.sandbox/\n")
    assert newer == text.replace("/.venv/\n", "/.venv/\n/.sandbox/\n")
    assert without_block(NAME, newer) == "dist\n\nlater\n"


def test_one_mark_without_the_other_is_refused() -> None:
    assert block_in(NAME, "dist\n") is None
    with pytest.raises(AdoptError, match="only one of the two lines"):
        block_in(NAME, f"{HASH.begin}\n/.venv/\n")
