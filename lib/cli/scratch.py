"""A server for scratch databases: one that is started for the command, or the one of --scratch."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from lib import ROOT
from lib.consent import require_scratch_consent
from lib.errors import DatabaseUnavailable
from lib.settings.assistant import find_assistant
from lib.settings.database_url import DatabaseURL, parse_url

OPTION = "--scratch"
_STOP_SECONDS = 30.0
_REMEDY = (
    "Use a server of your own; databases are made on it and dropped again, and the one that the "
    f"URL names is not touched:\n  {OPTION} postgresql://USER:PASSWORD@HOST/postgres"
)


class ScratchServer(NamedTuple):
    """A server on which databases may be made."""

    url: DatabaseURL
    programs: Path | None
    """The directory of its own programs; None where that is not known."""


@contextmanager
def scratch_server(given: str | None, environ: Mapping[str, str]) -> Iterator[ScratchServer]:
    """The server of the URL that is given, else one that ends with the block, `kill -9` included.

    Raises ConfigError for the URL, WrongEnvironment if a coding assistant has no consent for it,
    and DatabaseUnavailable if no server can be started.
    """
    if given:
        url = parse_url(OPTION, given, environ)
        require_scratch_consent(find_assistant(environ), url)
        yield ScratchServer(url, None)
        return
    process = _started()
    try:
        yield _server_of(process)
    finally:
        _stop(process)


def _started() -> subprocess.Popen[str]:
    """The program, out of reach of Ctrl-C: it ends when its stdin is closed."""
    return subprocess.Popen(  # noqa: S603 - a program of our own
        [_python(), str(ROOT / "scripts" / "scratch.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
    )


def _python() -> str:
    """The project's own Python, which may have the embedded Postgres, where there is one."""
    own = str(ROOT / ".venv" / "bin" / "python")
    return own if os.access(own, os.X_OK) else sys.executable


def _server_of(process: subprocess.Popen[str]) -> ScratchServer:
    assert process.stdout and process.stderr  # noqa: S101 - they are pipes
    line = process.stdout.readline()
    if not line:
        raise DatabaseUnavailable(
            f"no Postgres for scratch databases: {process.stderr.read().strip()}",
            changed_nothing=True,
            next_step=_REMEDY,
        )
    document = json.loads(line)
    return ScratchServer(parse_url(OPTION, document["url"], {}), Path(document["programs"]))


def _stop(process: subprocess.Popen[str]) -> None:
    """Close its stdin, and wait until it has deleted everything."""
    try:
        process.communicate(timeout=_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
