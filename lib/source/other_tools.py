"""What does not belong in a file whatever its statements say: other tools' marks, merge conflicts,
unseen characters.

None of it is looked for inside strings and bodies, but for one thing: characters that display code
or a comment in another order than it has. What could be any of it is searched for first; a file
without a hint is not taken apart. Texts are UTF-8 with a character for each byte. Pure.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import tee
from math import inf
from operator import itemgetter
from typing import NamedTuple, TypeVar

from lib.source.lexer import Kind, Piece, bodies, line_ends, pieces_at, split
from lib.source.rules import Refusal, end_of_sql

T = TypeVar("T")


class Mark(NamedTuple):
    """A comment that is more than that to another tool."""

    tool: str
    pattern: str
    """Of the line, behind its hyphens and what space there is; without a group in it."""
    section: bool = True
    """Whether that tool does not run all that is under it."""
    no_transaction: bool = False
    """Whether it asks for a run without a transaction."""
    opening: bool = False
    """Whether it counts only in the comment that opens the file."""


class Finding(NamedTuple):
    """Something that does not belong in a file, and the index of its first character."""

    offset: int
    what: str
    remedy: str


# The tables in which other tools keep their histories. A `schema_migrations` of another shape is
# seen by its columns.
HISTORY_TABLES = {
    "_prisma_migrations": "Prisma Migrate",
    "__drizzle_migrations": "Drizzle",
    "goose_db_version": "goose",
    "flyway_schema_history": "Flyway",
    "_sqlx_migrations": "sqlx",
    "pgmigrations": "node-pg-migrate",
    "supabase_migrations.schema_migrations": "the Supabase CLI",
}

_LINE, _END, _SPACE = r"[^\r\n]*", r"[ \t]*(?![^\r\n])", r"[ \t]+"
_MORE = rf"\b{_LINE}"
_EVOLUTION = Mark("Play Evolutions", rf"!(?:Ups|Downs){_MORE}")
# As the tools' own parsers have them, and somewhat freer where nobody would write that in a
# sentence. Prose is no mark (`-- Down migration is not needed`), nor is what does no harm here
# (Drizzle's `--> statement-breakpoint`).
_MARKS = (
    Mark("goose", rf"\+goose{_SPACE}NO{_SPACE}TRANSACTION{_MORE}", no_transaction=True),
    Mark("goose", rf"\+goose{_MORE}"),
    Mark(
        "sql-migrate",
        rf"\+migrate{_SPACE}(?:Up|Down){_SPACE}notransaction{_MORE}",
        no_transaction=True,
    ),
    Mark("sql-migrate", rf"\+migrate{_MORE}"),
    Mark("micrate", rf"\+micrate{_MORE}"),
    Mark(
        "dbmate",
        rf"migrate:(?:up|down){_SPACE}{_LINE}\btransaction:false{_MORE}",
        no_transaction=True,
    ),
    Mark("dbmate", rf"migrate:(?:up|down)(?:{_SPACE}{_LINE}|{_END})"),
    Mark("node-pg-migrate", rf"(?i:up|down){_SPACE}(?i:migration)[^\w\x80-\xff\r\n]*{_END}"),
    Mark("tern", rf"create above / drop below ----{_END}"),
    Mark("rambler", rf"rambler{_SPACE}(?:up|down){_END}"),
    Mark("shmig", rf"===={_SPACE}(?:UP|DOWN){_SPACE}===={_END}"),
    Mark("MyBatis Migrations", rf"(?://[ \t]*)?@UNDO{_MORE}"),
    _EVOLUTION,
    Mark("Liquibase", rf"(?i:liquibase{_SPACE}formatted){_MORE}", opening=True),
    Mark("Atlas", rf"atlas:(?:txtar|delimiter){_MORE}", opening=True),
    Mark("Atlas", rf"atlas:txmode{_SPACE}none{_END}", False, True, opening=True),
    Mark("graphile-migrate", rf"![ \t]*no-transaction{_MORE}", False, True, opening=True),
    Mark(
        "postgres-migrations",
        rf"postgres-migrations{_SPACE}disable-transaction{_MORE}",
        False,
        True,
    ),
    Mark("yoyo", rf"(?i:transactional:)[ \t]*(?i:false){_END}", False, True, opening=True),
)
_DIRECTIVE = "put `-- migrate: no-transaction` in the comment that opens the file"
_POINTER = "version https://git-lfs.github.com/spec/"

# Each begins with characters that are found fast. Without a limit, a line of hyphens would be read
# once for each.
_COMMENTED = r"(?a)--[\t -]{0,99}+(?:" + "|".join(f"({mark.pattern})" for mark in _MARKS) + ")"
_HASHED = rf"(?a)#[\t #-]{{0,99}}+{_EVOLUTION.pattern}"  # an operator to the server
_CONFLICT = tuple(
    rf"{sign}(?: {_LINE}|(?![^\r\n]))"
    for sign in ("<<<<<<<", r"\|\|\|\|\|\|\|", "=======", ">>>>>>>")
)
# Control characters, U+0080 to U+00A0, U+00AD, U+034F, U+061C, U+115F, U+1160, U+1680, U+17B4,
# U+17B5, U+180B to U+180F, U+2000 to U+200F, U+2028 to U+202F, U+205F to U+206F, U+2800, U+3000,
# U+3164, U+FE00 to U+FE0F, U+FEFF, U+FFA0, U+FFF9 to U+FFFB, U+1BCA0 to U+1BCA3, U+1D173 to
# U+1D17A, U+E0000 to U+E0FFF.
_UNSEEN = (
    r"[\x00-\x08\x0e-\x1f\x7f\xc2\xcd\xd8\xe1-\xe3\xef\xf0\xf3](?:(?<=[\x00-\x1f\x7f])"
    r"|(?<=\xc2)[\x80-\xa0\xad]|(?<=\xcd)\x8f|(?<=\xd8)\x9c"
    r"|(?<=\xe1)(?:\x85[\x9f\xa0]|\x9a\x80|\x9e[\xb4\xb5]|\xa0[\x8b-\x8f])"
    r"|(?<=\xe2)(?:\x80[\x80-\x8f\xa8-\xaf]|\x81[\x9f-\xaf]|\xa0\x80)"
    r"|(?<=\xe3)(?:\x80\x80|\x85\xa4)"
    r"|(?<=\xef)(?:\xb8[\x80-\x8f]|\xbb\xbf|\xbe\xa0|\xbf[\xb9-\xbb])"
    r"|(?<=\xf0)(?:\x9b\xb2[\xa0-\xa3]|\x9d\x85[\xb3-\xba])"
    r"|(?<=\xf3)\xa0[\x80-\xbf][\x80-\xbf])"
)
_TURNS = r"[\r\n]|\xe2(?:\x80[\xaa-\xae]|\x81[\xa6-\xa9])"
_CLOSED_BY = dict.fromkeys("\u202a\u202b\u202d\u202e", "\u202c") | dict.fromkeys(
    "\u2066\u2067\u2068", "\u2069"
)
_LEFTWARD = "\u202b\u202e\u2067\u2068"  # where the others are left open, Latin text stays as it is
_LINE_ENDS = ("", "\r", "\n")
_SHOWN = 4


def is_mark(line: str) -> bool:
    """Whether a line is another tool's mark, in some place or other."""
    return re.fullmatch(_COMMENTED, line) is not None


