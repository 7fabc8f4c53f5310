"""The environment made into a Config: which database, which environment, which limits. Pure but for
`.env` files.

A URL never shows: no error, `str` or `repr` from here holds a user, a password or a piece of what
could not be read. Passwords are in `Target.parameters`, which go to the driver.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from lib import ROOT
from lib.errors import ConfigError
from lib.settings.database_url import _SERVICE_ADVICE, DatabaseURL, configured_urls, parse_url
from lib.settings.environ import URL_VARIABLES, is_set, url_variables_set, value_of

_ENVIRONMENT_VARIABLES = ("MIGRATION_ENV", "VERCEL_TARGET_ENV", "VERCEL_ENV")
_COMMIT_VARIABLES = (
    "VERCEL_GIT_COMMIT_SHA",
    "GITHUB_SHA",
    "CI_COMMIT_SHA",
    "CODEBUILD_RESOLVED_SOURCE_VERSION",
)
_DEPLOY_VARIABLES = ("VERCEL_DEPLOYMENT_ID", "AWS_LAMBDA_FUNCTION_NAME")
_PRODUCTIONS = ("prod", "prd", "live")
_DURATION = re.compile(r"(?P<number>[0-9]{1,10})\s*(?P<unit>ms|s|min|h)|0")
_SECONDS = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0}
_CLAIM_ADVICE = "Take the line that the refused run printed, or unset it."
_LONGEST = (2**31 - 1) / 1000  # what Postgres takes for a limit


class Config(NamedTuple):
    """Everything that the environment decides. Times are in seconds; a timeout of 0 is none."""

    url: DatabaseURL
    status_url: DatabaseURL
    environment: str
    environment_source: str
    directory: Path
    schema: str | None
    lock_timeout: float
    statement_timeout: float
    lock_wait: float
    """How long to wait for another run to finish."""
    busy_retry: float
    """How long to try again while a table is busy."""
    allow_out_of_order: bool
    allow_nonempty: bool
    """Whether all files may run on a database that has tables and no history."""
    git_commit: str | None
    applied_by: str
    deploying: bool
    """Whether a platform or CI runs this, and not a person."""
    environments: tuple[str, ...]
    """The only ones that may apply anything; empty means all."""
    claim: str
    """`environment@identity`: a database that this environment may take over."""

    @property
    def production(self) -> bool:
        """Whether this is the environment that is migrated by deploying only."""
        return self.environment == "production"


def read_config(environ: Mapping[str, str], *, applied_by: str | None = None) -> Config:
    """Make a Config. Raises ConfigError that names the variable at fault; connects to nothing."""
    environment, source = _environment(environ)
    url = choose_database(environ)
    deploying = is_set(environ, "CI") or any(
        value_of(environ, variable) for variable in _DEPLOY_VARIABLES
    )
    return Config(
        url=url,
        status_url=_status_url(environ, url),
        environment=environment,
        environment_source=source,
        directory=migrations_directory(environ),
        schema=value_of(environ, "MIGRATION_SCHEMA") or None,
        lock_timeout=read_duration(environ, "MIGRATION_LOCK_TIMEOUT", "1s"),
        statement_timeout=read_duration(environ, "MIGRATION_STATEMENT_TIMEOUT", "0"),
        lock_wait=read_duration(environ, "MIGRATION_WAIT", "120s"),
        busy_retry=read_duration(environ, "MIGRATION_RETRY", "60s"),
        allow_out_of_order=is_set(environ, "MIGRATION_ALLOW_OUT_OF_ORDER"),
        allow_nonempty=is_set(environ, "MIGRATION_ALLOW_NONEMPTY"),
        git_commit=next(
            filter(None, (value_of(environ, variable) for variable in _COMMIT_VARIABLES)), None
        ),
        applied_by=applied_by or ("build" if deploying else "cli"),
        deploying=deploying,
        environments=allowed_environments(environ)[1],
        claim=_claim(environ),
    )


def allowed_environments(environ: Mapping[str, str]) -> tuple[str, tuple[str, ...]]:
    """This environment, and those that MIGRATION_ENVIRONMENTS lets apply anything (none: all).
    Raises ConfigError.
    """
    names = (name.strip() for name in value_of(environ, "MIGRATION_ENVIRONMENTS").split(","))
    allowed = tuple(_environment_name("MIGRATION_ENVIRONMENTS", name) for name in names if name)
    if value_of(environ, "MIGRATION_ENVIRONMENTS") and not allowed:
        raise ConfigError(
            "MIGRATION_ENVIRONMENTS names no environment",
            next_step="Name some, or unset it: all may.",
        )
    return _environment(environ)[0], allowed


def migrations_directory(environ: Mapping[str, str]) -> Path:
    """Where the files are: MIGRATION_DIR, relative to the project; shown relative to where the user
    stands.
    """
    directory = ROOT / (value_of(environ, "MIGRATION_DIR") or "migrations")
    here = Path.cwd()
    return directory.relative_to(here) if directory.is_relative_to(here) else directory


def read_duration(environ: Mapping[str, str], variable: str, default: str) -> float:
    """A duration such as 5s, in seconds. Raises ConfigError."""
    text = value_of(environ, variable) or default
    found = _DURATION.fullmatch(text)
    seconds = int(found["number"] or 0) * _SECONDS[found["unit"] or "s"] if found else None
    if seconds is None or seconds > _LONGEST:
        raise ConfigError(
            f"{variable} is {text!r}; a duration looks like 250ms, 5s or 2min, and is 24 days at "
            "most"
        )
    return seconds


def choose_database(environ: Mapping[str, str]) -> DatabaseURL:
    """The database to migrate. Raises ConfigError if none is named, or two are."""
    named = url_variables_set(environ)
    if value_of(environ, "PGSERVICE"):
        raise ConfigError(
            "PGSERVICE is set, and libpq would obey it", next_step=f"Unset it. {_SERVICE_ADVICE}"
        )
    if not named:
        raise ConfigError(
            f"no database is named: none of {', '.join(URL_VARIABLES)} is set",
            next_step="Set one of them to a postgresql:// URL.",
        )
    explicit = named[0] == "MIGRATION_DATABASE_URL"
    urls = [
        parse_url(variable, environ[variable], environ)
        for variable in (named[:1] if explicit else named)
    ]
    if len({url.database_key for url in urls}) > 1:
        raise ConfigError(
            "these variables name different databases:"
            + "".join(f"\n  {url.variable}: {url.label}" for url in urls),
            next_step="Set MIGRATION_DATABASE_URL to the one to migrate, or unset the others.",
        )
    return urls[0]


def _environment(environ: Mapping[str, str]) -> tuple[str, str]:
    on_vercel = is_set(environ, "VERCEL")
    on_lambda = (
        bool(value_of(environ, "AWS_LAMBDA_FUNCTION_NAME")) and not on_vercel
    )  # Vercel's functions are Lambda's
    for variable in _ENVIRONMENT_VARIABLES[:1] if on_lambda else _ENVIRONMENT_VARIABLES:
        if value := value_of(environ, variable):
            _require_no_disguise(environ, variable, value)
            return _environment_name(variable, value), variable
    if on_vercel:
        raise ConfigError(
            "VERCEL is set, but neither VERCEL_TARGET_ENV nor VERCEL_ENV: which environment is "
            "this?",
            next_step='Switch on "Automatically expose System Environment Variables" in the project\'s settings, '
            "or set MIGRATION_ENV.",
        )
    if on_lambda:
        raise ConfigError(
            "MIGRATION_ENV is not set: on Lambda nothing else says which environment this is",
            next_step="Set it in the function's configuration, to production for example.",
        )
    return "development", "default"


def _require_no_disguise(environ: Mapping[str, str], variable: str, value: str) -> None:
    """MIGRATION_ENV=production, set for all of a project's environments, would make production of
    every preview.
    """
    platform = value_of(environ, "VERCEL_ENV").lower()
    if (
        variable == "MIGRATION_ENV"
        and value.lower() == "production"
        and platform in ("preview", "development")
    ):
        raise ConfigError(
            f"MIGRATION_ENV is production, but VERCEL_ENV is {platform}",
            next_step="Set MIGRATION_ENV for the Production environment only, or not at all.",
        )


def _claim(environ: Mapping[str, str]) -> str:
    claim = value_of(environ, "MIGRATION_CLAIM")
    environment, at, identity = claim.partition("@")
    if claim and not (environment and identity):
        raise ConfigError(
            "MIGRATION_CLAIM must look like environment@identity", next_step=_CLAIM_ADVICE
        )
    _require_full_name("MIGRATION_CLAIM", environment)
    return environment.lower() + at + identity


def _require_full_name(variable: str, environment: str) -> None:
    """Under another name production would pass all guards for production."""
    if environment.strip().lower() in _PRODUCTIONS:
        raise ConfigError(
            f"{variable} says {environment.strip()}; the name is production",
            next_step="Say production: in MIGRATION_ENV, where a platform has another name for it.",
        )


def _environment_name(variable: str, name: str) -> str:
    _require_full_name(variable, name)
    if not re.fullmatch(r"[\w.-]{1,63}", name, re.ASCII):
        raise ConfigError(
            f"{variable} is {name!r}; a name is made of letters, digits, dots, _ and -"
        )
    return name.lower()


def _status_url(environ: Mapping[str, str], url: DatabaseURL) -> DatabaseURL:
    """The same database, through the pooled URL if there is one."""
    pooled = (
        one for one in configured_urls(environ) if one.variable in ("POSTGRES_URL", "DATABASE_URL")
    )
    return next((one for one in pooled if one.database_key == url.database_key), url)
