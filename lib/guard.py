"""May this run change this database? The only module that answers it. Pure.

Before connecting: `reason_to_skip` and `require_confirmed_production`. With the history read:
`require_permission`, or of its parts those that a command needs. Before the first change:
`require_no_obstacle`.

A database belongs to the environment that migrated it last, and any environment may migrate a copy.
Not in a fleet, whose databases are made as copies of a template: there a copy belongs to the
environment that migrated its original, and no environment takes another's.
"""

from collections.abc import Sequence

from lib.consent import Change, require_consent
from lib.errors import DatabaseUnsuitable, NotEmpty, WrongEnvironment
from lib.history import History, untrusted
from lib.identity import is_copied, last_migrated_anywhere, last_migrated_as
from lib.refusals import some_occupants, ways_out, ways_to_adopt, where, whose
from lib.settings.config import Config


def reason_to_skip(environment: str, allowed: Sequence[str]) -> str:
    """Why this environment applies nothing; empty if it may. An empty list allows all."""
    if not allowed or environment in allowed:
        return ""
    return f"{environment} is not among MIGRATION_ENVIRONMENTS={','.join(allowed)}"


def require_confirmed_production(config: Config, *, confirmed: bool) -> None:
    """Raise WrongEnvironment if a person would change production without --production."""
    require_confirmation(
        config.environment, confirmed=config.deploying or confirmed, place=where(config)
    )


def require_confirmation(environment: str, *, confirmed: bool, place: str) -> None:
    """Raise WrongEnvironment if this would change production, and nobody has confirmed that."""
    if environment == "production" and not confirmed:
        raise WrongEnvironment(
            f"this would change production from outside a deploy{place}",
            changed_nothing=True,
            next_step="Deploy instead, or confirm with --production.",
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
    last = last_migrated_as(history) or (last_migrated_anywhere(history) if config.fleet else None)
    if last == here or (last is None and _is_free(config, history)):
        return ""
    found = f"this database {whose(history, last)}"
    if config.claim == f"{here}@{history.identity}":
        return f"{found}; MIGRATION_CLAIM assigns it to {here}"
    if last and config.production and not config.fleet:
        return f"{found}; production takes it over with its next migration"
    raise WrongEnvironment(
        f"{found}, and this run is {here}{where(config)}",
        changed_nothing=True,
        next_step=ways_out(config, history, last),
    )


def require_empty(config: Config, history: History) -> None:
    """Raise NotEmpty for a database with tables and no history, unless the Config allows that."""
    if history.known or not history.occupants or config.allow_nonempty:
        return
    raise NotEmpty(
        f"{config.url} has no migration history, but it has tables: {some_occupants(history)}",
        changed_nothing=True,
        next_step=ways_to_adopt(config, history),
    )


def require_no_obstacle(history: History) -> None:
    """Raise DatabaseUnsuitable if this role cannot migrate this database."""
    if history.obstacle:
        raise DatabaseUnsuitable(history.obstacle, changed_nothing=True)


def _is_free(config: Config, history: History) -> bool:
    """Whether an unmarked database is anybody's: new, a copy, or taken over on purpose.

    Taken over from a runner that left no marks, by production or with MIGRATION_ENV set.
    """
    if not (history.known or history.occupants):
        return True
    named = config.production or config.environment_source == "MIGRATION_ENV"
    return named or is_copied(history)
