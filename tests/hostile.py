"""A schema in which a role without rights has put code of its own in front of everything that our
SQL names.

What our SQL names is taken from what was sent, so that SQL which is written later is covered too:
`Wire` records all that goes to a server and comes back, and `plant` makes an overload of each
function and operator, for the types that its arguments may have, and a type and a view of each
name. Each of them says that it was called, and fails.
"""

import math
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import product

import psycopg

from tests.conftest import Database, Server
from tests.proxy import Message, Proxy, proxied

MARK = "hostile code was called"
# Of any two or three of these, an overload is an exact match where the built-in one is not, or not
# alone.
_TYPES = (
    "text name varchar oid int4 int8 numeric float8 bool json jsonb regclass regnamespace regrole "
    "timestamptz xid8"
    ' text[] name[] oid[] "char"'
).split()
_OF_THREE = ("text", "name", "oid", "int4", "bool", "jsonb", "name[]")
# What the grammar turns into an operator: IN, BETWEEN, IS DISTINCT FROM, LIKE, CASE.
_IMPLIED = {"=", "<>", "<", "<=", ">", ">=", "~~"}


@dataclass
class Wire:
    """What was sent to a server through a proxy, and the bytes that came back."""

    sent: list[str] = field(default_factory=list)
    received: bytearray = field(default_factory=bytearray)

    async def client(self, message: Message) -> None:
        if message.data[:1] == b"Q":
            self.sent.append(message.data[5:-1].decode())
        await message.pass_on()

    async def server(self, message: Message) -> None:
        self.received += message.data
        await message.pass_on()

    @property
    def called(self) -> list[str]:
        """The hostile things that the server says were called, in an error or a notice.

        The mark is also in the definitions of these things, which a run reads.
        """
        said = self.received.decode(errors="replace")
        return sorted(set(re.findall(f"\\0M{MARK}: ([^\\0]*)", said)))


@contextmanager
def listening(server: Server) -> Iterator[tuple[Wire, Proxy]]:
    """A wire, and the proxy that it listens to. Rules that a test adds come before it."""
    wire = Wire()
    with proxied(server.url) as proxy:
        proxy.when("", wire.client, times=math.inf)
        proxy.when("", wire.server, times=math.inf, answer=True)
        yield wire, proxy


def safely(database: Database) -> Database:
    """The database for the test itself, which must not stumble over what it has planted."""
    return Database(database.name, f"{database.url}?options=-csearch_path%3Dpg_catalog")


def plant(database: Database, sql: Iterable[str], *, owner: str) -> int:
    """Put an overload of everything that the SQL names into `public`, as another role. Returns how
    many there are.
    """
    text = "\n".join(sql)
    words, signs = (
        set(re.findall(r"[a-z_][a-z0-9_]*", text)),
        set(re.findall(r"[-+*/<>=~!@#%^&|`?]+", text)),
    )
    with psycopg.connect(safely(database).url, autocommit=True) as connection:
        connection.execute(f"SET ROLE {owner}".encode())
        statements = [
            *_functions(connection, words),
            *_operators(connection, signs | _IMPLIED),
            *_types_and_views(connection, words),
        ]
        made = 0
        for batch in range(0, len(statements), 500):
            made += _run(connection, statements[batch : batch + 500])
    return made


def _run(connection: psycopg.Connection, statements: list[str]) -> int:
    """Run them in one transaction; where one fails, each alone."""
    try:
        with connection.transaction():
            connection.execute("; ".join(statements).encode())
        return len(statements)
    except psycopg.Error:
        if (
            len(statements) == 1
        ):  # a pseudo-type that no function of PL/pgSQL may take, or made already
            return 0
        middle = len(statements) // 2
        return _run(connection, statements[:middle]) + _run(connection, statements[middle:])


def _functions(connection: psycopg.Connection, words: set[str]) -> Iterator[str]:
    known = connection.execute(
        "SELECT proname, pronargs, provariadic <> 0, proargtypes::regtype[]::text[] FROM pg_proc"
        " WHERE pronamespace = 'pg_catalog'::regnamespace AND proname = ANY (%s)",
        [sorted(words)],
    ).fetchall()
    made = set()
    for name, count, variadic, types in known:
        made.add((name, tuple(types)))
        for arity in {count, *([1, 2, 3] if variadic else [])}:
            for chosen in (
                product(_OF_THREE if arity > 2 else _TYPES, repeat=arity) if 0 < arity <= 3 else ()
            ):
                made.add((name, chosen))
    for name, types in sorted(made):
        yield _function(f'"{name}"', types)


def _function(name: str, types: Iterable[str]) -> str:
    body = f"BEGIN RAISE WARNING '{MARK}: {name}'; RAISE EXCEPTION '{MARK}: {name}'; END"
    arguments = ", ".join(types)
    return (
        f"CREATE FUNCTION public.{name}({arguments}) RETURNS boolean"
        f" LANGUAGE plpgsql IMMUTABLE AS $${body}$$"
    )


def _operators(connection: psycopg.Connection, signs: set[str]) -> Iterator[str]:
    known = connection.execute(
        "SELECT oprname, oprleft::regtype::text, oprright::regtype::text FROM pg_operator"
        " WHERE oprname = ANY (%s) AND oprleft <> 0",
        [sorted(signs)],
    ).fetchall()
    names = {name for name, _, _ in known}
    pairs = {(left, right) for _, left, right in known} | set(product(_TYPES, repeat=2))
    numbers = {pair: number for number, pair in enumerate(sorted(pairs))}
    for pair, number in numbers.items():
        yield _function(f"operator_{number}", pair)
    wanted = set(known) | {
        (name, *pair) for name, pair in product(names, product(_TYPES, repeat=2))
    }
    for name, left, right in sorted(wanted):
        function = f"public.operator_{numbers[left, right]}"
        yield (
            f"CREATE OPERATOR public.{name} (LEFTARG = {left}, RIGHTARG = {right}, "
            f"FUNCTION = {function})"
        )


def _types_and_views(connection: psycopg.Connection, words: set[str]) -> Iterator[str]:
    yield _function("named", ["text"])
    types = connection.execute(
        "SELECT typname FROM pg_type WHERE typnamespace = 'pg_catalog'::regnamespace AND typrelid "
        "= 0"
        " AND typname = ANY (%s)",
        [sorted(words)],
    ).fetchall()
    for (name,) in types:
        yield f"CREATE DOMAIN public.\"{name}\" AS pg_catalog.text CHECK (public.named('{name}'))"
    relations = connection.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = 'pg_catalog'::regnamespace AND relkind "
        "IN ('r', 'v')"
        " AND relname = ANY (%s)",
        [sorted(words)],
    ).fetchall()
    for (name,) in relations:
        columns = connection.execute(
            "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0",
            [f"pg_catalog.{name}"],
        ).fetchall()
        chosen = ", ".join(f"public.named('{name}') AS \"{column}\"" for (column,) in columns)
        yield f'CREATE VIEW public."{name}" AS SELECT {chosen}'
