"""A URL of a database, taken apart as libpq does, and never shown. Pure.

No error, `str` or `repr` from here holds a user, a password or a piece of what could not be read.
Passwords are in `Target.parameters`, which go to the driver.
"""

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import starmap, zip_longest
from socket import AF_INET6, inet_ntop, inet_pton
from typing import NamedTuple
from urllib.parse import unquote

from lib.errors import ConfigError
from lib.settings.environ import url_variables_set

# Like libpq's own, but with one @ at most. Else a password with an unencoded @, / or ? would be
# taken for a host or a database, and shown.
_URL = re.compile(
    r"(?:postgres|postgresql|postgresql\+psycopg)://"
    r"(?:(?P<user>[^\s:@/?]*)(?::(?P<password>[^\s@/?]*))?@)?(?P<hosts>[^\s@/?]*)"
    r"(?:/(?P<dbname>[^\s@/?]*))?(?:\?(?P<query>[^\s@]*))?"
)
_HOST = re.compile(r"(?:\[(?P<ipv6>[^\[\]]*)\]|(?P<name>[^:\[\]]*))(?::(?P<port>[0-9]*))?")
_LOCAL = re.compile(r"(?:localhost|::1|127(?:\.[0-9]+){3}|[/@].*)?", re.IGNORECASE)
# libpq refuses a URL with a parameter that it does not know, and providers add those of other
# drivers.
_LIBPQ_PARAMETERS = frozenset(
    "application_name channel_binding client_encoding connect_timeout dbname "
    "fallback_application_name gssdelegation "
    "gssencmode gsslib host hostaddr keepalives keepalives_count keepalives_idle "
    "keepalives_interval krbsrvname "
    "load_balance_hosts max_protocol_version min_protocol_version oauth_client_id "
    "oauth_client_secret oauth_issuer "
    "oauth_scope options passfile password port replication require_auth requirepeer "
    "scram_client_key "
    "scram_server_key ssl_max_protocol_version ssl_min_protocol_version sslcert sslcertmode "
    "sslcompression "
    "sslcrl sslcrldir sslkey sslkeylogfile sslmode sslnegotiation sslpassword sslrootcert sslsni "
    "target_session_attrs tcp_user_timeout user".split()
)
# asyncpg, pgx, lib/pq and postgres.js send what they do not know to the server, as a setting of the
# session; other drivers have names of their own for some. libpq refuses them all, and without them
# the SQL would do something else.
_SETTING_PARAMETERS = re.compile(
    r"allow_\w+|array_nulls|back\w+|bytea_output|check_\w+|client_\w+|commit_\w+|compute_\w+|constraint_exclusion|"
    r"cpu_\w+|createrole_\w+|currentschema|cursor_\w+|datestyle|deadlock_\w+|debug_\w+|"
    r"default_(?!query_exec_mode)\w+|dynamic_\w+|effective_\w+|enable_\w+|escape_string_\w+|event_triggers|"
    r"exit_on_error|extension_\w+|extra_float_digits|file_copy_method|force_parallel_mode|from_collapse_limit|geqo\w*|"
    r"gin_\w+|hash_mem_multiplier|icu_\w+|idle_(?:in_transaction_)?session_timeout|ignore_(?:checksum|system)_\w+|"
    r"intervalstyle|io_\w+|jit\w*|join_\w+|lc_\w+|lo_compat_privileges|local_preload_libraries|lock_timeout|log_\w+|"
    r"logical_\w+|maintenance_\w+|max_(?:parallel|stack)_\w+|md5_\w+|min_(?:messages|parallel_\w+)|"
    r"output_plugin_\w+|parallel_\w+|password_encryption|plan_cache_mode|post_auth_delay|quote_all_identifiers|"
    r"random_page_cost|readonly(?:mode)?|recursive_\w+|restrict_\w+|role|row_security|scram_iterations|"
    r"(?:schema_)?search_path|searchpath|seq_page_cost|session_\w+|standard_conforming_strings|statement_timeout|"
    r"stats_\w+|synchron\w+|tcp_keepalives_\w+|temp_\w+|timezone\w*|trace_\w+|track_\w+|transaction_\w+|"
    r"transform_\w+|update_process_title|vacuum_\w+|wal_\w+|work_mem|xml(?:binary|option)|zero_damaged_pages",
    re.IGNORECASE,
)
_SETTING_ADVICE = (
    "Remove it from the URL. On a direct connection Postgres' own form is obeyed: "
    "options=-c%20NAME%3DVALUE. "
    "MIGRATION_SCHEMA says where the history is; MIGRATION_LOCK_TIMEOUT and "
    "MIGRATION_STATEMENT_TIMEOUT are our limits."
)
_SERVICE_ADVICE = "Name the database in a URL: what a service file says would not be shown."
_REFUSED_PARAMETERS = {
    "service": _SERVICE_ADVICE,
    "servicefile": _SERVICE_ADVICE,
    "database": "The database's name is the URL's path: postgresql://user@host/database.",
    "unix_sock": "The directory of a socket is written host=/run/postgresql.",
    "targetservertype": "Postgres' own form is target_session_attrs=primary.",
}
# What decides where a connection leads, and libpq takes from the process where a URL is silent.
_FROM_PROCESS = {
    "host": "PGHOST",
    "hostaddr": "PGHOSTADDR",
    "port": "PGPORT",
    "dbname": "PGDATABASE",
    "user": "PGUSER",
    "options": "PGOPTIONS",
}
_REFERENCE = re.compile(r"(?:secretsmanager|ssm):")
# Of what `options` may hold: where the history is looked for, and at a proxy before many databases,
# which one is meant.
_CHOICE = re.compile(
    r"(?:^|\s)(?:-c\s*|--)?(search[_-]path|endpoint|project|reference|cluster)\s*=\s*((?:\\.|\S)+)",
    re.IGNORECASE,
)
_THIS_MACHINE = ("localhost", "127.0.0.1", "::1", "/tmp", "/run/postgresql", "/var/run/postgresql")  # noqa: S108
_USUAL_PORTS = ("", "5432", "6432", "6543")  # none, a server's, PgBouncer's, Supavisor's
_USERS_TENANT = re.compile(
    r"\.pooler\.|\.psdb\.cloud$", re.IGNORECASE
)  # Supabase's pooler, PlanetScale
_SUPABASE = re.compile(r"db\.(\w+)\.supabase\.co|[\w-]+\.pooler\.supabase\.com")
_SECRET_PARAMETERS = (
    "password",
    "sslpassword",
    "oauth_client_secret",
    "scram_client_key",
    "scram_server_key",
)


