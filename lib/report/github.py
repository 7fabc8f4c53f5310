"""An error as a GitHub Actions workflow command. Pure."""

from collections.abc import Callable

from lib.errors import BaseConflict, MigrationFailed, OnwardError
from lib.printable import printable
from lib.report.text import server_message


def annotation(error: OnwardError, path_in_workspace: Callable[[str], str] = str) -> str:
    """The workflow command that shows an error beside its line in the pull request.

    `path_in_workspace` turns a path into the one that GitHub knows.
    """
    cause = error.cause
    if isinstance(cause, BaseConflict):
        file = escaped_property(path_in_workspace(cause.path))
        return f"::error file={file}::{escaped(cause.message)}"
    if not isinstance(cause, MigrationFailed):
        return f"::error::{escaped(cause.message)}"
    failure = cause.failure
    file = escaped_property(path_in_workspace(failure.path))
    line = f",line={failure.line},col={failure.column}" if failure.line else ""
    return f"::error file={file}{line}::{escaped(server_message(failure.server))}"


def escaped(text: str) -> str:
    """The message of a workflow command: it cannot begin another one."""
    return printable(text).replace("%", "%25").replace("\n", "%0A")


def escaped_property(text: str) -> str:
    """A property of a workflow command."""
    return escaped(text).replace(":", "%3A").replace(",", "%2C")
