"""An error as a GitHub Actions workflow command. Pure."""

from collections.abc import Callable

from lib.errors import MigrationFailed, OnwardError
from lib.printable import printable
from lib.report.text import _message


def annotation(error: OnwardError, named: Callable[[str], str] = str) -> str:
    """The error as a GitHub Actions workflow command, so that it shows beside the line in the pull
    request.

    `named` makes of a path what GitHub calls the file.
    """
    if not isinstance(error, MigrationFailed):
        return f"::error::{_escaped(error.message)}"
    failure = error.failure
    file = _escaped(named(failure.path)).replace(":", "%3A").replace(",", "%2C")
    line = f",line={failure.line},col={failure.column}" if failure.line else ""
    return f"::error file={file}{line}::{_escaped(_message(failure.server))}"


def _escaped(text: str) -> str:
    return printable(text).replace("%", "%25").replace("\n", "%0A")
