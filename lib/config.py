"""The environment made into a Config: which database, which environment, which limits. Pure but for `.env` files.

Nothing here prints or returns a password but `Target.parameters`, which go to the driver.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

from lib.errors import ConfigError

ROOT = Path(__file__).resolve().parent.parent
URL_VARIABLES = (
    "MIGRATION_DATABASE_URL",
    "POSTGRES_URL_NON_POOLING",
    "DATABASE_URL_UNPOOLED",
    "POSTGRES_URL",
    "DATABASE_URL",
)
_POOLED_VARIABLES = ("POSTGRES_URL", "DATABASE_URL")
_COMMIT_VARIABLES = ("VERCEL_GIT_COMMIT_SHA", "GITHUB_SHA", "CI_COMMIT_SHA", "CODEBUILD_RESOLVED_SOURCE_VERSION")
_ENV_FILES = (".env.local", ".env")
_SCHEMES = ("postgresql", "postgres", "postgresql+psycopg")
_URL = re.compile(
    r"(?P<scheme>[\w+]+)://(?:(?P<user>[^@/?]*)@)?(?P<host>[^/?]*)(?:/(?P<dbname>[^?/@]*))?(?:\?(?P<query>.*))?"
)
_DURATION = re.compile(r"(\d+)\s*(ms|s|min|h)?")
_ASSIGNMENT = re.compile(
    r"""^[ \t]*(?:export[ \t]+)?(\w+)[ \t]*=[ \t]*"""
    r"""(?:"((?:[^"\\]|\\.)*)"|'([^']*)'|((?!["'])[^\r\n]*?))[ \t]*(?:[ \t]#[^\r\n]*)?\r?$""",
    re.MULTILINE,
)
_ESCAPE = re.compile(r"\\(.)")
_ENCODE = "percent-encode @, :, /, ? and # in user and password"
_UNITS = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0}
# libpq 18. Providers add parameters for other drivers; libpq refuses a URL with one that it does not know.
_LIBPQ_PARAMETERS = frozenset(
    "application_name channel_binding client_encoding connect_timeout dbname fallback_application_name gssdelegation "
    "gssencmode gsslib host hostaddr keepalives keepalives_count keepalives_idle keepalives_interval krbsrvname "
    "load_balance_hosts max_protocol_version min_protocol_version options passfile password port require_auth "
    "requirepeer requiressl scram_client_key scram_server_key service ssl_max_protocol_version "
    "ssl_min_protocol_version sslcert sslcertmode sslcompression sslcrl sslcrldir sslkey sslkeylogfile sslmode "
    "sslnegotiation sslpassword sslrootcert sslsni target_session_attrs tcp_user_timeout user".split()
)


@dataclass(frozen=True, slots=True)
class Target:
    """One database as a URL variable names it. `str` is safe to print: variable, host and database only."""

    variable: str
    host: str
    database: str
    parameters: Mapping[str, str] = field(repr=False)
    """libpq's keywords and values, password included: for the driver, never for output."""

    def __str__(self) -> str:
        return f"{self.database} on {self.host or 'this machine'} (from {self.variable})"

    @property
    def place(self) -> tuple[str, str]:
        """What two URLs of one database share: its name, and the host without a pooler's suffix."""
        return self.database, unpooled(self.host)

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must not appear in any output."""
        return tuple(self.parameters[name] for name in ("password", "sslpassword") if self.parameters.get(name))


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that the environment decides. Durations are seconds; 0 means no limit."""

    target: Target
    status_target: Target
    environment: str
    environment_source: str
    directory: Path
    schema: str | None
    lock_timeout: float
    statement_timeout: float
    wait: float
    """How long to wait for another run to finish."""
    allow_out_of_order: bool
    git_commit: str | None
    applied_by: str
    deploying: bool
    """Whether a platform or CI runs this, and not a person."""

    @property
    def production(self) -> bool:
        """Whether this is the environment that is migrated by deploying only."""
        return self.environment == "production"


def read_config(environ: Mapping[str, str], *, applied_by: str | None = None) -> Config:
    """Make a Config. Raises ConfigError that names every variable at fault; connects to nothing."""
    environment, source = _environment(environ)
    target = choose_target(environ)
    deploying = _on_platform(environ)
    return Config(
        target=target,
        status_target=_status_target(environ, target),
        environment=environment,
        environment_source=source,
        directory=migrations_directory(environ),
        schema=environ.get("MIGRATION_SCHEMA") or None,
        lock_timeout=_duration(environ, "MIGRATION_LOCK_TIMEOUT", "1s"),
        statement_timeout=_duration(environ, "MIGRATION_STATEMENT_TIMEOUT", "0"),
        wait=_duration(environ, "MIGRATION_WAIT", "120s"),
        allow_out_of_order=_flag(environ, "MIGRATION_ALLOW_OUT_OF_ORDER"),
        git_commit=next((environ[name] for name in _COMMIT_VARIABLES if environ.get(name)), None),
        applied_by=applied_by or ("build" if deploying else "cli"),
        deploying=deploying,
    )


