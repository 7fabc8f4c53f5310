"""A TCP proxy in front of a server or a pooler: it counts round trips, and breaks connections at a
chosen message.

It knows Postgres' protocol well enough to pass on whole messages, so that a fault falls exactly
before or after one:

    with Proxy(host, port) as proxy:
        proxy.when("RETURNING id", cut_after)  # our row and its COMMIT
        run(proxy.url(database.url))

An action is any `async def action(message: Message)`; it stands in for `message.pass_on()`. Not for
TLS.
"""

import asyncio
import math
import socket
import struct
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, Self
from urllib.parse import urlsplit

# The COMMIT of a file that is sent ahead is a message of its own.
COMMIT_AHEAD = b"\0COMMIT\0"
_SSL, _GSS, _CANCEL = 80877103, 80877104, 80877102


class Connection:
    """One client's connection. `round_trips` counts how often it has waited, since it was let in,
    until the server was ready again: once for a pipeline.
    """

    def __init__(self, proxy: "Proxy", client: "_Stream", server: "_Stream") -> None:
        self.open = True
        self.round_trips = 0
        self._proxy = proxy
        self._client, self._server = client, server
        self._deaf = False
        self._let_in = False
        self._servers_turn = False
        self._answered = asyncio.Event()
        self._cut: asyncio.Task[None] | None = None

    def cut(self) -> None:
        """Reset both sides, at once."""
        for stream in (self._client, self._server):
            stream.reset()

    def cut_client(self) -> None:
        """Reset the client's side; the server does not notice."""
        self._deaf = True
        self._client.reset()

    async def answered(self) -> None:
        """Wait until the server is done with what it was last sent."""
        await self._answered.wait()

    def cut_when_answered(self) -> None:
        """Pass on what else the client sends before it waits, and cut then."""
        self._cut = asyncio.create_task(self.answered())
        self._cut.add_done_callback(lambda _: self.cut())

    def deafen(self) -> None:
        """From here on the server's answers are lost."""
        self._deaf = True

    async def fail(self, sqlstate: str, text: str, severity: str = "FATAL") -> None:
        """Tell the client of a fatal error in the server's name, and hang up."""
        fields = {"S": severity, "V": "FATAL", "C": sqlstate, "M": text}
        body = b"".join(f"{name}{value}\0".encode() for name, value in fields.items()) + b"\0"
        await self._client.write(b"E" + struct.pack("!i", len(body) + 4) + body)
        self._client.close()

    async def run(self) -> None:
        """Pass on until one side hangs up."""
        pumps = [asyncio.create_task(self._from_client()), asyncio.create_task(self._from_server())]
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        self.open = False
        for pump in pumps:
            pump.cancel()
        ends = await asyncio.gather(*pumps, return_exceptions=True)
        for stream in (self._client, self._server):
            stream.close()
        for end in ends:
            if isinstance(end, Exception) and not isinstance(end, OSError | EOFError):
                raise end  # an action's own fault

    async def _from_client(self) -> None:
        await self._startup()
        while True:
            await self._proxy.deal(Message(self, await self._client.message(), from_client=True))

    async def _startup(self) -> None:
        code, data = await self._client.startup()
        while code in (_SSL, _GSS):
            await self._client.write(b"N")
            code, data = await self._client.startup()
        if code != _CANCEL:
            self._proxy.connections.append(self)
        await self._proxy.deal(Message(self, data, from_client=True))

    async def _from_server(self) -> None:
        while True:
            await self._proxy.deal(Message(self, await self._server.message(), from_client=False))

    async def pass_on(self, message: "Message") -> None:
        if message.from_client:
            self.round_trips += self._let_in and not self._servers_turn and message.data[:1] != b"X"
            self._servers_turn = True
            self._answered.clear()
            await self._server.write(message.data)
            return
        ready = message.data[:1] == b"Z"
        self._servers_turn = self._servers_turn and not ready
        self._let_in = self._let_in or ready
        if not self._deaf:
            await self._client.write(message.data)
        if ready:
            self._answered.set()


@dataclass(frozen=True)
class Message:
    """One message of either side, whole; a connection's first one, with user and database, is one
    too.
    """

    connection: Connection
    data: bytes
    from_client: bool

    async def pass_on(self) -> None:
        """Let it through."""
        await self.connection.pass_on(self)


Action = Callable[[Message], Awaitable[None]]


async def cut_before(message: Message) -> None:
    """The message does not arrive."""
    message.connection.cut()


async def cut_after(message: Message) -> None:
    """The message arrives. If it is the client's, the server has dealt with it, and the answer is
    lost.
    """
    if message.from_client:
        message.connection.deafen()
        await message.pass_on()
        message.connection.cut_when_answered()
        return
    await message.pass_on()
    message.connection.cut()


def fail(sqlstate: str, text: str, severity: str = "FATAL") -> Action:
    """The message does not arrive; the client reads a fatal error."""

    async def action(message: Message) -> None:
        await message.connection.fail(sqlstate, text, severity)

    return action


