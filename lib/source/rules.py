"""Statements that a migration file cannot contain, and what to do instead. Pure."""

from collections.abc import Iterator
from enum import Enum, auto
from itertools import islice
from typing import NamedTuple

from lib.source.lexer import WORD, Statement, compiled, split, tokens, upper

_ONE_ALREADY = "remove it: each file already runs in one transaction"
_DIRECTIVE = "add `-- migrate: no-transaction` to the leading comment"
_OWN_BLOCK = (
    f"remove it, or {_DIRECTIVE}: then the file's own BEGIN; SET TRANSACTION ...; COMMIT; runs as "
    "written"
)
# Most statements begin with none of these words and are not examined: that saves time and memory.
_FIRST_WORDS = frozenset(
    """
    ABORT ALTER BEGIN COMMIT CREATE DISCARD DROP END PREPARE REINDEX ROLLBACK SET START VACUUM
    """.split()
)
_CLIENT = ("STDIN", "STDOUT")
# pg_dump writes them since its releases of August 2025.
_DUMP_COMMANDS = ("\\restrict", "\\unrestrict")
_DUMP_REMEDY = (
    r"remove the line, as `pg_dump ... | sed '/^\\\(un\)\{0,1\}restrict /d'` does for a dump"
)
_MAX_COPY_TOKENS = 9  # COPY BINARY database . schema . table FROM STDIN

Keywords = tuple[str, ...]


class Rule(Enum):
    """Why something is refused."""

    PSQL_COMMAND = auto()
    COPY_FROM_STDIN = auto()
    COPY_TO_STDOUT = auto()
    TRANSACTION_CONTROL = auto()
    TRANSACTION_MODE = auto()
    NEEDS_NO_TRANSACTION = auto()
    OTHER_TOOL = auto()
    MERGE_CONFLICT = auto()
    LFS_POINTER = auto()
    INVISIBLE_CHARACTER = auto()


class Refusal(NamedTuple):
    """What a file cannot contain: by which rule, where it is, and what to do instead."""

    rule: Rule
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
    """The index where a file stops being SQL: after the first COPY FROM STDIN, whose rows follow;
    without one, the file's end.
    """
    for statement in split(sql):
        refusal = _refusal(statement, transactional=False)
        if refusal and refusal.rule is Rule.COPY_FROM_STDIN:
            return statement.offset + len(statement.text)
    return len(sql)


def refusals(sql: str, *, transactional: bool) -> Iterator[Refusal]:
    """The statements that are refused in a file, in its order, as far as the file is SQL.

    In a file that runs without a transaction, fewer are.
    """
    for statement in split(sql):
        if refusal := _refusal(statement, transactional=transactional):
            yield refusal
            if refusal.rule is Rule.COPY_FROM_STDIN:
                return


def _refusal(statement: Statement, *, transactional: bool) -> Refusal | None:
    if statement.text.startswith("\\"):
        return _refuse_psql_command(statement)
    first_word = compiled(WORD).match(statement.text)
    word = upper(first_word[0]) if first_word else ""
    if word == "COPY":
        return _refuse_copy(statement)
    if transactional and word in _FIRST_WORDS:
        return _refuse_in_transaction(statement)
    return None


def _refuse_psql_command(statement: Statement) -> Refusal:
    command = statement.text.split()[0]
    usual = "remove the line, or replace it with SQL"
    remedy = _DUMP_REMEDY if command in _DUMP_COMMANDS else usual
    what = f"{command} is a psql command, not SQL"
    return Refusal(Rule.PSQL_COMMAND, statement.line, what, remedy)


def _refuse_in_transaction(statement: Statement) -> Refusal | None:
    """Why a statement cannot be in the transaction that a file runs in."""
    keywords = statement.keywords
    if name := _own_transaction(keywords):
        what = f"{name} starts a transaction inside the one that the file runs in"
        if _is_above_read_committed(statement):
            return Refusal(Rule.TRANSACTION_MODE, statement.line, what, _OWN_BLOCK)
        return Refusal(Rule.TRANSACTION_CONTROL, statement.line, what, _ONE_ALREADY)
    if name := _end_of_transaction(statement, keywords):
        what = f"{name} ends the transaction that the file runs in"
        return Refusal(Rule.TRANSACTION_CONTROL, statement.line, what, _ONE_ALREADY)
    if _sets_transaction(keywords):
        what = "SET TRANSACTION changes the transaction that the file runs in"
        return Refusal(Rule.TRANSACTION_MODE, statement.line, what, _OWN_BLOCK)
    if name := _outside_transactions(keywords):
        what = f"{name} cannot run inside a transaction"
        return Refusal(Rule.NEEDS_NO_TRANSACTION, statement.line, what, _DIRECTIVE)
    return None


