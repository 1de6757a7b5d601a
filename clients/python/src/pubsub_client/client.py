"""The front: a client of one cluster, for threads or for asyncio."""

from __future__ import annotations

import ssl
from types import TracebackType
from typing import Iterable, Optional, Union

import httpx

from .admin import Admin, AsyncAdmin
from .brokers import BrokerBook, broker_list
from .consumer import AsyncConsumer, Consumer, ConsumerCore, ConsumerSettings
from .producer import AsyncProducer, Producer, ProducerCore, ProducerSettings
from .stream import AsyncStream, Stream, StreamSettings
from .transport import Settings, Transport

Brokers = Union[str, Iterable[str]]
#: Idle connections are kept shorter than brokers keep them: one that a broker just closed would cost a try.
_LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=20, keepalive_expiry=5.0)


def _transport(brokers: Brokers, settings: Optional[Settings]) -> Transport:
    return Transport(BrokerBook(broker_list(brokers)), settings or Settings())


def _verify(ca_file: Optional[str]) -> Union[bool, ssl.SSLContext]:
    return ssl.create_default_context(cafile=ca_file) if ca_file else True


class Client:
    """A client of one cluster. One broker's address is enough: the others are learned. Threads may share it.

    `ca_file` names the authorities (PEM) that `https://` brokers are checked against. Use it in a `with` block, or close it.
    """

    def __init__(
        self, brokers: Brokers, *, settings: Optional[Settings] = None, ca_file: Optional[str] = None
    ) -> None:
        self._transport = _transport(brokers, settings)
        # Brokers are named by address: a proxy of the environment must not come between.
        self._http = httpx.Client(verify=_verify(ca_file), trust_env=False, limits=_LIMITS)

    @property
    def admin(self) -> Admin:
        """The admin calls."""
        return Admin(self._transport, self._http)

    @property
    def brokers(self) -> list[str]:
        """The brokers known now."""
        return self._transport.book.urls()

    def producer(
        self,
        topic: str,
        *,
        acks: str = "all",
        partition: Optional[int] = None,
        commit_timeout: float = 5.0,
        idempotent: bool = True,
        deadline: Optional[float] = None,
    ) -> Producer:
        """Return a producer of a topic; `ProducerSettings` explains the settings. Nothing is sent yet."""
        settings = ProducerSettings(acks, partition, commit_timeout, idempotent, deadline)
        return Producer(ProducerCore(self._transport.fork(), topic, settings), self._http)

    def consumer(
        self,
        topic: str,
        *,
        group: Optional[str] = None,
        consumer: Optional[str] = None,
        start: Union[str, int] = "committed",
        auto_commit: bool = True,
        max_records: int = 500,
        wait: float = 15.0,
        standby: bool = False,
        prefer_replica: Optional[int] = None,
    ) -> Consumer:
        """Return a consumer of a topic; `ConsumerSettings` explains the settings. It joins its group with the first poll."""
        settings = ConsumerSettings(
            group, consumer, start, auto_commit, max_records, wait, standby, prefer_replica
        )
        return Consumer(ConsumerCore(self._transport.fork(), topic, settings), self._http)

    def stream(
        self,
        topic: str,
        *,
        group: Optional[str] = None,
        consumer: Optional[str] = None,
        start: Union[str, int, None] = None,
        commit: str = "auto",
        last_event_id: Optional[str] = None,
    ) -> Stream:
        """Return a stream of server-sent events; `StreamSettings` explains the settings. It opens with the first record."""
        settings = StreamSettings(group, consumer, start, commit, last_event_id)
        return Stream(self._transport.fork(), self._http, topic, settings)

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.close()


class AsyncClient:
    """As `Client`, for asyncio: use it in an `async with` block, or `await` its `close()`."""

    def __init__(
        self, brokers: Brokers, *, settings: Optional[Settings] = None, ca_file: Optional[str] = None
    ) -> None:
        self._transport = _transport(brokers, settings)
        self._http = httpx.AsyncClient(verify=_verify(ca_file), trust_env=False, limits=_LIMITS)

    @property
    def admin(self) -> AsyncAdmin:
        """The admin calls."""
        return AsyncAdmin(self._transport, self._http)

    @property
    def brokers(self) -> list[str]:
        """The brokers known now."""
        return self._transport.book.urls()

    def producer(
        self,
        topic: str,
        *,
        acks: str = "all",
        partition: Optional[int] = None,
        commit_timeout: float = 5.0,
        idempotent: bool = True,
        deadline: Optional[float] = None,
    ) -> AsyncProducer:
        """As `Client.producer`."""
        settings = ProducerSettings(acks, partition, commit_timeout, idempotent, deadline)
        return AsyncProducer(ProducerCore(self._transport.fork(), topic, settings), self._http)

    def consumer(
        self,
        topic: str,
        *,
        group: Optional[str] = None,
        consumer: Optional[str] = None,
        start: Union[str, int] = "committed",
        auto_commit: bool = True,
        max_records: int = 500,
        wait: float = 15.0,
        standby: bool = False,
        prefer_replica: Optional[int] = None,
    ) -> AsyncConsumer:
        """As `Client.consumer`."""
        settings = ConsumerSettings(
            group, consumer, start, auto_commit, max_records, wait, standby, prefer_replica
        )
        return AsyncConsumer(ConsumerCore(self._transport.fork(), topic, settings), self._http)

    def stream(
        self,
        topic: str,
        *,
        group: Optional[str] = None,
        consumer: Optional[str] = None,
        start: Union[str, int, None] = None,
        commit: str = "auto",
        last_event_id: Optional[str] = None,
    ) -> AsyncStream:
        """As `Client.stream`."""
        settings = StreamSettings(group, consumer, start, commit, last_event_id)
        return AsyncStream(self._transport.fork(), self._http, topic, settings)

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        await self.close()
