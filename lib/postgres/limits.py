"""The limits of a run's session, as settings of the server."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

from lib.errors import ServerError
from lib.history import History
from lib.settings.config import Config

# Without these two, the server may notice late that a run has died.
EXPECTED_LIMITS = frozenset(
    ("client_connection_check_interval", "idle_in_transaction_session_timeout")
)
_OPTIONAL_LIMITS_MS = {
    # A server that works ahead must notice soon that nobody waits for it. It keeps to the interval
    # that held when it began to measure, so all transactions have the same.
    "client_connection_check_interval": 20,
    "idle_in_transaction_session_timeout": 60_000,
    # The role's or the database's own values of these are meant for the application.
    "idle_session_timeout": 0,
    "transaction_timeout": 0,
    # The server's side of the connection's keepalives: for a client that vanished from the network.
    "tcp_keepalives_idle": 5_000,
    "tcp_keepalives_interval": 2_000,
    "tcp_user_timeout": 15_000,
}
OPTIONAL_LIMITS = frozenset(_OPTIONAL_LIMITS_MS)

_LONGEST_STATEMENT_SECONDS = 1_000_000.0  # near the most that the setting can say
_SET_TIME_LEFT = """
SELECT WHERE set_config('statement_timeout', CAST(greatest(1, least({longest},
    EXTRACT(epoch FROM to_timestamp({ends_at}) - clock_timestamp()) * 1000))::integer AS text),
    true) IS NULL;
"""


class SessionLimits:
    """The settings that limit a run's session, rendered as SQL. Drops those that are unsupported.

    LOCAL settings end with the transaction. Through a pooler others would reach the next client.
    """

    def __init__(
        self, config: Config, seconds_left: Callable[[], float], tell: Callable[[str], None]
    ) -> None:
        self._config = config
        self._seconds_left = seconds_left
        self._tell = tell
        self._unsupported: set[str] = set()

    def as_sql(
        self,
        history: History | None,
        *,
        scope: Literal["LOCAL", "SESSION"] = "LOCAL",
        stays_idle: bool = False,
        ends_at: float | None = None,
    ) -> str:
        """SET statements. Without a history only the limits that every server has.

        `stays_idle` is for a transaction that stands idle while another connection works. `ends_at`
        is the deadline by the server's clock, in seconds of the epoch, for what the server begins
        later than it is sent: this must follow PIN_PATH.
        """
        milliseconds = {
            "lock_timeout": round(self._config.lock_timeout * 1000),
            "statement_timeout": self._statement_timeout_ms(),
        }
        if history:
            milliseconds |= self._optional_limits_ms(history, stays_idle=stays_idle)
        set_ = "SET LOCAL" if scope == "LOCAL" else "SET"
        settings = " ".join(f"{set_} {name} = '{ms}ms';" for name, ms in milliseconds.items())
        return settings + (self._time_left_sql(ends_at) if ends_at else "")

    def drop_missing(self, history: History) -> None:
        """Tell which of the expected limits this server lacks, or does not let a session change."""
        for name in sorted(EXPECTED_LIMITS - history.limits - self._unsupported):
            self._drop(name, "it has no such setting")

    def drop_refused(self, history: History, error: ServerError) -> bool:
        """Whether the server refused a limit; it is not set again."""
        supported = self.supported(history)
        refused = next((name for name in supported if f'"{name}"' in error.message), None)
        if refused:
            self._drop(refused, error.message)
        return refused is not None

    def _drop(self, name: str, reason: str) -> None:
        self._unsupported.add(name)
        self._tell(
            f"this server does not let a session set {name} ({reason}): if this process is killed "
            "or hangs, its locks may stay for a while"
        )

    def _statement_timeout_ms(self) -> int:
        seconds = min(self._config.statement_timeout or math.inf, self._seconds_left())
        return 0 if seconds == math.inf else max(1, round(seconds * 1000))

    def _time_left_sql(self, ends_at: float) -> str:
        longest = self._config.statement_timeout or _LONGEST_STATEMENT_SECONDS
        return _SET_TIME_LEFT.format(longest=round(longest * 1000), ends_at=ends_at)

    def supported(self, history: History) -> frozenset[str]:
        """Those of the limits that not every server has, and this one lets a session set."""
        return history.limits - self._unsupported

    def _optional_limits_ms(self, history: History, *, stays_idle: bool) -> dict[str, int]:
        supported = self.supported(history)
        found = {name: ms for name, ms in _OPTIONAL_LIMITS_MS.items() if name in supported}
        if stays_idle and "idle_in_transaction_session_timeout" in found:
            found["idle_in_transaction_session_timeout"] = 0
        return found
