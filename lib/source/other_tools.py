"""What does not belong in a migration file, whatever its statements are: other tools' marks,
merge conflicts, invisible characters. Pure.

Strings and bodies may contain them, with one exception: characters that make code or a comment
appear in another order than it has. Candidates are searched for first, and a file without any is
not lexed. All texts are as in `latin1`: one character for each byte.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import tee
from math import inf
from operator import itemgetter
from typing import NamedTuple, TypeVar

from lib.source.latin1 import from_latin1
from lib.source.lexer import Kind, Piece, bodies, line_ends, pieces_at, split
from lib.source.rules import Refusal, Rule, end_of_sql

T = TypeVar("T")


class Mark(NamedTuple):
    """A comment that another tool obeys."""

    tool: str
    pattern: str
    """Of the line, behind its hyphens and the space after them; without a capturing group."""
    section: bool = True
    """Whether it begins a section that the tool may not run."""
    no_transaction: bool = False
    """Whether it asks for a run without a transaction."""
    opening: bool = False
    """Whether it counts only in the file's leading comment."""


class Misplaced(NamedTuple):
    """Something that does not belong in a file, at the index of its first character."""

    rule: Rule
    offset: int
    what: str
    remedy: str


_LINE = r"[^\r\n]*"
_END = r"[ \t]*(?![^\r\n])"
_SPACE = r"[ \t]+"
_MORE = rf"\b{_LINE}"
_EVOLUTION = Mark("Play Evolutions", rf"!(?:Ups|Downs){_MORE}")
# As the tools' own parsers accept them, and somewhat more where no sentence would contain it. Prose
# is no mark (`-- Down migration is not needed`), nor is what does no harm here (Drizzle's
# `--> statement-breakpoint`).
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
    Mark(
        "Atlas",
        rf"atlas:txmode{_SPACE}none{_END}",
        section=False,
        no_transaction=True,
        opening=True,
    ),
    Mark(
        "graphile-migrate",
        rf"![ \t]*no-transaction{_MORE}",
        section=False,
        no_transaction=True,
        opening=True,
    ),
    Mark(
        "postgres-migrations",
        rf"postgres-migrations{_SPACE}disable-transaction{_MORE}",
        section=False,
        no_transaction=True,
    ),
    Mark(
        "yoyo",
        rf"(?i:transactional:)[ \t]*(?i:false){_END}",
        section=False,
        no_transaction=True,
        opening=True,
    ),
)
_DIRECTIVE = "add `-- migrate: no-transaction` to the leading comment"
_LFS_POINTER = "version https://git-lfs.github.com/spec/"
_LFS_POINTER_FOUND = "this is a Git LFS pointer in the file's place"
_LFS_POINTER_REMEDY = (
    "fetch the file with `git lfs pull`; for builds, enable Git LFS where they check out the "
    "repository"
)

# Each pattern begins with characters that are found fast. The limit keeps a long line of hyphens
# from being scanned again at each of them.
_COMMENTED_MARK = r"(?a)--[\t -]{0,99}+(?:" + "|".join(f"({mark.pattern})" for mark in _MARKS) + ")"
_HASHED_MARK = rf"(?a)#[\t #-]{{0,99}}+{_EVOLUTION.pattern}"  # an operator to the server
_CONFLICT_MARKERS = tuple(
    rf"{sign}(?: {_LINE}|(?![^\r\n]))"
    for sign in ("<<<<<<<", r"\|\|\|\|\|\|\|", "=======", ">>>>>>>")
)
# A class of first bytes is found fast; what follows it tells the characters apart.
_INVISIBLE = r"""(?x)
    [\x00-\x08\x0e-\x1f\x7f\xc2\xcd\xd8\xe1-\xe3\xef\xf0\xf3]
    (?:
        (?<= [\x00-\x1f\x7f] )                       # control characters
      | (?<= \xc2 ) [\x80-\xa0\xad]                  # U+0080 to U+00A0, U+00AD
      | (?<= \xcd ) \x8f                             # U+034F
      | (?<= \xd8 ) \x9c                             # U+061C
      | (?<= \xe1 ) (?:
            \x85 [\x9f\xa0]                          # U+115F, U+1160
          | \x9a \x80                                # U+1680
          | \x9e [\xb4\xb5]                          # U+17B4, U+17B5
          | \xa0 [\x8b-\x8f]                         # U+180B to U+180F
        )
      | (?<= \xe2 ) (?:
            \x80 [\x80-\x8f\xa8-\xaf]                # U+2000 to U+200F, U+2028 to U+202F
          | \x81 [\x9f-\xaf]                         # U+205F to U+206F
          | \xa0 \x80                                # U+2800
        )
      | (?<= \xe3 ) (?: \x80 \x80 | \x85 \xa4 )      # U+3000, U+3164
      | (?<= \xef ) (?:
            \xb8 [\x80-\x8f]                         # U+FE00 to U+FE0F
          | \xbb \xbf                                # U+FEFF
          | \xbe \xa0                                # U+FFA0
          | \xbf [\xb9-\xbb]                         # U+FFF9 to U+FFFB
        )
      | (?<= \xf0 ) (?:
            \x9b \xb2 [\xa0-\xa3]                    # U+1BCA0 to U+1BCA3
          | \x9d \x85 [\xb3-\xba]                    # U+1D173 to U+1D17A
        )
      | (?<= \xf3 ) \xa0 [\x80-\xbf] [\x80-\xbf]     # U+E0000 to U+E0FFF
    )
"""
# The end of a line, and the characters that begin or end a change of the text's direction.
_LINE_END_OR_DIRECTION = r"[\r\n]|\xe2(?:\x80[\xaa-\xae]|\x81[\xa6-\xa9])"
_POP_EMBEDDING = "\u202c"
_POP_ISOLATE = "\u2069"
_CLOSED_BY = {
    **dict.fromkeys("\u202a\u202b\u202d\u202e", _POP_EMBEDDING),
    **dict.fromkeys("\u2066\u2067\u2068", _POP_ISOLATE),
}
# Left open, the others do not change how Latin text appears.
_RIGHT_TO_LEFT = "\u202b\u202e\u2067\u2068"
_BEFORE_A_LINE = ("", "\r", "\n")
_MAX_PLACES = 4