def _own_transaction(keywords: Keywords) -> str | None:
    """The name of a statement that starts a transaction."""
    match keywords:
        case ("BEGIN", *_):
            return "BEGIN"
        case ("START", "TRANSACTION", *_):
            return "START TRANSACTION"
    return None


def _is_above_read_committed(statement: Statement) -> bool:
    words = " ".join(map(upper, statement.first_tokens))
    return "ISOLATION LEVEL SERIALIZABLE" in words or "ISOLATION LEVEL REPEATABLE" in words


def _end_of_transaction(statement: Statement, keywords: Keywords) -> str | None:
    """The name of a statement that ends a transaction."""
    match keywords:
        case ("COMMIT" | "ROLLBACK", "PREPARED", *_):
            return None  # of another transaction
        case ("ROLLBACK", "TO", *_) | ("ROLLBACK", "WORK" | "TRANSACTION", "TO", *_):
            return None  # to a savepoint
        case ("COMMIT" | "ROLLBACK" | "END" | "ABORT" as word, *_):
            return word
        case ("PREPARE", "TRANSACTION") if statement.first_tokens[2:3] != ("(",):
            return "PREPARE TRANSACTION"  # but not a prepared statement of that name
    return None


def _sets_transaction(keywords: Keywords) -> bool:
    match keywords:
        case ("SET", "TRANSACTION", *_) | ("SET", "LOCAL" | "SESSION", "TRANSACTION", *_):
            return True
    return False


def _outside_transactions(keywords: Keywords) -> str | None:
    """The name of a statement that the server refuses in a transaction.

    Only the common ones: the server refuses the others, with SQLSTATE 25001, when they are reached.
    """
    match keywords:
        case ("VACUUM", *_):
            return "VACUUM"
        case (
            ("ALTER", "SYSTEM", *_)
            | ("DISCARD", "ALL", *_)
            | ("CREATE" | "DROP", "DATABASE" | "TABLESPACE", *_)
            | ("COMMIT" | "ROLLBACK", "PREPARED", *_)
        ):
            return " ".join(keywords[:2])
        case ("CREATE" | "DROP" as verb, "INDEX", "CONCURRENTLY", *_) | (
            "CREATE" as verb,
            "UNIQUE",
            "INDEX",
            "CONCURRENTLY",
            *_,
        ):
            return f"{verb} INDEX CONCURRENTLY"
        case ("REINDEX", _, "CONCURRENTLY", *_):
            return "REINDEX CONCURRENTLY"
        case ("REINDEX", "SCHEMA" | "DATABASE" | "SYSTEM", *_):
            return " ".join(keywords[:2])
    return None


def _refuse_copy(statement: Statement) -> Refusal | None:
    """Refuse a COPY from or to the client, where STDIN and STDOUT mean the same to the server."""
    words = list(islice(_outside_parentheses(statement), _MAX_COPY_TOKENS))
    for before, word, after in zip(words, words[1:], words[2:], strict=False):
        if word in ("FROM", "TO") and before != ".":  # behind a dot, it is a table's name
            return _refuse_client_copy(statement, word, before) if after in _CLIENT else None
    return None


def _refuse_client_copy(statement: Statement, direction: str, table: str) -> Refusal:
    if direction == "TO":
        what = "COPY ... TO STDOUT sends rows to the client, and Onward takes none"
        return Refusal(Rule.COPY_TO_STDOUT, statement.line, what, "remove it, and export with psql")
    remedy = "write the rows as INSERT statements, as `pg_dump --inserts` does"
    if table.strip('"') == "SCHEMA_MIGRATIONS":  # a dump contains the history's own rows, too
        remedy = (
            "remove it and everything else that names schema_migrations: Onward creates that table"
        )
    what = "COPY ... FROM STDIN reads rows from the client, and Onward sends none"
    return Refusal(Rule.COPY_FROM_STDIN, statement.line, what, remedy)


def _outside_parentheses(statement: Statement) -> Iterator[str]:
    """The tokens in upper case, without a list of columns or a subquery."""
    depth = 0
    for token in tokens(statement.text):
        if token[0] == "(":
            depth += 1
        elif token[0] == ")":
            depth -= 1
        elif depth == 0:
            yield upper(token[0])
