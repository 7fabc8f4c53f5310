"""Where in a file an error lies: a server's character position made into line, column, excerpt and
statement. Pure.
"""

import re
import unicodedata

from lib.errors import Diagnostic, ServerError
from lib.printable import visible
from lib.source.lexer import split
from lib.source.migration import Migration

_LINE_END = re.compile(r"\r\n|\r|\n")
_TOKEN = re.compile(r'\w+|"[^"]*"|.', re.DOTALL)
_CONTEXT_LINES = 2
_WIDEST = 110


def diagnose(
    migration: Migration, error: ServerError, *, finished: int, base: int = 0
) -> Diagnostic:
    """Place an error in its file.

    `finished` statements ended well before it; `base` is the index of the sent text in the file's.
    Without a position (errors at run time have none) the statement is named and no line is
    invented.
    """
    text = migration.text()
    version, path = migration.version, str(migration.path)
    if error.position is None:
        return Diagnostic(version, path, error, statement=_statement(text, finished, None))
    # "At end of input" is after the last character: shown where the text ends, not on an empty line
    # behind it.
    offset = min(base + error.position - 1, len(text.rstrip(" \t\r\n\f\v")))
    line, column, excerpt = _place(text, offset)
    return Diagnostic(
        version, path, error, line, column, excerpt, _statement(text, finished, offset)
    )


def _statement(text: str, finished: int, offset: int | None) -> str:
    """The statement that holds the offset, else the one after those that finished."""
    count = number = line = 0
    for count, statement in enumerate(split(text), start=1):
        if (statement.offset <= offset) if offset is not None else (count == finished + 1):
            number, line = count, statement.line
    begins = f", which begins on line {line}" if offset is None else ""
    return f"statement {number} of {count}{begins}" if number else ""


def _place(text: str, offset: int) -> tuple[int, int, str]:
    """1-based line and column (a carriage return is no column) and the lines up to there with a
    caret.
    """
    before = _LINE_END.split(text[:offset])
    end = _LINE_END.search(text, offset)
    line, column = len(before), len(before[-1]) + 1
    lines = [
        *before[-1 - _CONTEXT_LINES : -1],
        before[-1] + text[offset : end.start() if end else len(text)],
    ]
    width = len(str(line))
    cut = [_cut(one, column)[0] for one in lines]
    shown = [
        f"{number:>{width}} | {visible(one)}"
        for number, one in enumerate(cut, line - len(lines) + 1)
    ]
    last, at = _cut(lines[-1], column)
    caret = "".join("\t" if char == "\t" else " " * _columns(char) for char in visible(last[:at]))
    token = _TOKEN.match(last, at)
    caret += "^" * (sum(map(_columns, visible(token[0]))) if token else 1)
    return line, column, "\n".join(row.rstrip() for row in [*shown, f"{'':>{width}} | {caret}"])


def _cut(line: str, column: int) -> tuple[str, int]:
    """The part of a long line that is worth showing, and where in it the column is."""
    start = max(min(column - 1 - _WIDEST // 2, len(line) - _WIDEST), 0)
    return line[start : start + _WIDEST], column - 1 - start


def _columns(char: str) -> int:
    """How wide a terminal shows it."""
    if unicodedata.category(char) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1
