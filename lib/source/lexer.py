"""A SQL lexer that splits a file as psql does: where each statement begins and ends. Pure.

The algorithm is that of psql's scanner (PostgreSQL's src/fe_utils/psqlscan.l) with
`standard_conforming_strings` on. Only the end of a BEGIN ATOMIC body follows the server's grammar
instead, so that Onward counts the statements that the server counts: it is an END where a statement
could begin. psql counts BEGIN, CASE and END, and columns of such names mislead it.

Any text is split, in linear time and without an error: a quote, comment, parenthesis or body that
is left open reaches to the end of the file, and the server reports what is wrong with it.
"""

import re
from collections.abc import Iterable, Iterator
from enum import StrEnum
from functools import cache
from itertools import islice, takewhile
from typing import NamedTuple


def _repeat(*alternatives: str) -> str:
    # After a round that fails, Python 3.11.0 to 3.11.4 (Debian 12 has 3.11.2) continue behind what
    # it had read, not before it (python/cpython#106052). A last alternative that fails without
    # reading anything resets the position. And no alternative may capture: in 3.11.7 too, a group
    # that has begun when a round fails can make `match` raise SystemError.
    return f"(?:{'|'.join(alternatives)}|(?!))*+"


def _string(prefix: str, inside: str) -> str:
    # A string may continue on a later line, by the rules of its first part: after E'...'
    # backslashes are escapes there too.
    return prefix + "'" + inside + _repeat("'" + _NEXT_LINE + "'" + inside) + "'?+"


# Every character beyond ASCII is a letter. The classes list what they exclude: that compiles far
# faster.
_LETTER = r"[^\x00-@\[-^`{-\x7f]"
_LETTER_OR_DIGIT = r"[^\x00-/:-@\[-^`{-\x7f]"
WORD = _LETTER + r"[^\x00-#%-/:-@\[-^`{-\x7f]*+"
_SPACE = " \t\n\r\f\v"
_LINE_COMMENT = r"--[^\r\n]*+"
_FLAT_COMMENT = r"/\*" + _repeat(r"[^*/]++", r"\*(?!/)", r"/(?!\*)") + r"\*/"
_NEXT_LINE = rf"[ \t\f\v]*+(?:{_LINE_COMMENT})?[\r\n]" + _repeat(
    rf"[{_SPACE}]++", rf"{_LINE_COMMENT}[\r\n]"
)
_DOLLAR_TAG = rf"\$(?:{_LETTER}{_LETTER_OR_DIGIT}*+)?\$"
_DOLLAR_STRING = rf"(?P<tag>{_DOLLAR_TAG})[^$]*+" + _repeat(r"(?!(?P=tag))\$[^$]*+") + "(?P=tag)?+"
_QUOTED = (
    _string("", _repeat("[^']++", "''")),
    '"' + _repeat('[^"]++', '""') + '"?+',
    _string("[eE]", _repeat(r"[^'\\]++", "''", r"\\[\s\S]?+")),
    _string("[bBnNxX]", _repeat("[^']++", "''")),
    _string("[uU]&", _repeat("[^']++", "''")),
    '[uU]&"' + _repeat('[^"]++', '""') + '"?+',
)
_GAP = (rf"[{_SPACE}]++", _LINE_COMMENT, _FLAT_COMMENT)
_OPERATORS = (
    r"[\x00-\x08\x0e-\x1f!#%&*+,.0-9:<=>?@\[\]^`{|}~\x7f]++",
    "-",
    r"/(?!\*)",
    rf"(?!{_DOLLAR_TAG})\$",
)
_FLAT = (*_GAP, *_QUOTED, WORD, *_OPERATORS)

_SPACES = rf"[{_SPACE}]*+"
_LINE = r"[^\r\n]*+"
_BETWEEN_TOKENS = _repeat(*_GAP)
_BETWEEN_STATEMENTS = _repeat(*_GAP, ";")
# What neither ends a statement nor needs to be examined. Parentheses without nested ones are the
# common case.
_UNINTERESTING = _repeat(*_FLAT, rf"\({_repeat(*_FLAT, ';')}\)")
# What is neither quoted nor a comment; and anything that ends before the text ends.
_CODE_WORD = rf"""(?![eEbBnNxX]'|[uU]&['"]){WORD}"""
_CODE = _repeat(rf"[{_SPACE}]++", _CODE_WORD, r"[();]", _OPERATORS[0], "-(?!-)", *_OPERATORS[2:])
_CLOSED = _repeat(
    *(
        rf"[{_SPACE}]++",
        rf"{_LINE_COMMENT}[\r\n]",
        _FLAT_COMMENT,
        *(quoted.removesuffix("?+") for quoted in _QUOTED),
    ),
    *(_CODE_WORD, r"[();]", _OPERATORS[0], "-(?!-)", *_OPERATORS[2:]),
)
_QUOTE = "|".join((*_QUOTED, _DOLLAR_STRING))
_TOKEN = "|".join(
    (*_QUOTED, WORD, _DOLLAR_STRING, "[0-9]++", r"\\[^\r\n]*+", r"/\*[\s\S]*+", r"[\s\S]")
)


