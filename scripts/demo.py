"""Past migrations as a product has them after three years, for `scripts/sandbox --demo`. Pure.

The same number gives the same ones, but for the time up to which they reach.
"""

import random
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import NamedTuple

YEARS = 3
MOST = 5_000  # of them; more would take a sandbox minutes to apply
# What tables of a shop are called, what their columns are, and what is done to them.
_TABLES = (
    "users sessions teams invitations orders order-lines carts products prices stock suppliers "
    "invoices payments refunds coupons addresses shipments returns reviews webhooks api-keys "
    "audit-events exports notifications subscriptions plans usage-records tax-rates currencies"
).split()
_COLUMNS = (
    "status locale timezone external-id archived-at cancelled-at notes currency total region "
    "priority source-ip retry-count expires-at display-name settings position created-by "
    "deleted-at checksum"
).split()
_CHANGES = (
    (8, "add-{column}-to-{table}", 12),
    (3, "create-{table}", 20),
    (4, "index-{table}-by-{column}", 2_400),
    (2, "require-{column}-of-{table}", 300),
    (1, "backfill-{column}-of-{table}", 41_000),
    (1, "drop-{column}-from-{table}", 9),
    (1, "validate-{column}-of-{table}", 5_200),
    (1, "constrain-{column}-of-{table}", 60),
)
"""How common a change is, what its file is called, and how many milliseconds it takes."""


class Past(NamedTuple):
    """A migration that was applied: its file's name without `.sql`, when, and how long it took."""

    version: str
    applied_at: datetime
    milliseconds: int

    @property
    def sql(self) -> str:
        """What is in the file: it changes nothing."""
        number, _, words = self.version.partition("-")
        return (
            f"-- Version: {number}\n-- Date: {self.applied_at:%Y-%m-%d}\n"
            f"-- Description: {words.replace('-', ' ').capitalize()} (a demo)\n\nSELECT 1;\n"
        )


def past(count: int, now: datetime) -> list[Past]:
    """So many migrations of the last three years, in the order in which they were applied."""
    chance = random.Random(count)  # noqa: S311 - a demo needs no secret
    moments = sorted(_moment(chance, now) for _ in range(count))
    names = _names(chance)
    return [
        Past(f"{number:03}-{name}", moment, max(1, round(typical * chance.lognormvariate(0, 0.8))))
        for number, moment, (name, typical) in zip(
            range(1, count + 1), moments, names, strict=False
        )
    ]


def _moment(chance: random.Random, now: datetime) -> datetime:
    """A time of work, of which there was more lately."""
    days = YEARS * 365 * (1 - chance.random() ** 0.7)
    day = now - timedelta(days=1 + days)
    day -= timedelta(days=max(0, day.weekday() - 4))
    seconds = min(max(chance.gauss(14, 2.5), 8), 19) * 3600
    return day.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(seconds=seconds)


def _names(chance: random.Random) -> Iterator[tuple[str, int]]:
    """Names, none twice until all were there, and what they typically take."""
    weights = [weight for weight, _, _ in _CHANGES]
    used: set[str] = set()
    for attempt in range(1_000_000):
        _, pattern, typical = chance.choices(_CHANGES, weights)[0]
        name = pattern.format(column=chance.choice(_COLUMNS), table=chance.choice(_TABLES))
        if name not in used or attempt > 50_000:
            used.add(name)
            yield name, typical
