"""Publishing: once each, to whichever broker answers."""

from __future__ import annotations

import random
import uuid
from dataclasses import dataclass, field, replace
from typing import Any, Iterable, Mapping, Optional, Sequence

import httpx

from .errors import MalformedAnswer, OutcomeUnknown, PartitionNotFound, PubsubError, TopicNotFound
from .records import Delivery, NewRecord, partition_of_key
from .steps import Steps, Turn, run, run_async
from .transport import Reply, Request, Transport, segment, to_json

#: How much longer than the broker's own limit an answer is waited for, in seconds.
_ANSWER_SLACK = 2.0
#: Most records, and about the most bytes, of one request of `publish_many`.
_RECORDS_MAX = 1_000
_BYTES_MAX = 1 << 20
_SEQUENCE_MAX = 2**32 - 1
_EPOCH_MAX = 2**16 - 1


class PartlyPublished(PubsubError):
    """Some of many records were published before a request failed; its error is the cause (`__cause__`).

    `deliveries` has one entry a record, in order; it is None for those that are not known to be published.
    """

    def __init__(self, deliveries: Sequence[Optional[Delivery]], cause: PubsubError) -> None:
        self.deliveries = list(deliveries)
        done = sum(delivery is not None for delivery in deliveries)
        super().__init__(f"{done} of {len(deliveries)} records were published, then: {cause}")


@dataclass(frozen=True)
class ProducerSettings:
    """How records are published; times are in seconds."""

    #: What a broker waits for: `all` replicas in sync, the `leader`, or `none`.
    acks: str = "all"
    #: The partition; without one it is chosen by key, or in turn.
    partition: Optional[int] = None
    #: How long the leader waits for its followers before it says that the outcome is not known.
    commit_timeout: float = 5.0
    #: Publishes again when the outcome of a try is not known, and has brokers store every record once all the same.
    #: Needs `acks="all"`; with others it does nothing.
    idempotent: bool = True
    #: For how long tries may begin; None is the client's own deadline.
    deadline: Optional[float] = None


@dataclass
class _Lane:
    """One partition as an idempotent producer sees it. One request is under way there at a time."""

    id: uuid.UUID
    epoch: int = 0
    sequence: int = 0
    #: A request was sent and nothing is known of it.
    uncertain: bool = False
    turn: Turn = field(default_factory=Turn)

    def begin(self, count: int) -> Mapping[str, str]:
        """Return the headers of the next `count` records, which are about to be sent."""
        if self.uncertain or self.sequence + count > _SEQUENCE_MAX:
            # A higher epoch also fences what may still be under way.
            self.sequence, self.epoch = 0, self.epoch + 1
            if self.epoch > _EPOCH_MAX:
                self.id, self.epoch = uuid.uuid4(), 0
        # Until the outcome is told: a caller that goes away in between never tells it.
        self.uncertain = True
        return {
            "producer-id": str(self.id),
            "producer-epoch": str(self.epoch),
            "producer-seq": str(self.sequence),
        }

    def stored(self, count: int) -> None:
        self.sequence += count
        self.uncertain = False

    def refused(self) -> None:
        self.uncertain = False


