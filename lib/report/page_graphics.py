"""What the status page draws: icons, bars on one scale, a timeline. Pure.

The policy of the page allows no `style` attribute, so that sizes are attributes of SVG. Positions
are in percent, and text keeps its size at any width.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import date, datetime
from typing import NamedTuple
from urllib.parse import quote

_LOGARITHMIC_FROM = 100  # times as long as the shortest: on a linear scale that has no width
_DAYS_DRAWN = 92  # a longer history is drawn by month
_TOP, _BASE, _LABELS = 2, 70, 90  # y, in pixels
_MOST_LABELS = 5
_EDGE = 0.2  # a year's label this near to an end would run into the label there
_MINUTE, _HOUR = 60_000, 3_600_000

_PATHS = {
    "check": "M2.5 8.5l3.5 3.5 7.5-8",
    "clock": "M8 1.5a6.5 6.5 0 1 0 .01 0M8 4.5V8l2.5 2",
    "ahead": "M3 3l5 5-5 5M8.5 3l5 5-5 5",
    "cross": "M3 3l10 10M13 3L3 13",
    "bang": "M8 1.5a6.5 6.5 0 1 0 .01 0M8 4.5v4M8 11.4v.01",
    "gone": "M2.5 8h11",
}


def symbols() -> str:
    """All icons, once; `icon` refers to them."""
    drawn = (
        f'<symbol id="icon-{name}" viewBox="0 0 16 16"><path d="{path}"/></symbol>'
        for name, path in _PATHS.items()
    )
    return f'<svg class="hidden" aria-hidden="true">{"".join(drawn)}</svg>'


def icon(name: str) -> str:
    """An icon beside the word that says the same."""
    return f'<svg class="icon" aria-hidden="true"><use href="#icon-{name}"/></svg>'


def favicon(name: str, colour: str, ink: str) -> str:
    """The icon as a data URL."""
    return "data:image/svg+xml," + quote(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-4 -4 24 24"><rect x="-4" y="-4" '
        f'width="24" height="24" rx="6" fill="{colour}"/><path d="{_PATHS[name]}" fill="none" '
        f'stroke="{ink}" stroke-width="2.5" stroke-linecap="round" stroke-linejoin="round"/></svg>'
    )


class Scale(NamedTuple):
    """The common scale of all bars, in milliseconds. One that begins at 0 is linear."""

    start: int
    longest: int

    @classmethod
    def of(cls, durations: Iterable[int]) -> "Scale":
        """The scale on which these have a place. A logarithm needs one millisecond at least.

        It begins at a power of ten, which leaves the shortest one a width.
        """
        found = [max(1, one) for one in durations] or [1]
        shortest, longest = min(found), max(found)
        spans_orders = longest > _LOGARITHMIC_FROM * shortest
        return cls(10 ** (len(str(shortest)) - 1) if spans_orders else 0, longest)

    @property
    def sentence(self) -> str:
        """The scale in words."""
        kind = "logarithmic " if self.start else ""
        ends = f"from {duration(self.start)} to {duration(self.longest)}"
        return f"The bars show how long each one took, on a {kind}scale {ends}."

    def bar(self, milliseconds: int) -> str:
        """One bar, for the eye alone: the text beside it says the same."""
        width = max(1.0, 100 * self._share(max(1, milliseconds)))
        return (
            f'<svg class="bar" aria-hidden="true"><rect width="{width:.1f}%" height="100%"/></svg>'
        )

    def _share(self, milliseconds: int) -> float:
        if not self.start:
            return milliseconds / self.longest
        return math.log(milliseconds / self.start) / math.log(self.longest / self.start)


def duration(milliseconds: int) -> str:
    """A duration in the unit that it is read in."""
    if milliseconds < 1000:
        return f"{milliseconds} ms"
    if milliseconds < _MINUTE:
        return f"{milliseconds // 100 / 10} s"  # never rounded up to a minute
    if milliseconds < _HOUR:
        return f"{milliseconds // _MINUTE} min {milliseconds % _MINUTE // 1000} s"
    return f"{milliseconds // _HOUR} h {milliseconds % _HOUR // _MINUTE} min"


class Timeline(NamedTuple):
    """How many migrations landed in each day or month, from the first one up to now."""

    counts: Counter[int]
    first: int
    last: int
    unit: str

    @classmethod
    def of(cls, moments: Sequence[str], now: datetime) -> "Timeline":
        """The timeline of at least one moment, in ISO 8601."""
        days = [date.fromisoformat(moment[:10]) for moment in moments]
        end = max(now.date(), *days)
        by_day = (end - min(days)).days < _DAYS_DRAWN
        number = date.toordinal if by_day else _month_number
        counts = Counter(map(number, days))
        return cls(counts, min(counts), number(end), "day" if by_day else "month")

    @property
    def sentence(self) -> str:
        """What the picture shows."""
        total, span = self.counts.total(), f"from {self._name(self.first)} to now"
        most = max(self.counts, key=lambda one: (self.counts[one], one))
        peak = f"at most {self.counts[most]} in one {self.unit}, {self._name(most)}"
        return f"{total} migrations by {self.unit}, {span}: {peak}."

    def svg(self) -> str:
        """The picture. Its title says what it shows."""
        return (
            f'<svg class="timeline" role="img" aria-label="When migrations landed. '
            f'{self.sentence}">{"".join(self._parts())}</svg>'
        )

    def _parts(self) -> Iterator[str]:
        yield f'<line x1="0" x2="100%" y1="{_BASE}" y2="{_BASE}"/>'
        yield from self._ticks()
        most = max(self.counts.values())
        width = min(3.0, 75 / self._length)
        for number, count in sorted(self.counts.items()):
            height = max(2, round((_BASE - _TOP) * count / most))
            x = self._percent(number) + (100 / self._length - width) / 2
            yield (
                f'<rect x="{x:.2f}%" y="{_BASE - height}" width="{width:.2f}%" height="{height}">'
                f"<title>{self._name(number)}: {count}</title></rect>"
            )
        yield f'<text x="0" y="{_LABELS}">{self._name(self.first)}</text>'
        yield f'<text x="100%" y="{_LABELS}" text-anchor="end">now</text>'

    def _ticks(self) -> Iterator[str]:
        """The beginnings of years, or so many of them as can be labelled."""
        years = [
            number
            for number in range(self.first + 1, self.last + 1)
            if self.unit == "month"
            and number % 12 == 0
            and _EDGE < (number - self.first) / self._length < 1 - _EDGE
        ]
        for number in years[:: -(-len(years) // _MOST_LABELS) or 1]:
            x = f"{self._percent(number):.2f}%"
            yield f'<line x1="{x}" x2="{x}" y1="{_TOP}" y2="{_LABELS - 12}"/>'
            yield f'<text x="{x}" y="{_LABELS}" text-anchor="middle">{number // 12}</text>'

    @property
    def _length(self) -> int:
        return self.last - self.first + 1

    def _percent(self, number: int) -> float:
        return 100 * (number - self.first) / self._length

    def _name(self, number: int) -> str:
        if self.unit == "day":
            day = date.fromordinal(number)
            return f"{day.day} {day:%b %Y}"
        return f"{date(number // 12, number % 12 + 1, 1):%b %Y}"


def _month_number(day: date) -> int:
    return day.year * 12 + day.month - 1