class UrlServer(NamedTuple):
    """One server as a URL names it; what it does not say is empty."""

    host: str
    address: str
    port: str

    @property
    def label(self) -> str:
        """In words: the port where it is not Postgres' own, the address where the host does not
        decide it.
        """
        name = self.host or self.address or "this machine"
        name = f"[{name}]" if ":" in name else name
        port = "" if self.port in ("", "5432") else f":{self.port}"
        return f"{name}{port}" + (
            f" (address {self.address})" if self.host and self.address else ""
        )

    @property
    def port_exists(self) -> bool:
        """Whether a port has this number; one that is not said has Postgres' own."""
        return not self.port or bool(
            re.fullmatch("[0-9]{1,5}", self.port) and 0 < int(self.port) < 2**16
        )

    def server_key(self, tenant: str) -> str:
        """Which server it is. A pooler's own port is none: it leads to the same database."""
        name = _canonical(self.host or self.address)
        if project := _SUPABASE.fullmatch(name):
            return f"supabase {project[1] or tenant}"
        pooled = unpooled(name) != name or ".pooler." in name
        port = "" if pooled or self.port in _USUAL_PORTS else self.port
        return " ".join(
            (unpooled(name), port, tenant, _canonical(self.address) if self.host else "")
        )


@dataclass(frozen=True, slots=True)
class DatabaseURL:
    """One database as a URL variable names it. `str` is safe to print: variable, host and database
    only.
    """

    variable: str
    host: str
    database: str
    parameters: Mapping[str, str] = field(repr=False)
    """libpq's keywords and values, password included: for the driver, never for output."""

    def __str__(self) -> str:
        return f"{self.label} (from {self.variable})"

    @property
    def label(self) -> str:
        """Database and host in words, and what else decides where a connection leads."""
        hosts = ",".join(server.label for server in self.servers)
        chosen = ", ".join(map("=".join, self.choices))
        return f"{self.database or 'the default database'} on {hosts}" + (
            f" ({chosen})" if chosen else ""
        )

    @property
    def database_key(self) -> tuple[str, ...]:
        """What all URLs of one database share, through a pooler or not and however they spell its
        host.
        """
        database = self.database or self.parameters.get("user", "")  # libpq's own default
        return (
            database,
            *map("=".join, self.choices),
            *(server.server_key(self.tenant) for server in self.servers),
        )

    @property
    def servers(self) -> list["UrlServer"]:
        """The servers that libpq tries, in this order."""
        columns = [
            self.parameters.get(name, "").split(",") for name in ("host", "hostaddr", "port")
        ]
        one_for_all = [
            column * (max(map(len, columns)) if len(column) == 1 else 1) for column in columns
        ]
        return list(starmap(UrlServer, zip_longest(*one_for_all, fillvalue="")))

    @property
    def choices(self) -> list[tuple[str, str]]:
        """What `options` say of where the history is and, to a proxy, which database is meant."""
        found = _CHOICE.findall(self.parameters.get("options", ""))
        return sorted((name.lower().replace("-", "_"), value) for name, value in found)

    @property
    def tenant(self) -> str:
        """Whose database it is, where a host is many customers' and the user's name says that."""
        return (
            self.parameters.get("user", "").partition(".")[2]
            if _USERS_TENANT.search(self.host)
            else ""
        )

    @property
    def local(self) -> bool:
        """Whether all its servers are on this machine."""
        return all(_LOCAL.fullmatch(server.address or server.host) for server in self.servers)

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must not appear in any output, longest first. What is printed anyway would only be
        given away by ***.
        """
        found = {self.parameters.get(name, "") for name in _SECRET_PARAMETERS}
        return tuple(sorted(found - {"", self.host, self.database}, key=len, reverse=True))


def configured_urls(environ: Mapping[str, str]) -> tuple[DatabaseURL, ...]:
    """All databases that variables name, first choice first; a URL that cannot be read names none."""
    found = []
    for variable in url_variables_set(environ):
        with suppress(ConfigError):
            found.append(parse_url(variable, environ[variable], environ))
    return tuple(found)


def parse_url(variable: str, url: str, environ: Mapping[str, str]) -> DatabaseURL:
    """Take a URL apart as libpq does. Raises ConfigError that names the variable and shows nothing
    of the URL.
    """
    if _REFERENCE.match(url.strip()):
        raise ConfigError(
            f"{variable} holds a reference to a secret; only on AWS Lambda are references "
            "resolved, and only once",
            next_step="Set it to a postgresql:// URL.",
        )
    parts = _URL.fullmatch(url.strip())
    if not parts:
        raise _unreadable(variable, "is not a URL of a Postgres database")
    hosts, ports = _hosts_and_ports(variable, parts["hosts"])
    written = {name: parts[name] or "" for name in ("user", "password", "dbname")} | {
        "host": hosts,
        "port": ports,
    }
    parameters = {name: _decoded(variable, value) for name, value in written.items() if value}
    parameters |= _query_parameters(variable, parts["query"] or "")
    process = {name: environ[taken] for name, taken in _FROM_PROCESS.items() if environ.get(taken)}
    parameters = process | parameters
    host, database = (
        parameters.get("host") or parameters.get("hostaddr", ""),
        parameters.get("dbname", ""),
    )
    found = DatabaseURL(variable, host, database, parameters)
    if re.search("[^,]@|://", f"{host},{parameters.get('hostaddr')},{database}"):
        raise _unreadable(variable, "has a host or database that looks like a URL itself")
    if not all(server.port_exists for server in found.servers):
        raise _unreadable(variable, "has a port that is not a number from 1 to 65535")
    if not found.local and not _verifying(parameters, environ):
        parameters.setdefault("sslmode", "require")
    return found


def unpooled(host: str) -> str:
    """A host without the suffix that a provider's pooler adds to its first label."""
    label, dot, domain = host.lower().partition(".")
    return label.removesuffix("-pooler") + dot + domain