class ProducerCore:
    """The steps of publishing to one topic, for threads and for asyncio."""

    def __init__(self, transport: Transport, topic: str, settings: ProducerSettings) -> None:
        if settings.acks not in ("all", "leader", "none"):
            raise ValueError(f"acks is {settings.acks!r}: use all, leader or none")
        self._transport = transport
        self._topic = topic
        self._settings = settings
        self._idempotent = settings.idempotent and settings.acks == "all"
        self._id = uuid.uuid4()
        self._lanes: dict[int, _Lane] = {}
        self._partitions = 0
        self._next_turn = random.randrange(1 << 16)

    def publish(self, record: NewRecord) -> Steps[Delivery]:
        """Publish one record."""
        partition = yield from self._place(record)
        reply = yield from self._send(partition, 1, record.wire())
        body = reply.json()
        return self._delivery(reply, body)

    def publish_many(self, records: Sequence[NewRecord]) -> Steps[list[Delivery]]:
        """Publish records, in as few requests as fit; those of one key stay in order."""
        shares: dict[Optional[int], list[int]] = {}
        keyless = yield from self._turn_of()
        for index, record in enumerate(records):
            partition = yield from self._place(record, keyless)
            shares.setdefault(partition, []).append(index)
        deliveries: list[Optional[Delivery]] = [None] * len(records)
        wires = [record.wire() for record in records]
        try:
            for partition, indices in shares.items():
                for piece in _pieces(indices, wires):
                    sent = yield from self._send_piece(partition, [wires[index] for index in piece])
                    for index, delivery in zip(piece, sent):
                        deliveries[index] = delivery
        except PubsubError as error:
            if any(delivery is not None for delivery in deliveries):
                raise PartlyPublished(deliveries, error) from error
            raise
        return [delivery for delivery in deliveries if delivery is not None]

    def _send_piece(self, partition: Optional[int], wires: list[dict[str, Any]]) -> Steps[list[Delivery]]:
        reply = yield from self._send(partition, len(wires), {"records": wires})
        results = reply.json().get("results", [])
        if len(results) != len(wires):
            raise MalformedAnswer(
                reply.broker, f"{len(wires)} records were sent, {len(results)} were answered for"
            )
        return [self._delivery(reply, result) for result in results]

    def _delivery(self, reply: Reply, place: Mapping[str, Any]) -> Delivery:
        twice = not self._idempotent and reply.unknown_tries > 0
        return Delivery(int(place["partition"]), int(place["offset"]), reply.retries, twice)

    def _place(self, record: NewRecord, keyless: Optional[int] = None) -> Steps[Optional[int]]:
        """Choose a record's partition, if this producer is the one to choose."""
        if self._settings.partition is not None or not self._idempotent:
            return self._settings.partition
        if record.key is None:
            return keyless if keyless is not None else (yield from self._turn_of())
        partitions = yield from self._count()
        return partition_of_key(record.key, partitions)

    def _turn_of(self) -> Steps[Optional[int]]:
        if self._settings.partition is not None or not self._idempotent:
            return self._settings.partition
        partitions = yield from self._count()
        self._next_turn += 1
        return self._next_turn % max(partitions, 1)

    def _count(self) -> Steps[int]:
        if self._partitions == 0:
            topic = yield from self._transport.json(Request("GET", f"/admin/topics/{segment(self._topic)}"))
            self._partitions = int(topic["partition_count"])
        return self._partitions

    def _send(self, partition: Optional[int], count: int, body: object) -> Steps[Reply]:
        request = Request(
            "POST",
            f"/topics/{segment(self._topic)}/publish",
            {
                "acks": self._settings.acks,
                "timeout_ms": round(self._settings.commit_timeout * 1000),
                "partition": partition,
            },
            body,
            repeatable=self._idempotent,
            patience=self._settings.commit_timeout + _ANSWER_SLACK,
            deadline=self._settings.deadline,
        )
        if not self._idempotent or partition is None:
            return (yield from self._transport.send(request))
        # What has no form in JSON must be refused before a sequence is taken for it.
        to_json(body)
        lane = self._lanes.setdefault(partition, _Lane(self._id))
        yield lane.turn
        try:
            reply = yield from self._transport.send(replace(request, headers=lane.begin(count)))
            lane.stored(count)
            return reply
        except (OutcomeUnknown, MalformedAnswer):
            raise
        except PubsubError as error:
            lane.refused()
            if isinstance(error, (TopicNotFound, PartitionNotFound)):
                self._partitions = 0
            raise
        finally:
            lane.turn.give_back()


def _pieces(indices: Sequence[int], wires: Sequence[Mapping[str, Any]]) -> Iterable[list[int]]:
    piece: list[int] = []
    size = 0
    for index in indices:
        grown = len(to_json(wires[index]))
        if piece and (len(piece) >= _RECORDS_MAX or size + grown > _BYTES_MAX):
            yield piece
            piece, size = [], 0
        piece.append(index)
        size += grown
    if piece:
        yield piece


def as_record(record: object) -> NewRecord:
    """Take a plain value for a record without a key."""
    return record if isinstance(record, NewRecord) else NewRecord(record)


class Producer:
    """Publishes to one topic. Threads may share it; it has one request a partition under way."""

    def __init__(self, core: ProducerCore, http: httpx.Client) -> None:
        self._core = core
        self._http = http

    def publish(
        self, value: Any, *, key: Optional[str] = None, headers: Optional[Mapping[str, Any]] = None
    ) -> Delivery:
        """Publish one record and wait as `acks` says.

        Raises OutcomeUnknown if it may or may not be published; after any other error it certainly is not.
        """
        return run(self._core.publish(NewRecord(value, key, headers)), self._http)

    def publish_many(self, records: Iterable[Any]) -> list[Delivery]:
        """Publish many records (`NewRecord`, or plain values); the answer has their order.

        Raises PartlyPublished if a request failed after another one succeeded.
        """
        return run(self._core.publish_many([as_record(record) for record in records]), self._http)


class AsyncProducer:
    """Publishes to one topic. Tasks may share it; it has one request a partition under way."""

    def __init__(self, core: ProducerCore, http: httpx.AsyncClient) -> None:
        self._core = core
        self._http = http

    async def publish(
        self, value: Any, *, key: Optional[str] = None, headers: Optional[Mapping[str, Any]] = None
    ) -> Delivery:
        """As `Producer.publish`."""
        return await run_async(self._core.publish(NewRecord(value, key, headers)), self._http)

    async def publish_many(self, records: Iterable[Any]) -> list[Delivery]:
        """As `Producer.publish_many`."""
        return await run_async(self._core.publish_many([as_record(record) for record in records]), self._http)
