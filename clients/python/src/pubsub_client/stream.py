"""Consuming by server-sent events: brokers push, the client goes on with `Last-Event-ID` at another one when one fails."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from types import TracebackType
from typing import Any, AsyncIterator, Iterator, Mapping, Optional, Union

import httpx

from .errors import PubsubError, Refused
from .events import EventParser, Message
from .records import Record
from .steps import Answer, Outcome, Pause, Steps, Try, lost, run, run_async
from .transport import Request, Transport, judge, segment

_LOG = logging.getLogger("pubsub_client")
#: Brokers show every few seconds that they live; one that is silent for so many seconds is given up.
_SILENCE_MAX = 20.0
#: The wait before a stream that ended is opened again, unless the broker said another one.
_REOPEN = 0.1


@dataclass(frozen=True)
class StreamSettings:
    """How a topic is streamed."""

    #: The group that shares the topic's partitions; without one every partition is read.
    group: Optional[str] = None
    #: Who reads; required with a group.
    consumer: Optional[str] = None
    #: `earliest`, `latest`, or an offset; None is behind what the group has finished.
    start: Union[str, int, None] = None
    #: `auto`: the broker commits a record once the connection took a later event, whether or not the reader has worked on
    #: it. `manual`: the reader calls `commit` after its work, so that every record is processed at least once.
    commit: str = "auto"
    #: Goes on behind this event of an earlier stream.
    last_event_id: Optional[str] = None


@dataclass(frozen=True)
class StreamEvent:
    """What a stream tells: `kind` is `record`, `control`, `rebalance` or what newer brokers send."""

    kind: str
    data: Mapping[str, Any]
    id: Optional[str]
    #: Of a `record`.
    record: Optional[Record] = None


class StreamCore:
    """What a stream knows, for threads and for asyncio."""

    def __init__(self, transport: Transport, topic: str, settings: StreamSettings) -> None:
        if settings.group is not None and settings.consumer is None:
            raise ValueError("a group was named without the consumer that reads for it")
        if settings.commit not in ("auto", "manual"):
            raise ValueError(f"commit is {settings.commit!r}: use auto or manual")
        self.transport = transport
        self.topic = topic
        self.settings = settings
        self.last_event_id = settings.last_event_id
        self.member_epoch: Optional[int] = None
        self.parser = EventParser()
        self.broker = ""
        self._wait = _REOPEN
        self._first = True
        self._handed: dict[int, int] = {}

    def open(self) -> Steps[None]:
        """Open the stream at whichever broker serves it."""
        if not self._first:
            yield Pause(self._wait)
        settings = self.settings
        query: dict[str, object] = {
            "group_id": settings.group,
            "consumer_id": settings.consumer,
            "from": settings.start if self._first else None,
            "commit": settings.commit if settings.group is not None else None,
        }
        headers = {"accept": "text/event-stream", "cache-control": "no-store"}
        if self.last_event_id is not None:
            headers["last-event-id"] = self.last_event_id
            query["from"] = None
        path = f"/topics/{segment(self.topic)}/stream"
        reply = yield from self.transport.send(
            Request("GET", path, query, headers=headers, patience=_SILENCE_MAX)
        )
        self.broker = reply.broker
        self.parser = EventParser()
        self._first = False

    def ended(self) -> None:
        """Note that the stream broke off or was closed: another broker is asked next."""
        self.transport.avoid(self.broker)

    def take(self, message: Message) -> Optional[StreamEvent]:
        """Take a message in; raise the error that ends the stream for good."""
        if message.id is not None:
            self.last_event_id = message.id
        if message.retry is not None:
            self._wait = message.retry / 1000
        if not message.data:
            return None
        try:
            data = json.loads(message.data)
        except ValueError:
            return None
        if not isinstance(data, dict):
            return None
        kind = message.event or "message"
        if kind == "error":
            if judge(int(data.get("status", 500)), data) == "no":
                raise Refused.of(self.broker, data)
            return None
        if isinstance(data.get("member_epoch"), int):
            self.member_epoch = data["member_epoch"]
        if kind != "record":
            return StreamEvent(kind, data, message.id)
        record = Record.of(self.topic, data)
        self._handed[record.partition] = record.offset
        return StreamEvent(kind, data, message.id, record)

    def commit(self, record: Optional[Record]) -> Steps[None]:
        """Commit up to a record, or everything that was handed out."""
        due = {record.partition: record.offset} if record is not None else dict(self._handed)
        for partition, offset in due.items():
            body = self._named({"topic": self.topic, "partition": partition, "offset": offset})
            yield from self.transport.json(Request("POST", "/commit", body=body))
            if self._handed.get(partition) == offset:
                del self._handed[partition]

    def leave(self, finished: bool) -> Steps[None]:
        """Leave the group, so that others take its partitions over at once."""
        if self._first or self.settings.group is None:
            return
        self._first = True
        if finished and self.settings.commit == "auto":
            # The broker would wait for a later event.
            yield from self.commit(None)
        yield from self.transport.json(Request("POST", "/unsubscribe", body=self._named({"topic": self.topic})))

    def _named(self, body: dict[str, Any]) -> dict[str, Any]:
        """Add who reads to a body."""
        for name, value in (
            ("group_id", self.settings.group),
            ("consumer_id", self.settings.consumer),
            ("member_epoch", self.member_epoch),
        ):
            if value is not None:
                body[name] = value
        return body


class Stream:
    """A stream of records that survives its broker. Iterate over it; `close` it, or use it in a `with` block."""

    def __init__(
        self, transport: Transport, http: httpx.Client, topic: str, settings: StreamSettings
    ) -> None:
        self._core = StreamCore(transport, topic, settings)
        self._http = http
        self._response: Optional[httpx.Response] = None

    @property
    def last_event_id(self) -> Optional[str]:
        """Where the stream stands: what `last_event_id` takes another one from there, at any broker."""
        return self._core.last_event_id

    @property
    def broker(self) -> str:
        """The broker that serves the stream now."""
        return self._core.broker

    def __iter__(self) -> Iterator[Record]:
        for event in self.events():
            if event.record is not None:
                yield event.record

    def events(self) -> Iterator[StreamEvent]:
        """Return everything that the stream tells, records included."""
        while True:
            if self._response is None:
                run(self._core.open(), self._http, self._begin)
            response = self._response
            if response is None:
                return
            try:
                for chunk in response.iter_raw():
                    for message in self._core.parser.feed(chunk):
                        event = self._core.take(message)
                        if event is not None:
                            yield event
            except (httpx.HTTPError, httpx.StreamError) as error:
                _LOG.info("the stream of %s broke off: %s", self._core.broker, error)
            finally:
                self._drop()
            self._core.ended()

    def commit(self, record: Optional[Record] = None) -> None:
        """Commit everything that was handed out, or one partition up to a record; for `commit="manual"`."""
        run(self._core.commit(record), self._http)

    def close(self) -> None:
        """End the stream and leave the group, so that others take its partitions over at once.

        With `commit="auto"` everything that was handed out is committed before. Only breaking out of a loop closes the
        connection alone: iterating again goes on behind the last event.
        """
        self._drop()
        run(self._core.leave(finished=True), self._http)

    def _drop(self) -> None:
        response, self._response = self._response, None
        if response is not None:
            response.close()

    def __enter__(self) -> "Stream":
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        if error is None:
            self.close()
            return
        # The record at hand was perhaps not dealt with.
        self._drop()
        try:
            run(self._core.leave(finished=False), self._http)
        except PubsubError as late:
            _LOG.info("the membership ends with its session: %s", late)

    def _begin(self, one: Try) -> Outcome:
        timeout = httpx.Timeout(one.patience, connect=one.connect_timeout)
        try:
            request = self._http.build_request(
                one.method, one.url, params=one.query, headers=one.headers, content=one.body, timeout=timeout
            )
            response = self._http.send(request, stream=True)
            if response.status_code == 200 and one.method == "GET":
                self._response = response
                return Answer(200, response.headers, b"")
            body = response.read()
            response.close()
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return lost(error)
        return Answer(response.status_code, response.headers, body)


class AsyncStream:
    """As `Stream`, for asyncio: `async with`, `async for`."""

    def __init__(
        self, transport: Transport, http: httpx.AsyncClient, topic: str, settings: StreamSettings
    ) -> None:
        self._core = StreamCore(transport, topic, settings)
        self._http = http
        self._response: Optional[httpx.Response] = None

    @property
    def last_event_id(self) -> Optional[str]:
        """As `Stream.last_event_id`."""
        return self._core.last_event_id

    @property
    def broker(self) -> str:
        """The broker that serves the stream now."""
        return self._core.broker

    async def __aiter__(self) -> AsyncIterator[Record]:
        async for event in self.events():
            if event.record is not None:
                yield event.record

    async def events(self) -> AsyncIterator[StreamEvent]:
        """As `Stream.events`."""
        while True:
            if self._response is None:
                await run_async(self._core.open(), self._http, self._begin)
            response = self._response
            if response is None:
                return
            try:
                async for chunk in response.aiter_raw():
                    for message in self._core.parser.feed(chunk):
                        event = self._core.take(message)
                        if event is not None:
                            yield event
            except (httpx.HTTPError, httpx.StreamError) as error:
                _LOG.info("the stream of %s broke off: %s", self._core.broker, error)
            finally:
                await self._drop()
            self._core.ended()

    async def commit(self, record: Optional[Record] = None) -> None:
        """As `Stream.commit`."""
        await run_async(self._core.commit(record), self._http)

    async def close(self) -> None:
        """As `Stream.close`."""
        await self._drop()
        await run_async(self._core.leave(finished=True), self._http)

    async def _drop(self) -> None:
        response, self._response = self._response, None
        if response is not None:
            await response.aclose()

    async def __aenter__(self) -> "AsyncStream":
        return self

    async def __aexit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        if error is None:
            await self.close()
            return
        await self._drop()
        try:
            await run_async(self._core.leave(finished=False), self._http)
        except PubsubError as late:
            _LOG.info("the membership ends with its session: %s", late)

    async def _begin(self, one: Try) -> Outcome:
        timeout = httpx.Timeout(one.patience, connect=one.connect_timeout)
        try:
            request = self._http.build_request(
                one.method, one.url, params=one.query, headers=one.headers, content=one.body, timeout=timeout
            )
            response = await self._http.send(request, stream=True)
            if response.status_code == 200 and one.method == "GET":
                self._response = response
                return Answer(200, response.headers, b"")
            body = await response.aread()
            await response.aclose()
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return lost(error)
        return Answer(response.status_code, response.headers, body)
