"""The extensions that files create, and what to do if the server lacks one. Pure."""

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

from lib.errors import DatabaseUnsuitable
from lib.source.latin1 import as_latin1, from_latin1
from lib.source.lexer import WORD, compiled, split, upper
from lib.source.migration import Migration

# With pg_tle, or on PostgreSQL 18 with this setting, a file can provide an extension itself.
_PROVIDES = rb"(?i)pg_?tle|extension_control_path"
_UNNEEDED = {
    "pgcrypto": "gen_random_uuid() and sha256() need no extension",
    "uuid-ossp": "gen_random_uuid() needs no extension",
}
_ANOTHER_SERVER = (
    "use a server that has it",
    "in the sandbox, use another Postgres of this machine (--reset deletes the sandbox's data)\n"
    "    POSTGRES_BIN=/usr/lib/postgresql/17/bin scripts/sandbox --reset",
    'or a database of your own\n    scripts/sandbox --url "$URL"',
)


class Extension(NamedTuple):
    """A CREATE EXTENSION at the top level of a file."""

    name: str
    place: str
    """`path:line`."""


def created(migrations: Iterable[Migration]) -> list[Extension]:
    """The extensions that the files create, in order.

    Empty if a file may provide extensions itself. Blocks and functions are not examined.
    """
    files = tuple(migrations)
    found = [extension for file in files for extension in _created_by(file)]
    if any(re.search(_PROVIDES, file.content) for file in files if found):
        return []
    return found


def _created_by(migration: Migration) -> Iterator[Extension]:
    if not re.search(rb"(?i)extension", migration.content):  # far faster than to split the file
        return
    for statement in split(as_latin1(migration.content)):
        if statement.keywords[:2] == ("CREATE", "EXTENSION"):
            name = _name(statement.first_tokens[2:])
            if name is not None:
                yield Extension(name, f"{migration.path}:{statement.line}")


def _name(tokens: tuple[str, ...]) -> str | None:
    """The name that the tokens behind CREATE EXTENSION begin with; None if it is not plain."""
    if tuple(map(upper, tokens[:3])) == ("IF", "NOT", "EXISTS"):
        tokens = tokens[3:]
    name = from_latin1(tokens[0]) if tokens else ""
    if len(name) > 2 and name[0] == name[-1] == '"':
        return name[1:-1].replace('""', '"')
    return name.lower() if name.isascii() and compiled(WORD).fullmatch(name) else None


def require_extensions(wanted: Sequence[Extension], unavailable: Collection[str]) -> None:
    """Raise DatabaseUnsuitable if pending files create extensions that the server lacks."""
    lacking = [one for one in wanted if one.name in unavailable]
    if lacking:
        lines = "".join(f"\n  {one.place}: {one.name}" for one in lacking)
        raise DatabaseUnsuitable(
            f"the server lacks extensions that pending migrations create:{lines}",
            changed_nothing=True,
            next_step=remedy(dict.fromkeys(one.name for one in lacking)),
        )


def remedy(names: Iterable[str]) -> str:
    """What to do about extensions that the server lacks."""
    known = [f"{_UNNEEDED[name]}: if that is all, remove it" for name in names if name in _UNNEEDED]
    options = "".join(f"\n  - {option}" for option in (*known, *_ANOTHER_SERVER))
    return f"Options:{options}"
