"""The environment made into a Config: which database, which environment, which limits. Pure but for `.env` files.

A URL never shows: no error, `str` or `repr` from here holds a user, a password or a piece of what could not be read.
Passwords are in `Target.parameters`, which go to the driver.
"""

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
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
_ENVIRONMENT_VARIABLES = ("MIGRATION_ENV", "VERCEL_TARGET_ENV", "VERCEL_ENV")
_COMMIT_VARIABLES = ("VERCEL_GIT_COMMIT_SHA", "GITHUB_SHA", "CI_COMMIT_SHA", "CODEBUILD_RESOLVED_SOURCE_VERSION")
_DEPLOY_VARIABLES = ("VERCEL_DEPLOYMENT_ID", "AWS_LAMBDA_FUNCTION_NAME")
_ENV_FILES = (".env.local", ".env")
_SETTING = r"MIGRATION_(?!DATABASE_URL$)\w+|VERCEL|VERCEL_ENV|VERCEL_TARGET_ENV"
_ASSIGNMENT = (
    r"""(?m)^[ \t]*(?:export[ \t]+)?(\w+)[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|'([^']*)'|([^\s"'#][^\n]*?)?)"""
    r"""[ \t]*(?:(?<=[\s="'])#[^\n]*)?$"""
)
# Like libpq's own, but with one @ at most. Else a password with an unencoded @, / or ? would be taken for a host or a
# database, and shown.
_URL = re.compile(
    r"(?:postgres|postgresql|postgresql\+psycopg)://"
    r"(?:(?P<user>[^\s:@/?]*)(?::(?P<password>[^\s@/?]*))?@)?(?P<hosts>[^\s@/?]*)"
    r"(?:/(?P<dbname>[^\s@/?]*))?(?:\?(?P<query>[^\s@]*))?"
)
_HOST = re.compile(r"(?:\[(?P<ipv6>[^\[\]]*)\]|(?P<name>[^:\[\]]*))(?::(?P<port>[0-9]*))?")
_LOCAL = re.compile(r"(?:localhost|::1|127(?:\.[0-9]+){3}|[/@].*)?", re.IGNORECASE)
# libpq refuses a URL with a parameter that it does not know, and providers add those of other drivers.
_LIBPQ_PARAMETERS = frozenset(
    "application_name channel_binding client_encoding connect_timeout dbname fallback_application_name gssdelegation "
    "gssencmode gsslib host hostaddr keepalives keepalives_count keepalives_idle keepalives_interval krbsrvname "
    "load_balance_hosts max_protocol_version min_protocol_version oauth_client_id oauth_client_secret oauth_issuer "
    "oauth_scope options passfile password port replication require_auth requirepeer scram_client_key "
    "scram_server_key service ssl_max_protocol_version ssl_min_protocol_version sslcert sslcertmode sslcompression "
    "sslcrl sslcrldir sslkey sslkeylogfile sslmode sslnegotiation sslpassword sslrootcert sslsni "
    "target_session_attrs tcp_user_timeout user".split()
)
_SECRET_PARAMETERS = ("password", "sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key")
_DURATION = re.compile(r"(?P<number>[0-9]{1,10})\s*(?P<unit>ms|s|min|h)|0")
_SECONDS = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0}
_CLAIM_ADVICE = "Take the line that the refused run printed, or unset it."
_LONGEST = (2**31 - 1) / 1000  # what Postgres takes for a limit


