"""Whose database is this: the environment of a run against the one that the history names. Pure.

A database's identity goes with its rows, but a copy has another one; so the history of a copy says
of itself that it is somebody else's, and the copy is free.
"""

from collections.abc import Iterator

from lib.errors import NotEmpty, WrongEnvironment
from lib.plan import History
from lib.settings.config import Config
from lib.source.other_tools import HISTORY_TABLES


def require_permission(config: Config, history: History) -> str:
    """Raise WrongEnvironment unless this environment may change this database; return a warning,
    mostly empty.
    """
    here, identity = config.environment, history.identity
    if config.environments and here not in config.environments:
        raise WrongEnvironment(
            f"{here} applies nothing: MIGRATION_ENVIRONMENTS is {','.join(config.environments)}",
            next_step="Nothing was changed.",
        )
    last = last_migrated_as(history)
    if last == here or (last is None and _is_free(config, history)):
        return ""
    whose = f"was last migrated as {last}" if last else _unmarked(history)
    if config.claim == f"{here}@{identity}":
        return f"this database {whose}; MIGRATION_CLAIM makes it that of {here}"
    if last and config.production:
        return f"this database {whose}; production makes it its own with its next migration"
    raise WrongEnvironment(
        f"this database {whose}, and this run is {here} (from {config.environment_source}): "
        f"{config.url}",
        next_step=_ways_out(config, history, last),
    )


def last_migrated_as(history: History) -> str | None:
    """The environment that last migrated this very database; None if the history does not say."""
    marks = [row for row in history.rows if row.environment and row.identity == history.identity]
    return max(marks, key=lambda row: row.id).environment if marks else None


def _is_free(config: Config, history: History) -> bool:
    """New, a copy, or taken over from a runner that left no marks by who says in so many words what
    it is.
    """
    others = [row.identity for row in history.rows if row.environment and row.identity]
    copied = any(_kind(other) == _kind(history.identity) for other in others)
    named = config.production or config.environment_source == "MIGRATION_ENV"
    return not (history.rows or history.occupants) or copied or named


def _unmarked(history: History) -> str:
    if history.rows:
        return "has a history that does not say which environment's it is"
    return f"has no history, but {history.occupants[0]} in it, and does not say which environment's it is"


def require_empty(config: Config, history: History) -> None:
    """Raise NotEmpty for a database that has tables and no history, unless the configuration allows
    that.
    """
    if history.rows or not history.occupants or config.allow_nonempty:
        return
    shown = ", ".join(history.occupants[:5]) + (", …" if len(history.occupants) > 5 else "")
    raise NotEmpty(
        f"{config.url} has no migration history, but tables: {shown}",
        next_step="Nothing was changed. " + "".join(f"\n  - {way}" for way in _ways_in(history)),
    )


def _ways_in(history: History) -> Iterator[str]:
    names = (name.replace('"', "") for name in history.occupants)
    tool = next(
        (
            found
            for name in names
            if (found := HISTORY_TABLES.get(name) or HISTORY_TABLES.get(name.partition(".")[2]))
        ),
        None,
    )
    if tool:
        yield f"{tool} has a history here: record what it has applied with `baseline`, as below"
    yield "if files up to NNN made these tables: scripts/migrate.py baseline NNN"
    yield "if all files are to run beside them: scripts/migrate.py --allow-nonempty, or MIGRATION_ALLOW_NONEMPTY=1"


def _kind(identity: str) -> tuple[bool, bool]:
    """What an identity is made of: one of another kind may be the same database's, seen by another
    role or name.
    """
    first, _, rest = identity.partition("/")
    return first.isdigit(), "/ep-" in rest


def _ways_out(config: Config, history: History, whose: str | None) -> str:
    here = config.environment
    allowed = ",".join(dict.fromkeys(["production", whose or "production"]))
    ways = [
        f"give {here} a database or branch of its own, and let only {here} have its URL",
        f"set MIGRATION_ENVIRONMENTS={allowed}: then {here} applies nothing, and its builds pass",
        f"if this database is that of {here} from now on, set "
        f"MIGRATION_CLAIM={here}@{history.identity}",
    ]
    if whose is None:
        ways.append(f"or, if it is not production's, say so once with MIGRATION_ENV={here}")
    other = f" MIGRATION_CLAIM names another pair: {config.claim}." if config.claim else ""
    return f"Nothing was changed.{other} There are these ways out:" + "".join(
        f"\n  - {way}" for way in ways
    )
