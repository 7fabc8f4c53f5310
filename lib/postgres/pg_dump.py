"""Dumps a database by PostgreSQL's own program."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from psycopg.conninfo import make_conninfo

from lib.errors import ConfigError, DatabaseUnsuitable
from lib.settings.database_url import DatabaseURL, redact

# Owners differ between environments. A subscription may contain a password. Columns are named,
# since those of an inherited table may come in another order.
_OPTIONS = (
    "--no-owner",
    "--no-tablespaces",
    "--no-subscriptions",
    "--column-inserts",
    "--rows-per-insert=100",
)


def find_pg_dump(programs: Path | None, major: int) -> Path:
    """The program of this major version or newer: beside the server's programs, of POSTGRES_BIN or
    on the PATH. Raises ConfigError.
    """
    found = {path: _major(path) for path in _candidates(programs) if path.is_file()}
    for path, version in found.items():
        if version >= major:
            return path
    seen = "".join(f"\n  {path} is of PostgreSQL {version}" for path, version in found.items())
    raise ConfigError(
        f"pg_dump of PostgreSQL {major} or newer is needed for this server, and none is found"
        f"{':' if seen else ''}{seen}",
        changed_nothing=True,
        next_step="Install it, and name the directory of the server's programs:\n"
        f"  POSTGRES_BIN=/usr/lib/postgresql/{major}/bin scripts/migrate.py checkpoint ...",
    )


def dump(url: DatabaseURL, program: Path, without_tables: Sequence[str]) -> str:
    """Schema and rows as plain SQL, without these tables. Raises DatabaseUnsuitable."""
    password = url.parameters.get("password", "")
    shown = {name: value for name, value in url.parameters.items() if name != "password"}
    left_out = [f"--exclude-table={table}" for table in without_tables]
    result = subprocess.run(  # noqa: S603 - a program of PostgreSQL's, with options of our own
        [program, *_OPTIONS, *left_out, "--dbname", make_conninfo("", **shown)],
        env={**os.environ, **({"PGPASSWORD": password} if password else {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    if result.returncode:
        raise DatabaseUnsuitable(f"{program} failed: {redact(result.stderr.strip(), url)}")
    return result.stdout


def _candidates(programs: Path | None) -> Iterator[Path]:
    directories = [str(programs or ""), os.environ.get("POSTGRES_BIN", "")]
    yield from (Path(one) / "pg_dump" for one in directories if one)
    if on_path := shutil.which("pg_dump"):
        yield Path(on_path)


def _major(program: Path) -> int:
    """The major version of a pg_dump; 0 if it does not run."""
    try:
        result = subprocess.run(  # noqa: S603 - as above
            [program, "--version"], capture_output=True, text=True, check=False
        )
    except OSError:
        return 0
    found = re.search(r"\) ([0-9]+)", result.stdout)
    return int(found[1]) if found else 0
