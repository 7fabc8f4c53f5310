"""The inventory: which tenants there are, and where their databases are. Pure.

One JSON object a line:

    {"tenant": "acme", "url": "postgresql://c1.example/acme", "secret": "secretsmanager:c1"}

`secret` is a reference to user and password; `url` may be a reference as a whole. No line has a
password in it, so an inventory can be stored and sent.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from lib.errors import ConfigError, raised_by
from lib.settings.config import require_tenant_schema
from lib.settings.database_url import DatabaseURL, parse_url, unpooled
from lib.settings.reach import Reach

CANARIES = 0
"""The wave that must be current before another one begins."""
DEFAULT_WAVE = 1
UNKNOWN_CLUSTER = "unknown"
"""Of a tenant whose URL is a reference, and whose line names no cluster."""
_KEYS = ("tenant", "url", "secret", "schema", "wave", "cluster")
_REFERENCE = re.compile(r"(secretsmanager|ssm):.+")
_MAX_LENGTHS = {"tenant": 200, "cluster": 200, "schema": 63, "url": 2000, "secret": 2000}
_MAX_WAVE = 999
_PROBLEMS_SHOWN = 20
_EXAMPLE = (
    'Expected one JSON object a line: {"tenant": "acme", "url": "postgresql://host:5432/acme", '
    '"secret": "secretsmanager:NAME"}. The keys are described in docs/fleet.md.'
)


class Tenant(NamedTuple):
    """One line of the inventory."""

    name: str
    url: str
    secret: str = ""
    schema: str = ""
    """Where its tables and its history are; empty for a tenant with a database of its own."""
    wave: int = DEFAULT_WAVE
    cluster: str = UNKNOWN_CLUSTER
    servers: tuple[str, ...] = ()
    """Which servers its database is on; empty where the URL is a reference."""
    reach: Reach = Reach.ANYWHERE
    """How far away they are."""

    @property
    def line(self) -> dict[str, str]:
        """What the worker has to know, as a JSON object."""
        found = {
            "tenant": self.name,
            "url": self.url,
            "secret": self.secret,
            "schema": self.schema,
        }
        return {key: value for key, value in found.items() if value}


class Wave(NamedTuple):
    """Tenants that are migrated at a time, by cluster."""

    number: int
    clusters: Mapping[str, tuple[Tenant, ...]]

    @property
    def databases(self) -> int:
        """How many there are."""
        return sum(map(len, self.clusters.values()))


class Inventory(NamedTuple):
    """All tenants, in the order of their lines."""

    tenants: tuple[Tenant, ...]

    @property
    def is_on_this_machine(self) -> bool:
        """Whether all databases are."""
        return all(tenant.reach is Reach.THIS_MACHINE for tenant in self.tenants)

    @property
    def has_references(self) -> bool:
        """Whether secrets have to be read from a store."""
        return any(tenant.secret or not tenant.servers for tenant in self.tenants)

    @property
    def waves(self) -> tuple[Wave, ...]:
        """The waves, first one first."""
        numbers = sorted({tenant.wave for tenant in self.tenants})
        return tuple(Wave(number, self._clusters(number)) for number in numbers)

    def _clusters(self, wave: int) -> dict[str, tuple[Tenant, ...]]:
        found: dict[str, list[Tenant]] = {}
        for tenant in self.tenants:
            if tenant.wave == wave:
                found.setdefault(tenant.cluster, []).append(tenant)
        return {name: tuple(tenants) for name, tenants in found.items()}


def chunks(tenants: tuple[Tenant, ...], size: int) -> Iterator[tuple[Tenant, ...]]:
    """The tenants of a cluster, so many at a time."""
    for start in range(0, len(tenants), size):
        yield tenants[start : start + size]


def read_inventory(text: str) -> Inventory:
    """The inventory of a text. Raises ConfigError that names every problem by its line."""
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    return _checked([(f"line {number}", _parsed(line)) for number, line in lines])


def read_tenants(rows: Any) -> tuple[Tenant, ...]:
    """The tenants of a worker's event. Raises ConfigError that names every problem."""
    listed = rows if isinstance(rows, list) else []
    return _checked([(f"tenant {number}", row) for number, row in enumerate(listed, 1)]).tenants


