"""What a refusal to change a database says: which one, whose it is, what can be done. Pure."""

from collections.abc import Iterator

from lib.history import History
from lib.identity import last_migrated_as
from lib.settings.config import Config
from lib.tool_tables import HISTORY_TABLES, TABLES

_OCCUPANTS_SHOWN = 5


def where(config: Config) -> str:
    """Which database and which environment, on lines of their own."""
    return (
        f"\n  Database: {config.url}"
        f"\n  Environment: {config.environment} (from {config.environment_source})"
    )


def whose(history: History, last: str | None) -> str:
    """Whose the database is; `last` is the environment that its history names."""
    if last is None:
        return _unmarked(history)
    if last_migrated_as(history):
        return f"was last migrated as {last}"
    return f"is a copy of one that was last migrated as {last}"


def ways_out(config: Config, history: History, last: str | None) -> str:
    """The options where the database is another environment's, or may be."""
    here = config.environment
    # Production is always among them: the line may well be set for all environments.
    allowed = ",".join(dict.fromkeys(["production", last or "production"]))
    options = [
        f"give {here} a database or branch of its own, and give only {here} its URL",
        f"let {here} apply nothing, so that its builds pass: set MIGRATION_ENVIRONMENTS={allowed}",
        f"if this database belongs to {here} from now on: "
        f"set MIGRATION_CLAIM={here}@{history.identity}",
    ]
    if last is None:
        options.append(f"if it is not production's database: set MIGRATION_ENV={here} once")
    other = f"MIGRATION_CLAIM names another pair: {config.claim}. " if config.claim else ""
    return f"{other}Options:{_listed(options)}"


def some_occupants(history: History) -> str:
    """The first of the tables in a database without history."""
    more = ["…"] if len(history.occupants) > _OCCUPANTS_SHOWN else []
    return ", ".join((*history.occupants[:_OCCUPANTS_SHOWN], *more))


def ways_to_adopt(config: Config, history: History) -> str:
    """The options for a database that has tables and no history."""
    return f"Options:{_listed(_ways_to_adopt(config, history))}"


def _unmarked(history: History) -> str:
    if history.rows:
        return "has a history that names no environment"
    if history.takeover:
        return f"has the history of {history.takeover.title}, which names no environment"
    return f"has no history, but already contains {history.occupants[0]}"


def _ways_to_adopt(config: Config, history: History) -> Iterator[str]:
    confirmed = " --production" if config.production else ""
    if tool := _other_tool(history):
        yield (
            f"{TABLES[tool].title} has a history here; to take it over (docs/importing.md): "
            f"scripts/migrate.py import {tool} DIRECTORY"
        )
    schema = f"MIGRATION_SCHEMA={config.tenant} " if config.tenant else ""
    yield (
        f"if the files up to NNN made these tables: {schema}scripts/migrate.py baseline "
        f"NNN{confirmed}"
    )
    yield (
        "if all files are to run beside them: scripts/migrate.py --allow-nonempty "
        "(or set MIGRATION_ALLOW_NONEMPTY=1)"
    )


def _other_tool(history: History) -> str | None:
    """The migration tool whose history is among the tables, as `import` calls it."""
    for occupant in history.occupants:
        name = occupant.replace('"', "")
        tool = HISTORY_TABLES.get(name) or HISTORY_TABLES.get(name.partition(".")[2])
        if tool:
            return tool
    return None


def _listed(options: Iterator[str] | list[str]) -> str:
    return "".join(f"\n  - {option}" for option in options)
