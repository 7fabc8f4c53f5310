"""A custom resource of CloudFormation's: a deploy that migrates before its new code serves.

CloudFormation sends Create, Update when a property of the resource has changed, or Delete, and
waits until the answer is PUT to the URL of the request. Without one the stack stands still until
`ServiceTimeout`, and again while it is rolled back, so every request is answered, whatever happens.

The URL is signed: whoever has it can answer. So it is in no log and in no error.
"""

import json
import re
import time
from collections.abc import Callable, Mapping
from http.client import HTTPSConnection
from typing import Any, NamedTuple
from urllib.parse import SplitResult, urlsplit

from lib.retry import Backoff

RESPONSE_HOST = re.compile(r"([a-z0-9-]+\.)+amazonaws\.com(\.cn)?(:443)?", re.IGNORECASE)
"""Where an answer may go: a host of AWS's, without a user, on the port of https."""
PHYSICAL_ID = "onward-migrations"
"""Another one than before would make CloudFormation send Delete for that."""
ANSWER_SECONDS = 10.0
"""What a run must leave of the function's time."""
ATTEMPT_SECONDS = 5.0
RETURN_SECONDS = 0.5  # after the last attempt, to say that it failed
MAX_REASON = 1000  # characters; the whole answer may have 4,096 bytes
_CLIENT_ERROR = range(400, 500)
_ECHOED = ("StackId", "RequestId", "LogicalResourceId")

Answer = dict[str, Any]


class ResponseRefused(Exception):
    """The answer would go to another host than AWS's. Nothing was done."""


class NotAnswered(Exception):
    """CloudFormation does not know what its request has done."""


class Outcome(NamedTuple):
    """What became of a request, in words that anybody may read who sees the stack."""

    succeeded: bool
    reason: str
    data: Mapping[str, str] = {}


def respond(
    event: Mapping[str, Any],
    migrate: Callable[[], Mapping[str, Any]],
    *,
    ends_at: float,
    hosts: re.Pattern[str] = RESPONSE_HOST,
) -> Answer:
    """Do what the request asks for and send the answer, before a time (monotonic seconds).

    `migrate` returns the document of a run. Raises ResponseRefused, and NotAnswered. Neither names
    the URL.
    """
    url = _response_url(event, hosts)
    answer = _answer(event, _outcome(event, migrate))
    _send(url, json.dumps(answer).encode(), ends_at)
    return answer


def _response_url(event: Mapping[str, Any], hosts: re.Pattern[str]) -> SplitResult:
    try:
        url = urlsplit(str(event["ResponseURL"]))
    except ValueError:
        url = urlsplit("")
    if url.scheme != "https" or not hosts.fullmatch(url.netloc):
        raise ResponseRefused("ResponseURL is no https:// URL of a host of AWS's; nothing was done")
    return url


def _outcome(event: Mapping[str, Any], migrate: Callable[[], Mapping[str, Any]]) -> Outcome:
    """Delete touches no database, so that a stack can go whose database has gone."""
    match event.get("RequestType"):
        case "Create" | "Update":
            try:
                return _outcome_of_run(migrate())
            except BaseException as error:  # else CloudFormation would wait for an answer
                return Outcome(False, f"internal: {type(error).__name__}")
        case "Delete":
            return Outcome(True, "nothing to delete: migrations only go forward")
        case _:
            return Outcome(False, "invalid_request: RequestType is not Create, Update or Delete")


def _outcome_of_run(document: Mapping[str, Any]) -> Outcome:
    """A run with nothing to do succeeds, also that of an older bundle: a rollback runs one."""
    if not document["success"]:
        return Outcome(False, _error_text(document["error"]))
    if not document["complete"]:
        return Outcome(False, f"incomplete: {len(document['remaining'])} left, deploy again")
    count = len(document["applied"])
    return Outcome(True, f"{count} applied", {"Applied": str(count)})


def _error_text(error: Mapping[str, Any]) -> str:
    places = ("version", "sqlstate", "line")
    place = ", ".join(f"{name} {error[name]}" for name in places if error.get(name))
    return f"{error['code']}: {error['message']}" + (f" ({place})" if place else "")


def _answer(event: Mapping[str, Any], outcome: Outcome) -> Answer:
    return {
        "Status": "SUCCESS" if outcome.succeeded else "FAILED",
        "Reason": outcome.reason[:MAX_REASON],
        "PhysicalResourceId": event.get("PhysicalResourceId") or PHYSICAL_ID,
        **{name: event.get(name) for name in _ECHOED},
        "Data": dict(outcome.data),
    }


def _send(url: SplitResult, body: bytes, ends_at: float) -> None:
    """PUT the answer, again after what may pass, until the time is up. Raises NotAnswered."""
    backoff = Backoff(ends_at - time.monotonic() - RETURN_SECONDS, first=0.5, factor=2, longest=5)
    backoff.start()
    pause: float | None = 0.0
    while pause is not None:
        time.sleep(pause)
        seconds = min(ATTEMPT_SECONDS, max(backoff.seconds_left, RETURN_SECONDS))
        problem, may_pass = _problem(url, body, seconds)
        if not problem:
            return
        pause = backoff.next_pause() if may_pass else None
    raise NotAnswered(
        f"CloudFormation has no answer ({problem}); inside a VPC, S3 needs an endpoint in it"
    )


def _problem(url: SplitResult, body: bytes, seconds: float) -> tuple[str, bool]:
    """What has prevented the PUT, empty if nothing has, and whether another attempt may help."""
    connection = HTTPSConnection(url.netloc, timeout=seconds)
    path = url._replace(scheme="", netloc="", fragment="").geturl()
    try:
        # The signature covers an empty type.
        connection.request("PUT", path, body, {"Content-Type": ""})
        status = connection.getresponse().status
    except Exception as error:  # some of the library's messages contain the URL
        return type(error).__name__, True
    finally:
        connection.close()
    return ("", False) if status == 200 else (f"status {status}", status not in _CLIENT_ERROR)
