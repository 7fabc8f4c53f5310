from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.diagnosis import diagnose
from lib.errors import Diagnostic, ServerError
from lib.source.migration import Migration


def failure(
    text: str, position: int | None = None, *, finished: int = 0, base: int = 0
) -> Diagnostic:
    content = text.encode()
    path = Path("migrations/001-x.sql")
    migration = Migration(1, "001-x", path, content, sha256(content).hexdigest(), frozenset())
    return diagnose(
        migration, ServerError("42601", "no", position=position), finished=finished, base=base
    )


def at(text: str, word: str) -> Diagnostic:
    """The failure where Postgres, which counts characters from 1, reports the word."""
    return failure(text, text.index(word) + 1)


@pytest.mark.parametrize(
    ("text", "word", "place", "excerpt"),
    [
        ("SELEC 1;", "SELEC", (1, 1), "1 | SELEC 1;\n  | ^^^^^"),
        ("a\nb\nc\n  d e f\ng", "e", (4, 5), "2 | b\n3 | c\n4 |   d e f\n  |     ^"),
        ("a\r\nb\r\nc\r\n  d e f\r\ng", "e", (4, 5), "2 | b\n3 | c\n4 |   d e f\n  |     ^"),
        ("a\rb\rc\r  d e f\rg", "e", (4, 5), "2 | b\n3 | c\n4 |   d e f\n  |     ^"),
        ("a\r\nb\rc\n\nd x", "x", (5, 3), "3 | c\n4 |\n5 | d x\n  |   ^"),
        ("\n\n\nx", "x", (4, 1), "2 |\n3 |\n4 | x\n  | ^"),
        ("\n" * 98 + "a\nb x", "x", (100, 3), " 98 |\n 99 | a\n100 | b x\n    |   ^"),
        ("a\n\tb\tword c", "word", (2, 4), "1 | a\n2 | \tb\tword c\n  | \t \t^^^^"),
        ("'😀ä' word", "word", (1, 6), "1 | '😀ä' word\n  |       ^^^^"),
        (
            "'e\u0301👩\u200d🚀' word",
            "word",
            (1, 9),
            "1 | 'e\u0301👩\u200d🚀' word\n  |         ^^^^",
        ),
        ("x '東京'", "東", (1, 4), "1 | x '東京'\n  |    ^^^^"),
        (
            'SELECT "no such" FROM t',
            '"',
            (1, 8),
            '1 | SELECT "no such" FROM t\n  |        ^^^^^^^^^',
        ),
        ("SELECT 1 ) 2", ")", (1, 10), "1 | SELECT 1 ) 2\n  |          ^"),
        (
            "a\u2028b\x0bc\x85d word",
            "word",
            (1, 9),
            "1 | a\\u2028b\\x0bc\\x85d word\n  | " + 19 * " " + "^^^^",
        ),
        ("'\x1b[2J' \x07", "\x07", (1, 8), "1 | '\\x1b[2J' \\x07\n  |           ^^^^"),
    ],
)
def test_a_position_becomes_line_column_and_caret(
    text: str, word: str, place: tuple[int, int], excerpt: str
) -> None:
    found = at(text, word)
    assert (found.line, found.column) == place
    assert found.excerpt == excerpt
    assert (found.version, found.path, found.server.message) == (
        "001-x",
        "migrations/001-x.sql",
        "no",
    )


@pytest.mark.parametrize(
    ("text", "place", "excerpt"),
    [
        ("SELECT (1", (1, 10), "1 | SELECT (1\n  |          ^"),
        ("SELECT (1\n", (1, 10), "1 | SELECT (1\n  |          ^"),
        ("SELECT (\r\n  1 \t\r\n\r\n", (2, 4), "1 | SELECT (\n2 |   1\n  |    ^"),
        ("SELECT 😀", (1, 9), "1 | SELECT 😀\n  |          ^"),
        ("", (1, 1), "1 |\n  | ^"),
        ("\n\n", (1, 1), "1 |\n  | ^"),
    ],
)
def test_an_error_at_the_end_of_input_points_at_where_the_text_ends(
    text: str, place: tuple[int, int], excerpt: str
) -> None:
    for position in (len(text) + 1, len(text) + 5):
        found = failure(text, position)
        assert (found.line, found.column, found.excerpt) == (*place, excerpt)


@pytest.mark.parametrize("length", [0, 20, 55, 56, 1000, 100_000])
def test_of_a_very_long_line_the_part_around_the_error_is_shown(length: int) -> None:
    text = f"-- {'b' * 1000}\nshort\n{'a' * length} word {'c' * 1000}"
    found = at(text, "word")
    *context, line, caret = found.excerpt.split("\n")
    assert (found.line, found.column) == (3, length + 2)
    assert line[caret.index("^") :].startswith("word ")
    assert caret.endswith(" ^^^^")
    assert [len(row) <= 4 + 110 for row in (*context, line, caret)] == [True] * 4
    assert context[1] == "2 | short"


@given(st.lists(st.sampled_from(["a", "b c", "😀", "", "  x"]), min_size=1, max_size=6), st.data())
def test_the_place_does_not_depend_on_the_line_endings(
    lines: list[str], data: st.DataObject
) -> None:
    number = data.draw(st.integers(0, len(lines) - 1))
    column = data.draw(st.integers(0, len(lines[number])))
    lines[number] = lines[number][:column] + "!" + lines[number][column:]
    places = [at(end.join(lines) + tail, "!") for end in ("\n", "\r\n", "\r") for tail in ("", end)]
    assert {(place.line, place.column) for place in places} == {(number + 1, column + 1)}
    (excerpt,) = {place.excerpt for place in places}
    assert excerpt.split("\n")[-2] == f"{number + 1} | {lines[number]}".rstrip()


# The statement

THREE = "-- one\nSELECT 1;\r\n\r\nSELECT\n 2; SELECT 3;\n"


@pytest.mark.parametrize(
    ("finished", "statement"),
    [
        (0, "statement 1 of 3, which begins on line 2"),
        (1, "statement 2 of 3, which begins on line 4"),
        (2, "statement 3 of 3, which begins on line 5"),
        (3, ""),
    ],
)
def test_without_a_position_the_statement_is_named_and_no_line_invented(
    finished: int, statement: str
) -> None:
    found = failure(THREE, finished=finished)
    assert (found.line, found.column, found.excerpt, found.statement) == (None, None, "", statement)


@pytest.mark.parametrize(
    ("word", "statement"),
    [
        ("-- one", ""),
        ("1", "statement 1 of 3"),
        (";", "statement 1 of 3"),
        ("SELECT\n", "statement 2 of 3"),
        ("2", "statement 2 of 3"),
        ("3", "statement 3 of 3"),
    ],
)
def test_with_a_position_the_statement_around_it_is_named(word: str, statement: str) -> None:
    assert failure(THREE, THREE.index(word) + 1, finished=2).statement == statement


def test_a_position_in_a_statement_sent_alone_counts_from_its_beginning() -> None:
    base = THREE.index("SELECT\n")
    found = failure(THREE, len("SELECT\n ") + 1, finished=1, base=base)
    assert (found.line, found.column, found.statement) == (5, 2, "statement 2 of 3")
    ended = failure(THREE, len("SELECT\n 2") + 1, finished=1, base=base)
    assert (ended.line, ended.column) == (5, 3)


def test_a_bom_is_no_column() -> None:
    found = failure("\ufeffSELEC 1", 1)
    assert (found.line, found.column, found.excerpt) == (1, 1, "1 | SELEC 1\n  | ^^^^^")
