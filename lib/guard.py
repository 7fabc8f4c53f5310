"""May this run change this database? The only module that answers it. Pure.

Before connecting: `reason_to_skip`, `require_confirmed_production` and `require_consent`. With the
history read: `require_permission`, or of its four parts those that a command needs. Before the
first change: `require_no_obstacle`; before the first file: `require_extensions`.

The history names the environment that migrated a database last, by the database's identity. A copy
of the database has another identity, so the copied history shows that it is a copy, and any
environment may migrate it. Not in a fleet, whose databases are made as copies of a template: there
a copy belongs to the environment that migrated its original, and no environment takes another's.
"""

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple, Self

from lib.errors import DatabaseUnsuitable, NotEmpty, WrongEnvironment
from lib.history import History, untrusted
from lib.settings.assistant import CONSENT_PLACEHOLDER, CONSENT_VARIABLE, Assistant
from lib.settings.config import Config
from lib.settings.database_url import DatabaseURL
from lib.settings.reach import Reach
from lib.source.extensions import Extension, remedy
from lib.tool_tables import HISTORY_TABLES, TABLES

_OCCUPANTS_SHOWN = 5
# Where a coding assistant may change a database on a private network.
_ASSISTANTS_ENVIRONMENTS = frozenset(["development", "ci"])


class Change(NamedTuple):
    """What a command would do: in words before a database's name, and as a command line."""

    words: str
    command: str

    @classmethod
    def run(cls) -> Self:
        """What a run does."""
        return cls("apply the pending migrations to", "scripts/migrate.py")

    @classmethod
    def baseline(cls, number: int) -> Self:
        """What a baseline of the files up to a number does."""
        return cls(
            f"record the migrations up to {number:03} as applied, without running them, in",
            f"scripts/migrate.py baseline {number:03}",
        )

    @classmethod
    def expect_schema(cls, *, refresh: bool) -> Self:
        """What `drift --accept` and `drift --refresh` do."""
        option = "refresh" if refresh else "accept"
        return cls(
            "record the schema as it is now, with all changes by hand, as expected in",
            f"scripts/migrate.py drift --{option}",
        )

    @classmethod
    def rehearse(cls) -> Self:
        """What a rehearsal does."""
        return cls(
            "apply the pending migrations, observed statement by statement, to",
            "scripts/migrate.py rehearse",
        )

    @classmethod
    def plan(cls) -> Self:
        """What a plan does."""
        return cls("run the pending migrations, and roll them back, in", "scripts/migrate.py plan")

    @classmethod
    def repair(cls, version: str) -> Self:
        """What a repair of a version does."""
        return cls(
            f"record the changed file of {version} as applied in",
            f"scripts/migrate.py repair {version}",
        )


def reason_to_skip(environment: str, allowed: Sequence[str]) -> str:
    """Why this environment applies nothing; empty if it may. An empty list allows all."""
    if not allowed or environment in allowed:
        return ""
    return f"{environment} is not among MIGRATION_ENVIRONMENTS={','.join(allowed)}"


def require_confirmed_production(config: Config, *, confirmed: bool) -> None:
    """Raise WrongEnvironment if a person would change production without --production."""
    require_confirmation(
        config.environment, confirmed=config.deploying or confirmed, place=_where(config)
    )


def require_confirmation(environment: str, *, confirmed: bool, place: str) -> None:
    """Raise WrongEnvironment if this would change production, and nobody has confirmed that."""
    if environment == "production" and not confirmed:
        raise WrongEnvironment(
            f"this would change production from outside a deploy{place}",
            changed_nothing=True,
            next_step="Deploy instead, or confirm with --production.",
        )


def require_consent(config: Config, change: Change, history: History | None = None) -> None:
    """Raise WrongEnvironment if a coding assistant would make a change that nobody consented to.

    Once before connecting; and again with the history, whose mark may say that a database on a
    private network is not a developer's or CI's.
    """
    if config.assistant and not _is_an_assistants(config, history):
        require_words(
            config.assistant,
            change,
            f"{config.url.label} (environment {config.environment})",
            place=_where(config),
            look="scripts/migrate.py status",
        )