def is_mark(line: str) -> bool:
    """Whether a line is another tool's mark, wherever it may stand."""
    return re.fullmatch(_COMMENTED_MARK, line) is not None


def unfinished(sql: str) -> list[Refusal]:
    """Signs that the file is not what its author meant: a pointer to it, or a conflict in it."""
    if sql.startswith(_LFS_POINTER):
        return [Refusal(Rule.LFS_POINTER, 1, _LFS_POINTER_FOUND, _LFS_POINTER_REMEDY, column=1)]
    return _merge(sql, _find_conflicts(sql))


def refusals(sql: str, *, transactional: bool) -> list[Refusal]:
    """Marks and invisible characters; the same one in several places is one refusal."""
    marks = _find_marks(sql, transactional=transactional)
    return _merge(sql, [*marks, *_find_invisible(sql)])


def _find_marks(sql: str, *, transactional: bool) -> Iterator[Misplaced]:
    found = [*re.finditer(_COMMENTED_MARK, sql), *re.finditer(_HASHED_MARK, sql)]
    candidates = sorted(((match.start(), match) for match in found), key=itemgetter(0))
    placed = [
        (offset, match)
        for offset, match, piece in _with_pieces(sql, candidates)
        if _begins_its_line(sql, match, piece)
    ]
    if not placed:
        return
    first_statement = next((statement.offset for statement in split(sql)), len(sql))
    for offset, match in _outside(bodies(sql), placed):
        mark = _MARKS[match.lastindex - 1] if match.lastindex else _EVOLUTION
        matters = mark.section or transactional
        if matters and not (mark.opening and offset > first_statement):
            what = _mark_in_words(mark, match[0].rstrip())
            remedy = _mark_remedy(mark, transactional=transactional)
            yield Misplaced(Rule.OTHER_TOOL, offset, what, remedy)


def _begins_its_line(sql: str, match: re.Match[str], piece: Piece) -> bool:
    """Whether it is a comment of its own, or an operator, and the first thing on its line."""
    start = match.start()
    while start and sql[start - 1] in " \t":
        start -= 1
    expected = Kind.LINE_COMMENT if match[0].startswith("--") else Kind.CODE
    return piece.kind is expected and sql[start - 1 : start] in _BEFORE_A_LINE


def _mark_in_words(mark: Mark, text: str) -> str:
    effect = "Onward runs the whole file" if mark.section else "Onward does not read it"
    return f"`{text}` is a mark of {mark.tool}, and {effect}"


def _mark_remedy(mark: Mark, *, transactional: bool) -> str:
    remedy = "remove the marks and the whole undo section" if mark.section else "remove it"
    if mark.no_transaction and transactional:
        return f"{remedy}, and {_DIRECTIVE}"
    return remedy


