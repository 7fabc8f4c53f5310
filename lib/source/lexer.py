"""A lexer of psql's grade: where each statement of a file begins and ends, and which ones a
migration cannot contain.

The algorithm is that of psql's scanner (PostgreSQL's src/fe_utils/psqlscan.l),
`standard_conforming_strings` on. Only the end of a BEGIN ATOMIC body goes by the server's grammar
instead, so that we count what the server counts: an END that stands where a statement could begin.
psql counts BEGIN, CASE and END, and columns of such names lead it astray. Any text is split, in
linear time and without an error: a quote, a comment, a parenthesis or a body that is left open
reaches to the end of the file, and the server says what is wrong with it.
"""

import re
from collections.abc import Iterable, Iterator
from enum import StrEnum
from functools import cache
from itertools import islice, takewhile
from typing import NamedTuple


def _run(*alternatives: str) -> str:
    # Python 3.11.0 to 3.11.4 (Debian 12 has 3.11.2) go on after what the round that failed had
    # read, not before it (python/cpython#106052). A last alternative that fails without reading
    # anything takes the position back. And none may capture: in 3.11.7 too, a group that has begun
    # when a round fails can make `match` raise SystemError.
    return f"(?:{'|'.join(alternatives)}|(?!))*+"


def _string(prefix: str, inside: str) -> str:
    # A string may go on in a later line, by the rules of its first part: backslashes count there
    # too after E'...'.
    return prefix + "'" + inside + _run("'" + _NEXT_LINE + "'" + inside) + "'?+"


# Every character beyond ASCII is a letter. The classes are written as what they lack: that compiles
# far faster.
_LETTER = r"[^\x00-@\[-^`{-\x7f]"
_LETTER_OR_DIGIT = r"[^\x00-/:-@\[-^`{-\x7f]"
WORD = _LETTER + r"[^\x00-#%-/:-@\[-^`{-\x7f]*+"
_SPACE = " \t\n\r\f\v"
_LINE_COMMENT = r"--[^\r\n]*+"
_FLAT_COMMENT = r"/\*" + _run(r"[^*/]++", r"\*(?!/)", r"/(?!\*)") + r"\*/"
_NEXT_LINE = rf"[ \t\f\v]*+(?:{_LINE_COMMENT})?[\r\n]" + _run(
    rf"[{_SPACE}]++", rf"{_LINE_COMMENT}[\r\n]"
)
_DOLLAR_TAG = rf"\$(?:{_LETTER}{_LETTER_OR_DIGIT}*+)?\$"
_DOLLAR_STRING = rf"(?P<tag>{_DOLLAR_TAG})[^$]*+" + _run(r"(?!(?P=tag))\$[^$]*+") + "(?P=tag)?+"
_QUOTED = (
    _string("", _run("[^']++", "''")),
    '"' + _run('[^"]++', '""') + '"?+',
    _string("[eE]", _run(r"[^'\\]++", "''", r"\\[\s\S]?+")),
    _string("[bBnNxX]", _run("[^']++", "''")),
    _string("[uU]&", _run("[^']++", "''")),
    '[uU]&"' + _run('[^"]++', '""') + '"?+',
)
_GAP = (rf"[{_SPACE}]++", _LINE_COMMENT, _FLAT_COMMENT)
_SIGNS = (
    r"[\x00-\x08\x0e-\x1f!#%&*+,.0-9:<=>?@\[\]^`{|}~\x7f]++",
    "-",
    r"/(?!\*)",
    rf"(?!{_DOLLAR_TAG})\$",
)
_FLAT = (*_GAP, *_QUOTED, WORD, *_SIGNS)

