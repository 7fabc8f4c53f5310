"""The hazards of pending files as text, as a comment of a pull request and as JSON. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

from lib.hazards.findings import Blocked, FileReport, Finding, Rehearsal
from lib.hazards.table import Level
from lib.report.document import iso
from lib.report.github import escaped, escaped_property
from lib.sizes import Size

MARKER = "<!-- onward:plan -->"  # by which a workflow finds the comment that it edits
HAZARDS_PAGE = "docs/hazards.md"
_MARKS = {Level.NOTE: "✅", Level.WARN: "⚠️ ", Level.FAIL: "❌"}
_COMMANDS = {Level.NOTE: "notice", Level.WARN: "warning", Level.FAIL: "error"}
_UNITS = ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB"))
_COUNTS = ((10**9, "G"), (10**6, "M"), (10**3, "k"))
_VERSION_COLUMNS = 26
_TABLES_SHOWN = 3
_NOT_RUN = "only recorded: what it stands for is applied"
_ACCEPT = "To accept a finding, add to the leading comment: -- migrate: accept {name}: reason"


def rehearsal_text(found: Rehearsal, *, fails: bool) -> str:
    """The findings for a build log: one line a file that has none."""
    lines = [f"🔎 {_headline(found)}"]
    for file in found.files:
        lines += ["", *_file_text(file)] if file.findings else _file_text(file)
    lines += ["", *_summary(found, fails=fails)]
    return "\n".join(lines)


def rehearsal_markdown(found: Rehearsal, *, fails: bool) -> str:
    """The findings as a comment of a pull request, which a workflow edits in place."""
    mark = "❌" if fails else "⚠️" if found.matters else "✅"
    lines = [MARKER, f"### {mark} {_count(len(found.files), 'migration')}: {_verdict(found)}", ""]
    if found.files:
        lines += ["| | file | while it runs |", "|---|---|---|"]
        lines += map(_row, found.files)
    for file in found.files:
        for one in file.findings:
            lines += ["", *_finding_markdown(one)]
    lines += ["", f"<sub>{_escaped(_headline(found))} · [hazards]({HAZARDS_PAGE})</sub>"]
    return "\n".join(lines)


def rehearsal_dict(found: Rehearsal, *, fails: bool) -> dict[str, Any]:
    """The findings as a JSON document."""
    return {
        "success": not fails,
        "mode": "plan" if found.is_plan else "rehearse",
        "pgVersion": f"PostgreSQL {found.server.split()[0]}",
        "sizesFrom": found.sizes_from or None,
        "sizesAsOf": iso(found.sizes_as_of),
        "queriesFrom": found.queries.source or None,
        "queriesAsOf": iso(found.queries.as_of),
        "queries": found.queries.listed,
        "queriesParsed": len(found.queries.parsed),
        "files": [_file_dict(file) for file in found.files],
    }


def finding_annotations(found: Rehearsal, path_in_workspace: Callable[[str], str]) -> list[str]:
    """The workflow commands of GitHub Actions that show findings beside their lines."""
    files = (one for file in found.files for one in file.findings if not one.accepted)
    return [_annotation(one, path_in_workspace(one.path)) for one in files]


def _annotation(one: Finding, path: str) -> str:
    advice = "\n".join([one.sentence, *(one.recipe or [one.remedy])])
    place = f"file={escaped_property(path)},line={one.line},title={escaped_property(one.name)}"
    return f"::{_COMMANDS[one.level]} {place}::{escaped(advice)}"


def _headline(found: Rehearsal) -> str:
    how = "planned in one transaction" if found.is_plan else "rehearsed"
    count = _count(len(found.files), "pending migration")
    return (
        f"{count}, {how} on PostgreSQL {found.server.split()[0]} · {_sizes(found)}{_queries(found)}"
    )


def _sizes(found: Rehearsal) -> str:
    if not found.sizes_from:
        return "sizes unknown"
    return f"sizes: {found.sizes_from}{_old(found.sizes_as_of, found)}"


def _queries(found: Rehearsal) -> str:
    source, listed, parsed, as_of = found.queries
    if not source:
        return ""
    lost = f"{listed - len(parsed)} of {listed} could not be parsed before"
    return f" · queries: {source}{_old(as_of, found)}, {lost}"


def _old(as_of: datetime | None, found: Rehearsal) -> str:
    """How old a document is; empty if it does not say."""
    if not as_of or not found.made_at:
        return ""
    hours = max(0, (found.made_at - as_of) // timedelta(hours=1))
    age = _count(hours // 24, "day") if hours >= 24 else _count(hours, "hour")
    return f" ({age} old)" if hours else " (less than an hour old)"


def _file_text(file: FileReport) -> list[str]:
    mark = _MARKS[_level(file)]
    line = f"{mark} {file.version.ljust(_VERSION_COLUMNS)} {_effect(file)}".rstrip()
    return [line, *(text for one in file.findings for text in _finding_text(one))]


def _level(file: FileReport) -> Level:
    return max((one.level for one in file.findings if not one.accepted), default=Level.NOTE)


def _effect(file: FileReport) -> str:
    """What other sessions wait for."""
    if not file.ran:
        return _NOT_RUN if file.transactional else "no-transaction: not run by a plan"
    if not file.observed:
        return "not observed"
    kind = "" if file.transactional else "no-transaction"
    limit = "at most" if file.at_most else ""
    return " · ".join(filter(None, [kind, limit, *_waits(file.blocked)]))


def _waits(blocked: Sequence[Blocked]) -> Iterator[str]:
    for words, reads in (("reads and writes", True), ("writes", False)):
        tables = [f"{one.table}{_size(one.size)}" for one in blocked if one.reads is reads]
        if tables:
            more = len(tables) - _TABLES_SHOWN
            shown = [*tables[:_TABLES_SHOWN], *([f"{more} more"] if more > 0 else [])]
            yield f"blocks {words} of {', '.join(shown)}"


def _finding_text(one: Finding) -> Iterator[str]:
    yield f"   line {one.line} · {one.level.name.lower()} · {one.name} · {one.sentence}"
    if one.accepted:
        yield f"   accepted: {one.accepted}"
        return
    if not one.recipe:
        yield f"   ↳ {one.remedy}"
    for number, sql in enumerate(one.recipe, start=1):
        place = f"file {number} of {len(one.recipe)}" if len(one.recipe) > 1 else "instead"
        yield f"   ↳ {place}:"
        yield from (f"     {line}" for line in sql.split("\n"))


def _summary(found: Rehearsal, *, fails: bool) -> list[str]:
    counted = _counts(found)
    if not counted:
        return ["✅ No finding that warns or fails"]
    first = counted[0]
    mark, exit_words = ("❌", " (exit 9)") if fails else ("⚠️ ", "")
    return [f"{mark} {_verdict(found)}{exit_words}", _ACCEPT.format(name=first.name)]


def _counts(found: Rehearsal) -> list[Finding]:
    return [*found.findings(Level.FAIL), *found.findings(Level.WARN)]


def _verdict(found: Rehearsal) -> str:
    fail, warn = len(found.findings(Level.FAIL)), len(found.findings(Level.WARN))
    words = []
    if fail:
        words.append(f"{_count(fail, 'finding')} {'fails' if fail == 1 else 'fail'}")
    if warn:
        words.append(f"{_count(warn, 'finding')} {'warns' if warn == 1 else 'warn'}")
    return ", ".join(words) or "nothing that warns or fails"


def _row(file: FileReport) -> str:
    mark = _MARKS[_level(file)].strip()
    return f"| {mark} | `{file.version}` | {_escaped(_effect(file)) or '–'} |"


def _finding_markdown(one: Finding) -> list[str]:
    mark, number = _MARKS[one.level].strip(), one.version.partition("-")[0]
    head = f"**{mark} {number}, line {one.line}: {one.name}.** {_escaped(one.sentence)}"
    if one.accepted:
        return [f"{head} Accepted: {_escaped(one.accepted)}"]
    if not one.recipe:
        return [f"{head} {_escaped(one.remedy)}"]
    return [head, *_fenced("\n-- and in a file of its own:\n".join(one.recipe))]


def _fenced(sql: str) -> list[str]:
    """A code block that no name in the SQL can end."""
    longest = max(map(len, re.findall("`+", sql)), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}sql", sql, fence]


def _escaped(text: str) -> str:
    """Names and reasons as they are, not as Markdown or HTML; a table's row stays one."""
    for sign in "\\`*_[]|":
        text = text.replace(sign, f"\\{sign}")
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("\n", " ")


