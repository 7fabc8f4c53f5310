"""The environment made into a Config: which database, which environment, which limits.

Pure, but that it reads `imported.json`.

No error, `str` or `repr` from here shows a user, a password, or a part of a URL that could not be
parsed. Passwords are in `DatabaseURL.parameters`, which go to the driver.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from lib import ROOT
from lib.errors import ConfigError
from lib.imported import Imported, read_imported
from lib.settings.assistant import Assistant, find_assistant
from lib.settings.database_url import DatabaseURL, configured_urls, parse_url
from lib.settings.environ import URL_VARIABLES, is_set, url_variables_set, value_of
from lib.settings.environment import (
    allowed_environments,
    is_deploying,
    read_claim,
    read_environment,
)
from lib.settings.url_parameters import SERVICE_ADVICE

_COMMIT_VARIABLES = (
    "VERCEL_GIT_COMMIT_SHA",
    "GITHUB_SHA",
    "CI_COMMIT_SHA",
    "CODEBUILD_RESOLVED_SOURCE_VERSION",
)
_POOLED_URL_VARIABLES = ("POSTGRES_URL", "DATABASE_URL")
_DURATION = re.compile(r"(?P<number>[0-9]{1,10})\s*(?P<unit>ms|s|min|h)|0")
_MAX_NAME_BYTES = 63
_SECONDS_IN = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0}
DRIFT = ("warn", "fail", "off")
_BYTES = r"(?P<number>[0-9]{1,9})\s*(?P<unit>kB|MB|GB|TB)"
_BYTES_IN = {"kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_FAIL_ON = ("fail", "warn", "never")
_MAX_SECONDS = (2**31 - 1) / 1000  # Postgres takes no longer timeout


class Config(NamedTuple):
    """Everything that the environment decides. Times are in seconds; a timeout of 0 is none."""

    url: DatabaseURL
    status_url: DatabaseURL
    environment: str
    environment_source: str
    directory: Path
    imported: Imported | None
    """What was imported into the directory from another migration tool."""
    schema: str | None
    lock_timeout: float
    statement_timeout: float
    lock_wait: float
    """How long to wait for another run to finish."""
    busy_retry: float
    """How long to retry while a table is busy."""
    allow_out_of_order: bool
    allow_nonempty: bool
    """Whether all files may run on a database that has tables and no history."""
    git_commit: str | None
    applied_by: str
    deploying: bool
    """Whether a platform or CI runs this, and neither a person nor a coding assistant."""
    assistant: Assistant | None
    """The coding assistant that runs this."""
    environments: tuple[str, ...]
    """The only ones that may apply anything; empty means all."""
    claim: str
    """`environment@identity`: a database that this environment may take over."""
    drift: str
    """What a run does about a schema that is not as the migrations left it: one of DRIFT."""
    ahead: bool
    """Whether small files may be sent together, without waiting for replies."""
    rehearse: bool
    """Whether a run outside production tells the hazards of its files."""
    fail_on: str
    """The level from which findings end `rehearse` and `plan` with exit code 9, or never."""
    large: int
    """Bytes of a table, times what is done with each, above which a finding fails."""
    connect_wait: float = math.inf
    """How long to try to connect, where that is less than it usually is."""
    fleet: bool = False
    """Whether this is one of many databases, made of a template, whose warnings nobody reads."""
    tenant: str | None = None
    """The schema that the run is for, beside those of other tenants: see `for_tenant`."""

    @property
    def production(self) -> bool:
        """Whether this is the environment that is migrated by deploying only."""
        return self.environment == "production"

    def for_tenant(self, schema: str) -> "Config":
        """The same for one tenant of a database, whose tables and history are in a schema.

        The files run with this schema and then `public` on the search path. No other history
        counts, and runs for other tenants may be under way. Drift is not looked for: comparing
        reads the whole catalog. Raises as `require_tenant_schema` does.
        """
        require_tenant_schema(schema)
        return self._replace(schema=schema, tenant=schema, drift="off")


def read_config(environ: Mapping[str, str], *, applied_by: str | None = None) -> Config:
    """Make a Config; connects to nothing.

    Raises ConfigError that names the variable at fault, FilesError for an imported.json that is
    none.
    """
    environment = read_environment(environ)
    url = choose_database(environ)
    assistant = find_assistant(environ)
    directory = migrations_directory(environ)
    imported = read_imported(directory)
    deploying = is_deploying(environ) and not assistant
    return Config(
        url=url,
        status_url=_status_url(environ, url),
        environment=environment.name,
        environment_source=environment.source,
        directory=directory,
        imported=imported,
        schema=history_schema(environ, imported),
        lock_timeout=read_duration(environ, "MIGRATION_LOCK_TIMEOUT", "1s"),
        statement_timeout=read_duration(environ, "MIGRATION_STATEMENT_TIMEOUT", "0"),
        lock_wait=read_duration(environ, "MIGRATION_WAIT", "120s"),
        busy_retry=read_duration(environ, "MIGRATION_RETRY", "60s"),
        allow_out_of_order=is_set(environ, "MIGRATION_ALLOW_OUT_OF_ORDER"),
        allow_nonempty=is_set(environ, "MIGRATION_ALLOW_NONEMPTY"),
        git_commit=git_commit(environ),
        applied_by="assistant" if assistant else applied_by or ("build" if deploying else "cli"),
        deploying=deploying,
        assistant=assistant,
        environments=allowed_environments(environ)[1],
        claim=read_claim(environ),
        drift=_read_drift(environ),
        rehearse=is_set(environ, "MIGRATION_REHEARSE"),
        ahead=is_set(environ, "MIGRATION_AHEAD", default="1"),
        fail_on=_read_fail_on(environ),
        large=read_bytes(environ, "MIGRATION_PLAN_LARGE", "100MB"),
    )


def migrations_directory(environ: Mapping[str, str]) -> Path:
    """The directory of the migration files: MIGRATION_DIR, relative to the project's root.

    The path is shortened to one relative to the working directory where it is inside of that.
    """
    directory = ROOT / (value_of(environ, "MIGRATION_DIR") or "migrations")
    here = Path.cwd()
    return directory.relative_to(here) if directory.is_relative_to(here) else directory


def history_schema(environ: Mapping[str, str], imported: Imported | None) -> str | None:
    """The schema of the history, which a run may create. Raises ConfigError."""
    name = value_of(environ, "MIGRATION_SCHEMA")
    if name and not _is_schema_name(name):
        raise ConfigError(
            f"MIGRATION_SCHEMA is no name for a schema: expected at most {_MAX_NAME_BYTES} bytes, "
            "no URL, and not pg_ in front"
        )
    return name or (imported.schema if imported else None)


def require_tenant_schema(name: str) -> None:
    """Raise ConfigError for what cannot be the schema of one tenant. No message shows it.

    All share `public`, and in a search path `$user` is another schema.
    """
    if name in ("public", "$user") or not _is_schema_name(name):
        raise ConfigError(
            f"the schema is none of a tenant's own: expected a name of 1 to {_MAX_NAME_BYTES} "
            "bytes, not public, not $user, no URL, and not pg_ in front"
        )


def _is_schema_name(name: str) -> bool:
    # The server would cut a longer name off; a URL is a mistake, and may hold a password.
    fits = 0 < len(name.encode()) <= _MAX_NAME_BYTES and "\0" not in name
    return fits and "://" not in name and not name.startswith("pg_")


def read_duration(environ: Mapping[str, str], variable: str, default: str) -> float:
    """A duration such as `5s`, in seconds. Raises ConfigError."""
    text = value_of(environ, variable) or default
    found = _DURATION.fullmatch(text)
    if found:
        seconds = int(found["number"] or 0) * _SECONDS_IN[found["unit"] or "s"]
        if seconds <= _MAX_SECONDS:
            return seconds
    raise ConfigError(
        f"{variable} is {text!r}; expected a duration such as 250ms, 5s or 2min, at most 24 days"
    )


def _read_drift(environ: Mapping[str, str]) -> str:
    text = (value_of(environ, "MIGRATION_DRIFT") or DRIFT[0]).lower()
    if text not in DRIFT:
        raise ConfigError(f"MIGRATION_DRIFT is {text!r}; expected one of {', '.join(DRIFT)}")
    return text


def read_bytes(environ: Mapping[str, str], variable: str, default: str) -> int:
    """A size such as `100MB`, in bytes. Raises ConfigError."""
    text = value_of(environ, variable) or default
    if found := re.fullmatch(_BYTES, text):
        return int(found["number"]) * _BYTES_IN[found["unit"]]
    raise ConfigError(f"{variable} is {text!r}; expected a size such as 500kB, 100MB or 2GB")


def _read_fail_on(environ: Mapping[str, str]) -> str:
    text = value_of(environ, "MIGRATION_PLAN_FAIL_ON") or _FAIL_ON[0]
    if text not in _FAIL_ON:
        raise ConfigError(
            f"MIGRATION_PLAN_FAIL_ON is {text!r}; expected one of {', '.join(_FAIL_ON)}"
        )
    return text


def choose_database(environ: Mapping[str, str]) -> DatabaseURL:
    """The database to migrate. Raises ConfigError if no variable names one, or they name two."""
    variables = url_variables_set(environ)
    if value_of(environ, "PGSERVICE"):
        raise ConfigError(
            "PGSERVICE is set, and libpq would use it", next_step=f"Unset it. {SERVICE_ADVICE}"
        )
    if not variables:
        raise ConfigError(
            f"no database URL is set: none of {', '.join(URL_VARIABLES)} has a value",
            next_step="Set one of them to a postgresql:// URL.",
        )
    if variables[0] == "MIGRATION_DATABASE_URL":
        variables = variables[:1]  # it decides; the others may name other databases
    urls = [parse_url(variable, environ[variable], environ) for variable in variables]
    if len({url.database_key for url in urls}) > 1:
        raise ConfigError(
            "these variables name different databases:"
            + "".join(f"\n  {url.variable}: {url.label}" for url in urls),
            next_step="Set MIGRATION_DATABASE_URL to the one to migrate, or unset the others.",
        )
    return urls[0]


def _status_url(environ: Mapping[str, str], url: DatabaseURL) -> DatabaseURL:
    """The same database, through the pooled URL if there is one."""
    for other in configured_urls(environ, _POOLED_URL_VARIABLES):
        if other.database_key == url.database_key:
            return other
    return url


def git_commit(environ: Mapping[str, str]) -> str | None:
    """The commit that a platform says it builds; None without one."""
    for variable in _COMMIT_VARIABLES:
        if commit := value_of(environ, variable):
            return commit
    return None