_SPACES = rf"[{_SPACE}]*+"
_LINE = r"[^\r\n]*+"
_BETWEEN_TOKENS = _run(*_GAP)
_BETWEEN_STATEMENTS = _run(*_GAP, ";")
# What neither ends a statement nor needs a closer look. Parentheses without others inside are the
# common case.
_STRETCH = _run(*_FLAT, rf"\({_run(*_FLAT, ';')}\)")
# What is neither quoted nor a comment; and anything that ends before the text does.
_CODE_WORD = rf"""(?![eEbBnNxX]'|[uU]&['"]){WORD}"""
_CODE = _run(rf"[{_SPACE}]++", _CODE_WORD, r"[();]", _SIGNS[0], "-(?!-)", *_SIGNS[2:])
_CLOSED = _run(
    *(
        rf"[{_SPACE}]++",
        rf"{_LINE_COMMENT}[\r\n]",
        _FLAT_COMMENT,
        *(quoted.removesuffix("?+") for quoted in _QUOTED),
    ),
    *(_CODE_WORD, r"[();]", _SIGNS[0], "-(?!-)", *_SIGNS[2:]),
)
_QUOTE = "|".join((*_QUOTED, _DOLLAR_STRING))
_TOKEN = "|".join(
    (*_QUOTED, WORD, _DOLLAR_STRING, "[0-9]++", r"\\[^\r\n]*+", r"/\*[\s\S]*+", r"[\s\S]")
)


class Statement(NamedTuple):
    """One statement, from its first token to before its semicolon; or one line that is a command of
    psql's.
    """

    text: str
    offset: int  # of the text's first character in the file's text
    line: int  # of that character, from 1; LF, CRLF and a lone CR each end one line

    @property
    def head(self) -> tuple[str, ...]:
        """The first tokens, at most 16, as written: words, names and strings with their quotes,
        single characters.
        """
        return tuple(token[0] for token in islice(tokens(self.text), 16))

    @property
    def keywords(self) -> tuple[str, ...]:
        """The words that the head begins with, in upper case, up to its first token that is not an
        unquoted word.
        """
        return tuple(map(upper, takewhile(compiled(WORD).fullmatch, self.head)))


class Kind(StrEnum):
    """What a piece of a text is to the server."""

    CODE = "code"
    LINE_COMMENT = "line comment"
    BLOCK_COMMENT = "block comment"
    QUOTED = "quoted"
    """A string, dollar-quoted ones too, or a name in quotes."""
    COMMAND = "command"
    """A command of psql's, to the end of its line."""


class Piece(NamedTuple):
    """A piece of a text, from its first character to before its end, and what it is."""

    kind: Kind
    start: int
    end: int


def split(sql: str) -> Iterator[Statement]:
    """The statements one at a time, as many as the server counts; once something is left open, the
    rest is one.
    """
    line, counted, start = 1, 0, _start(sql)
    while (start := _skip(_BETWEEN_STATEMENTS, sql, start)) < len(sql):
        line += line_ends(sql, counted, start)
        end = _statement_end(sql, start)
        yield Statement(sql[start:end].rstrip(_SPACE), start, line)
        counted, start = start, end


def pieces_at(sql: str, indexes: Iterable[int]) -> Iterator[Piece]:
    """The piece that each character is in; ascending indexes. What lies between is passed over in
    one go.

    A character's comment counts as one between the parts of a string, too.
    """
    piece = Piece(Kind.CODE, 0, _start(sql))
    for index in indexes:
        while piece.end <= index:
            # Not beyond the index: what is cut off there has no end, and is the piece that is
            # looked for.
            passed = compiled(_CLOSED).match(sql, piece.end, index)
            start = passed.end() if passed else piece.end
            piece = _piece(sql, start)
        yield piece


def _piece(sql: str, start: int) -> Piece:
    if (end := _past(_CODE, sql, start)) > start:
        return Piece(Kind.CODE, start, end)
    match sql[start]:
        case "-":
            return Piece(Kind.LINE_COMMENT, start, _comment_end(sql, start))
        case "/":
            return Piece(Kind.BLOCK_COMMENT, start, _comment_end(sql, start) or len(sql))
        case "\\":
            return Piece(Kind.COMMAND, start, _past(_LINE, sql, start))
    return Piece(Kind.QUOTED, start, _past(_QUOTE, sql, start))


