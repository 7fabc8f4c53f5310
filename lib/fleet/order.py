"""What an engine is to do: which tenants, in which waves, and how much at a time. Pure."""

import math
import re
from typing import NamedTuple

from lib.errors import ConfigError
from lib.fleet.inventory import CANARIES, Inventory, Wave

MAX_CONCURRENCY, MAX_CHUNK = 1000, 100


class Tolerance(NamedTuple):
    """How many databases of a cluster may fail in a wave before no other one there is begun."""

    number: float
    is_percentage: bool

    def of(self, databases: int) -> int:
        """The number for a cluster of so many; of a percentage, one at least."""
        if not self.is_percentage:
            return int(self.number)
        return math.ceil(databases * self.number / 100)

    def __str__(self) -> str:
        return f"{self.number:g}{'%' if self.is_percentage else ''}"


class Order(NamedTuple):
    """What an engine is to do."""

    run: str
    """The name of the run."""
    action: str
    """`migrate`, or `status` to look only."""
    environment: str
    head: str
    """The version that the files end with."""
    inventory: Inventory
    concurrency: int = 8
    """How many tenants of a cluster are worked on at a time, each with one session or two."""
    chunk: int = 10
    """How many tenants are given to a worker at a time."""
    tolerance: Tolerance = Tolerance(5, is_percentage=True)

    @property
    def waves(self) -> tuple[Wave, ...]:
        """The waves, first one first."""
        return self.inventory.waves

    def tolerated(self, databases: int) -> int:
        """How many of a cluster's databases may fail in a wave; a look goes through all."""
        return self.tolerance.of(databases) if self.action == "migrate" else databases

    def is_required(self, wave: Wave) -> bool:
        """Whether no other wave may begin before this one is current."""
        return self.action == "migrate" and wave.number == CANARIES


def read_tolerance(text: str) -> Tolerance:
    """A percentage such as `5%`, or a number of databases. Raises ConfigError."""
    found = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)(%?)", text)
    if found and (found[2] or found[1].isdigit()) and not (found[2] and float(found[1]) > 100):
        return Tolerance(float(found[1]), is_percentage=bool(found[2]))
    raise ConfigError(f"--tolerate is {text!r}; expected a percentage such as 5%, or a number")
