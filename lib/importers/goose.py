"""goose: `NNN_name.sql` in the order of the numbers, with sections `-- +goose Up` and `Down`.

Facts from pressly/goose: internal/sqlparser/parser.go, migration.go, provider_collect.go.
"""

import re
from pathlib import Path

from lib.importers.layout import (
    Layout,
    NotConvertible,
    SourceFile,
    blank,
    entries,
    layout,
    read_text,
    text_if_readable,
    with_one_file_a_key,
)
from lib.source.lexer import split

_NAME = re.compile(r"(?P<number>0*[1-9][0-9]*)_(?P<rest>.*)\.(?P<kind>sql|go)")
_MARK = re.compile(
    r"(?mi)^--[ \t-]*\+goose[ \t]*(?P<what>Up|Down|StatementBegin|StatementEnd|NO TRANSACTION"
    r"|ENVSUB ON|ENVSUB OFF)[ \t-]*(?=\r?$)"
)


def recognises(directory: Path) -> bool:
    """Whether its files have goose's sections."""
    return any(_MARK.search(text_if_readable(path)) for path in _paths(directory))


def read(directory: Path) -> Layout:
    """Its migrations."""
    paths = sorted(_paths(directory), key=_number)
    found = layout(paths, _file, lambda path: str(_number(path)))
    return Layout(with_one_file_a_key(found.files))


def _paths(directory: Path) -> list[Path]:
    return [
        path
        for path in entries(directory)
        if _NAME.fullmatch(path.name) and not path.name.endswith("_test.go")
    ]


def _number(path: Path) -> int:
    return int(path.name.partition("_")[0])


def _file(path: Path) -> SourceFile:
    if path.suffix == ".go":
        raise NotConvertible("it is a program in Go")
    text = read_text(path)
    marks = list(_MARK.finditer(text))
    up = _up_marks(marks)
    if any(_is(mark, "ENVSUB ON") for mark in up):
        raise NotConvertible("it takes values from the environment (ENVSUB ON); write them into it")
    return SourceFile(
        path.name,
        key=str(_number(path)),
        description=path.stem.partition("_")[2],
        sql=_up_section(text, up, marks[len(up) :]),
        number=_number(path),
        no_transaction=any(_is(mark, "NO TRANSACTION") for mark in marks),
    )


def _up_marks(marks: list[re.Match[str]]) -> list[re.Match[str]]:
    """The marks before the section Down. Raises NotConvertible if none begins the section Up."""
    down = next((index for index, mark in enumerate(marks) if _is(mark, "Down")), len(marks))
    if not any(_is(mark, "Up") for mark in marks[:down]):
        raise NotConvertible("it has no line `-- +goose Up`")
    return marks[:down]


def _up_section(text: str, up: list[re.Match[str]], down: list[re.Match[str]]) -> str:
    """The text with the lines of the marks blank, and without what follows Down.

    goose ends a statement at StatementEnd, semicolon or not.
    """
    end = down[0].start() if down else len(text)
    text = text[:end]
    for mark in reversed(up):  # the indexes before it hold
        begin = next((one for one in reversed(up) if one.end() < mark.start()), mark)
        is_open = _is(mark, "StatementEnd") and _lacks_semicolon(text[begin.end() : mark.start()])
        text = blank(text, mark.start(), mark.end())
        text = f"{text[: mark.start()]}{';' if is_open else ''}{text[mark.start() :]}"
    return text.rstrip() + "\n"


def _lacks_semicolon(sql: str) -> bool:
    """Whether its last statement has no end of its own."""
    statements = list(split(sql))
    ends = [one.offset + len(one.text) for one in statements[-1:]]
    return any(not re.match(r"\s*;", sql[end:]) for end in ends)


def _is(mark: re.Match[str], what: str) -> bool:
    return mark["what"].upper() == what.upper()
