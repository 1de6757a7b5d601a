"""One request to whichever broker answers: rotation, retries, time limits, and outcomes told apart.

A try goes to the broker that answered last. Brokers that can't be reached or can't serve now are passed over at once; only
after each was tried is there a wait. A try whose outcome is not known is repeated only if the request may be made twice.
"""

from __future__ import annotations

import itertools
import json
import secrets
import time
from dataclasses import dataclass, field
from typing import Any, Iterator, Mapping, Optional, Tuple, Union
from urllib.parse import quote

from .brokers import BrokerBook, base_url
from .errors import MalformedAnswer, OutcomeUnknown, PubsubError, Refused, Unavailable, detail_text
from .retry import Backoff, RetryPolicy
from .steps import Answer, Lost, Pause, Steps, Try, send

VERSION = "0.1.0"
_FOREIGN_TEXT_MAX = 200


@dataclass(frozen=True)
class Settings:
    """How a client reaches its brokers; times are in seconds."""

    #: Longest wait for a connection.
    connect_timeout: float = 2.0
    #: Longest wait for an answer that is no long-poll.
    answer_timeout: float = 10.0
    #: Between tries.
    retry: RetryPolicy = field(default_factory=RetryPolicy)


@dataclass(frozen=True)
class Request:
    """One request, before it is known which broker it will go to."""

    method: str
    path: str
    query: Mapping[str, object] = field(default_factory=dict)
    body: Optional[object] = None
    headers: Mapping[str, str] = field(default_factory=dict)
    #: Whether doing it twice is the same as doing it once.
    repeatable: bool = True
    patience: Optional[float] = None
    deadline: Optional[float] = None


@dataclass(frozen=True)
class Reply:
    """An answer of success."""

    broker: str
    answer: Answer
    #: How many tries failed before this one.
    retries: int
    #: How many of them may have been carried out all the same.
    unknown_tries: int

    def json(self) -> Any:
        """Return the body; raise MalformedAnswer if it is no JSON."""
        try:
            return json.loads(self.answer.body)
        except ValueError as error:
            raise MalformedAnswer(self.broker, str(error)) from error


@dataclass(frozen=True)
class Failure:
    """What a try that got no answer to keep means."""

    #: `no`: nothing was done and no try will change that. `again`: another broker may do it. `slow`: the same one will do
    #: it later. `unknown`: it may have been done.
    verdict: str
    what: str
    problem: Optional[Mapping[str, Any]] = None

    @property
    def at_least(self) -> float:
        """How many seconds a broker asked to be left alone."""
        wait = (self.problem or {}).get("retry_after_ms")
        return wait / 1000.0 if isinstance(wait, (int, float)) else 0.0


def segment(text: str) -> str:
    """Escape one segment of a path."""
    return quote(text, safe="")


def judge(status: int, problem: Mapping[str, Any]) -> str:
    """Decide what an answer other than success means.

    A broker says itself whether the outcome is known. Where it does not (another version, a proxy in between), 5xx means
    not known, but for 503: it is answered before anything is done.
    """
    ambiguous = problem.get("ambiguous")
    if ambiguous is True:
        return "unknown"
    if status == 429:
        return "slow"
    # Out of order: a leader that was replaced and does not know it lacks what its successor took.
    if (status == 409 and problem.get("code") == "OUT_OF_ORDER") or status in (503, 421, 425):
        return "again"
    if status in (502, 504) and ambiguous is False:
        return "again"
    return "unknown" if status >= 500 and status != 507 and ambiguous is None else "no"


def problem_of(answer: Answer) -> dict[str, Any]:
    """Read an error answer; one that is no problem comes from something between client and broker."""
    try:
        problem = json.loads(answer.body)
    except ValueError:
        problem = None
    if not isinstance(problem, dict) or "code" not in problem:
        text = answer.body.decode("utf-8", "replace")[:_FOREIGN_TEXT_MAX].strip()
        problem = {"code": "OTHER", "detail": text or f"status {answer.status} without a reason"}
    problem["status"] = answer.status
    after = answer.headers.get("retry-after", "")
    if "retry_after_ms" not in problem and after.isdigit():
        problem["retry_after_ms"] = int(after) * 1000
    return problem


