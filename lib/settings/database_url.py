"""The URL of a database, parsed as libpq parses it, and never shown. Pure.

No error, `str` or `repr` from here shows a user, a password, or a part of a URL that could not be
parsed. Passwords are in `DatabaseURL.parameters`, which go to the driver.
"""

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import starmap, zip_longest
from socket import AF_INET6, inet_ntop, inet_pton
from typing import NamedTuple
from urllib.parse import unquote

from lib.errors import ConfigError
from lib.settings.environ import URL_VARIABLES, url_variables_set
from lib.settings.reach import Reach, reach_of
from lib.settings.url_parameters import select_parameters

# Like libpq's own, but with one @ at most. Otherwise a password with an unencoded @, / or ? would
# be taken for a host or a database, and shown.
_URL = re.compile(
    r"""
    (?: postgres | postgresql | postgresql\+psycopg ) ://
    (?: (?P<user> [^\s:@/?]* ) (?: : (?P<password> [^\s@/?]* ) )? @ )?
    (?P<hosts> [^\s@/?]* )
    (?: / (?P<dbname> [^\s@/?]* ) )?
    (?: \? (?P<query> [^\s@]* ) )?
    """,
    re.VERBOSE,
)
_HOST = re.compile(r"(?:\[(?P<ipv6>[^\[\]]*)\]|(?P<name>[^:\[\]]*))(?::(?P<port>[0-9]*))?")
_LOCAL_HOST = re.compile(r"(?:localhost|::1|127(?:\.[0-9]+){3}|[/@].*)?", re.IGNORECASE)
_SECRET_REFERENCE = re.compile(r"(?:secretsmanager|ssm):")
# What decides where a connection leads, and libpq takes from the process where a URL has nothing.
_PROCESS_VARIABLES = {
    "host": "PGHOST",
    "hostaddr": "PGHOSTADDR",
    "port": "PGPORT",
    "dbname": "PGDATABASE",
    "user": "PGUSER",
    "options": "PGOPTIONS",
}
# The part of `options` that decides where the history is or, at a proxy before many databases,
# which of them is meant.
_DECIDING_OPTION = re.compile(
    r"""
    (?: ^ | \s ) (?: -c \s* | -- )?
    ( search[_-]path | endpoint | project | reference | cluster ) \s* = \s*
    ( (?: \\. | \S )+ )
    """,
    re.IGNORECASE | re.VERBOSE,
)
_THIS_MACHINE = ("localhost", "127.0.0.1", "::1", "/tmp", "/run/postgresql", "/var/run/postgresql")  # noqa: S108
_USUAL_PORTS = ("", "5432", "6432", "6543")  # none, a server's, PgBouncer's, Supavisor's
# Hosts of many customers, whose databases the user's name tells apart: Supabase's pooler,
# PlanetScale.
_SHARED_HOST = re.compile(r"\.pooler\.|\.psdb\.cloud$", re.IGNORECASE)
_SUPABASE_HOST = re.compile(r"db\.(\w+)\.supabase\.co|[\w-]+\.pooler\.supabase\.com")
_SECRET_PARAMETERS = (
    "password",
    "sslpassword",
    "oauth_client_secret",
    "scram_client_key",
    "scram_server_key",
)


class UrlServer(NamedTuple):
    """One server as a URL names it; what the URL omits is empty."""

    host: str
    address: str
    port: str

    @property
    def label(self) -> str:
        """In words: the port unless it is 5432, and the address where it overrides the host."""
        name = self.host or self.address or "this machine"
        name = f"[{name}]" if ":" in name else name
        port = "" if self.port in ("", "5432") else f":{self.port}"
        address = f" (address {self.address})" if self.host and self.address else ""
        return f"{name}{port}{address}"

    @property
    def reach(self) -> Reach:
        """How far away it is. An address does not make its host's name any nearer: it may be where
        a tunnel to that host begins.
        """
        named = [name for name in (self.host, self.address) if name]
        return max(map(reach_of, named), default=Reach.THIS_MACHINE)

    @property
    def has_valid_port(self) -> bool:
        """Whether the port is empty, or a number that a port can have."""
        if not self.port:
            return True
        return bool(re.fullmatch("[0-9]{1,5}", self.port)) and 0 < int(self.port) < 2**16

    def server_key(self, tenant: str) -> str:
        """Which server it is. A pooler's own port is left out: it leads to the same database."""
        name = _canonical_host(self.host or self.address)
        if project := _supabase_project(name, tenant):
            return f"supabase {project}"
        pooled = unpooled(name) != name or ".pooler." in name
        port = "" if pooled or self.port in _USUAL_PORTS else self.port
        address = _canonical_host(self.address) if self.host else ""
        return " ".join((unpooled(name), port, tenant, address))