def unfinished(sql: str) -> list[Refusal]:
    """What shows that this is not the file that somebody wrote: a pointer to it, or a conflict in
    it.
    """
    if sql.startswith(_POINTER):
        remedy = "fetch the file with `git lfs pull`; for a build, switch Git LFS on where it checks the repository out"
        return [Refusal(1, "this is a Git LFS pointer in the file's place", remedy, 1)]
    return _refusals(sql, _conflicts(sql))


def refusals(sql: str, *, transactional: bool) -> list[Refusal]:
    """What else does not belong in a file; of the same thing in several places, one."""
    return _refusals(sql, [*_marks(sql, transactional=transactional), *_unseen(sql)])


def _marks(sql: str, *, transactional: bool) -> Iterator[Finding]:
    hints = [
        (one.start(), one) for pattern in (_COMMENTED, _HASHED) for one in re.finditer(pattern, sql)
    ]
    hints.sort(key=itemgetter(0))
    found = [
        (offset, one)
        for offset, one, piece in _placed(sql, hints)
        if _is_in_its_place(sql, one, piece)
    ]
    if not found:
        return
    opening = next((statement.offset for statement in split(sql)), len(sql))
    for offset, one in _outside(bodies(sql), found):
        mark = _MARKS[one.lastindex - 1] if one.lastindex else _EVOLUTION
        if (mark.section or transactional) and not (mark.opening and offset > opening):
            yield Finding(offset, *_reason(mark, one[0].rstrip(), transactional=transactional))


def _is_in_its_place(sql: str, mark: re.Match[str], piece: Piece) -> bool:
    """Whether it is a comment of its own, or an operator, and the first thing on its line."""
    before = mark.start()
    while before and sql[before - 1] in " \t":
        before -= 1
    kind = Kind.LINE_COMMENT if mark[0].startswith("--") else Kind.CODE
    return piece.kind is kind and sql[before - 1 : before] in _LINE_ENDS


def _reason(mark: Mark, text: str, *, transactional: bool) -> tuple[str, str]:
    why = "Onward runs the whole file" if mark.section else "Onward does not read it"
    remedy = "remove the marks and the whole undo section" if mark.section else "remove it"
    if mark.no_transaction and transactional:
        remedy += f", and {_DIRECTIVE}"
    return f"`{text}` is a mark of {mark.tool}, and {why}", remedy


