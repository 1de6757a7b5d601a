"""Waiting between tries: exponential, with jitter, a cap and a deadline."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import Optional


@dataclass(frozen=True)
class RetryPolicy:
    """How long to wait between tries and for how long to go on trying, in seconds."""

    #: Upper end of the first wait.
    first: float = 0.05
    #: Upper end of every later wait; the waits double until they reach it.
    cap: float = 1.0
    #: No try begins later than this after the first one: longer than an election and a session time-out together.
    deadline: float = 30.0

    def ceiling(self, retry: int) -> float:
        """Return the upper end of the wait before retry number `retry`, counted from 0."""
        return min(self.first * 2.0 ** min(retry, 32), self.cap)


class Backoff:
    """The tries of one operation."""

    def __init__(self, policy: RetryPolicy, deadline: Optional[float] = None) -> None:
        self._policy = policy
        self._deadline = policy.deadline if deadline is None else deadline
        self._started = time.monotonic()
        self._retries = 0

    def elapsed(self) -> float:
        """Return the time since the operation began."""
        return time.monotonic() - self._started

    def left(self) -> float:
        """Return the time that is left; 0 once the deadline is over."""
        return max(0.0, self._deadline - self.elapsed())

    def next_wait(self, at_least: float = 0.0) -> Optional[float]:
        """Grant one more try and return how long to wait before it; None when it would begin after the deadline.

        The wait is random in the upper half of its range, so that clients that lost the same broker don't come back together.
        """
        ceiling = self._policy.ceiling(self._retries)
        wait = max(random.uniform(ceiling / 2, ceiling), at_least)
        if wait >= self.left():
            return None
        self._retries += 1
        return wait