async def roll_back(message: Message) -> None:
    """The server reads ABORT instead of COMMIT."""
    await replace(message, data=message.data.replace(b"COMMIT", b"ABORT ")).pass_on()


class Hold:
    """Keeps a message for some seconds or until `release`, whichever is first; `reached` says that
    there is one.

    With `cut_client` the client is cut off meanwhile, and what it sent arrives all the same.
    """

    def __init__(self, seconds: float = math.inf, *, cut_client: bool = False) -> None:
        self.reached = threading.Event()
        self._seconds = seconds
        self._cut_client = cut_client
        self._released = threading.Event()

    def release(self) -> None:
        self._released.set()

    async def __call__(self, message: Message) -> None:
        if self._cut_client:
            message.connection.cut_client()
        self.reached.set()
        end = time.monotonic() + self._seconds
        while not self._released.is_set() and time.monotonic() < end:
            await asyncio.sleep(0.005)
        await message.pass_on()
        if self._cut_client:
            await message.connection.answered()
            message.connection.cut()


@dataclass
class Rule:
    """What to do at which message; `hits` says how often it was done."""

    pattern: bytes
    action: Action
    times: float
    answer: bool
    hits: int = 0

    def fits(self, message: Message) -> bool:
        return (
            self.hits < self.times
            and self.answer != message.from_client
            and self.pattern in message.data
        )


class Proxy:
    """Listens on a port of 127.0.0.1 while it is a context manager, a free one or `listen`; then
    cuts what is left.
    """

    def __init__(self, host: str, port: int, *, listen: int = 0) -> None:
        self.upstream = (host, port)
        """Where new connections lead; may be changed."""
        self.refuse = False
        """Whether new connections are reset at once."""
        self.connections: list[Connection] = []
        """Those that have come so far; not those that only cancel a statement."""
        self.rules: list[Rule] = []
        self.port = listen
        self._live: set[Connection] = set()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def url(self, url: str) -> str:
        """A URL of the server's, by way of the proxy."""
        parts = urlsplit(url)
        user = parts.netloc.rpartition("@")[0]
        return parts._replace(netloc=f"{user}@127.0.0.1:{self.port}").geturl()

    def when(
        self, pattern: str | bytes, action: Action, *, times: float = 1, answer: bool = False
    ) -> Rule:
        """Do something at the next messages of a client that contain the pattern; with `answer`, of
        the server.

        A migration's file is one message; our row and its COMMIT are one, together with the next
        BEGIN. The reading of the history ends in a COMMIT too: "RETURNING id" tells the two apart.
        """
        rule = Rule(
            pattern.encode() if isinstance(pattern, str) else pattern, action, times, answer
        )
        self.rules.append(rule)
        return rule

    def at_nth(self, number: int, pattern: str | bytes, action: Action) -> Rule:
        """Do something at the nth of these messages only."""
        self.when(pattern, Message.pass_on, times=number - 1)
        return self.when(pattern, action)

    def cut(self) -> None:
        """Reset all connections; when it returns it is done."""
        asyncio.run_coroutine_threadsafe(self._cut(), self._loop).result()

    @property
    def round_trips(self) -> int:
        """Of all connections together."""
        return sum(connection.round_trips for connection in self.connections)

    async def deal(self, message: Message) -> None:
        """Pass a message on, or do what a rule says instead."""
        rule = next((rule for rule in self.rules if rule.fits(message)), None)
        if rule is None:
            return await message.pass_on()
        rule.hits += 1
        await rule.action(message)
        return None

    async def _cut(self) -> None:
        for connection in self._live:
            connection.cut()

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        await self._cut()
        while self._live:
            await asyncio.sleep(0.001)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = _Stream(reader, writer)
        if self.refuse:
            return client.reset()
        try:
            server = _Stream(*await asyncio.open_connection(*self.upstream))
        except OSError:
            return client.reset()
        connection = Connection(self, client, server)
        self._live.add(connection)
        try:
            await connection.run()
        finally:
            self._live.discard(connection)


def proxied(url: str, *, listen: int = 0) -> Proxy:
    """A proxy in front of the server of a URL."""
    parts = urlsplit(url)
    return Proxy(parts.hostname or "127.0.0.1", parts.port or 5432, listen=listen)


class _Stream:
    """One side of a connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def startup(self) -> tuple[int, bytes]:
        """A message without a type: a connection begins with it. Its code, and the whole."""
        head = await self._reader.readexactly(8)
        length, code = struct.unpack("!ii", head)
        return code, head + await self._reader.readexactly(length - 8)

    async def message(self) -> bytes:
        head = await self._reader.readexactly(5)
        (length,) = struct.unpack("!i", head[1:])
        return head + await self._reader.readexactly(length - 4)

    async def write(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    def close(self) -> None:
        self._writer.close()

    def reset(self) -> None:
        """Hang up without a farewell, as a crashed peer or a router that has forgotten us."""
        sock: Any = self._writer.get_extra_info("socket")
        if sock is not None and sock.fileno() >= 0:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()