@dataclass(frozen=True, slots=True)
class Target:
    """One database as a URL variable names it. `str` is safe to print: variable, host and database only."""

    variable: str
    host: str
    database: str
    parameters: Mapping[str, str] = field(repr=False)
    """libpq's keywords and values, password included: for the driver, never for output."""

    def __str__(self) -> str:
        return f"{self.shown} (from {self.variable})"

    @property
    def shown(self) -> str:
        """Database and host in words."""
        return f"{self.database or 'the default database'} on {self.host or 'this machine'}"

    @property
    def place(self) -> tuple[str, ...]:
        """What all URLs of one database share: its name, its hosts without a pooler's suffix, a pooler's tenant."""
        return (self.database, self.tenant, *map(unpooled, self.host.split(",")))

    @property
    def tenant(self) -> str:
        """Whose database it is, where a pooler's host is many projects': Supabase has that in the user's name."""
        return self.parameters.get("user", "").partition(".")[2] if ".pooler." in self.host else ""

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must not appear in any output, longest first. What is printed anyway would only be given away by ***."""
        found = {self.parameters.get(name, "") for name in _SECRET_PARAMETERS}
        return tuple(sorted(found - {"", self.host, self.database}, key=len, reverse=True))


class Config(NamedTuple):
    """Everything that the environment decides. Times are in seconds; a timeout of 0 is none."""

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
    retry: float
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
    target = choose_target(environ)
    deploying = _flag(environ, "CI") or any(_value(environ, variable) for variable in _DEPLOY_VARIABLES)
    return Config(
        target=target,
        status_target=_status_target(environ, target),
        environment=environment,
        environment_source=source,
        directory=migrations_directory(environ),
        schema=_value(environ, "MIGRATION_SCHEMA") or None,
        lock_timeout=read_duration(environ, "MIGRATION_LOCK_TIMEOUT", "1s"),
        statement_timeout=read_duration(environ, "MIGRATION_STATEMENT_TIMEOUT", "0"),
        wait=read_duration(environ, "MIGRATION_WAIT", "120s"),
        retry=read_duration(environ, "MIGRATION_RETRY", "60s"),
        allow_out_of_order=_flag(environ, "MIGRATION_ALLOW_OUT_OF_ORDER"),
        allow_nonempty=_flag(environ, "MIGRATION_ALLOW_NONEMPTY"),
        git_commit=next(filter(None, (_value(environ, variable) for variable in _COMMIT_VARIABLES)), None),
        applied_by=applied_by or ("build" if deploying else "cli"),
        deploying=deploying,
        environments=read_environments(environ)[1],
        claim=_claim(environ),
    )


def read_environments(environ: Mapping[str, str]) -> tuple[str, tuple[str, ...]]:
    """This environment, and those that MIGRATION_ENVIRONMENTS lets apply anything (none: all). Raises ConfigError."""
    names = (name.strip() for name in _value(environ, "MIGRATION_ENVIRONMENTS").split(","))
    allowed = tuple(_environment_name("MIGRATION_ENVIRONMENTS", name) for name in names if name)
    if _value(environ, "MIGRATION_ENVIRONMENTS") and not allowed:
        raise ConfigError("MIGRATION_ENVIRONMENTS names no environment", next_step="Name some, or unset it: all may.")
    return _environment(environ)[0], allowed


def migrations_directory(environ: Mapping[str, str]) -> Path:
    """Where the files are: MIGRATION_DIR, relative to the project; shown relative to where the user stands."""
    directory = ROOT / (_value(environ, "MIGRATION_DIR") or "migrations")
    here = Path.cwd()
    return directory.relative_to(here) if directory.is_relative_to(here) else directory


def read_duration(environ: Mapping[str, str], variable: str, default: str) -> float:
    """A duration such as 5s, in seconds. Raises ConfigError."""
    text = _value(environ, variable) or default
    found = _DURATION.fullmatch(text)
    seconds = int(found["number"] or 0) * _SECONDS[found["unit"] or "s"] if found else None
    if seconds is None or seconds > _LONGEST:
        raise ConfigError(f"{variable} is {text!r}; a duration looks like 250ms, 5s or 2min, and is 24 days at most")
    return seconds


def databases_named(environ: Mapping[str, str]) -> list[str]:
    """The URL variables that are set, first choice first."""
    return [variable for variable in URL_VARIABLES if _value(environ, variable)]


def with_env_files(environ: Mapping[str, str], folder: Path = ROOT) -> dict[str, str]:
    """The environment completed from `.env.local` and `.env`; raises ConfigError for one that cannot be read.

    The first of process, `.env.local` and `.env` that names a database supplies all URLs: never a mix of two worlds.
    Only what names database, environment and settings is taken: a pulled file must not pass a laptop off as a build.
    """
    merged = dict(environ)
    for name in _ENV_FILES:
        urls = () if databases_named(merged) else URL_VARIABLES
        for variable, value in _env_file(folder / name).items():
            if not _value(merged, variable) and (variable in urls or re.fullmatch(_SETTING, variable)):
                merged[variable] = value
    return merged


def choose_target(environ: Mapping[str, str]) -> Target:
    """The database to migrate. Raises ConfigError if none is named, or two are."""
    named = databases_named(environ)
    if not named:
        raise ConfigError(
            f"no database is named: none of {', '.join(URL_VARIABLES)} is set",
            next_step="Set one of them to a postgresql:// URL.",
        )
    explicit = named[0] == "MIGRATION_DATABASE_URL"
    targets = [parse_url(variable, environ[variable], environ) for variable in (named[:1] if explicit else named)]
    if len({target.place for target in targets}) > 1:
        raise ConfigError(
            "these variables name different databases:"
            + "".join(f"\n  {target.variable}: {target.shown}" for target in targets),
            next_step="Set MIGRATION_DATABASE_URL to the one to migrate, or unset the others.",
        )
    return targets[0]


def named_targets(environ: Mapping[str, str]) -> tuple[Target, ...]:
    """All databases that variables name, first choice first; a URL that cannot be read names none."""
    found = []
    for variable in databases_named(environ):
        with suppress(ConfigError):
            found.append(parse_url(variable, environ[variable], environ))
    return tuple(found)


def parse_url(variable: str, url: str, environ: Mapping[str, str]) -> Target:
    """Take a URL apart as libpq does. Raises ConfigError that names the variable and shows nothing of the URL."""
    parts = _URL.fullmatch(url.strip())
    if not parts:
        raise _unreadable(variable, "is not a URL of a Postgres database")
    hosts, ports = _hosts_and_ports(variable, parts["hosts"])
    written = {name: parts[name] or "" for name in ("user", "password", "dbname")} | {"host": hosts, "port": ports}
    parameters = {name: _decoded(variable, value) for name, value in written.items() if value}
    parameters |= _query_parameters(variable, parts["query"] or "")
    host = parameters.get("host") or parameters.get("hostaddr") or environ.get("PGHOST", "")
    database = parameters.get("dbname") or environ.get("PGDATABASE", "")
    if re.search("[^,]@|://", f"{host},{database}"):
        raise _unreadable(variable, "has a host or database that looks like a URL itself")
    local = all(map(_LOCAL.fullmatch, (parameters.get("hostaddr") or host).split(",")))
    if not local and environ.get("PGSSLMODE") not in ("verify-ca", "verify-full"):
        parameters.setdefault("sslmode", "require")
    return Target(variable, host, database, parameters)


def unpooled(host: str) -> str:
    """A host without the suffix that a provider's pooler adds to its first label."""
    label, dot, domain = host.lower().partition(".")
    return label.removesuffix("-pooler") + dot + domain


