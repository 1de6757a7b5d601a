"""Streams of server-sent events against three real brokers."""

from __future__ import annotations

import asyncio
import threading

import pytest
from cluster import Cluster, eventually
from conftest import new_topic

from pubsub_client import AsyncClient, Client, MemberFenced, NewRecord, Record, TopicNotFound


def take(records: "object", count: int) -> list[int]:
    """Return the values of the next records."""
    found: list[int] = []
    for record in records:  # type: ignore[attr-defined]
        assert isinstance(record, Record)
        found.append(record.value)
        if len(found) == count:
            break
    return found


def keyed(numbers: range) -> list[NewRecord]:
    return [NewRecord(number, key=str(number)) for number in numbers]


def test_records_come_as_they_are_published_and_a_stream_is_resumed_anywhere(cluster: Cluster, client: Client) -> None:
    topic = new_topic(client, partitions=2)
    client.producer(topic).publish_many(keyed(range(20)))
    with Client(cluster.url(1)) as one:
        stream = one.stream(topic)
        first = take(stream, 7)
        place = stream.last_event_id
        assert place is not None and place.count(":") == 2
        # The same stream goes on behind its last event.
        second = take(stream, 3)
        stream.close()
    with Client(cluster.url(2)) as other:
        again = other.stream(topic, last_event_id=place)
        assert sorted(first + take(again, 13)) == list(range(20)), "another broker goes on behind the event"
    assert len(set(first + second)) == 10


def test_a_stream_survives_its_broker_without_a_gap_or_a_repeated_record(cluster: Cluster, client: Client) -> None:
    topic = new_topic(client, partitions=2)
    total = 300
    received: list[int] = []
    brokers: list[str] = []
    failed: list[BaseException] = []

    def follow() -> None:
        try:
            with Client(cluster.urls) as own:
                with own.stream(topic, group=f"g-{topic}", consumer="c") as stream:
                    for record in stream:
                        received.append(record.value)
                        brokers.append(stream.broker)
                        if len(received) >= total:
                            return
        except BaseException as error:
            failed.append(error)

    reader = threading.Thread(target=follow, daemon=True)
    reader.start()
    producer = client.producer(topic)
    for number in range(total):
        producer.publish(number)
        if number == 100:
            eventually("the stream has begun", lambda: brokers or None)
            cluster.kill(cluster.number(brokers[-1]))
    reader.join(60)
    assert not failed and not reader.is_alive(), failed
    assert sorted(received) == list(range(total))
    assert len(set(brokers)) > 1
    parts = client.admin.group(f"g-{topic}")["partitions"]
    assert [part["lag"] for part in parts] == [0, 0], "closing commits what was handed out"


def test_two_streams_share_a_group(cluster: Cluster, client: Client) -> None:
    topic = new_topic(client, partitions=2)
    assigned: dict[str, list[int]] = {}
    received: list[int] = []
    stop = threading.Event()

    def follow(name: str) -> None:
        with Client(cluster.urls) as own:
            with own.stream(topic, group=f"g-{topic}", consumer=name, commit="manual") as stream:
                for event in stream.events():
                    if event.kind == "rebalance":
                        assigned[name] = sorted(_partitions(event.data["partitions"]))
                    elif event.record is not None:
                        received.append(event.record.value)
                        stream.commit(event.record)
                    if stop.is_set():
                        return

    readers = [threading.Thread(target=follow, args=(name,), daemon=True) for name in ("one", "two")]
    for reader in readers:
        reader.start()
    eventually(
        "both have a partition",
        lambda: True if sorted(sum(assigned.values(), [])) == [0, 1] and len(assigned) == 2 else None,
    )
    client.producer(topic).publish_many(keyed(range(50)))
    eventually("all is read", lambda: True if len(received) >= 50 else None)
    stop.set()
    for reader in readers:
        reader.join(30)
    assert sorted(received) == list(range(50))
    assert sum(part["lag"] for part in client.admin.group(f"g-{topic}")["partitions"]) == 0


def _partitions(given: list[object]) -> list[int]:
    return [int(part["partition"]) if isinstance(part, dict) else int(str(part)) for part in given]


def test_a_second_stream_of_the_same_consumer_ends_the_first(client: Client, topic: str) -> None:
    client.producer(topic).publish_many(range(3))
    first = client.stream(topic, group=f"g-{topic}", consumer="c", commit="manual").events()
    assert next(first).kind == "rebalance"
    second = client.stream(topic, group=f"g-{topic}", consumer="c", commit="manual")
    assert take(second, 3) == [0, 1, 2]
    with pytest.raises(MemberFenced):
        for _ in first:
            pass


def test_a_stream_of_no_topic_is_refused(client: Client) -> None:
    with pytest.raises(TopicNotFound):
        take(client.stream("missing"), 1)
    with pytest.raises(ValueError):
        client.stream("missing", group="g")


def test_streams_work_with_asyncio(cluster: Cluster) -> None:
    async def scenario() -> None:
        async with AsyncClient(cluster.urls) as client:
            topic = f"t-async-stream-{id(client)}"
            await client.admin.create_topic(topic, partitions=1, rf=3)
            await client.producer(topic).publish_many(range(5))
            found = []
            async with client.stream(topic, group=f"g-{topic}", consumer="c") as stream:
                async for record in stream:
                    found.append(record.value)
                    if len(found) == 5:
                        break
            assert found == list(range(5))
            assert (await client.admin.group(f"g-{topic}"))["partitions"][0]["committed"] == 4

    asyncio.run(scenario())