def bodies(sql: str) -> Iterator[tuple[int, int]]:
    """From where to where there are bodies of statements: from behind BEGIN ATOMIC to before END."""
    for statement in split(sql):
        if _is_routine(sql, statement.offset):
            yield from _routine(sql, statement.offset)[1]


def opening_comment(sql: str) -> Iterator[str]:
    """The comments before the first token as written, each line comment by itself; reads no further
    than that.
    """
    start = _start(sql)
    while end := _comment_end(sql, start := _past(_SPACES, sql, start)):
        yield sql[start:end]
        start = end


def _statement_end(sql: str, start: int) -> int:
    """The place of the semicolon that ends the statement, or of the psql command that cuts it off,
    or the end.
    """
    if sql.startswith("\\", start):
        return _past(_LINE, sql, start)
    if _is_routine(sql, start):
        return _routine(sql, start)[0]
    depth, position = 0, start
    while (position := _past(_STRETCH, sql, position)) < len(sql):
        sign = sql[position]
        if sign == "\\" or (sign == ";" and not depth):
            break
        if sign == "$":
            position = _past(_DOLLAR_STRING, sql, position)
        elif sign == "/":
            position = _comment_end(sql, position) or len(sql)
        else:
            depth, position = _depth(depth, sign), position + 1
    return position


def _is_routine(sql: str, start: int) -> bool:
    """Whether it begins CREATE [OR REPLACE] FUNCTION or PROCEDURE: these may have statements for a
    body.
    """
    if sql[start : start + 6].upper() != "CREATE":
        return False
    words = [upper(token[0]) for token in islice(tokens(sql, start), 4)]
    kind = words[3:] if words[1:3] == ["OR", "REPLACE"] else words[1:2]
    return words[0] == "CREATE" and kind in (["FUNCTION"], ["PROCEDURE"])


def _routine(sql: str, start: int) -> tuple[int, list[tuple[int, int]]]:
    """Where the statement ends, and from where to where it has bodies of statements."""
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
    return len(sql), [*found, *([(begun, len(sql))] if begun else [])]


def _depth(depth: int, sign: str) -> int:
    return depth + 1 if sign == "(" else max(depth - 1, 0) if sign == ")" else depth


def tokens(sql: str, start: int = 0) -> Iterator[re.Match[str]]:
    """The tokens from an index on, without what is between them."""
    while token := compiled(_TOKEN).match(sql, _skip(_BETWEEN_TOKENS, sql, start)):
        yield token
        start = token.end()


def _skip(gap: str, sql: str, start: int) -> int:
    """The place after a gap with its comments, those that contain others too; a comment left open
    is not passed.
    """
    while end := _comment_end(sql, start := _past(gap, sql, start)):
        start = end
    return start


def _comment_end(sql: str, start: int) -> int:
    """The place after the comment that begins here, 0 if none does or it is left open."""
    if sql.startswith("--", start):
        return _past(_LINE, sql, start)
    depth = 0
    for mark in compiled(r"/\*|\*/").finditer(sql, start) if sql.startswith("/*", start) else ():
        depth += 1 if mark[0] == "/*" else -1
        if not depth:
            return mark.end()
    return 0


def _start(sql: str) -> int:
    return 1 if sql.startswith("\ufeff") else 0


@cache
def compiled(pattern: str) -> re.Pattern[str]:
    """A pattern, compiled once."""
    # On first use only: a run with nothing pending needs few of the patterns and would wait for all
    # of them.
    return re.compile(pattern)


def _past(pattern: str, sql: str, start: int) -> int:
    match = compiled(pattern).match(sql, start)
    return match.end() if match else start


def line_ends(sql: str, start: int, end: int) -> int:
    """How many lines end between two indexes: LF, CRLF and a lone CR each end one."""
    return sql.count("\n", start, end) + sql.count("\r", start, end) - sql.count("\r\n", start, end)


def upper(word: str) -> str:
    """A word in upper case, where Postgres would fold it."""
    # Keywords are ASCII. `str.upper` would turn letters from beyond it into ASCII ones, as the long
    # s into S.
    return word.upper() if word.isascii() else word
