"""Consuming by long-poll: subscribe, poll, commit, and go on with another broker when one fails.

A consumer keeps its own place in every partition and always asks for records from there, so that whichever broker answers,
records come in order of offset and none comes twice in one session. What is kept beyond a session is only what was committed.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, AsyncIterator, Iterator, Mapping, Optional, Union

import httpx

from .errors import GroupBusy, MemberFenced, PubsubError, Refused
from .records import Record
from .steps import Pause, Steps, run, run_async
from .transport import Reply, Request, Transport, segment

_LOG = logging.getLogger("pubsub_client")
#: How much longer than the long-poll itself an answer is waited for, in seconds.
_ANSWER_SLACK = 3.0
#: A member without partitions asks this often whether one has become free.
_STANDBY_PAUSE = 1.0
#: Brokers that lag behind may not know a topic or an offset yet: so many refusals are taken for that.
_REFUSALS_MIN = 3
_STALE = ("TOPIC_NOT_FOUND", "PARTITION_NOT_FOUND", "OFFSET_OUT_OF_RANGE")


@dataclass(frozen=True)
class ConsumerSettings:
    """How a topic is consumed; times are in seconds."""

    #: The group that shares the topic's partitions; without one every partition is read.
    group: Optional[str] = None
    #: Who reads; required with a group.
    consumer: Optional[str] = None
    #: `committed` (behind what the group has finished), `earliest`, `latest`, or an offset in every partition.
    start: Union[str, int] = "committed"
    #: Takes records as finished, and commits them, once the next ones are asked for.
    auto_commit: bool = True
    #: Most records of one poll, at most 1000.
    max_records: int = 500
    #: Longest wait of one poll; shorter if the group's session asks for it.
    wait: float = 15.0
    #: Waits for a partition to become free instead of failing with GroupBusy.
    standby: bool = False
    #: Broker that records should come from, if it holds the partition.
    prefer_replica: Optional[int] = None


@dataclass
class _Place:
    """A place in one partition."""

    next: int
    #: The last record that the group has finished, as far as known (-1: none).
    committed: int
    #: The last record that was handed out, and the last one that the caller is done with.
    handed: int = -1
    finished: int = -1


@dataclass
class _Session:
    """The membership in a group."""

    epoch: Optional[int] = None
    timeout: float = 0.0
    renewed: float = field(default_factory=time.monotonic)
    #: Partitions are to be given up: the coordinator does not know yet that they are not read any more.
    releasing: bool = False
    #: An answer told of partitions that this reader does not know of.
    outdated: bool = False

    def due(self) -> bool:
        return (
            self.releasing
            or self.outdated
            or (self.timeout > 0 and time.monotonic() - self.renewed > self.timeout / 3)
        )


class ConsumerCore:
    """The steps of consuming one topic, for threads and for asyncio."""

    def __init__(self, transport: Transport, topic: str, settings: ConsumerSettings) -> None:
        if settings.group is not None and settings.consumer is None:
            raise ValueError("a group was named without the consumer that reads for it")
        if isinstance(settings.start, str) and settings.start not in ("committed", "earliest", "latest"):
            raise ValueError(f"start is {settings.start!r}: use committed, earliest, latest or an offset")
        self.transport = transport
        self.topic = topic
        self.settings = settings
        self.assigned: list[int] = []
        self._places: dict[int, _Place] = {}
        self._session = _Session()
        self._refusals = 0
        self._joined = False

    def poll(self) -> Steps[list[Record]]:
        """Wait for records and hand them out; there are none at the end of the wait."""
        self.finish()
        if self.settings.auto_commit:
            yield from self.commit_finished()
        records = yield from self._fetch()
        for record in records:
            self.hand_out(record)
        return records

    def keep(self, waiting: list[Record]) -> Steps[list[Record]]:
        """Renew the membership if it is time, and return those of the records that are still this reader's to handle."""
        if not waiting or not self._session.due():
            return waiting
        yield from self.join(first=False)
        kept = [record for record in waiting if record.partition in self.assigned]
        for record in reversed(waiting):
            # Those that were not handed out are read again should their partition come back.
            if record.partition not in self.assigned:
                self._places[record.partition].next = record.offset
        return kept

    def next_records(self) -> Steps[list[Record]]:
        """Wait for records that are handed out one by one."""
        self.finish()
        while True:
            if self.settings.auto_commit:
                yield from self.commit_finished()
            records = yield from self._fetch()
            if records:
                return records

    def finish(self) -> None:
        """Take every record that was handed out as finished."""
        for place in self._places.values():
            place.finished = max(place.finished, place.handed)

    def hand_out(self, record: Record) -> None:
        """Note that the caller has a record."""
        self._places[record.partition].handed = record.offset

    def commit(self, record: Optional[Record]) -> Steps[None]:
        """Commit up to a record, or everything that was handed out."""
        if record is not None:
            return (yield from self._commit_to(record.partition, record.offset))
        self.finish()
        for partition, place in list(self._places.items()):
            if place.finished > place.committed:
                yield from self._commit_to(partition, place.finished)

    def commit_finished(self) -> Steps[None]:
        """Commit what is finished, as nobody asked for it: a partition that went elsewhere is left to its new reader."""
        if self.settings.consumer is None:
            return
        for partition, place in list(self._places.items()):
            if place.finished > place.committed:
                try:
                    yield from self._commit_to(partition, place.finished)
                except MemberFenced as error:
                    _LOG.info("records of partition %s may be read again: %s", partition, error)
                    place.finished = place.handed = -1

    def _commit_to(self, partition: int, offset: int) -> Steps[None]:
        body = self._named({"topic": self.topic, "partition": partition, "offset": offset})
        answer = yield from self.transport.json(Request("POST", "/commit", body=body))
        place = self._places.setdefault(partition, _Place(offset + 1, -1))
        place.committed = max(int(answer["committed"]), offset)
        place.finished = max(place.finished, offset)

    def seek(self, partition: int, offset: int) -> None:
        """Read on from an offset in a partition; records before it may come again."""
        place = self._places.get(partition)
        self._places[partition] = _Place(offset, place.committed if place else -1)

    def leave(self, commit: bool) -> Steps[None]:
        """Leave the group, so that others take its partitions over at once."""
        if commit and self.settings.auto_commit:
            yield from self.commit_finished()
        if self.settings.group is None or not self._joined:
            return
        self._joined = False
        body = self._named({"topic": self.topic})
        yield from self.transport.json(Request("POST", "/unsubscribe", body=body))

    def _named(self, body: dict[str, Any]) -> dict[str, Any]:
        """Add who reads to a body."""
        for name, value in (
            ("group_id", self.settings.group),
            ("consumer_id", self.settings.consumer),
            ("member_epoch", self._session.epoch),
        ):
            if value is not None:
                body[name] = value
        return body

    def _fetch(self) -> Steps[list[Record]]:
        """Wait for records. Before partitions go to other members there are none once: what is finished can be committed
        until the next call, which gives them up."""
        if not self._joined:
            yield from self.join(first=True)
        while True:
            if self._session.due():
                yield from self.join(first=False)
                if self._session.releasing:
                    return []
            if not self.assigned:
                yield Pause(_STANDBY_PAUSE)
                yield from self.join(first=False)
                if not self.assigned:
                    return []
            try:
                reply = yield from self.transport.send(self._request())
            except Refused as error:
                yield from self._refused(error)
                continue
            self._refusals = 0
            return self._take(reply)

    def _request(self) -> Request:
        wait = self.settings.wait
        if self._session.timeout > 0:
            wait = min(wait, self._session.timeout / 3)
        places = ",".join(f"{partition}:{self._places[partition].next}" for partition in self.assigned)
        query: dict[str, object] = {
            "topic": self.topic,
            "partition": self.assigned[0] if len(self.assigned) == 1 else None,
            "from_offset": places,
            "max_records": self.settings.max_records,
            "timeout_ms": round(wait * 1000),
            "group_id": self.settings.group,
            "consumer_id": self.settings.consumer,
            "member_epoch": self._session.epoch,
            "prefer_replica": self.settings.prefer_replica,
        }
        return Request("GET", "/poll", query, patience=wait + _ANSWER_SLACK)

    def _take(self, reply: Reply) -> list[Record]:
        body = reply.json()
        records = []
        for wire in body["records"]:
            record = Record.of(self.topic, wire)
            place = self._places.get(record.partition)
            if place is None or record.partition not in self.assigned:
                # It was just assigned, and is read once its start is known.
                self._session.outdated = True
                continue
            if record.offset < place.next:
                continue
            place.next = record.offset + 1
            records.append(record)
        for position in body.get("partitions") or []:
            # Compaction and retention leave offsets without records behind; the broker says where the next ones are.
            place = self._places.get(int(position["partition"]))
            if place is not None and int(position["partition"]) in self.assigned:
                place.next = max(place.next, int(position["next_offset"]))
        return records

    def _refused(self, error: Refused) -> Steps[None]:
        """Decide what a poll's failure means; return to go on."""
        if isinstance(error, (MemberFenced, GroupBusy)) and self.settings.group is not None:
            self._forget_membership()
            # A coordinator that is just taking over may fence and admit in turns.
            yield Pause(self.transport.settings.retry.first)
            yield from self.join(first=False)
            return
        if error.code not in _STALE:
            raise error
        self._refusals += 1
        if self._refusals >= max(_REFUSALS_MIN, len(self.transport.book)):
            self._refusals = 0
            raise error
        self.transport.avoid(error.broker)
        yield Pause(self.transport.settings.retry.first)

    def _forget_membership(self) -> None:
        self._session.epoch = None
        self._session.releasing = False
        self.assigned = []

    def join(self, first: bool) -> Steps[None]:
        """Take or renew the membership, and learn which partitions are to be read."""
        grouped = self.settings.group is not None
        answer = yield from self._subscribed()
        self._joined = True
        self.transport.book.learn(str(broker["api_base"]) for broker in answer.get("brokers") or [])
        self._session.renewed = time.monotonic()
        self._session.outdated = False
        self._session.timeout = int(answer.get("session_timeout_ms") or 0) / 1000 if grouped else 0.0
        before, self.assigned = self.assigned, []
        assigned: list[int] = []
        parts = answer.get("partitions") or []
        if not parts and not grouped:
            parts = [{**answer, "partition": 0}]
        for part in parts:
            partition, committed = int(part["partition"]), int(part["committed"])
            if partition not in before:
                start = yield from self._start_of(part, first)
                self._put(partition, start, committed)
            assigned.append(partition)
        self.assigned = assigned
        self._session.releasing = any(partition not in assigned for partition in before)
        self._session.epoch = int(answer.get("member_epoch") or 0) if grouped else None

    def _subscribed(self) -> Steps[Mapping[str, Any]]:
        while True:
            body: dict[str, Any] = self._named({"topic": self.topic, "standby": self.settings.standby})
            if self._session.epoch is not None:
                body["owned"] = self.assigned
            try:
                answer: Mapping[str, Any] = yield from self.transport.json(
                    Request("POST", "/subscribe", body=body)
                )
                return answer
            except MemberFenced:
                if self._session.epoch is None:
                    raise
                # A membership that ended is begun anew, holding nothing.
                self._forget_membership()

    def _start_of(self, part: Mapping[str, Any], first: bool) -> Steps[int]:
        start = self.settings.start
        if start == "latest" and (first or int(part["committed"]) < 0):
            return (yield from self._latest(int(part["partition"])))
        if first and start == "earliest":
            return 0
        if first and isinstance(start, int):
            return start
        # The group went on from the configured start when it had the partition before.
        return int(part["start_offset"])

    def _put(self, partition: int, start: int, committed: int) -> None:
        """Go to the start of a partition that was just assigned, but never before what this session has returned."""
        place = self._places.get(partition)
        if place is None or start > place.next:
            self._places[partition] = _Place(start, committed)
        else:
            place.committed = committed

    def _latest(self, partition: int) -> Steps[int]:
        query = {"partition": partition, "from": "latest", "max_records": 1, "wait_ms": 0}
        answer = yield from self.transport.json(
            Request("GET", f"/topics/{segment(self.topic)}/records", query)
        )
        return int(answer["high_watermark"])