def _canonical(host: str) -> str:
    """A host, address or socket directory in one of its spellings; nothing where it is this
    machine.
    """
    name = host.rstrip("/") if host.startswith(("/", "@")) else host.lower().rstrip(".")
    if ":" in name:
        with suppress(OSError):
            name = inet_ntop(AF_INET6, inet_pton(AF_INET6, name))
    return "" if name in _THIS_MACHINE else name


def redact(text: str, *urls: DatabaseURL | None) -> str:
    """The text without the urls' secrets, however they are written, and without any URL's
    credentials.
    """
    for secret in (secret for url in urls if url for secret in url.secrets):
        text = re.sub("".join(map(_spellings, secret)), "***", text)
    text = re.sub(r"(\w://)\S*@", r"\1***@", text)
    return re.sub(r"(?i)(password=)[^\s&]+", r"\1***", text)


def _spellings(char: str) -> str:
    """A pattern for a character as it is, percent-encoded, or escaped in JSON."""
    encoded = "".join(f"%{byte:02x}" for byte in char.encode())
    return f"(?:{re.escape(char)}|(?i:{encoded})|{re.escape(json.dumps(char)[1:-1])})"


def _verifying(parameters: Mapping[str, str], environ: Mapping[str, str]) -> bool:
    """Whether libpq verifies the server unless it is told otherwise: then a default of ours would
    weaken it.
    """
    roots = parameters.get("sslrootcert") or environ.get("PGSSLROOTCERT")
    return roots == "system" or environ.get("PGSSLMODE") in ("verify-ca", "verify-full")


