"""The README's picture of a pull request's comment."""

import re
from xml.etree import ElementTree

import pytest

from scripts.dev.picture import PICTURE, WIDTH, comment, drawn
from tests.conftest import ROOT

SVG = "{http://www.w3.org/2000/svg}"


def texts(svg: str) -> list[str]:
    """The lines that a picture shows."""
    return ["".join(one.itertext()) for one in ElementTree.fromstring(svg).iter(f"{SVG}text")]


@pytest.mark.slow
def test_the_picture_is_what_a_rehearsal_says_now() -> None:
    assert drawn(comment()) == PICTURE.read_text(), "draw it again: scripts/dev/picture.py"


def test_the_picture_needs_nothing_from_elsewhere() -> None:
    picture = PICTURE.read_text()
    assert re.findall(r"(?:href|src|url\(|@import)", picture) == []
    assert "prefers-color-scheme: dark" in picture


def test_readme_shows_the_picture_and_says_what_is_in_it() -> None:
    readme = (ROOT / "README.md").read_text()
    [alt] = re.findall(r"!\[([^]]*)\]\(docs/pull-request\.svg\)", readme)
    shown = " ".join(texts(PICTURE.read_text()))
    numbers = re.findall(r"\b\d{3}\b|[\d.]+ GB", alt)
    assert numbers == ["004", "9.1 GB", "005", "006"]
    assert [number for number in numbers if number not in shown] == []
    assert len(readme.splitlines()) <= 200


def test_markup_and_names_are_text() -> None:
    markdown = (
        "<!-- x -->\n### ✅ 1 <b>\n\n| | a\\|b |\n|---|---|\n| x | `c<d` |\n\n**e\\_f.** g &lt; h"
    )
    assert texts(drawn(markdown))[1:] == ["✅ 1 <b>", "", "a|b", "x", "c<d", "e_f. g < h"]


def test_a_long_paragraph_is_broken_between_words() -> None:
    words = " ".join(f"word{number}" for number in range(100))
    lines = texts(drawn(words))[1:]
    assert " ".join(lines) == words
    assert max(map(len, lines)) * 8 < WIDTH
