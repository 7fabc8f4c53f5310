"""The statements that a database really runs, and the document that lists them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import pairwise, starmap
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

from lib.errors import ConfigError
from lib.history import TABLE
from lib.observation import Parsed, Query
from lib.printed import OtherFormat, read_printed, time_of
from lib.source.lexer import split, tokens, upper, without_comments

FORMAT = 1  # of the document; any other is refused
KINDS = frozenset({"SELECT", "INSERT", "UPDATE", "DELETE", "MERGE", "WITH"})
# Words of what Onward itself sends, where it names no table of the catalog, and of those who read
# these statements.
_OWN = frozenset(
    {
        TABLE.upper(),
        "PG_BACKEND_PID",
        "PG_ADVISORY_UNLOCK_ALL",
        "PG_STAT_STATEMENTS",
        "PG_STAT_STATEMENTS_RESET",
    }
)
_SHOWN = 100  # characters of a statement
_RARE = 0.1
_STRINGS = ("'", "E'", "B'", "X'", "N'", "U&'", "$")


class Queries(NamedTuple):
    """The statements of a document, before the files run."""

    source: str = ""
    """Where they are from; empty if there is no document."""
    listed: int = 0
    parsed: tuple[Query, ...] = ()
    """Those that this database can parse. Nothing is known of the others."""
    as_of: datetime | None = None
    """When the document was made; None if it does not say."""


class QueryChange(NamedTuple):
    """What files do to statements in the same way: they fail, or have another result."""

    fails: bool
    words: str
    texts: tuple[str, ...]
    """The most frequent first."""


def changes(before: Mapping[Query, Parsed], after: Mapping[Query, Parsed]) -> list[QueryChange]:
    """What has become of the statements that could be parsed before."""
    alike: dict[tuple[bool, str], list[Query]] = {}
    for query, now in after.items():
        was = before[query]
        if not was.error and now != was:
            change = f"fails: {now.error}" if now.error else f"returns {_difference(was, now)}"
            alike.setdefault((bool(now.error), change), []).append(query)
    return [
        QueryChange(fails, f"{_named(queries)} {change}", tuple(one.text for one in queries))
        for (fails, change), queries in alike.items()
    ]


def _difference(was: Parsed, now: Parsed) -> str:
    """How the columns of a result differ."""
    old, new = ({name: rest for name, *rest in one.columns} for one in (was, now))
    parts = {
        "also": new.keys() - old.keys(),
        "no": old.keys() - new.keys(),
        "another type of": {name for name in old.keys() & new.keys() if old[name] != new[name]},
    }
    words = [f"{part} {', '.join(sorted(names))}" for part, names in parts.items() if names]
    return ", ".join(words) or "other columns"


def _named(queries: Sequence[Query]) -> str:
    """The first of the statements, shortened, and how often all of them run."""
    text, calls = " ".join(queries[0].text.split()), sum(one.calls_a_minute for one in queries)
    shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
    rate = f"{calls:,.1f}".removesuffix(".0") if calls >= _RARE else f"under {_RARE}"
    more = f" and {len(queries) - 1} more" if len(queries) > 1 else ""
    return f"{shown}{more} (calls a minute: {rate})"


def listed(counted: Iterable[tuple[str, float]]) -> list[Query]:
    """The statements that may be in the document, by their calls a minute, the most frequent first.

    Without their comments, in which an application may have written values.
    """
    calls: dict[str, float] = {}
    for text, rate in counted:
        if is_kept(text):
            bare = without_comments(text)
            calls[bare] = calls.get(bare, 0.0) + rate
    return sorted(starmap(Query, calls.items()), key=lambda one: (-one.calls_a_minute, one.text))


def is_kept(text: str) -> bool:
    """Whether a text of pg_stat_statements may be in the document.

    Not if it is a utility statement, which may hold a password, or has a string: the server puts
    parameters in the place of values, but not always. Nor what only reads the catalog, as Onward
    and monitors do.
    """
    words = [upper(token[0]).strip('"') for token in tokens(text)]
    return (
        _kind(text) in KINDS
        and _OWN.isdisjoint(words)
        and not any(word.startswith(_STRINGS) and len(word) > 1 for word in words)
        and not any(_is_of_catalog(word, after) for word, after in pairwise([*words, ""]))
    )


def read_queries(path: Path) -> tuple[tuple[Query, ...], datetime | None]:
    """The statements of a file that `queries` wrote, and when it did. Raises ConfigError."""
    return read_printed(
        path,
        _queries,
        error=ConfigError,
        otherwise="is no document of `queries`",
        next_step="To write one, with the URL of the database that runs the statements:"
        f"\n  scripts/migrate.py queries > {path}",
    )


def _queries(document: Any) -> tuple[tuple[Query, ...], datetime | None]:
    if document["format"] != FORMAT:
        found = document["format"]
        raise OtherFormat(f"has the format {found!r}, and this version reads {FORMAT}")
    return tuple(map(_query, document["queries"])), time_of(document)


def _query(entry: Any) -> Query:
    """Raises ValueError, KeyError or TypeError for what `queries` does not write."""
    text, calls = entry["text"], float(entry["callsPerMinute"])
    if not isinstance(text, str) or _kind(text) not in KINDS or not 0 <= calls < inf:
        raise ValueError
    if b"\0" in text.encode():
        raise ValueError
    return Query(text, calls)


def _kind(text: str) -> str:
    """The first keyword of a text's first statement, in upper case, also in parentheses."""
    statement = next(split(text), None)
    words = statement.first_tokens if statement else ()
    return next((upper(word) for word in words if word != "("), "")


def _is_of_catalog(word: str, after: str) -> bool:
    """Whether a word names a table or schema of the server's own; a call of a function does not."""
    return word == "INFORMATION_SCHEMA" or (word.startswith("PG_") and after != "(")
