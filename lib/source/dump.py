"""What pg_dump writes, made into a migration: plain SQL that fits any database. Pure."""

import re
from collections.abc import Iterable, Iterator

from lib.source.lexer import Statement, split

# The heading of an object, which with --no-owner is the same in the dump of every equal database.
_HEADING = re.compile(r"^-- (Name: .*; Type: .*; Schema: .*); Owner: ", re.MULTILINE)


def as_migration(dump: str, role: str) -> str:
    """The statements of a plain dump, one below the other, without what a file must not contain.

    `role` is the one that dumped it, whose name other servers need not know.
    """
    return "".join(_laid_out(filter(None, (_rewritten(one, role) for one in split(dump)))))


def objects_of(dump: str) -> list[str]:
    """The objects of a plain dump, as its comments name them, sorted."""
    return sorted(_HEADING.findall(dump))


def _laid_out(statements: Iterable[str]) -> Iterator[str]:
    """The rows of a table stand together, and between other statements there is an empty line."""
    before = ""
    for statement in statements:
        kind = statement.split(" VALUES", 1)[0] if statement.startswith("INSERT ") else ""
        yield "\n" if before and not (kind and kind == before) else ""
        yield f"{statement};\n"
        before = kind or "other"


def _rewritten(statement: Statement, role: str) -> str:
    """The statement as it is in the file; empty if it is left out."""
    if _is_left_out(statement):
        return ""
    match statement.keywords:
        case ("CREATE", "SCHEMA", *_):
            return statement.text.replace("SCHEMA ", "SCHEMA IF NOT EXISTS ", 1)
        case ("ALTER", "DEFAULT", "PRIVILEGES", "FOR", "ROLE", *_):
            return statement.text.replace(f" FOR ROLE {role} ", " ", 1)
    return statement.text


def _is_left_out(statement: Statement) -> bool:
    match statement.keywords:
        case ("SET", name, *_):
            return name.endswith("_TIMEOUT")  # a run has its own, and older servers lack some
        case ("SELECT", "PG_CATALOG", *_):
            # Names are qualified, and what the body of a function names is found as in the files.
            return "set_config('search_path'" in statement.text
        case ("COMMENT", "ON", "EXTENSION", *_):
            return True  # only the extension's owner may
    return statement.text.startswith("\\")  # \restrict and \unrestrict are psql's
