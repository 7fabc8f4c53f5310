"""Checks of our own in SQL: statements that fail with a code where a condition holds.

They cost a third of what blocks of PL/pgSQL cost that RAISE.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from lib.errors import ServerError
from lib.history import TABLE
from lib.quoting import literal

OTHER_TABLE, ROWS_CHANGED, NOT_STORED, TRANSACTION_ENDED = "OW001", "OW002", "OW003", "OW004"
NO_LOCK, NO_TIME = "OW005", "OW006"
_MESSAGES = {
    OTHER_TABLE: f"{TABLE} is not the table that was planned with",
    ROWS_CHANGED: f"other rows of {TABLE} have been changed",
    NOT_STORED: f"the row in {TABLE} is not stored as it was written",
    TRANSACTION_ENDED: "the file ended the transaction that it ran in",
    NO_LOCK: "another run holds the lock",
    NO_TIME: "the deadline is too near to begin a file",
}
_NOT_AN_INTEGER = "22P02"
_CODE = f"({'|'.join(_MESSAGES)}) [0-9]+"


class Case(NamedTuple):
    """A code, and the SQL condition for which a statement is to fail with it."""

    code: str
    failed: str


def check(*cases: Case) -> str:
    """A statement that fails with the code of the first case that holds, and else returns no row.

    To plan a statement takes longer than most conditions: so it takes several.
    """
    failed = " ".join(f"WHEN {case.failed} THEN {_words(literal(case.code))}" for case in cases)
    return f"SELECT WHERE CAST(CASE {failed} END AS integer) IS NOT NULL;"


def check_rows(code: str, table: str, failed: str) -> str:
    """The same for a condition on the aggregated rows of a table."""
    return f"SELECT {failure(literal(code))} FROM {table} HAVING {failed};"  # noqa: S608


def failure(code: str) -> str:
    """An SQL expression that fails, with the code that another expression yields."""
    return f"CAST({_words(code)} AS integer)"


def _words(code: str) -> str:
    # The pid keeps the planner from evaluating it beforehand.
    return f"concat({code}, ' ', pg_backend_pid())"


def own_error(error: ServerError) -> ServerError:
    """The error of a check, with its code as SQLSTATE; any other as it is."""
    found = re.search(_CODE, error.message) if error.sqlstate == _NOT_AN_INTEGER else None
    return ServerError(found[1], _MESSAGES[found[1]]) if found else error
