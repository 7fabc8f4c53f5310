"""Where words and the JSON document of a command go: without secrets, and fit for a terminal and a
CI.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from lib.cli.signals import heed_no_signal
from lib.errors import OnwardError
from lib.printable import printable, printable_json
from lib.report.document import error_dict
from lib.report.github import annotation
from lib.report.text import error_text
from lib.settings.database_url import configured_urls, redact

_COLOURS = {"❌": "31", "✅": "32", "⚠": "33"}
# A shorter password stands in messages by chance, and without it they would be garbled.
_SHORTEST_SECRET = 12
_SECRET_VARIABLES = ("MIGRATION_SECRET", "MIGRATION_SECRET_PREVIOUS", "PGPASSWORD")


class Output:
    """Where words and the JSON document go. A reader that has left does not stop a run."""

    def __init__(self, environ: Mapping[str, str], *, as_json: bool) -> None:
        self.environ = environ
        self.as_json = as_json

    @property
    def environ(self) -> Mapping[str, str]:
        """What the process was given; its secrets are in nothing that is said."""
        return self._environ

    @environ.setter
    def environ(self, environ: Mapping[str, str]) -> None:
        self._environ, self._hidden = environ, _secrets(environ)

    def say(self, text: str, *, error: bool = False) -> None:
        """Words for people: stdout, or stderr for errors and where stdout is for the document.

        All words of servers, files and variables go through here: without secrets, and fit for a
        terminal and a CI.
        """
        stream = sys.stderr if error or self.as_json else sys.stdout
        coloured = stream.isatty() and not self.environ.get("NO_COLOR")
        text = printable(self.redacted(text))
        write(stream, ("\n".join(map(_paint, text.split("\n"))) if coloured else text) + "\n")

    def complain(self, error: OnwardError) -> None:
        """An error for people, and on GitHub Actions for the pull request."""
        self.say(error_text(error), error=True)
        if self.environ.get("GITHUB_ACTIONS") == "true":
            # Not by `say`, which leaves no line a command for a CI; it is escaped as such.
            write(sys.stderr, self.redacted(annotation(error, self._named_by_github)) + "\n")

    def document(self, document: Mapping[str, Any]) -> None:
        """The one JSON document, where it was asked for."""
        heed_no_signal()
        if self.as_json:
            write(sys.stdout, printable_json(self.redacted(document)) + "\n")

    def failure(self, error: OnwardError) -> int:
        """An error as words and as the document; returns its exit code."""
        heed_no_signal()
        self.complain(error)
        self.document(error_dict(error))
        return error.exit_code

    def fault(self, error: Exception) -> int:
        """An error of ours in one line: a traceback could show what nobody has looked through for
        secrets.
        """
        heed_no_signal()
        words = " ".join(f"{type(error).__name__}: {error}".split())
        for secret in self._hidden:
            words = words.replace(secret, "***")
        words = f"internal error{_place(error)}, please report it: {redact(words)}"
        self.say(f"❌ {words}; what is committed stays, `status` shows it", error=True)
        self.document(
            {
                "success": False,
                "error": {"code": OnwardError.code, "message": words, "nextStep": ""},
            }
        )
        return OnwardError.exit_code

    def redacted(self, value: Any) -> Any:
        """The net beneath: what a driver or a server says is redacted where it is taken over."""
        if isinstance(value, dict):
            return {name: self.redacted(inner) for name, inner in value.items()}
        if isinstance(value, list):
            return [self.redacted(inner) for inner in value]
        if not isinstance(value, str):
            return value
        for secret in self._hidden:
            if len(secret) >= _SHORTEST_SECRET:
                value = value.replace(secret, "***")
        return redact(value)

    def _named_by_github(self, path: str) -> str:
        """A file's path from the root of the workspace, wherever the run stands; outside of it, the
        whole path.
        """
        workspace = self.environ.get("GITHUB_WORKSPACE")
        if not workspace:
            return path
        file, root = Path(path).resolve(), Path(workspace).resolve()
        return str(file.relative_to(root) if file.is_relative_to(root) else file)


def _secrets(environ: Mapping[str, str]) -> list[str]:
    """The passwords in the environment, longest first: those of URLs that nobody can read or asked
    for, too.
    """
    found = {secret for url in configured_urls(environ) for secret in url.secrets}
    found.update(environ.get(variable, "").strip() for variable in _SECRET_VARIABLES)
    for value in environ.values():
        found.update(re.findall("://[^:]*:(.*)@", value, re.DOTALL))
    shown = {name for url in configured_urls(environ) for name in (url.host, url.database)}
    return sorted(found - shown - {""}, key=len, reverse=True)


def _place(error: Exception) -> str:
    """Where it was raised."""
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    return f" at {Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace else ""


def _paint(line: str) -> str:
    colour = _COLOURS.get(line[:1])
    return f"\033[{colour}m{line}\033[0m" if colour else line


def write(stream: IO[str], text: str) -> None:
    """Write what the stream takes; one whose reader has left does not stop a run."""
    try:
        stream.write(text)
        stream.flush()
    except OSError:  # nobody reads any more, or the disk is full: from here on it is said to nobody
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
