"""One invocation's share of a fleet: a direct event with tenants in it.

    {"action": "migrate" | "status", "environment": "...", "head": "...", "tenants": [line, ...]}

The tenants are lines of the inventory. Where all are fine it returns one object for each; else it
raises after the last one, so that the engine that has invoked it sees a failed task. The name of
what it raises tells the engine whether another try may help, and its message is the JSON list of
those that are not fine: codes and versions, never a message, a host or a row.
"""

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from lib.errors import ConfigError
from lib.fleet.inventory import Tenant, read_tenants
from lib.fleet.outcome import ANOTHER_BUNDLE, WRONG_ENVIRONMENT, Outcome
from lib.fleet.worker import ACTIONS, Worker
from lib.settings.environ import is_set
from lib.settings.environment import read_environment
from lib.web.service import Resolve

SWITCH = "MIGRATION_FLEET"
KEYS = frozenset({"action", "environment", "head", "tenants"})
MAX_MESSAGE = 20_000
"""In characters. Step Functions keeps 32,768 of an error, and quotes the message once more."""


class TenantsFailed(Exception):
    """Somebody must look at these tenants."""


class TenantsBusy(Exception):
    """All of these tenants are worth another try."""


class TenantsBehind(Exception):
    """A look has found tenants that are not current."""


def work(
    event: Mapping[str, Any], environ: Mapping[str, str], resolve: Resolve, seconds: float
) -> dict[str, Any]:
    """Migrate the event's tenants, or look at them, within so many seconds.

    Raises TenantsFailed, TenantsBusy or TenantsBehind; ConfigError for an event that is none, and
    where the function is not a fleet's; FilesError.
    """
    _require_readable(event)
    if not is_set(environ, SWITCH):
        raise ConfigError(f"this function is not a fleet's: {SWITCH} is not set")
    tenants, deadline = read_tenants(event["tenants"]), time.monotonic() + seconds
    worker = Worker(environ, resolve, applied_by="lambda")
    if refusal := _refusal(event, environ, worker.head):
        outcomes = [Outcome(tenant.name, refusal) for tenant in tenants]
    else:
        outcomes = list(worker.outcomes(event["action"], tenants, deadline))
    if unwell := [one for one in outcomes if not one.fine]:
        raise _error(event["action"], unwell)
    return {"tenants": [one.document for one in outcomes]}


def event_of(action: str, environment: str, head: str, tenants: Sequence[Tenant]) -> dict[str, Any]:
    """The event that `work` wants."""
    lines = [tenant.line for tenant in tenants]
    return {"action": action, "environment": environment, "head": head, "tenants": lines}


def _require_readable(event: Mapping[str, Any]) -> None:
    if event.keys() != KEYS or event["action"] not in ACTIONS:
        raise ConfigError(
            f"an event with tenants must have {', '.join(sorted(KEYS))} and nothing else, and its "
            f"action must be one of {', '.join(ACTIONS)}"
        )


def _refusal(event: Mapping[str, Any], environ: Mapping[str, str], head: str) -> str:
    """Why this function does nothing for the event; empty if it may."""
    if event["environment"] != read_environment(environ).name:
        return WRONG_ENVIRONMENT
    return "" if event["head"] == head else ANOTHER_BUNDLE


def _error(action: str, unwell: Sequence[Outcome]) -> Exception:
    if all(one.retry for one in unwell):
        kind: type[Exception] = TenantsBusy
    else:
        kind = TenantsBehind if action == "status" else TenantsFailed
    return kind(_message(unwell))


def _message(unwell: Sequence[Outcome]) -> str:
    """As many of them as fit, so that it stays JSON."""
    shown = [one.document for one in unwell]
    while len(text := json.dumps(shown)) > MAX_MESSAGE:
        shown.pop()
    return text