def migrations_directory(environ: Mapping[str, str]) -> Path:
    """Where the files are: MIGRATION_DIR, relative to the project; shown relative to where the user stands."""
    directory = ROOT / (environ.get("MIGRATION_DIR") or "migrations")
    here = Path.cwd()
    return directory.relative_to(here) if directory.is_relative_to(here) else directory


def with_env_files(environ: Mapping[str, str], folder: Path = ROOT) -> dict[str, str]:
    """The environment completed from `.env.local` and `.env`.

    The first of process, `.env.local` and `.env` that names a database supplies all URLs: never a mix of two worlds.
    """
    merged = dict(environ)
    for name in _ENV_FILES:
        values = _env_file(folder / name)
        if any(merged.get(variable) for variable in URL_VARIABLES):
            values = {key: value for key, value in values.items() if key not in URL_VARIABLES}
        merged = {**merged, **{key: value for key, value in values.items() if not merged.get(key)}}
    return merged


def choose_target(environ: Mapping[str, str]) -> Target:
    """The database to migrate. Raises ConfigError if none is named, or two are."""
    named = [variable for variable in URL_VARIABLES if environ.get(variable, "").strip()]
    if not named:
        raise ConfigError(
            "no database is named: none of " + ", ".join(URL_VARIABLES) + " is set",
            next_step="Set one of them to a postgresql:// URL.",
        )
    first = parse_url(named[0], environ[named[0]], environ)
    if first.variable == "MIGRATION_DATABASE_URL":
        return first
    targets = [first, *(parse_url(name, environ[name], environ) for name in named[1:])]
    if len({target.place for target in targets}) > 1:
        listed = "\n".join(
            f"  {target.variable}: {target.database} on {target.host or 'this machine'}" for target in targets
        )
        raise ConfigError(
            f"these variables name different databases:\n{listed}",
            next_step="Set MIGRATION_DATABASE_URL to the one to migrate, or unset the others.",
        )
    return first


def parse_url(variable: str, url: str, environ: Mapping[str, str]) -> Target:
    """Take a URL apart as libpq does. Raises ConfigError that names the variable and never shows the URL."""
    parts = _URL.fullmatch(url.strip())
    if not parts or parts["scheme"] not in _SCHEMES:
        raise ConfigError(
            f"{variable} is not a URL of a Postgres database",
            next_step="It must look like postgresql://user:password@host:5432/database, percent-encoded where needed.",
        )
    parameters = _query_parameters(variable, parts["query"] or "")
    user, _, password = (parts["user"] or "").partition(":")
    hosts, ports = _hosts_and_ports(variable, parts["host"])
    named = {"user": user, "password": password, "host": hosts, "port": ports, "dbname": parts["dbname"]}
    for name, value in named.items():
        if value:
            parameters.setdefault(name, _decoded(variable, value))
    host = parameters.get("host", environ.get("PGHOST", ""))
    if not _is_local(host) and environ.get("PGSSLMODE") not in ("verify-ca", "verify-full"):
        parameters.setdefault("sslmode", "require")
    database = parameters.get("dbname") or environ.get("PGDATABASE") or parameters.get("user", "")
    return Target(variable, host, database, parameters)


def unpooled(host: str) -> str:
    """A host without the suffix that a provider's pooler adds to its first label."""
    label, dot, domain = host.lower().partition(".")
    return label.removesuffix("-pooler") + dot + domain


def redact(text: str, target: Target | None) -> str:
    """The text without the target's secrets, for words that come from a driver or a server."""
    for secret in target.secrets if target else ():
        text = text.replace(secret, "***")
    return re.sub(r"(\w+://)[^\s@/]*@", r"\1***@", text)


