#!/usr/bin/env python3
"""Draws the comment that a pull request gets, for the README: `scripts/dev/picture.py`.

The comment is what `rehearse --markdown` says of three files on a Postgres of this machine, with
the sizes of a production that is not there. The picture is the same on every machine: the server's
version is left out, and no font is measured.
"""

import html
import json
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from scripts.rehearse_branch import empty_database, migrate  # noqa: E402

PICTURE = ROOT / "docs" / "pull-request.svg"
BASE = {
    "003-add-orders.sql": "CREATE TABLE orders (id int PRIMARY KEY, total int, notes text);\n",
}
NEW = {
    "004-add-order-totals.sql": "-- Totals are never negative.\n\nALTER TABLE orders "
    "ADD CONSTRAINT orders_total_positive CHECK (total >= 0);\n",
    "005-index-order-totals.sql": "-- migrate: no-transaction\n"
    "CREATE INDEX CONCURRENTLY IF NOT EXISTS orders_total_idx ON orders (total);\n",
    "006-drop-order-notes.sql": "ALTER TABLE orders DROP COLUMN notes;\n",
}
SIZES = {"sizes": {"public.orders": [9_100_000_000, 41_000_000]}}

WIDTH, MARGIN, LINE, BAR, CELL = 860, 16, 21, 40, 36
STYLE = """\
text { font: 14px -apple-system, "Segoe UI", "Noto Sans", Helvetica, Arial, sans-serif }
.head { font-size: 20px; font-weight: 600 } .bold { font-weight: 600 } .small { font-size: 12px }
.code { font: 12px ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; white-space: pre }
text { fill: #1f2328 } .small { fill: #59636e }
.paper { fill: #ffffff; stroke: #d1d9e0 } .shade { fill: #f6f8fa }
.line { fill: none; stroke: #d1d9e0 }
@media (prefers-color-scheme: dark) {
  text { fill: #f0f6fc } .small { fill: #9198a1 }
  .paper { fill: #0d1117; stroke: #3d444d } .shade { fill: #151b23 } .line { stroke: #3d444d }
}"""
_INLINE = re.compile(
    r"\\(?P<escaped>.)|(?P<bold>\*\*)|`(?P<code>[^`]*)`|\[(?P<link>[^]]*)\]\([^)]*\)"
    r"|(?P<text>[^\\*`\[]+|.)"
)
_NARROW, _WIDE = frozenset("iljtfr.,:;'|!()[] "), frozenset("mwMW\N{CROSS MARK}")


class Span(NamedTuple):
    """A piece of a line: plain, `bold` or `code`."""

    text: str
    style: str = ""

    @property
    def width(self) -> float:
        """About, in pixels, and rather too much."""
        if self.style == "code":
            return 7.4 * len(self.text)
        return sum(5.2 if one in _NARROW else 13 if one in _WIDE else 8.6 for one in self.text)


def comment() -> str:
    """What a rehearsal says of the new files, as Markdown."""
    with tempfile.TemporaryDirectory() as place, empty_database() as target:
        (files := Path(place, "migrations")).mkdir()
        Path(place, "production.json").write_text(json.dumps(SIZES))
        options: dict[str, Any] = {
            "cwd": place,
            "capture_output": True,
            "environ": {"MIGRATION_DIR": str(files)},
        }
        _write(files, BASE)
        migrate(target, **options)
        _write(files, NEW)
        sizes = ("--sizes-from", "production.json")
        said = migrate(target, "rehearse", "--markdown", *sizes, **options).stdout
    return re.sub(r" on PostgreSQL [\d.]+", "", said)