def _query_parameters(variable: str, query: str) -> dict[str, str]:
    parameters: dict[str, str] = {}
    pairs = [
        [_decoded(variable, half) for half in part.partition("=")[::2]] for part in query.split("&")
    ]
    for name, value in pairs:
        if complaint := _complaint(name, value):
            raise ConfigError(f"{variable} has {complaint[0]}", next_step=complaint[1])
        if name in _LIBPQ_PARAMETERS and value:
            parameters[name] = value
    if ["ssl", "true"] in pairs and parameters.setdefault("sslmode", "require") in (
        "disable",
        "allow",
        "prefer",
    ):
        raise ConfigError(
            f"{variable} has both ssl=true and an sslmode that can do without TLS",
            next_step="Keep the one you mean.",
        )
    return parameters


def _complaint(name: str, value: str) -> tuple[str, str] | None:
    """Why a parameter can be neither obeyed nor dropped, and what to do. Its name is shown if it is
    one of ours.
    """
    if advice := _REFUSED_PARAMETERS.get(name.lower()):
        return f"the parameter {name}, which is not obeyed here", advice
    if name in _LIBPQ_PARAMETERS or (name, value) in (("schema", "public"), ("ssl", "true")):
        return None
    if name == "schema":
        return (
            "a schema parameter other than public, which Postgres itself does not know",
            _SETTING_ADVICE,
        )
    if name.lower().startswith("ssl"):
        advice = (
            "Say it with sslmode and sslrootcert, such as sslmode=verify-full&sslrootcert=system."
        )
        return "an ssl parameter that libpq does not know and would not obey", advice
    if _SETTING_PARAMETERS.fullmatch(name):
        return (
            f"the parameter {name}, a setting of the session that libpq does not take from there",
            _SETTING_ADVICE,
        )
    sent = re.fullmatch(r"\w+\.\w+|\w+\[.*", name)
    return (
        ("a parameter that other drivers make a setting of the session", _SETTING_ADVICE)
        if sent
        else None
    )


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
        raise _unreadable(
            variable, "has characters that cannot be decoded; a % itself is written %25"
        )
    return decoded


def _unreadable(variable: str, what: str) -> ConfigError:
    return ConfigError(
        f"{variable} {what}",
        next_step="It must look like postgresql://user:password@host:5432/database, without quotes "
        "around it; "
        "in user and password @ is written %40, / is %2F, ? is %3F, % is %25 and a space %20.",
    )