def _checked(rows: list[tuple[str, Any]]) -> Inventory:
    tenants, problems = [], []
    seen = _Seen()
    for where, row in rows:
        found = list(_problems(row))
        if not found:
            tenant, url = _tenant(row)
            tenants.append(tenant)
            found = list(seen.problems(where, tenant, url))
        problems += [f"{where}: {problem}" for problem in found]
    if problems or not rows:
        raise _refused(problems or ["it is empty"])
    return Inventory(tuple(tenants))


class _Seen:
    """The names and the databases of the lines before."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._databases: dict[object, str] = {}

    def problems(self, where: str, tenant: Tenant, url: DatabaseURL | None) -> Iterator[str]:
        """What is there twice. Two references to one database are not found out here."""
        first = self._names.setdefault(tenant.name, where)
        if first != where:
            yield f"tenant {tenant.name} is on {first} too"
        place = url.database_key if url else tenant.url, tenant.schema
        first = self._databases.setdefault(place, where)
        if first != where:
            yield f"the same database as on {first}"


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _problems(row: Any) -> Iterator[str]:
    """What is wrong with a line by itself. Shows nothing of a URL."""
    if not isinstance(row, dict):
        yield "not a JSON object"
        return
    if unknown := sorted(str(key)[:40] for key in row.keys() - {*_KEYS}):
        yield f"unknown key {', '.join(unknown)}; the keys are {', '.join(_KEYS)}"
    for key in ("tenant", "url"):
        if key not in row:
            yield f"{key} is missing"
    if wrong := [key for key in _MAX_LENGTHS if key in row and not _is_text(row[key], key)]:
        yield f"{', '.join(wrong)} must be text on one line, not too long and not empty"
        return
    if "schema" in row:
        yield from (str(error) for error in raised_by(lambda: require_tenant_schema(row["schema"])))
    if not (type(row.get("wave", 0)) is int and 0 <= row.get("wave", 0) <= _MAX_WAVE):
        yield f"wave must be a whole number from 0 to {_MAX_WAVE}"
    if "secret" in row and not _REFERENCE.fullmatch(row["secret"]):
        yield "secret must be a reference: secretsmanager:NAME or ssm:/NAME"
    if "url" in row:
        yield from _url_problems(row)


def _is_text(value: Any, key: str) -> bool:
    is_printable = isinstance(value, str) and value.strip() and value.isprintable()
    return bool(is_printable) and len(value) <= _MAX_LENGTHS[key]


def _url_problems(row: Mapping[str, Any]) -> Iterator[str]:
    if _REFERENCE.fullmatch(row["url"]):
        if "secret" in row:
            yield "url is a reference, so secret must not be there"
        return
    try:
        url = parse_url("url", row["url"], {})
    except ConfigError as error:
        yield error.message
        return
    if url.secrets or url.parameters.get("password"):
        yield "url contains a password; store it, and name it in secret"
    if not (url.host and url.database):
        yield "url must name a host and a database"


def _tenant(row: Mapping[str, Any]) -> tuple[Tenant, DatabaseURL | None]:
    text = row["url"]
    url = None if _REFERENCE.fullmatch(text) else parse_url("url", text, {})
    cluster = row.get("cluster") or (unpooled(url.host) if url else UNKNOWN_CLUSTER)
    servers = tuple(server.server_key(url.tenant) for server in url.servers) if url else ()
    found = Tenant(
        name=row["tenant"],
        url=text,
        secret=row.get("secret", ""),
        schema=row.get("schema", ""),
        wave=row.get("wave", DEFAULT_WAVE),
        cluster=cluster,
        servers=servers,
        reach=url.reach if url else Reach.ANYWHERE,
    )
    return found, url


def _refused(problems: Iterable[str]) -> ConfigError:
    listed = list(problems)
    shown = "".join(f"\n  {problem}" for problem in listed[:_PROBLEMS_SHOWN])
    more = len(listed) - _PROBLEMS_SHOWN
    rest = f"\n  and {more} more" if more > 0 else ""
    return ConfigError(f"the inventory is wrong:{shown}{rest}", next_step=_EXAMPLE)