def _write(directory: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (directory / name).write_text(content)


def drawn(markdown: str) -> str:
    """The SVG of a comment. Knows only the Markdown that a report has."""
    drawing = _Drawing()
    for block in re.split(r"\n\n+|\n(?=```sql)", re.sub(r"<!--.*?-->", "", markdown).strip()):
        drawing.add(block.split("\n"))
    return drawing.svg()


class _Drawing:
    """The blocks so far, from top to bottom; `y` is where the next one begins."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.y = BAR + MARGIN
        self._text(MARGIN, 26, [Span("github-actions", "bold"), Span(" commented")])

    def add(self, lines: Sequence[str]) -> None:
        """Draw one block."""
        first = lines[0]
        if first.startswith("### "):
            self._paragraph([Span(first[4:])], "head", 30)
        elif first.startswith("|"):
            self._table([_cells(line) for line in lines if not line.startswith("|--")])
        elif first.startswith("```"):
            self._code(lines[1:-1])
        elif found := re.fullmatch(r"<sub>(.*)</sub>", first):
            self._paragraph(list(_spans(found[1])), "small", LINE)
        else:
            self._paragraph(list(_spans(" ".join(lines))), "", LINE)

    def svg(self) -> str:
        """The whole picture."""
        size = f'width="{WIDTH}" height="{self.y}" viewBox="0 0 {WIDTH} {self.y}"'
        inner = f'width="{WIDTH - 1}" height="{self.y - 1}" rx="6"'
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" {size}>',
                f"<style>\n{STYLE}\n</style>",
                f'<rect x="0.5" y="0.5" {inner} class="paper"/>',
                f'<rect x="1" y="1" width="{WIDTH - 2}" height="{BAR}" rx="6" class="shade"/>',
                *self.parts,
                "</svg>\n",
            ]
        )

    def _paragraph(self, spans: list[Span], style: str, height: int) -> None:
        for line in _wrapped(spans, WIDTH - 2 * MARGIN):
            self._text(MARGIN, self.y + height - 6, line, style)
            self.y += height
        self.y += 12

    def _table(self, rows: list[list[list[Span]]]) -> None:
        columns = [max(map(_width, column)) + 26 for column in zip(*rows, strict=True)]
        for row in rows:
            x = float(MARGIN)
            for cell, width in zip(row, columns, strict=True):
                self._box(x, width, CELL, "line")
                self._text(x + 13, self.y + 23, cell)
                x += width
            self.y += CELL
        self.y += MARGIN

    def _code(self, lines: Sequence[str]) -> None:
        height = 19 * len(lines) + 20
        self._box(MARGIN, WIDTH - 2 * MARGIN, height, "shade")
        for number, line in enumerate(lines):
            self._text(2 * MARGIN, self.y + 24 + 19 * number, [Span(line, "code")])
        self.y += height + MARGIN

    def _box(self, x: float, width: float, height: int, style: str) -> None:
        place = f'x="{x:g}" y="{self.y}" width="{width:g}" height="{height}"'
        self.parts.append(f'<rect {place} class="{style}"/>')

    def _text(self, x: float, y: float, spans: Sequence[Span], style: str = "") -> None:
        inner = "".join(
            f'<tspan class="{one.style}">{html.escape(one.text, quote=False)}</tspan>'
            if one.style
            else html.escape(one.text, quote=False)
            for one in spans
        )
        named = f' class="{style}"' if style else ""
        self.parts.append(f'<text x="{x:g}" y="{y:g}"{named}>{inner}</text>')


def _cells(row: str) -> list[list[Span]]:
    return [list(_spans(cell.strip())) for cell in re.split(r"(?<!\\)\|", row)[1:-1]]


def _spans(text: str) -> Iterator[Span]:
    """The pieces of a line of Markdown."""
    style = ""
    for found in _INLINE.finditer(text):
        if found["bold"]:
            style = "" if style else "bold"
        elif found["code"]:
            yield Span(found["code"], "code")
        else:
            shown = found["escaped"] or found["link"] or found["text"]
            yield Span(html.unescape(shown), style)


def _width(spans: Sequence[Span]) -> float:
    return sum(one.width for one in spans)


def _wrapped(spans: Sequence[Span], width: float) -> Iterator[list[Span]]:
    """The lines that a paragraph takes; they break between words."""
    line: list[Span] = []
    for span in spans:
        for word in re.findall(r"\s*\S+|\s+$", span.text):
            if line and _width(line) + Span(word, span.style).width > width:
                yield line
                line = []
            line.append(Span(word if line else word.lstrip(), span.style))
    yield line


if __name__ == "__main__":
    PICTURE.write_text(drawn(comment()))
