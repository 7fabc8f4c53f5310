"""Statements that run in several transactions: which they are, what they leave when they fail."""

from __future__ import annotations

import re

from lib.postgres.connection import Connection
from lib.source.lexer import Statement

# Invalid indexes that are not being built, and partitions whose detaching has begun.
LEFTOVERS = """
SELECT c.relkind::text, c.oid::text, format('%I.%I', n.nspname, c.relname), (
    SELECT format('%I.%I', pn.nspname, p.relname)
    FROM pg_class p JOIN pg_namespace pn ON pn.oid = p.relnamespace
    WHERE p.oid = h.inhparent)
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_index x ON x.indexrelid = c.oid
LEFT JOIN pg_inherits h ON h.inhrelid = c.oid AND h.inhdetachpending
WHERE h.inhdetachpending OR (c.relkind = 'i' AND NOT x.indisvalid
    AND NOT EXISTS (SELECT FROM pg_stat_progress_create_index b WHERE b.index_relid = c.oid))
ORDER BY c.oid
"""

_IN_SEVERAL_TRANSACTIONS = ("CALL", "CLUSTER", "REINDEX", "VACUUM")
_MAY_COMMIT = re.compile(r"\b(?:commit|call)\b", re.IGNORECASE)
_DETACH = re.compile(
    r"(ALTER TABLE .* DETACH PARTITION .*) CONCURRENTLY", re.IGNORECASE | re.DOTALL
)

Leftovers = frozenset[tuple[str | None, ...]]


def runs_in_several_transactions(statement: Statement) -> bool:
    """Whether it may, so that a part of its work remains if it fails."""
    first = next(iter(statement.keywords), "")
    if first == "DO":
        return _MAY_COMMIT.search(statement.text) is not None
    return first in _IN_SEVERAL_TRANSACTIONS or is_concurrent(statement)


def is_concurrent(statement: Statement) -> bool:
    """Whether it runs CONCURRENTLY: in steps, each of which is committed."""
    if statement.keywords[:1] == ("REFRESH",):
        return False
    return "CONCURRENTLY" in map(str.upper, statement.first_tokens)


def finishing_statement(statement: Statement) -> str | None:
    """What finishes an interrupted DETACH PARTITION CONCURRENTLY; None for other statements."""
    found = _DETACH.fullmatch(" ".join(statement.first_tokens))
    return f"{found[1]} FINALIZE" if found else None


def find_leftovers(connection: Connection) -> Leftovers | None:
    """What interrupted statements have left in the database; None if that cannot be read."""
    reply = connection.read(LEFTOVERS)
    return None if reply.failed else frozenset(reply.rows)


def describe(left: Leftovers, statement: Statement, *, rebuilt: bool) -> str:
    """What a statement left, and what removes it. `rebuilt`: its index has a name."""
    return "".join(
        f"; {_described(name or '', parent, statement, rebuilt=rebuilt)}"
        for _, _, name, parent in sorted(left, key=str)
    )


def _described(name: str, parent: str | None, statement: Statement, *, rebuilt: bool) -> str:
    if parent:
        finalize = f"ALTER TABLE {parent} DETACH PARTITION {name} FINALIZE;"
        return (
            f"the partition {name} of {parent} is pending detach, and the next run finishes that, "
            f"as does {finalize}"
        )
    if rebuilt:
        return f"the invalid index {name} is left, and the next run rebuilds it"
    if statement.keywords[0] == "DROP":
        return f"the index {name} is left invalid, and the next run drops it"
    return f"the invalid index {name} is left; to drop it: DROP INDEX CONCURRENTLY {name};"