def _environment(environ: Mapping[str, str]) -> tuple[str, str]:
    on_lambda = environ.get("AWS_LAMBDA_FUNCTION_NAME") and not environ.get("VERCEL")
    for variable in ("MIGRATION_ENV",) if on_lambda else ("MIGRATION_ENV", "VERCEL_TARGET_ENV", "VERCEL_ENV"):
        if value := environ.get(variable, "").strip():
            if not re.fullmatch(r"[\w.-]{1,63}", value, re.ASCII):
                raise ConfigError(f"{variable} is {value!r}; a name is made of letters, digits, dots, _ and -")
            return value, variable
    if environ.get("VERCEL"):
        raise ConfigError(
            "VERCEL is set, but neither VERCEL_TARGET_ENV nor VERCEL_ENV: which environment is this?",
            next_step='Switch on "Automatically expose System Environment Variables" in the project\'s settings, '
            "or set MIGRATION_ENV.",
        )
    if on_lambda:
        raise ConfigError("MIGRATION_ENV is not set: on Lambda nothing else says which environment this is")
    return "development", "default"


def _on_platform(environ: Mapping[str, str]) -> bool:
    return bool(environ.get("VERCEL_DEPLOYMENT_ID") or environ.get("AWS_LAMBDA_FUNCTION_NAME")) or _flag(environ, "CI")


def _status_target(environ: Mapping[str, str], target: Target) -> Target:
    for variable in _POOLED_VARIABLES:
        if url := environ.get(variable, "").strip():
            try:
                pooled = parse_url(variable, url, environ)
            except ConfigError:
                continue
            if pooled.place == target.place:
                return pooled
    return target


def _query_parameters(variable: str, query: str) -> dict[str, str]:
    parameters: dict[str, str] = {}
    for name, value in (_pair(variable, part) for part in query.split("&") if part):
        if name == "schema" and value != "public":
            raise ConfigError(
                f"{variable} says schema={value}, which Postgres itself does not know",
                next_step="Take it out of the URL; MIGRATION_SCHEMA says where the history is.",
            )
        if name in _LIBPQ_PARAMETERS:
            parameters[name] = value
        elif (name, value) == ("ssl", "true"):  # libpq's own reading of JDBC's word
            parameters["sslmode"] = "require"
        elif name.startswith("ssl"):
            raise ConfigError(f"{variable} has the parameter {name}, which libpq does not know and would not obey")
    return parameters


def _pair(variable: str, part: str) -> tuple[str, str]:
    name, _, value = part.partition("=")
    if not re.fullmatch(r"\w+", name):
        raise ConfigError(f"{variable} has a query that cannot be read; {_ENCODE}")
    return name, _decoded(variable, value)


def _hosts_and_ports(variable: str, hosts: str) -> tuple[str, str]:
    """`a:1,[::1]:2` -> (`a,::1`, `1,2`): libpq takes several hosts, each with its port."""
    pairs = [re.fullmatch(r"(\[[^\]@]*\]|[^:\[\]@]*)(?::(\d*))?", host) for host in hosts.split(",")]
    found = [(pair[1].strip("[]"), pair[2] or "") for pair in pairs if pair]
    if len(found) != len(pairs):
        raise ConfigError(f"{variable} has a host or port that cannot be read; {_ENCODE}")
    ports = ",".join(port for _, port in found)
    return ",".join(host for host, _ in found), ports.strip(",") and ports


def _decoded(variable: str, value: str) -> str:
    if re.search(r"%(?![0-9A-Fa-f]{2})", value):
        raise ConfigError(f"{variable} has a % that is not the start of a percent-encoded character; write it as %25")
    return unquote(value)


def _is_local(host: str) -> bool:
    return all(
        not name or name[0] in "/@" or name.lower() in ("localhost", "::1") or re.fullmatch(r"127(\.\d+){3}", name)
        for name in host.split(",")
    )


def _duration(environ: Mapping[str, str], variable: str, default: str) -> float:
    text = (environ.get(variable) or default).strip()
    duration = _DURATION.fullmatch(text)
    if not duration or not (duration[2] or int(duration[1]) == 0):
        raise ConfigError(f"{variable} is {text!r}; a duration looks like 250ms, 5s or 2min")
    return int(duration[1]) * _UNITS[duration[2] or "s"]


def _flag(environ: Mapping[str, str], variable: str) -> bool:
    return environ.get(variable, "").strip().lower() not in ("", "0", "false", "no", "off")


def _env_file(path: Path) -> dict[str, str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError):
        raise ConfigError(f"{path.name} cannot be read as UTF-8 text") from None
    return dict(_assignments(text))


def _assignments(text: str) -> Iterator[tuple[str, str]]:
    for name, double, single, bare in _ASSIGNMENT.findall(text):
        yield name, _ESCAPE.sub(lambda escape: {"n": "\n"}.get(escape[1], escape[1]), double) or single or bare
