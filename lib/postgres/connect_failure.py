"""What an attempt to connect came to, read from libpq's words about it. Pure.

An answer decides by its SQLSTATE, which is the same in every language: it is final unless it is
known to pass. Proxies have few SQLSTATEs for all that they say, so theirs are known by their texts;
these are data, each beside the place where it is written. Silence is worth another try. The address
before a message is not looked at: a directory or a host may have any name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import IntEnum
from typing import NamedTuple

_ADDRESS = re.compile(
    r'^connection to server (?:at "[^"\n]*"(?: \([^)\n]*\))?, port [^\n]*?|on socket "[^\n]*?")'
    r" failed: ",
    re.MULTILINE,
)
_ANSWER = re.compile(
    r"(?P<severity>[^:\n]+):  (?:(?P<sqlstate>[0-9A-Z]{5}): )?(?P<words>.*)", re.DOTALL
)
_LOCATION = re.compile(r"\nLOCATION:  .*", re.DOTALL)
_QUOTED = re.compile(r"""(["'])[^"'\n]*\1""")

# A connection that was lost, a limit that is reached, a timeout at login, a server that goes or
# comes.
_PASSING_STATES = re.compile(r"080(?:00|01|03|06)|53[0-3]00|57014|57P0[123]")
# For PgBouncer (08P01), Neon's proxy and Supavisor (XX000), pgcat and Odyssey (58000) these say
# nothing; nor does none.
_VAGUE_STATES = re.compile(r"08...|58...|XX...|")
_PASSING_TEXTS = (
    # PostgreSQL, whose words proxies pass on under a SQLSTATE of theirs:
    # src/backend/tcop/backend_startup.c, storage/lmgr/proc.c, utils/init/postinit.c
    r"the database system is "
    r"(?:starting up|shutting down|in recovery mode|not (?:yet )?accepting connections)",
    r"too many clients already|remaining connection slots are reserved",
    r"too many connections for (?:role|database)",
    # pgbouncer/pgbouncer: src/client.c, objects.c, janitor.c, server.c; "cannot connect" until 1.17
    r"server_login_retry|pgbouncer cannot connect to server",
    r"client_login_timeout|query_wait_timeout|no memory for",
    r"no more connections allowed|client connections exceeded",
    r"bouncer resources exhaustion|out of memory|pause failed",
    r"(?:server|pooler is) shutting down|server conn crashed|connect (?:failed|timeout)",
    # supabase/supavisor: lib/supavisor/errors/*.ex, and client_handler.ex of older versions
    r"max clients reached|max client connections reached",
    r"max pools count reached|pool terminating|pool checkout failed",
    r"(?:unable|failed) to check ?out (?:a )?connection",
    r"connection to database (?:closed|not available)",
    r"failed to subscribe to tenant|failed to start proxy",
    r"proxy supervisor unavailable|auth_query .*timed out",
    r"DbHandler exited",
    # neondatabase/neon: proxy/src/compute/mod.rs, auth/mod.rs, control_plane/errors.rs and
    # messages.rs
    r"couldn't connect to compute node",
    r"too many connections (?:attempts|to this endpoint)|failed to acquire permit",
    r"control plane request failed(?!: endpoint (?:cannot be found|is disabled))",
    r"running operations",
    # yandex/odyssey: sources/frontend.c
    r"failed to (?:get remote server connection|connect to remote server)|too many active clients",
    r"too many .*tcp connections",
    # postgresml/pgcat: src/client.rs
    r"could not get connection from the pool",
    # Amazon RDS User Guide, "Troubleshooting for RDS Proxy": errors with PostgreSQL
    r"timed-out waiting to acquire database connection|maximum number of client connections",
    r"rate of connection to proxy exceeded|too many competing requests",
)
_REFUSING_TEXTS = (
    # pgbouncer/pgbouncer: src/client.c, pam.c, ldapauth.c; neondatabase/neon: proxy/src/auth/mod.rs
    r"authentication failed|no such user",
    # Amazon RDS User Guide, as above
    r"password that was provided for the role .* is wrong|no credentials for the role",
)
# libpq's own words where it has heard nothing, or not from the server that it wants. Others are
# about what it heard. postgres: src/interfaces/libpq/fe-connect.c, fe-secure.c,
# fe-secure-openssl.c, fe-misc.c
_NO_ANSWER = (
    r"connection (?:refused|timed out)|operation timed out|timeout expired|no route to host",
    r"(?:network|host) is (?:unreachable|down)|no such file or directory",
)
_SILENCE = (
    *_NO_ANSWER,
    r"connection (?:reset|aborted)|broken pipe|cannot assign requested address",
    r"resource temporarily unavailable|too many open files",
    r"interrupted system call|software caused connection abort",
    r"server closed the connection unexpectedly|SSL SYSCALL error",
    r"unexpected eof|SSL connection has been closed",
    r"could not (?:receive data from|send data to) server",
    r"server sent an error response during SSL exchange",
    r"session is (?:not )?read-only|server is (?:not )?in hot standby mode",
    r"could not fork|sorry, too many clients",
)
_UNKNOWN_HOST = "unknown host"
_NOBODY_LISTENS = re.compile(r"connection refused|no such file or directory", re.IGNORECASE)
# And where it could not use what it was given, once it had reached the server.
_SETTING = re.compile(
    r"^invalid (?:integer )?value |certificate file \"|private key file \"|private SSL key"
)


class Fate(IntEnum):
    """What becomes of a connection after an attempt; of several attempts the lowest decides."""

    PASSES = 0
    """An answer that will be another one soon."""
    SETTING = 1
    """Something that was asked for cannot be had: libpq says so itself."""
    FINAL = 2
    """An answer that stays."""
    SILENCE = 3
    """No answer."""


class Attempt(NamedTuple):
    """One attempt that did not lead to a session."""

    fate: Fate
    text: str
    """What libpq said of it, on one line."""
    words: str
    """The same without the address, and without what stands between quotes, which may be any name.
    """
    sqlstate: str = ""

    @property
    def refuses_credentials(self) -> bool:
        """Whether another password, or another user, may be let in."""
        return self.sqlstate.startswith("28") or (
            _is_vague(self) and _matches(_REFUSING_TEXTS, self.words)
        )

    @property
    def reaches_nobody(self) -> bool:
        """Whether nothing has answered at the address, or there is no address."""
        return self.is_of_a_name or (self.fate is Fate.SILENCE and _matches(_NO_ANSWER, self.words))

    @property
    def is_of_a_name(self) -> bool:
        """Whether the host's name led nowhere."""
        return self.words == _UNKNOWN_HOST

    @property
    def finds_nobody(self) -> bool:
        """Whether nothing listens there at all."""
        return self.fate is Fate.SILENCE and bool(_NOBODY_LISTENS.search(self.words))


def read(message: str) -> list[Attempt]:
    """What libpq says of one connection, which may have taken several attempts: with TLS, and
    without.
    """
    places = list(_ADDRESS.finditer(message))
    if not places:
        return [Attempt(Fate.SETTING, _line(message), message)]
    ends = [*(place.start() for place in places[1:]), len(message)]
    return [
        _attempt(place[0], message[place.end() : end])
        for place, end in zip(places, ends, strict=True)
    ]


def unresolved(message: str, *, passes: bool) -> Attempt:
    """A host whose name leads nowhere, for now or at all."""
    return Attempt(Fate.SILENCE if passes else Fate.FINAL, _line(message), _UNKNOWN_HOST)


def decide(attempts: Iterable[Attempt]) -> Attempt:
    """The attempt that says whether another one is worth it."""
    return min(attempts, key=lambda attempt: attempt.fate)


def advise(attempt: Attempt) -> str:
    """What to do about it."""
    said = f"{attempt.sqlstate} {attempt.words}"
    answered = attempt.fate in (Fate.PASSES, Fate.FINAL)
    fitting = (
        advice
        for pattern, advice in _ADVICE
        if answered and re.search(pattern, said, re.IGNORECASE)
    )
    return next(fitting, _ADVICE_BY_FATE[attempt.fate])


_CHECK_URL = "Check user, password and database in the URL."
_ADVICE = (
    (
        "does not support SSL",
        "Remote servers are connected to over TLS; add sslmode=disable to the URL to disable it.",
    ),
    (
        "unsupported startup parameter",
        "A pooler refuses this parameter of the URL: remove it, or use the direct URL.",
    ),
    (
        "certificate|SSL error",
        "Check host, sslmode and sslrootcert in the URL: the server must be the one that its "
        "certificate names.",
    ),
    (
        "^28000 ",
        "Check user, password and database in the URL, and that the server admits this client: "
        "pg_hba.conf, or the addresses that the provider allows.",
    ),
    (
        "^28|^3D000|^(?:08P01|XX...) .*(?:authentication failed|no such|not found)|no password "
        "supplied",
        _CHECK_URL,
    ),
    ("^ unknown host", "Check the host in the URL."),
    (
        "^53300|too many|max client|no more connections",
        "Close sessions that are not needed, then run again.",
    ),
)
_ADVICE_BY_FATE = {
    Fate.SETTING: "Correct it in the URL, or in the PG… variable that sets it.",
    Fate.PASSES: "Run again when the database accepts connections.",
    Fate.FINAL: "Correct what the answer names; a retry would get the same answer.",
    Fate.SILENCE: "Check that the server runs and that its host and port are right, then run "
    "again.",
}


def _attempt(address: str, said: str) -> Attempt:
    said = _LOCATION.sub("", said)
    answer = _ANSWER.match(said)
    if not answer:
        return Attempt(_fate_without_answer(said), _line(address + said), said)
    sqlstate, words = answer["sqlstate"] or "", _QUOTED.sub('""', answer["words"])
    told = f"{address}{answer['severity']}: {answer['words']}" + (
        f" (SQLSTATE {sqlstate})" if sqlstate else ""
    )
    attempt = Attempt(Fate.FINAL, _line(told), _line(words), sqlstate)
    return attempt._replace(fate=Fate.PASSES) if _passes(attempt) else attempt


def _passes(attempt: Attempt) -> bool:
    passing_state = bool(_PASSING_STATES.fullmatch(attempt.sqlstate))
    if not _is_vague(attempt):
        return passing_state
    return _matches(_PASSING_TEXTS, attempt.words) or (
        passing_state and not attempt.refuses_credentials
    )


def _fate_without_answer(said: str) -> Fate:
    if _SETTING.search(said):
        return Fate.SETTING
    return Fate.SILENCE if _matches(_SILENCE, said) else Fate.FINAL


def _is_vague(attempt: Attempt) -> bool:
    return bool(_VAGUE_STATES.fullmatch(attempt.sqlstate)) and attempt.fate is not Fate.SETTING


def _matches(patterns: Iterable[str], words: str) -> bool:
    return bool(re.search("|".join(patterns), words, re.IGNORECASE))


def _line(text: str) -> str:
    return " ".join(text.split())