def redact(text: str, *targets: Target | None) -> str:
    """The text without the targets' secrets, however they are written, and without any URL's credentials."""
    for secret in (secret for target in targets if target for secret in target.secrets):
        text = re.sub("".join(map(_spellings, secret)), "***", text)
    text = re.sub(r"(\w://)\S*@", r"\1***@", text)
    return re.sub(r"(?i)(password=)[^\s&]+", r"\1***", text)


def _spellings(char: str) -> str:
    """A pattern for a character as it is, percent-encoded, or escaped in JSON."""
    encoded = "".join(f"%{byte:02x}" for byte in char.encode())
    return f"(?:{re.escape(char)}|(?i:{encoded})|{re.escape(json.dumps(char)[1:-1])})"


def _environment(environ: Mapping[str, str]) -> tuple[str, str]:
    on_vercel = _flag(environ, "VERCEL")
    on_lambda = bool(_value(environ, "AWS_LAMBDA_FUNCTION_NAME")) and not on_vercel  # Vercel's functions are Lambda's
    for variable in _ENVIRONMENT_VARIABLES[:1] if on_lambda else _ENVIRONMENT_VARIABLES:
        if value := _value(environ, variable):
            _require_no_disguise(environ, variable, value)
            return _environment_name(variable, value), variable
    if on_vercel:
        raise ConfigError(
            "VERCEL is set, but neither VERCEL_TARGET_ENV nor VERCEL_ENV: which environment is this?",
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
    """MIGRATION_ENV=production, set for all of a project's environments, would make production of every preview."""
    platform = _value(environ, "VERCEL_ENV").lower()
    if variable == "MIGRATION_ENV" and value.lower() == "production" and platform in ("preview", "development"):
        raise ConfigError(
            f"MIGRATION_ENV is production, but VERCEL_ENV is {platform}",
            next_step="Set MIGRATION_ENV for the Production environment only, or not at all.",
        )


def _claim(environ: Mapping[str, str]) -> str:
    claim = _value(environ, "MIGRATION_CLAIM")
    environment, at, identity = claim.partition("@")
    if claim and not (environment and identity):
        raise ConfigError("MIGRATION_CLAIM must look like environment@identity", next_step=_CLAIM_ADVICE)
    return environment.lower() + at + identity


def _environment_name(variable: str, name: str) -> str:
    if not re.fullmatch(r"[\w.-]{1,63}", name, re.ASCII):
        raise ConfigError(f"{variable} is {name!r}; a name is made of letters, digits, dots, _ and -")
    return name.lower()


def _status_target(environ: Mapping[str, str], target: Target) -> Target:
    """The same database, through the pooled URL if there is one."""
    pooled = (one for one in named_targets(environ) if one.variable in ("POSTGRES_URL", "DATABASE_URL"))
    return next((one for one in pooled if one.place == target.place), target)


def _query_parameters(variable: str, query: str) -> dict[str, str]:
    parameters: dict[str, str] = {}
    pairs = [[_decoded(variable, half) for half in part.partition("=")[::2]] for part in query.split("&")]
    for name, value in pairs:
        if name == "schema" and value != "public":
            raise ConfigError(
                f"{variable} has a schema parameter other than public, which Postgres itself does not know",
                next_step="Take it out of the URL; MIGRATION_SCHEMA says where the history is.",
            )
        if name in _LIBPQ_PARAMETERS and value:
            parameters[name] = value
        elif name.lower().startswith("ssl") and name not in _LIBPQ_PARAMETERS and [name, value] != ["ssl", "true"]:
            raise ConfigError(
                f"{variable} has an ssl parameter that libpq does not know and would not obey",
                next_step="Say it with sslmode and sslrootcert, such as sslmode=verify-full&sslrootcert=system.",
            )
    if ["ssl", "true"] in pairs:  # libpq's own reading of JDBC's word
        parameters.setdefault("sslmode", "require")
    return parameters


def _hosts_and_ports(variable: str, hosts: str) -> tuple[str, str]:
    """`a:1,[::1]:2` -> (`a,::1`, `1,2`): libpq takes several hosts, each with its port."""
    found = [_HOST.fullmatch(host) for host in hosts.split(",")]
    pairs = [(one["ipv6"] or one["name"] or "", one["port"] or "") for one in found if one]
    if len(pairs) != len(found):
        raise _unreadable(variable, "has a host or port that cannot be read")
    return ",".join(host for host, _ in pairs), ",".join(port for _, port in pairs)


def _decoded(variable: str, value: str) -> str:
    decoded = unquote(value)
    if re.search(r"%(?![0-9A-Fa-f]{2})", value) or re.search("[\0\ufffd\ud800-\udfff]", decoded):
        raise _unreadable(variable, "has characters that cannot be decoded; a % itself is written %25")
    return decoded


def _unreadable(variable: str, what: str) -> ConfigError:
    return ConfigError(
        f"{variable} {what}",
        next_step="It must look like postgresql://user:password@host:5432/database, without quotes around it; "
        "in user and password @ is written %40, / is %2F, ? is %3F, % is %25 and a space %20.",
    )


def _flag(environ: Mapping[str, str], variable: str) -> bool:
    return _value(environ, variable).lower() not in ("", "0", "false", "no", "off")


def _value(environ: Mapping[str, str], variable: str) -> str:
    """A variable, where one that is empty is none."""
    return environ.get(variable, "").strip()


def _env_file(path: Path) -> dict[str, str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (FileNotFoundError, IsADirectoryError):  # a directory of that name is somebody's virtual environment
        return {}
    except (OSError, UnicodeDecodeError):
        raise ConfigError(f"{path.name} cannot be read as UTF-8 text", next_step="Mend it, or move it away.") from None
    return {
        name: re.sub(r'\\(["$\\])', r"\1", double) or single or bare
        for name, double, single, bare in re.findall(_ASSIGNMENT, text)
    }
