"""A server's error: where in a file it is, and what to do about it. Pure."""

import re
import unicodedata

from lib.errors import Diagnostic, ServerError
from lib.history import TABLE
from lib.printable import visible
from lib.source import extensions
from lib.source.lexer import split
from lib.source.migration import Migration

_LINE_END = re.compile(r"\r\n|\r|\n")
_TOKEN = re.compile(r'\w+|"[^"]*"|.', re.DOTALL)
_CONTEXT_LINES = 2
_MAX_LINE_WIDTH = 110

_SAFE_TO_RUN = "It is safe to run again."
_FIX = "Fix the file and run again (or deploy again). There is nothing to clean up."
_NO_TRANSACTION = "add `-- migrate: no-transaction` to the leading comment, and run again."
_ALREADY_EXISTS = (
    "An object of that name already exists. If other means have done all that this file does, "
    "record the file without running it: scripts/migrate.py baseline NNN, with its number. "
    "Otherwise fix the file. Then run again."
)
_OWN_TABLE = (
    f"Onward creates {TABLE} itself, before the first file: remove what names it from the file, "
    f"and run again. `pg_dump --exclude-table='*.{TABLE}*'` writes a dump without it."
)
_REMEDIES = {
    "25001": f"To run it outside a transaction, {_NO_TRANSACTION}",
    "2D000": f"To run it outside a transaction, {_NO_TRANSACTION}",
    "42501": "Grant the role the missing privileges, or use the owner's URL. Then run again.",
    "42701": _ALREADY_EXISTS,
    "42710": _ALREADY_EXISTS,
    "42723": _ALREADY_EXISTS,
    "42P07": _ALREADY_EXISTS,
    "53100": "The server's disk is full. The file is not the cause: free some space and run again.",
    "53200": "The server is out of memory. The file is not the cause: add some, and run again.",
    "53300": "The server has no connection left. The file is not the cause: close some, or raise "
    "max_connections; run again.",
    "55P04": "A new value of an enum can be used after it is committed: use it in the next file. "
    f"If this file fails for no other reason, {_NO_TRANSACTION}",
    "57014": "The statement was cancelled, or exceeded MIGRATION_STATEMENT_TIMEOUT. Run again.",
    "57P01": _SAFE_TO_RUN,
    "57P02": _SAFE_TO_RUN,
    "57P03": _SAFE_TO_RUN,
}
# In 14 the server names the file that describes the extension, since 15 the extension.
_LACKS_EXTENSION = r'([^"/]+)(?:" is not available|\.control")'
_NAMES_OWN_TABLE = re.compile(rf"\b{TABLE}(?:_id_seq|_pkey|_version_key)?\b")


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
    cut = [_window(one, column)[0] for one in lines]
    shown = [
        f"{number:>{width}} | {visible(one)}"
        for number, one in enumerate(cut, line - len(lines) + 1)
    ]
    last, at = _window(lines[-1], column)
    caret = "".join(
        "\t" if char == "\t" else " " * _display_width(char) for char in visible(last[:at])
    )
    token = _TOKEN.match(last, at)
    caret += "^" * (sum(map(_display_width, visible(token[0]))) if token else 1)
    return line, column, "\n".join(row.rstrip() for row in [*shown, f"{'':>{width}} | {caret}"])


def _window(line: str, column: int) -> tuple[str, int]:
    """The part of a long line that is worth showing, and where in it the column is."""
    start = max(min(column - 1 - _MAX_LINE_WIDTH // 2, len(line) - _MAX_LINE_WIDTH), 0)
    return line[start : start + _MAX_LINE_WIDTH], column - 1 - start


def _display_width(char: str) -> int:
    """How wide a terminal shows it."""
    if unicodedata.category(char) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def remedy_for(error: ServerError) -> str:
    """What to do about an error that a file met; without a SQLSTATE the connection was lost."""
    if error.sqlstate is None:
        return _SAFE_TO_RUN
    if error.sqlstate == "42P07" and _NAMES_OWN_TABLE.search(error.message):
        return _OWN_TABLE
    if error.sqlstate in ("0A000", "58P01"):
        lacks = re.search(_LACKS_EXTENSION, error.message)
        return extensions.remedy([lacks[1]]) if lacks else _FIX
    return _REMEDIES.get(error.sqlstate, _FIX)