class Statement(NamedTuple):
    """One statement, from its first token to before its semicolon; or one psql command."""

    text: str
    offset: int
    """The index of the text's first character in the file's text."""
    line: int
    """The line of that character, from 1; LF, CRLF and a lone CR each end one line."""

    @property
    def first_tokens(self) -> tuple[str, ...]:
        """At most 16 tokens as written: words, names and strings with their quotes, and single
        characters.
        """
        return tuple(_first_tokens(self.text))

    @property
    def keywords(self) -> tuple[str, ...]:
        """The first tokens in upper case, up to one that is not an unquoted word."""
        return tuple(map(upper, takewhile(compiled(WORD).fullmatch, _first_tokens(self.text))))


class Kind(StrEnum):
    """What the server takes a piece of a text for."""

    CODE = "code"
    LINE_COMMENT = "line comment"
    BLOCK_COMMENT = "block comment"
    QUOTED = "quoted"
    """A string, dollar-quoted or not, or a name in quotes."""
    COMMAND = "command"
    """A psql command, to the end of its line."""


class Piece(NamedTuple):
    """A piece of a text, from its first character to before its end, and what it is."""

    kind: Kind
    start: int
    end: int


def split(sql: str) -> Iterator[Statement]:
    """The statements one at a time, as the server counts them; what is left open reaches to the
    end.
    """
    line, counted, start = 1, 0, _text_start(sql)
    while (start := _skip_gap(_BETWEEN_STATEMENTS, sql, start)) < len(sql):
        line += line_ends(sql, counted, start)
        end = _statement_end(sql, start)
        yield Statement(sql[start:end].rstrip(_SPACE), start, line)
        counted, start = start, end


def is_empty(sql: str) -> bool:
    """Whether there is no statement."""
    return _skip_gap(_BETWEEN_STATEMENTS, sql, _text_start(sql)) == len(sql)


def pieces_at(sql: str, indexes: Iterable[int]) -> Iterator[Piece]:
    """The piece that each character is in; the indexes must ascend.

    A comment between the parts of a string counts as a comment, too.
    """
    piece = Piece(Kind.CODE, 0, _text_start(sql))
    for index in indexes:
        while piece.end <= index:
            # Everything before the index is skipped by one match. What the index cuts off has no
            # end there, so the match stops before it: that is the piece.
            skipped = compiled(_CLOSED).match(sql, piece.end, index)
            start = skipped.end() if skipped else piece.end
            piece = _piece_at(sql, start)
        yield piece


def _piece_at(sql: str, start: int) -> Piece:
    if (end := _match_end(_CODE, sql, start)) > start:
        return Piece(Kind.CODE, start, end)
    match sql[start]:
        case "-":
            return Piece(Kind.LINE_COMMENT, start, _comment_end(sql, start))
        case "/":
            return Piece(Kind.BLOCK_COMMENT, start, _comment_end(sql, start) or len(sql))
        case "\\":
            return Piece(Kind.COMMAND, start, _match_end(_LINE, sql, start))
    return Piece(Kind.QUOTED, start, _match_end(_QUOTE, sql, start))


def bodies(sql: str) -> Iterator[tuple[int, int]]:
    """The start and end of each BEGIN ATOMIC body: from behind these words to before END."""
    for statement in split(sql):
        if _is_routine(sql, statement.offset):
            yield from _routine_end_and_bodies(sql, statement.offset)[1]


def opening_comment(sql: str) -> Iterator[str]:
    """The comments before the first token as written, one by one; reads no further than that."""
    start = _text_start(sql)
    while end := _comment_end(sql, start := _match_end(_SPACES, sql, start)):
        yield sql[start:end]
        start = end