def _outside(
    spans: Iterator[tuple[int, int]], found: Iterable[tuple[int, T]]
) -> Iterator[tuple[int, T]]:
    """What lies in none of the spans; both ascend."""
    start, end = 0.0, 0.0
    for offset, item in found:
        while end <= offset:
            start, end = next(spans, (inf, inf))
        if offset < start:
            yield offset, item


def _find_conflicts(sql: str) -> Iterator[Misplaced]:
    candidates = sorted(
        (match.start(), match[0].rstrip())
        for marker in _CONFLICT_MARKERS
        for match in re.finditer(marker, sql)
    )
    for offset, text, piece in _with_pieces(sql, candidates):
        # Without a label it may be a drawing or, as equals signs, the underline of a heading.
        in_comment = piece.kind is Kind.BLOCK_COMMENT and " " in text
        begins_line = sql[offset - 1 : offset] in _BEFORE_A_LINE
        if begins_line and (piece.kind is Kind.CODE or in_comment):
            what = f"`{text}` is a merge conflict marker"
            yield Misplaced(Rule.MERGE_CONFLICT, offset, what, "resolve the conflict")


def _find_invisible(sql: str) -> Iterator[Misplaced]:
    last_piece, left_open = Piece(Kind.CODE, 0, 0), frozenset[int]()
    candidates = ((match.start(), match[0]) for match in re.finditer(_INVISIBLE, sql))
    for offset, text, piece in _with_pieces(sql, candidates):
        char = from_latin1(text)
        if piece.kind is Kind.CODE:
            what = f"invisible character outside of quotes: {_name(char)}"
            yield Misplaced(Rule.INVISIBLE_CHARACTER, offset, what, _replacement(char))
        elif char in _RIGHT_TO_LEFT and not _is_data(sql, piece):
            if piece is not last_piece:
                last_piece, left_open = piece, frozenset(_left_open(sql, piece))
            if offset in left_open:
                what = (
                    f"{_name(char)} is not closed on its line, so the text is displayed in another "
                    "order than the server reads it"
                )
                remedy = f"remove it, or close it on that line with {_name(_CLOSED_BY[char])}"
                yield Misplaced(Rule.INVISIBLE_CHARACTER, offset, what, remedy)


def _is_data(sql: str, piece: Piece) -> bool:
    """Whether this is a string in apostrophes. A dollar-quoted one is usually code."""
    string = re.compile("(?:[eEnNbBxX]|[uU]&)?'")
    return piece.kind is Kind.QUOTED and string.match(sql, piece.start) is not None


def _left_open(sql: str, piece: Piece) -> Iterator[int]:
    """The indexes of direction changes that are not closed in the same line and piece."""
    opened: dict[str, list[int]] = {_POP_EMBEDDING: [], _POP_ISOLATE: []}
    for match in re.compile(_LINE_END_OR_DIRECTION).finditer(sql, piece.start, piece.end):
        char = from_latin1(match[0])
        if char in _CLOSED_BY:
            opened[_CLOSED_BY[char]].append(match.start())
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


def _with_pieces(sql: str, candidates: Iterable[tuple[int, T]]) -> Iterator[tuple[int, T, Piece]]:
    """Each candidate with the piece of the text that its offset is in; the offsets ascend."""
    candidates, same = tee(candidates)
    pieces = pieces_at(sql, (offset for offset, _ in same))
    for (offset, item), piece in zip(candidates, pieces, strict=True):
        yield offset, item, piece


def _merge(sql: str, found: Iterable[Misplaced]) -> list[Refusal]:
    """One refusal for all places of the same thing, as far as the file is SQL."""
    places: dict[Misplaced, list[int]] = defaultdict(list)
    end = -1
    for one in found:
        end = end_of_sql(sql) if end < 0 else end  # only once, and only where there is anything
        if one.offset < end:
            places[one._replace(offset=0)].append(one.offset)
    return [_refusal(sql, one, offsets) for one, offsets in places.items()]


def _refusal(sql: str, one: Misplaced, offsets: list[int]) -> Refusal:
    (line, column), *others = [_line_and_column(sql, offset) for offset in offsets[:_MAX_PLACES]]
    also = [f"{line}:{column}" for line, column in others]
    if len(offsets) > _MAX_PLACES:
        also.append(f"{len(offsets) - _MAX_PLACES} more places")
    what = f"{one.what} (also at {', '.join(also)})" if also else one.what
    return Refusal(one.rule, line, what, one.remedy, column)


def _line_and_column(sql: str, offset: int) -> tuple[int, int]:
    line_start = max(sql.rfind("\n", 0, offset), sql.rfind("\r", 0, offset)) + 1
    return line_ends(sql, 0, offset) + 1, len(from_latin1(sql[line_start:offset])) + 1
