"""What a Distributed Map has left behind in S3: which chunks came out how. Pure.

Its ResultWriter writes a manifest that names files, and each of these has an array with one object
for each chunk: what went in, and what came out or which error.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from lib.aws.fleet import MAX_MESSAGE, TenantsBehind, TenantsBusy, TenantsFailed
from lib.errors import ConfigError, FilesError, OnwardError, OutcomeUnknown
from lib.fleet.outcome import NOT_REACHED, Outcome

_LISTING = frozenset(one.__name__ for one in (TenantsFailed, TenantsBusy, TenantsBehind))
_LONGEST_TENANT = 2_000  # characters of the list
# What a function that has not told of its tenants may have done for them.
_CODES = {
    "ConfigError": ConfigError.code,
    "FilesError": FilesError.code,
    "DuplicateNumbers": FilesError.code,
    "Lambda.TooManyRequestsException": NOT_REACHED,
    "Lambda.Unknown": OutcomeUnknown.code,
    "Runtime.ExitError": OutcomeUnknown.code,
    "Sandbox.Timedout": OutcomeUnknown.code,
    "States.Timeout": OutcomeUnknown.code,
}


class Seen(NamedTuple):
    """What became of one tenant, and when."""

    outcome: Outcome
    at: datetime | None


def result_files(manifest: Mapping[str, Any]) -> Iterator[str]:
    """The keys of the files that a manifest names, without that of chunks that were not begun."""
    for status in ("SUCCEEDED", "FAILED"):
        for file in manifest["ResultFiles"].get(status, ()):
            yield file["Key"]


def seen(action: str, chunk: Mapping[str, Any]) -> Iterator[Seen]:
    """What a chunk's object says of its tenants, and nothing of those of which it says nothing."""
    at = _moment(chunk.get("StopDate"))
    for outcome in _outcomes(action, chunk):
        yield Seen(outcome, at)


def _outcomes(action: str, chunk: Mapping[str, Any]) -> Iterator[Outcome]:
    if chunk["Status"] == "SUCCEEDED":
        yield from map(Outcome.read, json.loads(chunk["Output"])["tenants"])
        return
    message = _message(chunk)
    listed = _listed(message) if chunk.get("Error") in _LISTING else []
    yield from listed
    names = {one.tenant for one in listed}
    others = [name for name in _names(chunk) if name not in names]
    if not listed:
        yield from _untold(action, str(chunk.get("Error")), others)
    elif action == "status" and len(message) < MAX_MESSAGE - _LONGEST_TENANT:
        # The whole list of those that are not fine.
        yield from (Outcome(name, "current") for name in others)


def _untold(action: str, error: str, tenants: Sequence[str]) -> Iterator[Outcome]:
    """The tenants of a chunk whose function ended without a word about them."""
    code = NOT_REACHED if error in _LISTING else _CODES.get(error, OnwardError.code)
    if action == "status" and code == OutcomeUnknown.code:
        code = NOT_REACHED
    yield from (Outcome(tenant, code) for tenant in tenants)


def _names(chunk: Mapping[str, Any]) -> list[str]:
    """The tenants that went in; none if there were too many to be written down."""
    tenants = _json(chunk.get("Input"), {}).get("tenants", ())
    return [tenant["tenant"] for tenant in tenants]


def _message(chunk: Mapping[str, Any]) -> str:
    """What the function has raised; empty where nothing readable is left of it."""
    cause = _json(chunk.get("Cause"), {})
    return str(cause.get("errorMessage", ""))


def _listed(message: str) -> list[Outcome]:
    return [Outcome.read(document) for document in _json(message, [])]


def _json(text: Any, otherwise: Any) -> Any:
    """The value of a JSON text of the same type; Step Functions cuts what is too long."""
    try:
        value = json.loads(text)
    except (TypeError, ValueError):
        return otherwise
    return value if isinstance(value, type(otherwise)) else otherwise


def _moment(text: Any) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None