def require_scratch_consent(assistant: Assistant | None, server: DatabaseURL) -> None:
    """Raise WrongEnvironment if a coding assistant would make databases on a server that is neither
    on this machine nor on a private network, and nobody consented to that.
    """
    if assistant and server.reach is Reach.ANYWHERE:
        words = "make databases, and drop them again, on the server of"
        require_words(
            assistant,
            Change(words, "scripts/migrate.py COMMAND --scratch URL"),
            server.label,
            place="",
            look="scripts/migrate.py validate",
        )


def require_words(
    assistant: Assistant, change: Change, target: str, *, place: str, look: str
) -> None:
    """Raise WrongEnvironment unless the assistant has a person's words for the change.

    The message has the question to ask about the target; `place` says where that is, and `look` is
    the command that shows what the change would be.
    """
    if not assistant.missing_consent:
        return
    raise WrongEnvironment(
        f"a coding assistant ({assistant.name}, known by {assistant.variable}) changes this "
        f"database only with a person's consent: {assistant.missing_consent}{place}",
        changed_nothing=True,
        next_step=f"Ask the person this question, with what `{look}` shows:"
        f"\n    May I {change.words} {target}?"
        "\nIf the answer allows it, run this with the answer word for word:"
        f'\n    {CONSENT_VARIABLE}="{CONSENT_PLACEHOLDER}" {change.command}',
    )


def require_permission(config: Config, history: History, *, pending: bool) -> str:
    """Return if a run may change this database, with a warning that is mostly empty.

    `pending` says whether the run has files to apply. Raises UntrustedHistory, WrongEnvironment or
    NotEmpty, in this order.
    """
    require_trust(history)
    warning = require_environment(config, history) if pending or config.production else ""
    require_consent(config, Change.run(), history)
    if pending:
        require_empty(config, history)
    return warning


def require_rehearsal(config: Config, history: History, change: Change) -> None:
    """Return if the pending files may be rehearsed or planned here.

    Never in production, nor in a database that production or another environment migrated last, nor
    in one whose history says nothing. Raises UntrustedHistory or WrongEnvironment.
    """
    require_trust(history)
    last, here = last_migrated_as(history), config.environment
    if config.production or last == "production":
        raise WrongEnvironment(
            f"this is production, where nothing is rehearsed or planned{_where(config)}",
            changed_nothing=True,
            next_step="Use a database that is thrown away, or a branch of production's.",
        )
    claimed = config.claim == f"{here}@{history.identity}"
    if not (last == here or claimed or (last is None and _is_new_or_copied(history))):
        whose = f"was last migrated as {last}" if last else _unmarked(history)
        raise WrongEnvironment(
            f"this database {whose}, so it may be in use{_where(config)}",
            changed_nothing=True,
            next_step="Use a database that is thrown away. If this one belongs to "
            f"{here}:\n    MIGRATION_CLAIM={here}@{history.identity} {change.command}",
        )
    require_consent(config, change, history)


def require_trust(history: History) -> None:
    """Raise UntrustedHistory if the table's owner must not decide what this role runs."""
    if not history.trusted:
        raise untrusted(history.table, history.owner or "", history.role)


def require_environment(config: Config, history: History) -> str:
    """Return a warning, mostly empty, if this environment may change this database.

    Raises WrongEnvironment if not.
    """
    here = config.environment
    if reason_to_skip(here, config.environments):
        raise WrongEnvironment(
            f"{here} applies nothing: MIGRATION_ENVIRONMENTS is {','.join(config.environments)}",
            changed_nothing=True,
        )
    last = last_migrated_as(history) or (_newest_mark(history) if config.fleet else None)
    if last == here or (last is None and _is_free(config, history)):
        return ""
    whose = _whose(history, last)
    if config.claim == f"{here}@{history.identity}":
        return f"this database {whose}; MIGRATION_CLAIM assigns it to {here}"
    if last and config.production and not config.fleet:
        return f"this database {whose}; production takes it over with its next migration"
    raise WrongEnvironment(
        f"this database {whose}, and this run is {here}{_where(config)}",
        changed_nothing=True,
        next_step=_options(config, history, last),
    )