def _statement_end(sql: str, start: int) -> int:
    """The index of the semicolon or the psql command that ends the statement, or the text's end."""
    if sql.startswith("\\", start):
        return _match_end(_LINE, sql, start)
    if _is_routine(sql, start):
        return _routine_end_and_bodies(sql, start)[0]
    depth, position = 0, start
    while (position := _match_end(_UNINTERESTING, sql, position)) < len(sql):
        sign = sql[position]
        if sign == "\\" or (sign == ";" and not depth):
            break
        if sign == "$":
            position = _match_end(_DOLLAR_STRING, sql, position)
        elif sign == "/":
            position = _comment_end(sql, position) or len(sql)
        else:
            depth, position = _depth(depth, sign), position + 1
    return position


def _is_routine(sql: str, start: int) -> bool:
    """Whether this is CREATE [OR REPLACE] FUNCTION or PROCEDURE: their body may be statements."""
    if sql[start : start + 6].upper() != "CREATE":
        return False
    words = [upper(token[0]) for token in islice(tokens(sql, start), 4)]
    kind = words[3:] if words[1:3] == ["OR", "REPLACE"] else words[1:2]
    return words[0] == "CREATE" and kind in (["FUNCTION"], ["PROCEDURE"])


def _routine_end_and_bodies(sql: str, start: int) -> tuple[int, list[tuple[int, int]]]:
    """The index where the statement ends, and start and end of each BEGIN ATOMIC body in it."""
    depth, begun, before = 0, 0, ""
    found: list[tuple[int, int]] = []
    for token in tokens(sql, start):
        sign = upper(token[0])
        if sign.startswith("\\") or (sign == ";" and not depth and not begun):
            return token.start(), found
        depth = _depth(depth, sign)
        if not depth and (before, sign) == ("BEGIN", "ATOMIC"):
            begun = begun or token.end()
        elif not depth and begun and sign == "END" and before in ("ATOMIC", ";"):
            found.append((begun, token.start()))
            begun = 0
        before = sign
    if begun:
        found.append((begun, len(sql)))
    return len(sql), found


def _depth(depth: int, sign: str) -> int:
    if sign == "(":
        return depth + 1
    return max(depth - 1, 0) if sign == ")" else depth


def tokens(sql: str, start: int = 0) -> Iterator[re.Match[str]]:
    """The tokens from an index on, without white space and comments."""
    while token := compiled(_TOKEN).match(sql, _skip_gap(_BETWEEN_TOKENS, sql, start)):
        yield token
        start = token.end()


def without_comments(sql: str) -> str:
    """The SQL with a space for each comment between tokens, and nothing behind the last token."""
    parts, end = list[str](), _text_start(sql)
    for token in tokens(sql, end):
        gap = sql[end : token.start()]
        parts += [" " if gap.strip() else gap, token[0]]
        end = token.end()
    return "".join(parts).strip()


def _first_tokens(sql: str) -> Iterator[str]:
    return (token[0] for token in islice(tokens(sql), 16))


def _skip_gap(gap: str, sql: str, start: int) -> int:
    """The index after a gap with its comments, nested ones too; not after a comment left open."""
    while end := _comment_end(sql, start := _match_end(gap, sql, start)):
        start = end
    return start


def _comment_end(sql: str, start: int) -> int:
    """The index after the comment that begins here; 0 if none does, or it is left open."""
    if sql.startswith("--", start):
        return _match_end(_LINE, sql, start)
    depth = 0
    for mark in compiled(r"/\*|\*/").finditer(sql, start) if sql.startswith("/*", start) else ():
        depth += 1 if mark[0] == "/*" else -1
        if not depth:
            return mark.end()
    return 0


def _text_start(sql: str) -> int:
    return 1 if sql.startswith("\ufeff") else 0


@cache
def compiled(pattern: str) -> re.Pattern[str]:
    """A pattern, compiled once."""
    # At its first use: a run with nothing pending needs few of the patterns, and should not wait
    # for all of them.
    return re.compile(pattern)


def _match_end(pattern: str, sql: str, start: int) -> int:
    match = compiled(pattern).match(sql, start)
    return match.end() if match else start


def line_ends(sql: str, start: int, end: int) -> int:
    """How many lines end between two indexes: LF, CRLF and a lone CR each end one."""
    return sql.count("\n", start, end) + sql.count("\r", start, end) - sql.count("\r\n", start, end)


def upper(word: str) -> str:
    """A word in upper case if Postgres would fold it."""
    # Keywords are ASCII. `str.upper` turns some letters beyond ASCII into ASCII ones: the long s
    # into S.
    return word.upper() if word.isascii() else word
