"""Pauses between attempts. Pure but for the clock and chance."""

import math
import random
import time


class Backoff:
    """Growing pauses with jitter, until a time budget is used up. One instance for each operation.

    All times are in seconds. The budget begins with the first failure, or with `start`. A pause is
    lengthened at random by up to `jitter` times itself, so that those who wait do not come at once.
    """

    def __init__(
        self,
        budget: float,
        *,
        first: float,
        factor: float = 1.0,
        longest: float = math.inf,
        jitter: float = 0.25,
    ) -> None:
        self.attempts = 0
        self._budget = budget
        self._ends_at = math.inf
        self._pause = first
        self._factor = factor
        self._longest = longest
        self._jitter = jitter

    @property
    def seconds_left(self) -> float:
        """What is left of the budget."""
        return self._budget if self._ends_at == math.inf else self._ends_at - time.monotonic()

    def start(self) -> None:
        """Begin the budget, unless it has begun."""
        if self._ends_at == math.inf:
            self._ends_at = time.monotonic() + self._budget

    def next_pause(self) -> float | None:
        """The pause before the next attempt, never shorter than planned; None if it is too long."""
        self.start()
        self.attempts += 1
        pause = self._pause * (1 + random.uniform(0.0, self._jitter))  # noqa: S311 - no secret
        self._pause = min(self._pause * self._factor, self._longest)
        return pause if pause <= self.seconds_left else None