def require_empty(config: Config, history: History) -> None:
    """Raise NotEmpty for a database with tables and no history, unless the Config allows that."""
    if history.known or not history.occupants or config.allow_nonempty:
        return
    shown = [*history.occupants[:_OCCUPANTS_SHOWN]]
    if len(history.occupants) > _OCCUPANTS_SHOWN:
        shown.append("…")
    raise NotEmpty(
        f"{config.url} has no migration history, but it has tables: {', '.join(shown)}",
        changed_nothing=True,
        next_step=f"Options:{_listed(_ways_to_adopt(config, history))}",
    )


def require_no_obstacle(history: History) -> None:
    """Raise DatabaseUnsuitable if this role cannot migrate this database."""
    if history.obstacle:
        raise DatabaseUnsuitable(history.obstacle, changed_nothing=True)


def require_extensions(wanted: Sequence[Extension], unavailable: Collection[str]) -> None:
    """Raise DatabaseUnsuitable if pending files create extensions that the server lacks."""
    lacking = [one for one in wanted if one.name in unavailable]
    if lacking:
        lines = "".join(f"\n  {one.place}: {one.name}" for one in lacking)
        raise DatabaseUnsuitable(
            f"the server lacks extensions that pending migrations create:{lines}",
            changed_nothing=True,
            next_step=remedy(dict.fromkeys(one.name for one in lacking)),
        )


def last_migrated_as(history: History) -> str | None:
    """The environment that last migrated this very database; None if the history does not say."""
    marks = [row for row in history.rows if row.environment and row.identity == history.identity]
    return max(marks, key=lambda row: row.id).environment if marks else None


def _is_an_assistants(config: Config, history: History | None) -> bool:
    """Whether an assistant may change this database unasked: it is disposable, by all we know."""
    reach = config.url.reach
    environments = {config.environment, (history and last_migrated_as(history)) or "ci"}
    return reach is Reach.THIS_MACHINE or (
        reach is Reach.PRIVATE and environments <= _ASSISTANTS_ENVIRONMENTS
    )


def _is_free(config: Config, history: History) -> bool:
    """Whether an unmarked database is anybody's: new, a copy, or taken over on purpose.

    Taken over from a runner that left no marks, by production or with MIGRATION_ENV set.
    """
    if not (history.known or history.occupants):
        return True
    named = config.production or config.environment_source == "MIGRATION_ENV"
    return named or _is_copied(history)


def _is_new_or_copied(history: History) -> bool:
    return not history.known or _is_copied(history)


def _newest_mark(history: History) -> str | None:
    """The environment of the newest mark, whichever database it names."""
    marks = [row for row in history.rows if row.environment and row.identity]
    return max(marks, key=lambda row: row.id).environment if marks else None


def _is_copied(history: History) -> bool:
    """Whether the history's marks name another database than this one."""
    others = [row.identity for row in history.rows if row.environment and row.identity]
    here = _identity_form(history.identity)
    return any(_identity_form(other) == here for other in others)


def _identity_form(identity: str) -> tuple[bool, bool]:
    """What an identity is made of: a system identifier or a host, with or without an endpoint.

    Identities of two forms may be the same database's, as another role or host name sees it.
    """
    first, _, rest = identity.partition("/")
    return first.isdigit(), "/ep-" in rest


def _whose(history: History, last: str | None) -> str:
    """Whose the database is, in words; `last` is the environment that its history names."""
    if last is None:
        return _unmarked(history)
    if last_migrated_as(history):
        return f"was last migrated as {last}"
    return f"is a copy of one that was last migrated as {last}"


def _unmarked(history: History) -> str:
    if history.rows:
        return "has a history that names no environment"
    if history.takeover:
        return f"has the history of {history.takeover.title}, which names no environment"
    return f"has no history, but already contains {history.occupants[0]}"


def _where(config: Config) -> str:
    return (
        f"\n  Database: {config.url}"
        f"\n  Environment: {config.environment} (from {config.environment_source})"
    )


def _options(config: Config, history: History, last: str | None) -> str:
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
