"""Where in a file an error lies: a server's character position made into line, column, excerpt and statement. Pure."""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right

from lib.errors import Failure, ServerError
from lib.migration import Migration
from lib.sql import Statement, split

_LINE_END = re.compile(r"\r\n|\r|\n")
_TOKEN = re.compile(r'\w+|"[^"\n]*"|.', re.DOTALL)
_CONTEXT_LINES = 2
_WIDEST = 110


def locate(migration: Migration, error: ServerError, *, finished: int, base: int = 0) -> Failure:
    """Place an error in its file.

    `finished` statements ended well before it; `base` is the index of the sent text in the file's. Without a
    position (errors at run time have none) the statement is named and no line is invented.
    """
    text = migration.text()
    statements = list(split(text))
    path = str(migration.path)
    if error.position is None:
        return Failure(migration.version, path, error, statement=_statement(statements, finished))
    offset = base + error.position - 1
    index = max(bisect_right(statements, offset, key=lambda statement: statement.offset) - 1, 0)
    line, column, excerpt = _place(text, offset)
    return Failure(
        migration.version, path, error, line, column, excerpt, _statement(statements, index, with_line=False)
    )


def _statement(statements: list[Statement], index: int, *, with_line: bool = True) -> str:
    if index >= len(statements):
        return ""
    begins = f", which begins on line {statements[index].line}" if with_line else ""
    return f"statement {index + 1} of {len(statements)}{begins}"


def _place(text: str, offset: int) -> tuple[int, int, str]:
    """1-based line and column (a carriage return is no column) and the lines around with a caret."""
    lines = _LINE_END.split(text)
    starts = [0, *(end.end() for end in _LINE_END.finditer(text))]
    number = bisect_right(starts, offset)
    column = offset - starts[number - 1] + 1
    first = max(number - 1 - _CONTEXT_LINES, 0)
    width = len(str(number))
    shown = [f"{n:>{width}} | {_cut(lines[n - 1], column)[0]}" for n in range(first + 1, number + 1)]
    visible, at = _cut(lines[number - 1], column)
    return (
        number,
        column,
        "\n".join([*shown, f"{'':>{width}} | {_pad(visible[:at])}{'^' * _token_length(visible, at)}"]),
    )


def _cut(line: str, column: int) -> tuple[str, int]:
    """The part of a long line that is worth showing, and where in it the column is."""
    start = max(min(column - 1 - _WIDEST // 2, len(line) - _WIDEST), 0)
    return line[start : start + _WIDEST], column - 1 - start


def _pad(before: str) -> str:
    """Space as wide on a terminal as the text, so that the caret stands below its character."""
    return "".join("\t" if char == "\t" else " " * _columns(char) for char in before)


def _columns(char: str) -> int:
    if unicodedata.combining(char) or char == "\u200d":
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def _token_length(line: str, at: int) -> int:
    token = _TOKEN.match(line, at)
    return sum(map(_columns, token.group())) if token else 1
