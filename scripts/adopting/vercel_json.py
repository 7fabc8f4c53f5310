"""Onward's commands and functions in a team's vercel.json. Pure."""

import json
import re
from typing import Any, NamedTuple

from scripts.adopting import AdoptError

BUILD_FIRST, MIGRATE_FIRST = "build-first", "migrate-first"
COMMANDS = ("installCommand", "buildCommand")
# What is more than one command, or changes the directory, must not change what ours does.
_SHELL = re.compile(r"[;|&#\n]|^\s*cd\s")


class Defaults(NamedTuple):
    """What a repository's file says after the merge, where it says nothing before."""

    install: str = ""
    build: str = ""
    settings: tuple[tuple[str, Any], ...] = ()
    """Such as `framework`; a key that is not here is not set."""


class Order(NamedTuple):
    """Of the team's build and ours; `changed` if an earlier merge had the other one."""

    name: str = BUILD_FIRST
    changed: bool = False


class Merged(NamedTuple):
    """The new text, what in it is ours, and which of ours were changed by hand and left."""

    text: str
    added: dict[str, Any]
    left: list[str]


def parsed(text: str, name: str = "vercel.json") -> dict[str, Any]:
    """The document. Raises AdoptError if it is no JSON object, or has a key that excludes us."""
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise AdoptError(
            f"{name}:{error.lineno}:{error.colno} is not JSON: {error.msg}",
            next_step="Fix the file and run again; Vercel takes no comments in it, either.",
        ) from None
    if not isinstance(document, dict):
        raise AdoptError(f"{name} is not a JSON object")
    return document


def merge(
    text: str,
    ours: dict[str, Any],
    defaults: Defaults,
    order: Order = Order(),  # noqa: B008 - it cannot change
    before: dict[str, Any] | None = None,
) -> Merged:
    """A team's file with ours in it; `before` is what an earlier merge added. Raises AdoptError."""
    document, before = parsed(text or "{}"), before or {}
    _refuse_wrong_types(document)
    theirs = {
        "installCommand": document.get("installCommand") or defaults.install,
        "buildCommand": document.get("buildCommand") or defaults.build,
    }
    orders = {"installCommand": Order(), "buildCommand": order}
    commands = {
        key: _command(theirs[key], ours[key], before.get(key), orders[key]) for key in COMMANDS
    }
    functions, changed = _functions(
        document.get("functions", {}), ours["functions"], before.get("functions", {})
    )
    new = {key: command for key, command in commands.items() if command is not None}
    settings = dict(defaults.settings) | new | {"functions": functions}
    merged = document | {key: settings[key] for key in ours if key in _to_set(document, settings)}
    formatted = json.dumps(merged, indent=_indent(text), ensure_ascii=False) + "\n"
    return Merged(
        text if merged == document else formatted,
        {key: ours[key] for key in (*COMMANDS, "functions")},
        [key for key in COMMANDS if commands[key] is None] + changed,
    )


def _to_set(document: dict[str, Any], settings: dict[str, Any]) -> set[str]:
    """The settings that are ours to change, and those that the team's file lacks."""
    return {key for key in settings if key in (*COMMANDS, "functions") or key not in document}


def _refuse_wrong_types(document: dict[str, Any]) -> None:
    if "builds" in document:
        raise AdoptError(
            "vercel.json has the key `builds`, with which Vercel runs no build command, so no "
            "migration either",
            next_step="Replace `builds` by `functions` and the project's settings: "
            "https://vercel.com/docs/project-configuration/vercel-json",
        )
    if not isinstance(document.get("functions", {}), dict):
        raise AdoptError("`functions` in vercel.json is not an object")
    for key in COMMANDS:
        if not isinstance(document.get(key, ""), str | None):
            raise AdoptError(f"`{key}` in vercel.json is not a string")


def _command(theirs: str, ours: str, before: str | None, order: Order) -> str | None:
    """The command with ours in it; None if ours was changed by hand."""
    parts = sorted(filter(None, (ours, before)), key=len, reverse=True)
    present = next((part for part in parts if part in theirs), None)
    if present and order.changed:
        return _joined(_without(theirs, present), ours, order)
    if present:
        return theirs.replace(present, ours)
    if before or "scripts/migrate.py" in theirs or "migrate-venv" in theirs:
        return None
    return _joined(f"({theirs})" if _SHELL.search(theirs) else theirs, ours, order)


def _joined(theirs: str, ours: str, order: Order) -> str:
    if not theirs.strip():
        return ours
    return f"{theirs} && {ours}" if order.name == BUILD_FIRST else f"{ours} && {theirs}"


def _without(command: str, part: str) -> str:
    joined = next(one for one in (f" && {part}", f"{part} && ", part) if one in command)
    return command.replace(joined, "", 1)


def _functions(
    theirs: dict[str, Any], ours: dict[str, Any], before: dict[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """Ours first, because the first pattern that matches a function decides; and which of ours were
    changed by hand.
    """
    changed = [
        name for name in ours if theirs.get(name, ours[name]) not in (ours[name], before.get(name))
    ]
    merged = {name: theirs[name] if name in changed else ours[name] for name in ours}
    rest = {name: settings for name, settings in theirs.items() if name not in merged}
    return merged | rest, [_function_key(name) for name in changed]


def _function_key(name: str) -> str:
    return f"functions[{name!r}]"


def _indent(text: str) -> int | str:
    found = re.search(r"^([ \t]+)\S", text, re.MULTILINE)
    if not found:
        return 2
    return "\t" if found[1].startswith("\t") else len(found[1])


def is_addition(value: object) -> bool:
    """Whether it is as `Merged.added`."""
    return (
        isinstance(value, dict)
        and value.keys() == {*COMMANDS, "functions"}
        and all(isinstance(value[key], str) for key in COMMANDS)
        and isinstance(value["functions"], dict)
    )


def changed_by_hand(text: str, added: dict[str, Any]) -> list[str]:
    """The keys in which a team's file no longer has what was added."""
    document = parsed(text)
    wrong = [key for key in COMMANDS if added[key] not in str(document.get(key, ""))]
    functions = document.get("functions", {})
    return wrong + [
        _function_key(name)
        for name, settings in added["functions"].items()
        if functions.get(name) != settings
    ]