class Consumer:
    """Reads one topic. Iterate over it, or call `poll`; use it in a `with` block, which leaves the group at its end.

    Not for several threads at once.
    """

    def __init__(self, core: ConsumerCore, http: httpx.Client) -> None:
        self._core = core
        self._http = http
        self._waiting: list[Record] = []

    @property
    def partitions(self) -> list[int]:
        """The partitions that this consumer may read now."""
        return list(self._core.assigned)

    @property
    def brokers(self) -> list[str]:
        """The brokers known now, those that answers named included."""
        return self._core.transport.book.urls()

    def poll(self) -> list[Record]:
        """Wait for records, at most the configured time. With `auto_commit` those of the poll before are committed first.

        The list is empty when none came in time, and once before partitions go to other members: what was finished in them
        can be committed until the next call. After an error the call can be made again; the place is kept.
        """
        if self._waiting:
            records, self._waiting = self._waiting, []
            for record in records:
                self._core.hand_out(record)
            return records
        return run(self._core.poll(), self._http)

    def commit(self, record: Optional[Record] = None) -> None:
        """Commit everything that was handed out, or one partition up to a record.

        Raises MemberFenced when the partition has another consumer by now; nothing was committed there.
        """
        run(self._core.commit(record), self._http)

    def seek(self, partition: int, offset: int) -> None:
        """Read on from an offset in a partition; records before it may come again."""
        self._waiting = [record for record in self._waiting if record.partition != partition]
        self._core.seek(partition, offset)

    def close(self) -> None:
        """Leave the group, so that others take its partitions over at once; commits what is finished with `auto_commit`."""
        self._core.finish()
        run(self._core.leave(commit=True), self._http)

    def __iter__(self) -> Iterator[Record]:
        while True:
            self._core.finish()
            self._waiting = run(self._core.keep(self._waiting), self._http)
            if not self._waiting:
                self._waiting = run(self._core.next_records(), self._http)
            record = self._waiting.pop(0)
            self._core.hand_out(record)
            yield record

    def __enter__(self) -> "Consumer":
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
        # The record at hand was perhaps not dealt with: only those before it are committed.
        try:
            run(self._core.leave(commit=True), self._http)
        except PubsubError as late:
            _LOG.info("the membership ends with its session: %s", late)


