"""Whose database is this: the environment of a run against the one that the history names. Pure.

A database's identity goes with its rows, but a copy has another one; so the history of a copy says of itself that it
is somebody else's, and the copy is free.
"""

from lib.config import Config
from lib.errors import WrongEnvironment
from lib.history import History


def require_environment(config: Config, history: History) -> str:
    """Raise WrongEnvironment unless this environment may change this database; return a warning, mostly empty."""
    here, identity = config.environment, history.identity
    if config.environments and here not in config.environments:
        raise WrongEnvironment(
            f"{here} applies nothing: MIGRATION_ENVIRONMENTS is {','.join(config.environments)}",
            next_step="Nothing was changed.",
        )
    owner = _owner(history)
    if owner == here or (owner is None and _is_free(config, history)):
        return ""
    whose = f"was last migrated as {owner}" if owner else "has a history that does not say which environment's it is"
    if config.claim == f"{here}@{identity}":
        return f"this database {whose}; MIGRATION_CLAIM makes it that of {here}"
    if owner and config.production:
        return f"this database {whose}; production makes it its own"
    raise WrongEnvironment(
        f"this database {whose}, and this run is {here} (from {config.environment_source}): {config.target}",
        next_step=_ways_out(config, history, owner),
    )


def _owner(history: History) -> str | None:
    """The environment that last migrated this very database."""
    marks = [row for row in history.rows if row.environment and row.identity == history.identity]
    return max(marks, key=lambda row: row.id).environment if marks else None


def _is_free(config: Config, history: History) -> bool:
    """New, a copy, or taken over from a runner that left no marks by who says in so many words what it is."""
    marked = any(row.environment and row.identity for row in history.rows)
    named = config.production or config.environment_source == "MIGRATION_ENV"
    return not history.rows or marked or named


def _ways_out(config: Config, history: History, owner: str | None) -> str:
    here = config.environment
    ways = [
        f"give {here} a database or branch of its own, and let only {here} have its URL",
        f"set MIGRATION_ENVIRONMENTS={owner or 'production'}: then {here} applies nothing, and its builds pass",
        f"if this database is that of {here} from now on, set MIGRATION_CLAIM={here}@{history.identity}",
    ]
    if owner is None:
        ways.append(f"or say so once with MIGRATION_ENV={here}")
    other = f" MIGRATION_CLAIM names another pair: {config.claim}." if config.claim else ""
    return f"Nothing was changed.{other} There are these ways out:" + "".join(f"\n  - {way}" for way in ways)
