"""Where a command prints: text for people, and one JSON document for programs."""

import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence, Sized
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

from lib.cli.signals import ignore_further_signals
from lib.errors import OnwardError
from lib.printable import printable, printable_json
from lib.report.document import error_dict
from lib.report.github import annotation
from lib.report.text import error_text, exit_text
from lib.settings.redactor import Redactor

_COLOUR_CODES = {"❌": "31", "✅": "32", "⚠": "33"}
_AFTER_CRASH = (
    "Please report this. What was committed stays applied; to see it:\n  scripts/migrate.py status"
)


class Terminal:
    """Prints what a command has to tell, without secrets.

    All text from servers, files and variables passes through here, so none of it steers a terminal
    or a CI. A reader that has left does not stop a run.
    """

    def __init__(
        self, environ: Mapping[str, str], *, as_json: bool, as_markdown: bool = False
    ) -> None:
        self.as_json = as_json
        self.as_markdown = as_markdown
        self.environ = environ

    @property
    def environ(self) -> Mapping[str, str]:
        """The environment of the command; its secrets are never printed."""
        return self._environ

    @environ.setter
    def environ(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.redactor = Redactor(environ)

    @property
    def is_live(self) -> bool:
        """Whether people read the text as it is printed, on a terminal."""
        return self._text_stream.isatty()

    @property
    def _text_stream(self) -> IO[str]:
        """Stdout; stderr with --json or --markdown, when stdout is for the document."""
        return sys.stderr if self.as_json or self.as_markdown else sys.stdout

    def info(self, text: str) -> None:
        """Print text for people."""
        self._print(text, self._text_stream)

    def redraw(self, text: str) -> None:
        """Print text in the place of the terminal's last line, cut to its width."""
        width = shutil.get_terminal_size().columns - 1
        write(self._text_stream, f"\r{printable(text)[:width]}\033[K")

    def error(self, error: OnwardError, *, ending: str = "") -> None:
        """Print an error to stderr, and on GitHub Actions annotate the line in the pull request."""
        text = error_text(error)
        self._print(f"{text}\n{ending}" if ending else text, sys.stderr)
        if self.environ.get("GITHUB_ACTIONS") == "true":
            # Not by `_print`, which disarms all workflow commands; the annotation escapes itself.
            command = annotation(error, self.path_in_workspace)
            write(sys.stderr, self.redactor.text(command) + "\n")

    def annotate(self, commands: Sequence[str]) -> None:
        """Print workflow commands, which have escaped themselves, on GitHub Actions."""
        if self.environ.get("GITHUB_ACTIONS") == "true":
            for command in commands:
                write(sys.stderr, self.redactor.text(command) + "\n")

    def document(self, text: str) -> None:
        """Print the one document of text that stdout is for, with --markdown."""
        write(sys.stdout, printable(self.redactor.text(text)) + "\n")

    def json(self, document: Mapping[str, Any]) -> None:
        """Print the one JSON document, with --json."""
        ignore_further_signals()
        if self.as_json:
            write(sys.stdout, printable_json(self.redactor.document(document)) + "\n")

    def fail(self, *errors: OnwardError, document: Mapping[str, Any] | None = None) -> int:
        """Print errors and a document about them; return the first one's exit code.

        The last line of the text names that exit code and the page that explains it.
        """
        ignore_further_signals()
        first, last = errors[0], errors[-1]
        for error in errors[:-1]:
            self.error(error)
        self.error(last, ending=exit_text(first))
        self.json(error_dict(first) if document is None else document)
        return first.exit_code

    def crash(self, error: Exception) -> int:
        """Print an internal error and return its exit code.

        Without a traceback, which could show what was never searched for secrets.
        """
        ignore_further_signals()
        words = self.redactor.text(_one_line(error), thorough=True)
        shown = OnwardError(f"internal error{_raised_at(error)}: {words}", next_step=_AFTER_CRASH)
        self._print(f"{error_text(shown)}\n{exit_text(shown)}", sys.stderr)
        self.json(error_dict(shown))
        return shown.exit_code

    def explain_exit(self, line: str) -> None:
        """Print the line that explains an exit code to stderr, where no error explains it."""
        self._print(line, sys.stderr)

    def _print(self, text: str, stream: IO[str]) -> None:
        text = printable(self.redactor.text(text))
        if stream.isatty() and not self.environ.get("NO_COLOR"):
            text = "\n".join(map(_coloured, text.split("\n")))
        write(stream, text + "\n")

    def path_in_workspace(self, path: str) -> str:
        """A path from the root of GitHub's workspace; outside of that, the absolute path."""
        workspace = self.environ.get("GITHUB_WORKSPACE")
        if not workspace:
            return path
        file, root = Path(path).resolve(), Path(workspace).resolve()
        return str(file.relative_to(root) if file.is_relative_to(root) else file)


Command = Callable[[SimpleNamespace, Terminal], int]
"""A command: takes its options and where it prints, and returns an exit code."""


def files_passed(files: Sized) -> str:
    """What `validate` says of files that it refuses nothing in: no more than it has checked."""
    return f"✅ {'1 file' if len(files) == 1 else f'{len(files)} files'} passed the checks"


def write(stream: IO[str], text: str) -> None:
    """Write text to a stream. If its reader has left, the run goes on without it."""
    try:
        stream.write(text)
        stream.flush()
    except OSError:  # nothing reads the pipe, or the disk is full: discard this and all later text
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _raised_at(error: Exception) -> str:
    """Where an error was raised, such as ` at runner.py:12`."""
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    if not trace:
        return ""
    file = Path(trace.tb_frame.f_code.co_filename).name
    return f" at {file}:{trace.tb_lineno}"


def _coloured(line: str) -> str:
    code = _COLOUR_CODES.get(line[:1])
    return f"\033[{code}m{line}\033[0m" if code else line
