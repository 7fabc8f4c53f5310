"""Text for people: from servers, files and variables it steers no terminal and no CI. Pure."""

import json
import re
from typing import Any

# Control characters except newline and tab, characters that some programs take for a line end, and
# those that change the direction of writing: they make a reader see something else than is there.
_INVISIBLE = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
# GitHub's runner obeys `::` after white space at the beginning of a line, and `##[` anywhere in it.
# Azure's agent obeys `##vso[`, TeamCity `##teamcity[`.
_CI_COMMAND = re.compile(r"^([^\S\n]*):(?=:)|#(?=#\w*\[)", re.MULTILINE)


def visible(text: str) -> str:
    r"""The text with its control characters as `\x1b`."""
    return _INVISIBLE.sub(lambda found: _escaped(found[0]), text.replace("\r\n", "\n"))


def printable(text: str) -> str:
    """The visible text, without a line that a CI would take for a command."""
    return _CI_COMMAND.sub(_disarmed, visible(text))


def _disarmed(found: re.Match[str]) -> str:
    return r"\x23" if found[0] == "#" else rf"{found[1]}\x3a"


def hanging(text: str) -> str:
    """The text with its further lines indented, so that none passes for a line of Onward's."""
    return re.sub(r"\n(?! {2}|\n|\Z)", "\n  ", text)


def count(number: int, word: str) -> str:
    """A number of things, such as `1 day` or `2 days`."""
    return f"{number:,} {word}" if number == 1 else f"{number:,} {word}s"


def printable_json(document: Any) -> str:
    """A document as JSON in ASCII, without `##[` in its strings."""
    return json.dumps(document, indent=2).replace("##", r"#\u0023")


def _escaped(char: str) -> str:
    return f"\\x{ord(char):02x}" if ord(char) < 256 else f"\\u{ord(char):04x}"