class Transport:
    """Makes the steps of requests to a set of brokers."""

    def __init__(self, book: BrokerBook, settings: Settings) -> None:
        self.book = book
        self.settings = settings
        self._prefix = secrets.token_hex(8)
        self._numbers: Iterator[int] = itertools.count(1)

    def fork(self) -> "Transport":
        """Return a transport that picks and learns brokers on its own."""
        return Transport(self.book.copy(), self.settings)

    def request_id(self) -> str:
        """Return a name for one request in the logs of the brokers."""
        return f"{self._prefix}-{next(self._numbers)}"

    def avoid(self, broker: str) -> None:
        """Ask another broker next."""
        self.book.failed(broker, time.monotonic())

    def json(self, request: Request) -> Steps[Any]:
        """Send a request and return the body of the answer."""
        reply = yield from self.send(request)
        return reply.json()

    def send(self, request: Request) -> Steps[Reply]:
        """Send a request to one broker after the other until one answers; raise what the outcome was otherwise."""
        retry = self.settings.retry
        backoff = Backoff(retry, request.deadline)
        request_id = self.request_id()
        tries = unknown_tries = asked = 0
        while True:
            broker = self.book.pick(time.monotonic())
            result = yield from self._attempt(broker, request, request_id)
            if isinstance(result, Answer):
                self.book.succeeded(broker)
                return Reply(broker, result, tries, unknown_tries)
            tries += 1
            if result.verdict == "no" and unknown_tries == 0:
                raise Refused.of(broker, result.problem or {})
            if result.verdict == "no" or (result.verdict == "unknown" and not request.repeatable):
                raise OutcomeUnknown(result.what, request_id, result.problem)
            unknown_tries += result.verdict == "unknown"
            at_least = result.at_least
            if result.verdict != "slow":
                at_least = min(at_least, retry.cap)
                self.avoid(broker)
                asked += 1
                if asked < len(self.book) and backoff.left() > 0:
                    continue
            asked = 0
            wait = backoff.next_wait(at_least)
            if wait is None:
                raise self._given_up(request, result, tries, unknown_tries, backoff, request_id)
            yield Pause(wait)

    @staticmethod
    def _given_up(
        request: Request, last: Failure, tries: int, unknown_tries: int, backoff: Backoff, request_id: str
    ) -> PubsubError:
        if unknown_tries > 0 and request.method != "GET":
            return OutcomeUnknown(last.what, request_id, last.problem)
        return Unavailable(tries, backoff.elapsed(), last.what)

    def _attempt(self, broker: str, request: Request, request_id: str) -> Steps[Union[Answer, Failure]]:
        outcome = yield from send(self.fill(broker, request, request_id))
        if isinstance(outcome, Lost):
            return Failure("unknown" if outcome.sent else "again", f"{broker}: {outcome.what}")
        if 200 <= outcome.status < 300:
            return outcome
        return self.failure(broker, outcome)

    def failure(self, broker: str, answer: Answer) -> Failure:
        """Tell what an answer other than success means; learn the leader from it."""
        problem = problem_of(answer)
        leader = problem.get("leader_api_base")
        if problem["code"] == "NOT_LEADER" and isinstance(leader, str):
            self.book.learn([leader])
            self.book.prefer(_base_or_same(leader))
        what = f"{broker}: {detail_text(problem.get('detail'))} ({answer.status} {problem['code']})"
        return Failure(judge(answer.status, problem), what, problem)

    def fill(self, broker: str, request: Request, request_id: str) -> Try:
        """Address a request to a broker."""
        headers = {
            "x-request-id": request_id,
            "user-agent": f"pubsub-client-python/{VERSION}",
            **request.headers,
        }
        body = None
        if request.body is not None:
            headers["content-type"] = "application/json"
            body = to_json(request.body)
        return Try(
            request.method,
            f"{broker}{request.path}",
            query_of(request.query),
            headers,
            body,
            self.settings.answer_timeout if request.patience is None else request.patience,
            self.settings.connect_timeout,
        )


def _base_or_same(text: str) -> str:
    try:
        return base_url(text)
    except ValueError:
        return text


def query_of(query: Mapping[str, object]) -> Tuple[Tuple[str, str], ...]:
    """Return parameters as they are sent; those that are None are left out."""
    return tuple((name, _text(value)) for name, value in query.items() if value is not None)


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def to_json(value: object) -> bytes:
    """Return a value as JSON; raise ValueError or TypeError for one that has no form there, such as NaN."""
    return json.dumps(value, allow_nan=False, separators=(",", ":"), ensure_ascii=False).encode()
