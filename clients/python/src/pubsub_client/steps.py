"""Operations as generators of steps, so that the rules are written once and run with threads as well as with asyncio.

An operation yields what is to be done (a request, a pause, waiting for a lock) and is sent the outcome. A driver that is
interrupted closes the generator, whose `finally` blocks then give locks back.
"""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import dataclass, field
from typing import Awaitable, Callable, Generator, Mapping, Optional, Tuple, TypeVar, Union

import httpx

T = TypeVar("T")

#: The connection was never made, so nothing can have reached the broker.
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol)


@dataclass(frozen=True)
class Try:
    """One request to one broker."""

    method: str
    url: str
    query: Tuple[Tuple[str, str], ...]
    headers: Mapping[str, str]
    body: Optional[bytes]
    #: Longest wait for the answer, in seconds.
    patience: float
    connect_timeout: float


@dataclass(frozen=True)
class Pause:
    """Some seconds in which nothing is done."""

    seconds: float


@dataclass
class Turn:
    """Held by one operation at a time. A client is used either by threads or by asyncio, so one of the two locks is."""

    _threads: threading.Lock = field(default_factory=threading.Lock)
    _tasks: Optional[asyncio.Lock] = None

    def take(self) -> None:
        """Wait for the turn, as a thread."""
        self._threads.acquire()

    async def take_async(self) -> None:
        """Wait for the turn, as a task."""
        if self._tasks is None:
            # Made here, as older Pythons bind it to the loop that runs.
            self._tasks = asyncio.Lock()
        await self._tasks.acquire()

    def give_back(self) -> None:
        """End the turn."""
        if self._tasks is not None and self._tasks.locked():
            self._tasks.release()
        else:
            self._threads.release()


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Lost:
    """No answer came."""

    #: Whether the request may have reached the broker.
    sent: bool
    what: str


Step = Union[Try, Pause, Turn]
Outcome = Union[Answer, Lost, None]
Steps = Generator[Step, Outcome, T]


def send(one: Try) -> Steps[Union[Answer, Lost]]:
    """Make one try."""
    outcome = yield one
    if outcome is None:
        raise RuntimeError("the driver answered a try with nothing")
    return outcome


def lost(error: Exception) -> Lost:
    """Tell what a failure on the way means."""
    what = (
        "no answer in time"
        if isinstance(error, httpx.TimeoutException)
        else str(error) or type(error).__name__
    )
    return Lost(sent=not isinstance(error, _NOT_SENT), what=what)


def timeouts(one: Try) -> httpx.Timeout:
    """Return the limits of one try."""
    return httpx.Timeout(one.patience, connect=min(one.connect_timeout, one.patience))


def run(steps: Steps[T], http: httpx.Client, perform: Optional[Callable[[Try], Outcome]] = None) -> T:
    """Run an operation in this thread; `perform` makes a try in another way."""
    outcome: Outcome = None
    try:
        while True:
            step = steps.send(outcome)
            outcome = None
            if isinstance(step, Try):
                outcome = perform(step) if perform else _perform(step, http)
            elif isinstance(step, Pause):
                time.sleep(step.seconds)
            else:
                step.take()
    except StopIteration as done:
        result: T = done.value
        return result
    finally:
        steps.close()


def _perform(one: Try, http: httpx.Client) -> Outcome:
    try:
        answer = http.request(
            one.method,
            one.url,
            params=one.query,
            headers=one.headers,
            content=one.body,
            timeout=timeouts(one),
        )
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return lost(error)
    return Answer(answer.status_code, answer.headers, answer.content)


async def run_async(
    steps: Steps[T], http: httpx.AsyncClient, perform: Optional[Callable[[Try], Awaitable[Outcome]]] = None
) -> T:
    """Run an operation in this task; `perform` makes a try in another way."""
    outcome: Outcome = None
    try:
        while True:
            step = steps.send(outcome)
            outcome = None
            if isinstance(step, Try):
                outcome = await (perform(step) if perform else _perform_async(step, http))
            elif isinstance(step, Pause):
                await asyncio.sleep(step.seconds)
            else:
                await step.take_async()
    except StopIteration as done:
        result: T = done.value
        return result
    finally:
        steps.close()


async def _perform_async(one: Try, http: httpx.AsyncClient) -> Outcome:
    try:
        answer = await http.request(
            one.method,
            one.url,
            params=one.query,
            headers=one.headers,
            content=one.body,
            timeout=timeouts(one),
        )
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return lost(error)
    return Answer(answer.status_code, answer.headers, answer.content)