def _file_dict(file: FileReport) -> dict[str, Any]:
    return {
        "version": file.version,
        "transaction": file.transactional,
        "ran": file.ran,
        "atMost": file.at_most,
        "blocks": [
            {"table": one.table, "reads": one.reads, "writes": True} for one in file.blocked
        ],
        "findings": [_finding_dict(one) for one in file.findings],
    }


def _finding_dict(one: Finding) -> dict[str, Any]:
    return {
        "name": one.name,
        "level": one.level.name.lower(),
        "file": one.path,
        "line": one.line,
        "table": one.table or None,
        "bytes": one.size.bytes if one.size else None,
        "rows": one.size.rows if one.size else None,
        "message": one.sentence,
        "remedy": one.remedy,
        "recipe": list(one.recipe),
        "accepted": one.accepted or None,
        "queries": list(one.queries),
    }


def _size(size: Size | None) -> str:
    if size is None or not size.bytes:
        return ""
    rows = f", {_rounded(size.rows, _COUNTS)} rows" if size.rows else ""
    return f" ({_rounded(size.bytes, _UNITS)}{rows})"


def _rounded(number: int, units: Sequence[tuple[int, str]]) -> str:
    for unit, name in units:
        if number >= unit:
            return f"{number / unit:.1f}".removesuffix(".0") + f" {name}"
    return str(number)


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"