@dataclass(frozen=True, slots=True)
class DatabaseURL:
    """One database as a URL variable names it.

    `str` is safe to print: variable, host and database only.
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
        options = ", ".join(map("=".join, self.deciding_options))
        name = f"{self.database or 'the default database'} on {hosts}"
        return f"{name} ({options})" if options else name

    @property
    def database_key(self) -> tuple[str, ...]:
        """What all URLs of one database share, through a pooler or not, and however they spell its
        host.
        """
        database = self.database or self.parameters.get("user", "")  # libpq's own default
        options = map("=".join, self.deciding_options)
        return database, *options, *(server.server_key(self.tenant) for server in self.servers)

    @property
    def servers(self) -> list[UrlServer]:
        """The servers that libpq tries, in this order."""
        columns = [
            self.parameters.get(name, "").split(",") for name in ("host", "hostaddr", "port")
        ]
        count = max(map(len, columns))
        # A single value is for all servers, as a port often is.
        filled = [column * count if len(column) == 1 else column for column in columns]
        return list(starmap(UrlServer, zip_longest(*filled, fillvalue="")))

    @property
    def deciding_options(self) -> list[tuple[str, str]]:
        """The options that decide where the history is and, at a proxy, which database is meant."""
        found = _DECIDING_OPTION.findall(self.parameters.get("options", ""))
        return sorted((name.lower().replace("-", "_"), value) for name, value in found)

    @property
    def tenant(self) -> str:
        """Whose database it is, where many customers share a host and the user's name tells."""
        if not _SHARED_HOST.search(self.host):
            return ""
        return self.parameters.get("user", "").partition(".")[2]

    @property
    def supabase_project(self) -> str:
        """The reference of the Supabase project that its host belongs to; empty elsewhere."""
        return _supabase_project(_canonical_host(self.host), self.tenant)

    @property
    def local(self) -> bool:
        """Whether all its servers are on this machine."""
        return all(_LOCAL_HOST.fullmatch(server.address or server.host) for server in self.servers)

    @property
    def reach(self) -> Reach:
        """How far away the farthest of its servers is."""
        return max(server.reach for server in self.servers)

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must not appear in any output, longest first.

        Not the host and the database's name: these are printed, and *** in their place would give
        away a password that is the same.
        """
        found = {self.parameters.get(name, "") for name in _SECRET_PARAMETERS}
        return tuple(sorted(found - {"", self.host, self.database}, key=len, reverse=True))


def configured_urls(
    environ: Mapping[str, str], variables: Sequence[str] = URL_VARIABLES
) -> tuple[DatabaseURL, ...]:
    """The URLs of those of these variables that can be parsed, first choice first."""
    found = []
    for variable in filter(variables.__contains__, url_variables_set(environ)):
        with suppress(ConfigError):
            found.append(parse_url(variable, environ[variable], environ))
    return tuple(found)


def parse_url(variable: str, url: str, environ: Mapping[str, str]) -> DatabaseURL:
    """Parse a URL as libpq does. Raises ConfigError that names the variable and shows nothing of
    the URL.
    """
    if _SECRET_REFERENCE.match(url.strip()):
        raise ConfigError(
            f"{variable} is a reference to a secret; references are resolved only on AWS Lambda, "
            "and only once",
            next_step="Set it to a postgresql:// URL.",
        )
    parts = _URL.fullmatch(url.strip())
    if not parts:
        raise _unreadable(variable, "is not a valid Postgres URL")
    parameters = (
        _process_parameters(environ)
        | _path_parameters(variable, parts)
        | _query_parameters(variable, parts["query"] or "")
    )
    host = parameters.get("host") or parameters.get("hostaddr", "")
    found = DatabaseURL(variable, host, parameters.get("dbname", ""), parameters)
    _require_plausible(found)
    if not (found.local or "sslmode" in parameters or _libpq_verifies(parameters, environ)):
        return replace(found, parameters={**parameters, "sslmode": "require"})
    return found


def unpooled(host: str) -> str:
    """A host without the suffix that a provider's pooler adds to its first label."""
    label, dot, domain = host.lower().partition(".")
    return label.removesuffix("-pooler") + dot + domain


