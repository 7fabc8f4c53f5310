"""An execution of the state machine: what it is given, and what its end means. Pure.

    {"action": "migrate", "environment": "production", "head": "007-orders", "waves": [
        {"number": 0, "required": true, "clusters": [
            {"name": "c1", "key": "RUN/0-c1.json", "databases": 2, "chunks": 1,
             "concurrency": 8, "tolerated": 1}]}]}

Under a cluster's key, the bucket has its chunks: an array of {"tenants": [line of the inventory]}.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from lib.aws.map_results import seen
from lib.errors import ConfigError
from lib.fleet.inventory import Tenant, Wave, chunks
from lib.fleet.order import Order
from lib.fleet.outcome import Outcome
from lib.fleet.report import Ending, Header, Record

MAX_INPUT = 262_144
"""In bytes: of what an execution is given, and of what each of its chunks is."""
MAX_EVENTS = 25_000
"""In the history of an execution."""
_EVENTS, _EVENTS_OF_A_WAVE, _EVENTS_OF_A_CLUSTER = 50, 20, 30  # rounded up
_BESIDE_A_CHUNK = 4_000  # bytes, of the environment's name and the head's
_ORDERED = ("action", "environment", "head")
_IN_PARTS = "Write inventories of fewer clusters, and run them one after the other."


def execution_input(order: Order) -> str:
    """What the execution is given. Raises ConfigError if Step Functions would not take it."""
    waves = order.waves
    text = json.dumps(
        {
            "action": order.action,
            "environment": order.environment,
            "head": order.head,
            "waves": [
                {
                    "number": wave.number,
                    "required": order.is_required(wave) and wave is not waves[-1],
                    "clusters": list(_clusters(order, wave)),
                }
                for wave in waves
            ],
        }
    )
    _require_limits(order, text)
    return text


def _clusters(order: Order, wave: Wave) -> Iterator[dict[str, Any]]:
    for name, tenants in wave.clusters.items():
        yield {
            "name": name,
            "key": _key(order, wave, name),
            "databases": len(tenants),
            "chunks": len(list(chunks(tenants, order.chunk))),
            "concurrency": order.concurrency,
            "tolerated": order.tolerance.of(len(tenants)),
        }


def _key(order: Order, wave: Wave, cluster: str) -> str:
    return f"{order.run}/{wave.number}-{cluster}.json"


def _require_limits(order: Order, text: str) -> None:
    places = sum(len(wave.clusters) for wave in order.waves)
    events = _EVENTS + _EVENTS_OF_A_WAVE * len(order.waves) + _EVENTS_OF_A_CLUSTER * places
    if len(text) > MAX_INPUT or events > MAX_EVENTS:
        raise ConfigError(
            f"{places:,} pairs of wave and cluster are too many for one execution of Step "
            f"Functions, which may have {MAX_INPUT:,} bytes and {MAX_EVENTS:,} events",
            next_step=_IN_PARTS,
        )


def chunk_files(order: Order) -> Iterator[tuple[str, str]]:
    """The files of the bucket that the execution reads: key and content. Raises ConfigError."""
    for wave in order.waves:
        for name, tenants in wave.clusters.items():
            lines = [_chunk(one) for one in chunks(tenants, order.chunk)]
            yield _key(order, wave, name), f"[{', '.join(lines)}]"


def _chunk(tenants: tuple[Tenant, ...]) -> str:
    text = json.dumps({"tenants": [tenant.line for tenant in tenants]})
    if len(text) > MAX_INPUT - _BESIDE_A_CHUNK:
        raise ConfigError(
            f"the {len(tenants)} lines of a chunk are {len(text):,} bytes, and Step Functions "
            f"takes {MAX_INPUT:,}",
            next_step="Choose a smaller --chunk.",
        )
    return text


class Execution:
    """An execution that was started, as Step Functions describes it."""

    def __init__(self, described: Mapping[str, Any]) -> None:
        self.status = described["status"]
        self._described = described
        self._input = json.loads(described["input"])

    @property
    def running(self) -> bool:
        """Whether it goes on."""
        return bool(self.status == "RUNNING")

    @property
    def keys(self) -> Iterator[tuple[int, str, str]]:
        """Wave and cluster of each file of chunks, and its key."""
        for wave in self._input["waves"]:
            for cluster in wave["clusters"]:
                yield wave["number"], cluster["name"], cluster["key"]

    @property
    def header(self) -> Header:
        """What was ordered."""
        sizes = {
            wave["number"]: {one["name"]: one["databases"] for one in wave["clusters"]}
            for wave in self._input["waves"]
        }
        began = self._described["startDate"].astimezone(UTC).isoformat(timespec="seconds")
        action, environment, head = (self._input[name] for name in _ORDERED)
        return Header(self._described["name"], action, environment, head, began, sizes)

    @property
    def ending(self) -> Ending | None:
        """How it ended; None while it goes on, and where it did not come to its end."""
        seconds = self.seconds_until(self._described.get("stopDate"))
        match self.status, self._described.get("error"):
            case ("SUCCEEDED", _) | ("FAILED", "FleetBehind"):
                return Ending(seconds)
            case "FAILED", "WaveBehind":
                required = [one["number"] for one in self._input["waves"] if one["required"]]
                return Ending(seconds, stopped_after=required[0])
            case "ABORTED", _:
                return Ending(seconds, interrupted=True)
        return None

    @property
    def reason(self) -> str:
        """Why it did not come to its end."""
        words = (self._described.get("error"), self._described.get("cause"))
        return ": ".join(filter(None, words)) or str(self.status)

    def seconds_until(self, moment: datetime | None) -> float:
        """From its beginning; of a moment that is not known, 0."""
        return (moment - self._described["startDate"]).total_seconds() if moment else 0.0


def records_of(
    execution: Execution,
    places: Mapping[str, tuple[int, str]],
    results: Iterable[tuple[str, Mapping[str, Any]]],
) -> Iterator[Record]:
    """The journal of an execution, by the places of its tenants (wave and cluster), and its
    results: each an action and a chunk's object.
    """
    looked_at = set()
    for action, chunk in results:
        for outcome, moment in seen(action, chunk):
            if action == "status":
                looked_at.add(outcome.tenant)
            place, at = places[outcome.tenant], execution.seconds_until(moment)
            yield Record(outcome, *place, action, at)
    if execution.status == "SUCCEEDED":
        # All looks have succeeded, also those whose results cannot be read.
        at = execution.ending.seconds if execution.ending else 0.0
        for tenant in places.keys() - looked_at:
            yield Record(Outcome(tenant, "current"), *places[tenant], "status", at)
