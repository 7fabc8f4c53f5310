"""Statements that run in several transactions: which they are, what they leave when they fail, and
what ends that.
"""

from __future__ import annotations

import re

from lib.postgres.connection import Connection
from lib.source.lexer import Statement

# Invalid indexes that nobody is building, and partitions whose detaching has begun.
_LOOK = """
SELECT c.relkind::text, c.oid::text, format('%I.%I', n.nspname, c.relname), (
    SELECT format('%I.%I', pn.nspname, p.relname) FROM pg_class p JOIN pg_namespace pn ON pn.oid = p.relnamespace
    WHERE p.oid = h.inhparent)
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_index x ON x.indexrelid = c.oid
LEFT JOIN pg_inherits h ON h.inhrelid = c.oid AND h.inhdetachpending
WHERE h.inhdetachpending OR (c.relkind = 'i' AND NOT x.indisvalid
    AND NOT EXISTS (SELECT FROM pg_stat_progress_create_index b WHERE b.index_relid = c.oid))
ORDER BY c.oid
"""

_SEVERAL = ("CALL", "CLUSTER", "REINDEX", "VACUUM")
_ENDS_ITS_TRANSACTION = r"(?i)\b(?:commit|call)\b"
_DETACH = re.compile(r"(?is)(ALTER TABLE .* DETACH PARTITION .*) CONCURRENTLY")

Leftovers = frozenset[tuple[str | None, ...]]


def runs_in_several_transactions(statement: Statement) -> bool:
    """Whether it may, so that what it did before it failed stays."""
    first = next(iter(statement.keywords), "")
    if first == "DO":
        return re.search(_ENDS_ITS_TRANSACTION, statement.text) is not None
    return first in _SEVERAL or is_concurrent(statement)


def is_concurrent(statement: Statement) -> bool:
    """Whether it works beside others, in steps, of which each is committed."""
    return statement.keywords[:1] != ("REFRESH",) and "CONCURRENTLY" in (
        token.upper() for token in statement.first_tokens
    )


def finishing(statement: Statement) -> str | None:
    """The statement that goes on with a DETACH PARTITION CONCURRENTLY that was broken off; None for
    any other.
    """
    found = _DETACH.fullmatch(" ".join(statement.first_tokens))
    return f"{found[1]} FINALIZE" if found else None


def leftovers(session: Connection) -> Leftovers | None:
    """What broken-off statements have left in the database by now; None where the session cannot
    tell any more.
    """
    answer = session.read(_LOOK)
    return None if answer.error or answer.lost else frozenset(answer.rows)


def in_words(left: Leftovers, statement: Statement, *, rebuilt: bool) -> str:
    """What there is of it, and what ends it; an index that has a name in its statement is `rebuilt`
    by a rerun.
    """
    found = []
    for _, _, name, parent in sorted(left, key=str):
        if parent:
            rest = f"ALTER TABLE {parent} DETACH PARTITION {name} FINALIZE;"
            found.append(
                f"the partition {name} of {parent} is pending detach, and a rerun finishes that, "
                f"as does {rest}"
            )
        elif rebuilt:
            found.append(f"the invalid index {name} is left behind, and a rerun builds it again")
        elif statement.keywords[0] == "DROP":
            found.append(f"the index {name} is left invalid, and a rerun drops it")
        else:
            found.append(
                f"the invalid index {name} is left behind, to be dropped: DROP INDEX CONCURRENTLY "
                f"{name};"
            )
    return "".join(f"; {words}" for words in found)
