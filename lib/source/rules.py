"""Statements that a migration cannot contain, and what to do instead. Pure."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from lib.source.lexer import WORD, Statement, compiled, split, tokens, upper

_SIMPLE = r"""(?a)[\w$]+|'\w*'|"\w*"|[^\w'"]"""

_ONE_ALREADY = "take it out: each file is one transaction already"
_DIRECTIVE = "put `-- migrate: no-transaction` in the comment that opens the file"
_OWN_BLOCK = f"take it out, or {_DIRECTIVE}: the file's own BEGIN; SET TRANSACTION ...; and COMMIT; run as written there"
_ROWS_FOLLOW = "COPY ... FROM STDIN reads rows that only psql would send"
_NAME = r"\S+(?: \. \S+)*"
_COPY = rf"COPY (?:BINARY )?(?:\( .* \)|{_NAME}(?: \( [^)]*\))?)"
_OPTIONS = r"(?:\( [^)]*\) )?"
_CONCURRENTLY_OPTION = r"\( (?:[^)]*, )?CONCURRENTLY (?:'?(?:TRUE|ON|1)'? )?[,)]"
_NO_SLOT = r"""(?:\(|,) "?(?:CONNECT|CREATE_SLOT)"? = '?(?:FALSE|OFF|0)'? (?:\)|,)"""

# How the outline of such a statement begins, and what to say of it. COPY takes STDIN and STDOUT for
# each other.
_IN_ANY_FILE = (
    # A dump has the history's own rows, too.
    (
        r"COPY (?:\S+ \. )?\"?SCHEMA_MIGRATIONS\"? (?:\( [^)]*\) )?FROM STD(?:IN|OUT) ",
        _ROWS_FOLLOW,
        "take it out, and all else that names schema_migrations: Onward makes that table itself",
    ),
    (
        rf"{_COPY} FROM STD(?:IN|OUT) ",
        _ROWS_FOLLOW,
        "write the rows as INSERT statements, as `pg_dump --inserts` does",
    ),
    (
        rf"{_COPY} TO STD(?:IN|OUT) ",
        "COPY ... TO STDOUT sends rows that nobody takes",
        "take it out: psql can export",
    ),
)
_STARTS = r"\1 starts a transaction inside the one that the file runs in"
_ISOLATED = (
    ("(BEGIN|START TRANSACTION) (?:.* )?ISOLATION LEVEL (?:SERIALIZABLE|REPEATABLE) ", _STARTS),
    (
        "SET (?:LOCAL |SESSION )?TRANSACTION ",
        "SET TRANSACTION changes the transaction that the file runs in",
    ),
)
_TRANSACTION_CONTROL = (
    ("(BEGIN|START TRANSACTION) ", _STARTS),
    (
        "(COMMIT|ROLLBACK) (?!PREPARED |(?:WORK |TRANSACTION )?TO )",
        r"\1 ends the transaction that the file runs in",
    ),
    ("(END|ABORT|PREPARE TRANSACTION(?= ')) ", r"\1 ends the transaction that the file runs in"),
)
_OUTSIDE_TRANSACTIONS = (
    (
        "(VACUUM|ALTER SYSTEM|DISCARD ALL|(?:CREATE|DROP) "
        "(?:DATABASE|TABLESPACE)|(?:COMMIT|ROLLBACK) PREPARED) ",
        r"\1",
    ),
    ("(CREATE|DROP) (?:UNIQUE )?INDEX CONCURRENTLY ", r"\1 INDEX CONCURRENTLY"),
    (rf"REINDEX (?:{_CONCURRENTLY_OPTION}|{_OPTIONS}\w+ CONCURRENTLY )", "REINDEX CONCURRENTLY"),
    (rf"REINDEX {_OPTIONS}(SCHEMA|DATABASE|SYSTEM) ", r"REINDEX \1"),
    (rf"CLUSTER (?:VERBOSE |{_OPTIONS})$", "CLUSTER without a table"),
    (r"ALTER DATABASE \S+ (?:SET |WITH )?TABLESPACE ", "ALTER DATABASE ... SET TABLESPACE"),
    (
        rf"ALTER TABLE .* DETACH PARTITION {_NAME} CONCURRENTLY ",
        "ALTER TABLE ... DETACH PARTITION ... CONCURRENTLY",
    ),
    (rf"CREATE SUBSCRIPTION (?!.*{_NO_SLOT})", "CREATE SUBSCRIPTION with a replication slot"),
)
_IN_A_TRANSACTION = (
    *_IN_ANY_FILE,
    *((outline, what, _OWN_BLOCK) for outline, what in _ISOLATED),
    *((outline, what, _ONE_ALREADY) for outline, what in _TRANSACTION_CONTROL),
    *(
        (outline, f"{name} cannot run inside a transaction", _DIRECTIVE)
        for outline, name in _OUTSIDE_TRANSACTIONS
    ),
)
_SUSPECTS = frozenset(
    "ABORT BEGIN CLUSTER COMMIT COPY DISCARD END PREPARE REINDEX ROLLBACK SET START VACUUM".split()
)
# A statement that begins with one of these is suspect only if it has one of those words in it.
_COMMON, _RARE = ("ALTER", "CREATE", "DROP"), "CONCURRENTLY|DATABASE|SUBSCRIPTION|SYSTEM|TABLESPACE"


class Refusal(NamedTuple):
    """What a file cannot contain: where it is, why it is refused, and what to do instead."""

    line: int
    what: str
    remedy: str
    column: int | None = None
    """None for a statement: it is refused as a whole."""

    @property
    def place(self) -> str:
        """`line`, or `line:column`."""
        return f"{self.line}:{self.column}" if self.column else str(self.line)


def end_of_sql(sql: str) -> int:
    """Where the file is no SQL any more: behind the first COPY that its rows follow, else where it
    ends.
    """
    for statement in split(sql):
        refused = refusal(statement, transactional=False)
        if refused and refused.what == _ROWS_FOLLOW:
            return statement.offset + len(statement.text)
    return len(sql)


def refusals(sql: str, *, transactional: bool) -> Iterator[Refusal]:
    """What is refused in a file, in its order, as far as the file is SQL: not beyond a COPY that
    its rows follow.
    """
    for statement in split(sql):
        if refused := refusal(statement, transactional=transactional):
            yield refused
            if refused.what == _ROWS_FOLLOW:
                return


def refusal(statement: Statement, *, transactional: bool) -> Refusal | None:
    """Why the statement cannot be in a file, if it cannot; a transactional file can contain less
    than another.
    """
    if statement.text.startswith("\\"):
        what = f"{statement.text.split()[0]} is a command of psql, not SQL"
        return Refusal(statement.line, what, "take the line out, or write in SQL what it does")
    if not _is_suspect(statement.text):
        return None
    outline = _outline(statement.text)
    for pattern, what, remedy in _IN_A_TRANSACTION if transactional else _IN_ANY_FILE:
        if found := re.match(pattern, outline):
            return Refusal(statement.line, found.expand(what), remedy)
    return None


def _is_suspect(text: str) -> bool:
    """Whether it is worth the closer look: most of what a migration says is not, and taking
    outlines is slow.
    """
    first = compiled(WORD).match(text)
    word = upper(first[0]) if first else ""
    return word in _SUSPECTS or bool(word in _COMMON and re.search(_RARE, text, re.IGNORECASE))


def _outline(text: str) -> str:
    """Its tokens in upper case with a space after each, all quotes emptied but those around one
    plain word.
    """
    is_simple = compiled(_SIMPLE).fullmatch
    written = (token[0] for token in tokens(text))
    return "".join(f"{upper(token)} " if is_simple(token) else "'' " for token in written)