def redact(text: str, *urls: DatabaseURL | None) -> str:
    """The text without the URLs' secrets, however they are spelled, and without the credentials in
    any other URL.
    """
    for url in urls:
        for secret in url.secrets if url else ():
            text = re.sub("".join(map(_spellings, secret)), "***", text)
    # Not Onward's own example of a URL, which would be of no use without user and password.
    text = re.sub(r"(\w://)(?!user:password@host\b)\S*@", r"\1***@", text)
    return re.sub(r"(?i)(password=)[^\s&]+", r"\1***", text)


def _spellings(char: str) -> str:
    """A pattern for a character as it is, percent-encoded, or escaped in JSON."""
    encoded = "".join(f"%{byte:02x}" for byte in char.encode())
    escaped = json.dumps(char)[1:-1]
    return f"(?:{re.escape(char)}|(?i:{encoded})|{re.escape(escaped)})"


def _supabase_project(host: str, tenant: str) -> str:
    """The project of a canonical host; empty for another one's."""
    found = _SUPABASE_HOST.fullmatch(host)
    return found[1] or tenant if found else ""


def _canonical_host(host: str) -> str:
    """A host, address or socket directory in one of its spellings; empty for this machine."""
    name = host.rstrip("/") if host.startswith(("/", "@")) else host.lower().rstrip(".")
    if ":" in name:
        with suppress(OSError):
            name = inet_ntop(AF_INET6, inet_pton(AF_INET6, name))
    return "" if name in _THIS_MACHINE else name


def _process_parameters(environ: Mapping[str, str]) -> dict[str, str]:
    variables = _PROCESS_VARIABLES.items()
    return {name: environ[variable] for name, variable in variables if environ.get(variable)}


def _path_parameters(variable: str, parts: re.Match[str]) -> dict[str, str]:
    """What a URL has before its `?`."""
    hosts, ports = _hosts_and_ports(variable, parts["hosts"])
    written = {
        "user": parts["user"],
        "password": parts["password"],
        "dbname": parts["dbname"],
        "host": hosts,
        "port": ports,
    }
    return {name: _decode(variable, value) for name, value in written.items() if value}


def _hosts_and_ports(variable: str, hosts: str) -> tuple[str, str]:
    """`a:1,[::1]:2` -> (`a,::1`, `1,2`): libpq takes several hosts, each with its port."""
    names, ports = [], []
    for host in hosts.split(","):
        found = _HOST.fullmatch(host)
        if not found:
            raise _unreadable(variable, "has an invalid host or port")
        names.append(found["ipv6"] or found["name"] or "")
        ports.append(found["port"] or "")
    return ",".join(names), ",".join(ports)


def _query_parameters(variable: str, query: str) -> dict[str, str]:
    pairs = []
    for part in query.split("&"):
        name, _, value = part.partition("=")
        pairs.append((_decode(variable, name), _decode(variable, value)))
    return select_parameters(variable, pairs)


def _require_plausible(url: DatabaseURL) -> None:
    # An encoded URL in a URL: its password would be shown as a host or a database.
    if re.search("[^,]@|://", f"{url.host},{url.parameters.get('hostaddr')},{url.database}"):
        raise _unreadable(url.variable, "has a host or database that looks like another URL")
    if not all(server.has_valid_port for server in url.servers):
        raise _unreadable(url.variable, "has a port that is not a number from 1 to 65535")


def _libpq_verifies(parameters: Mapping[str, str], environ: Mapping[str, str]) -> bool:
    """Whether libpq verifies the server by default: then `require` would weaken the connection."""
    root_certificates = parameters.get("sslrootcert") or environ.get("PGSSLROOTCERT")
    return root_certificates == "system" or environ.get("PGSSLMODE") in ("verify-ca", "verify-full")


def _decode(variable: str, value: str) -> str:
    decoded = unquote(value)
    if re.search(r"%(?![0-9A-Fa-f]{2})", value) or re.search("[\0\ufffd\ud800-\udfff]", decoded):
        raise _unreadable(
            variable, "has characters that cannot be decoded; write a literal % as %25"
        )
    return decoded


def _unreadable(variable: str, what: str) -> ConfigError:
    return ConfigError(
        f"{variable} {what}",
        next_step="Expected postgresql://user:password@host:5432/database, without quotes. In user "
        "and password, write @ as %40, / as %2F, ? as %3F, % as %25 and a space as %20.",
    )
