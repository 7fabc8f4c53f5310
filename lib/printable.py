"""Text of others made fit to be shown: what a server, a file or a variable says steers no terminal
and no CI. Pure.
"""

import json
import re
from typing import Any

# Control characters but newline and tab, what only some programs take for the end of a line, and
# what turns the direction of writing: all of them make a reader see something else than what is
# there.
_INVISIBLE = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
# GitHub's runner obeys `::` behind any white space at the beginning of a line, and `##[` anywhere
# in it; Azure's agent `##vso[`, and TeamCity `##teamcity[`.
_COMMAND = re.compile(r"^([^\S\n]*):(?=:)|#(?=#\w*\[)", re.MULTILINE)


def visible(text: str) -> str:
    r"""The text with its control characters as `\x1b`."""
    return _INVISIBLE.sub(lambda found: _escaped(found[0]), text.replace("\r\n", "\n"))


def printable(text: str) -> str:
    """The text fit for a terminal, and without a line that a CI would take for a command."""
    return _COMMAND.sub(
        lambda found: r"\x23" if found[0] == "#" else rf"{found[1]}\x3a", visible(text)
    )


def hanging(text: str) -> str:
    """The text with its further lines set in, so that none of them passes for a line of its own."""
    return re.sub(r"\n(?! {2}|\n|\Z)", "\n  ", text)


def printable_json(document: Any) -> str:
    """A document as JSON, in ASCII, and without `##[` in any of its strings."""
    return json.dumps(document, indent=2).replace("##", r"#\u0023")


def _escaped(char: str) -> str:
    return f"\\x{ord(char):02x}" if ord(char) < 256 else f"\\u{ord(char):04x}"