def _outside(
    spans: Iterator[tuple[int, int]], found: Iterable[tuple[int, T]]
) -> Iterator[tuple[int, T]]:
    start, end = 0.0, 0.0
    for offset, one in found:
        while end <= offset:
            start, end = next(spans, (inf, inf))
        if offset < start:
            yield offset, one


def _conflicts(sql: str) -> Iterator[Finding]:
    hints = sorted(
        (one.start(), one[0].rstrip()) for sign in _CONFLICT for one in re.finditer(sign, sql)
    )
    for offset, text, piece in _placed(sql, hints):
        # In a comment a line of equals signs is a heading's.
        is_one = piece.kind is Kind.CODE or (
            piece.kind is Kind.BLOCK_COMMENT and len(text) > len("=======")
        )
        if is_one and sql[offset - 1 : offset] in _LINE_ENDS:
            yield Finding(offset, f"`{text}` is a mark of a merge conflict", "resolve the conflict")


def _unseen(sql: str) -> Iterator[Finding]:
    looked_at, left_open = Piece(Kind.CODE, 0, 0), frozenset[int]()
    for offset, bytewise, piece in _placed(
        sql, ((one.start(), one[0]) for one in re.finditer(_UNSEEN, sql))
    ):
        char = _readable(bytewise)
        if piece.kind is Kind.CODE:
            yield Finding(
                offset, f"invisible character outside of quotes: {_name(char)}", _replacement(char)
            )
        elif char in _LEFTWARD and not _is_data(sql, piece):
            if piece is not looked_at:
                looked_at, left_open = piece, frozenset(_left_open(sql, piece))
            if offset in left_open:
                what = f"{_name(char)} is not closed on its line, so the text is displayed in another order than it has"
                yield Finding(
                    offset, what, f"remove it, or close it there with {_name(_CLOSED_BY[char])}"
                )


def _is_data(sql: str, piece: Piece) -> bool:
    """Whether it is a string between apostrophes, and so no code: what dollars quote most often is."""
    return (
        piece.kind is Kind.QUOTED
        and re.compile("(?:[eEnNbBxX]|[uU]&)?'").match(sql, piece.start) is not None
    )


def _left_open(sql: str, piece: Piece) -> Iterator[int]:
    """The indexes of what turns the direction of the text and is not ended in the same line and
    piece.
    """
    opened: dict[str, list[int]] = {closer: [] for closer in _CLOSED_BY.values()}
    for turn in re.compile(_TURNS).finditer(sql, piece.start, piece.end):
        char = _readable(turn[0])
        if char in _CLOSED_BY:
            opened[_CLOSED_BY[char]].append(turn.start())
        elif char in opened:
            del opened[char][-1:]
        else:
            for indexes in opened.values():
                yield from indexes
                indexes.clear()
    for indexes in opened.values():
        yield from indexes


def _replacement(char: str) -> str:
    match unicodedata.category(char):
        case "Zs":
            return "replace it with a plain space"
        case "Zl" | "Zp":
            return "replace it with a line break"
    return "remove it"


def _name(char: str) -> str:
    return f"{unicodedata.name(char, 'control character')} (U+{ord(char):04X})"


def _placed(sql: str, hints: Iterable[tuple[int, T]]) -> Iterator[tuple[int, T, Piece]]:
    """Each hint with the piece of the text that it is in."""
    hints, again = tee(hints)
    for (offset, hint), piece in zip(
        hints, pieces_at(sql, (offset for offset, _ in again)), strict=True
    ):
        yield offset, hint, piece


def _refusals(sql: str, findings: Iterable[Finding]) -> list[Refusal]:
    """One for all places of the same thing, as far as the file is SQL."""
    places: dict[tuple[str, str], list[int]] = defaultdict(list)
    end = -1
    for one in findings:
        end = end_of_sql(sql) if end < 0 else end
        if one.offset < end:
            places[one.what, one.remedy].append(one.offset)
    return [_refusal(sql, what, remedy, offsets) for (what, remedy), offsets in places.items()]


def _refusal(sql: str, what: str, remedy: str, offsets: list[int]) -> Refusal:
    (line, column), *others = [_place(sql, offset) for offset in offsets[:_SHOWN]]
    also = [f"{line}:{column}" for line, column in others]
    if len(offsets) > _SHOWN:
        also.append(f"{len(offsets) - _SHOWN} more places")
    return Refusal(line, f"{what} (also at {', '.join(also)})" if also else what, remedy, column)


def _place(sql: str, offset: int) -> tuple[int, int]:
    begin = max(sql.rfind("\n", 0, offset), sql.rfind("\r", 0, offset)) + 1
    return line_ends(sql, 0, offset) + 1, len(_readable(sql[begin:offset])) + 1


def _readable(bytewise: str) -> str:
    return bytewise.encode("latin-1").decode(errors="replace")
