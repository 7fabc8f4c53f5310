#!/usr/bin/env python3
"""Rehearses the new migrations of a branch: `scripts/rehearse_branch.py --help`.

A Postgres on this machine gets the files of the base branch, and then, observed, those of this
branch. It is deleted afterwards. No other database is connected to.
"""

import signal

if __name__ == "__main__":
    # Until `main` handles it, Ctrl-C must not show a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from scripts.in_venv import require

require("psycopg")

from lib.cli.offline import find_base
from lib.cli.output import Terminal
from lib.errors import OnwardError
from lib.settings.config import migrations_directory
from lib.source.migration import checksum_of, contents_in, is_draft, is_sql
from lib.source.pull_request import Base
from scripts.embedded import Embedded, EmbeddedError
from scripts.sandbox import DATABASE, EXIT_INTERRUPTED, EXIT_UNAVAILABLE, Target

DESCRIPTION = """\
Apply the files of the base branch to an empty Postgres on this machine, then
those that this branch adds, and show what these block, read and break.
"""
EXAMPLES = """\
All other options are those of scripts/migrate.py rehearse.

examples:
  scripts/rehearse_branch.py
  scripts/rehearse_branch.py --base origin/main --sizes-from sizes.json
  scripts/rehearse_branch.py --markdown >comment.md

exit codes: those of scripts/migrate.py, among them
  0   no finding that fails, or nothing to rehearse
  1   a file failed: one of this branch, or one that the base branch has
  2   files, configuration or command line are wrong, or the base is not here
  3   a file of the base branch was changed
  5   no Postgres could be started
  9   a finding fails
"""
BASE_FAILS = """\
Repair these files first, in a branch of its own. If it is an extension that is missing, use a
Postgres that has it:
  POSTGRES_BIN=/usr/lib/postgresql/16/bin scripts/rehearse_branch.py"""


def main(arguments: Sequence[str]) -> int:
    """Rehearse; return the exit code of scripts/migrate.py."""
    options, rest = _parse(arguments)
    # Stdout is for what `rehearse` prints.
    terminal = Terminal(os.environ, as_json=False, as_markdown=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        directory = migrations_directory(os.environ)
        base = find_base(directory, options.base, os.environ)
        if _checksums(base.contents) == _checksums(contents_in(directory)):
            terminal.info(f"✅ Nothing to rehearse: the files are those of {base.name}")
            return 0
        with empty_database() as target:
            return _apply(base, target, terminal) or migrate(target, "rehearse", *rest).returncode
    except OnwardError as error:
        return terminal.fail(error)
    except (EmbeddedError, OSError) as error:
        terminal.explain_exit(f"rehearse_branch: {error}")
        return EXIT_UNAVAILABLE
    except KeyboardInterrupt:
        terminal.explain_exit("rehearse_branch: interrupted")
        return EXIT_INTERRUPTED


def _parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options, and those for `rehearse`."""
    parser = argparse.ArgumentParser(
        "scripts/rehearse_branch.py",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--base", metavar="REF", help="such as origin/main; by default the pull request's, or main"
    )
    return parser.parse_known_args(arguments)


def _checksums(contents: Mapping[str, bytes]) -> dict[str, str]:
    return {name: checksum_of(content) for name, content in contents.items() if is_sql(name)}


@contextmanager
def empty_database() -> Iterator[Target]:
    """An empty database on a server of its own, of which nothing is left afterwards."""
    server = Embedded(Path(tempfile.mkdtemp(prefix="onward-rehearsal-")))
    try:
        with server:
            server.create_database(DATABASE)
            url = server.url(DATABASE)
            yield Target(url, url, server.directory / "routes")
    finally:
        server.drop()


def _apply(base: Base, target: Target, terminal: Terminal) -> int:
    """Apply the files of the base branch. What a run prints matters only if it fails."""
    with tempfile.TemporaryDirectory(prefix="onward-base-") as place:
        # Not annotated: the branch has no such lines.
        environ = {"MIGRATION_DIR": str(_written(base, Path(place))), "GITHUB_ACTIONS": ""}
        result = migrate(target, cwd=place, environ=environ, capture_output=True)
    if result.returncode:
        terminal.explain_exit(result.stdout + result.stderr)
        terminal.error(
            OnwardError(
                f"{base.name}: its own files cannot be applied to an empty Postgres, so nothing "
                "was rehearsed",
                next_step=BASE_FAILS,
            )
        )
    return result.returncode


def _written(base: Base, place: Path) -> Path:
    """A directory of the base branch's files, without its drafts."""
    directory = place / "migrations"
    directory.mkdir()
    for name, content in base.contents.items():
        if not is_draft(content):
            (directory / name).write_bytes(content)
    return directory


def migrate(
    target: Target, *arguments: str, environ: Mapping[str, str] | None = None, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run scripts/migrate.py on it; `options` are those of `subprocess.run`."""
    command = [sys.executable, str(ROOT / "scripts" / "migrate.py"), *arguments]
    environ = target.environment() | dict(environ or {})
    return subprocess.run(command, env=environ, check=False, encoding="utf-8", **options)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main(sys.argv[1:]))
