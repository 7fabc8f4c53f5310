"""Which pins a team's requirements.txt lacks, and which of its lines exclude ours. Pure."""

import operator
import re
from collections.abc import Iterator
from typing import NamedTuple

_LINE = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*)\s*(?:\[[^]]*\])?\s*(?P<rest>.*)")
_COMPARE = {
    "==": operator.eq,
    "===": operator.eq,
    "!=": operator.ne,
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
_CLAUSE = re.compile(r"(~=|===?|!=|<=|>=|<|>)\s*([\w.*+!-]+)")


class Conflict(NamedTuple):
    """A line of the team's that excludes the version which Onward is tested with."""

    line: str
    ours: str

    def __str__(self) -> str:
        return f"{self.line} excludes {self.ours}"


def missing(theirs: str, ours: str) -> list[str]:
    """The pins whose packages the team has no line for."""
    named = {_normalized(name) for name, _, _ in _lines(theirs)}
    return [line for name, _, line in _lines(ours) if _normalized(name) not in named]


def conflicts(theirs: str, ours: str) -> list[Conflict]:
    """The team's lines that exclude our version. A line without a version excludes none."""
    pins = {_normalized(name): (rest, line) for name, rest, line in _lines(ours)}
    found = []
    for name, rest, line in _lines(theirs):
        pinned, pin = pins.get(_normalized(name), ("", ""))
        if pin and not _allows(rest, _CLAUSE.findall(pinned)[0][1]):
            found.append(Conflict(line, pin.partition(";")[0].strip()))
    return found


def _lines(text: str) -> Iterator[tuple[str, str, str]]:
    """Name, what follows it, and the whole line, of each that names a package."""
    for line in text.splitlines():
        stripped = re.sub(r"(^|\s)#.*", "", line).strip()
        if found := _LINE.fullmatch(stripped):
            yield found["name"], found["rest"].partition(";")[0], stripped


def _normalized(name: str) -> str:
    """One spelling for all that a package's name may have."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _allows(specifier: str, version: str) -> bool:
    return all(_fits(version, *clause) for clause in _CLAUSE.findall(specifier))


def _fits(version: str, sign: str, wanted: str) -> bool:
    if sign in ("==", "!=") and wanted.endswith(".*"):
        inside = _key(version)[: len(_key(wanted[:-2]))] == _key(wanted[:-2])
        return inside == (sign == "==")
    ours, theirs = _padded(version, wanted)
    if sign == "~=":
        prefix = _key(wanted)[:-1]
        return ours >= theirs and ours[: len(prefix)] == prefix
    return bool(_COMPARE[sign](ours, theirs))


def _padded(*versions: str) -> list[tuple[int, ...]]:
    """Of one length, so that 1.0 equals 1.0.0."""
    keys = [_key(version) for version in versions]
    length = max(map(len, keys))
    return [key + (0,) * (length - len(key)) for key in keys]


def _key(version: str) -> tuple[int, ...]:
    """The release's numbers: all of our pins are releases."""
    release = re.match(r"[\d.]*", version.partition("+")[0])
    return tuple(int(part) for part in (release[0] if release else "").split(".") if part)
