"""Onward's lines in a file of the team's own, between two marks. Pure."""

import re
from typing import NamedTuple

from scripts.adopting import AdoptError


class Marks(NamedTuple):
    """The lines around a block, as comments of the file's language."""

    begin: str
    end: str


HASH = Marks("# Onward begins here (scripts/adopt.py writes it)", "# Onward ends here")
HTML = Marks(
    "<!-- Onward begins here (scripts/adopt.py writes it) -->", "<!-- Onward ends here -->"
)
MARKS = {
    ".gitignore": HASH,
    ".vercelignore": HASH,
    "AGENTS.md": HTML,
    "requirements.txt": HASH,
}


def block_in(name: str, text: str) -> str | None:
    """What is between the marks; None without them. Raises AdoptError if one of them is missing."""
    if found := _pattern(name).search(text):
        return found[1].replace("\r\n", "\n")
    if any(mark in text for mark in MARKS[name]):
        raise AdoptError(
            f"{name} has only one of the two lines that mark Onward's part",
            next_step=f"Write both around it, or remove it with the line:\n  {MARKS[name].begin}\n"
            f"  {MARKS[name].end}",
        )
    return None


def without_block(name: str, text: str) -> str:
    """The team's own lines."""
    return _pattern(name).sub("", text)


def with_block(name: str, text: str, content: str) -> str:
    """The text with this between the marks: where they are, or at the end."""
    marks = MARKS[name]
    block = f"{marks.begin}\n{content}{marks.end}\n"
    if "\r\n" in text:
        block = block.replace("\n", "\r\n")
    if _pattern(name).search(text):
        return _pattern(name).sub(lambda _: block, text)
    if text and not text.endswith("\n"):
        text += "\r\n" if "\r\n" in text else "\n"
    return f"{text}{_blank_line(text)}{block}"


def _blank_line(text: str) -> str:
    if not text:
        return ""
    return "\r\n" if "\r\n" in text else "\n"


def _pattern(name: str) -> re.Pattern[str]:
    begin, end = map(re.escape, MARKS[name])
    return re.compile(rf"^{begin}\r?\n(.*?)^{end}\r?(?:\n|\Z)", re.MULTILINE | re.DOTALL)