class AsyncConsumer:
    """As `Consumer`, for asyncio: `async with`, `async for`, `await poll()`."""

    def __init__(self, core: ConsumerCore, http: httpx.AsyncClient) -> None:
        self._core = core
        self._http = http
        self._waiting: list[Record] = []

    @property
    def partitions(self) -> list[int]:
        """The partitions that this consumer may read now."""
        return list(self._core.assigned)

    @property
    def brokers(self) -> list[str]:
        """The brokers known now, those that answers named included."""
        return self._core.transport.book.urls()

    async def poll(self) -> list[Record]:
        """As `Consumer.poll`."""
        if self._waiting:
            records, self._waiting = self._waiting, []
            for record in records:
                self._core.hand_out(record)
            return records
        return await run_async(self._core.poll(), self._http)

    async def commit(self, record: Optional[Record] = None) -> None:
        """As `Consumer.commit`."""
        await run_async(self._core.commit(record), self._http)

    def seek(self, partition: int, offset: int) -> None:
        """As `Consumer.seek`."""
        self._waiting = [record for record in self._waiting if record.partition != partition]
        self._core.seek(partition, offset)

    async def close(self) -> None:
        """As `Consumer.close`."""
        self._core.finish()
        await run_async(self._core.leave(commit=True), self._http)

    async def __aiter__(self) -> AsyncIterator[Record]:
        while True:
            self._core.finish()
            self._waiting = await run_async(self._core.keep(self._waiting), self._http)
            if not self._waiting:
                self._waiting = await run_async(self._core.next_records(), self._http)
            record = self._waiting.pop(0)
            self._core.hand_out(record)
            yield record

    async def __aenter__(self) -> "AsyncConsumer":
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
        try:
            await run_async(self._core.leave(commit=True), self._http)
        except PubsubError as late:
            _LOG.info("the membership ends with its session: %s", late)
