"""dbmate: `NNN_name.sql` in the order of the names, with sections `-- migrate:up` and `:down`.

Facts from amacneil/dbmate: pkg/dbmate/migration.go, pkg/dbmate/db.go.
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
)

_NAME = re.compile(r"(?P<version>[0-9]+)(?P<rest>.*)\.sql")
_MARK = re.compile(r"(?m)^--\s*migrate:(?P<way>up|down)(?P<options>[ \t][^\r\n]*)?(?=\r?$)")
_NO_TRANSACTION = re.compile(r"(?:^|\s)transaction:false(?:\s|$)")


def recognises(directory: Path) -> bool:
    """Whether its files have dbmate's sections."""
    return any(_MARK.search(text_if_readable(path)) for path in _paths(directory))


def read(directory: Path) -> Layout:
    """Its migrations."""
    return layout(_paths(directory), _file, _key)


def _paths(directory: Path) -> list[Path]:
    return [path for path in entries(directory) if _NAME.fullmatch(path.name)]


def _key(path: Path) -> str:
    return re.sub(r"[^0-9].*", "", path.name)


def _file(path: Path) -> SourceFile:
    text = read_text(path)
    marks = list(_MARK.finditer(text))
    ups = [mark for mark in marks if mark["way"] == "up"]
    if not ups:
        raise NotConvertible("it has no line `-- migrate:up`")
    return SourceFile(
        path.name,
        key=_key(path),
        description=path.stem.removeprefix(_key(path)),
        sql=_up_sections(text, marks),
        number=int(_key(path)),
        no_transaction=any(_NO_TRANSACTION.search(mark["options"] or "") for mark in ups),
    )


def _up_sections(text: str, marks: list[re.Match[str]]) -> str:
    """The text with the lines of the marks and the sections `down` blank."""
    ends = [*(mark.start() for mark in marks[1:]), len(text)]
    for mark, end in reversed(list(zip(marks, ends, strict=True))):  # the indexes before it hold
        text = blank(text, mark.start(), end if mark["way"] == "down" else mark.end())
    return text.rstrip() + "\n"
