"""The package against three real brokers, some of which are killed."""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections import Counter

import pytest
from cluster import Cluster, eventually
from conftest import new_topic
from proxy import Proxy

from pubsub_client import (
    AsyncClient,
    Client,
    ConsumerRequired,
    GroupBusy,
    GroupNotEmpty,
    GroupNotFound,
    MemberFenced,
    NewRecord,
    OutcomeUnknown,
    PartitionNotFound,
    PartlyPublished,
    Record,
    RecordTooLarge,
    Refused,
    RetryPolicy,
    Settings,
    TopicExists,
    TopicNotEmpty,
    TopicNotFound,
    Unavailable,
    ValidationFailed,
    partition_of_key,
)

#: More than the session of a group's member.
SESSION = 30.0


def read_all(client: Client, topic: str, count: int) -> list[Record]:
    """Read a topic as nobody until so many records were there, then see that there are no more."""
    consumer = client.consumer(topic, wait=2.0)
    records: list[Record] = []
    while len(records) < count:
        records.extend(consumer.poll())
    consumer = client.consumer(topic, wait=0.2)
    again = consumer.poll()
    while batch := consumer.poll():
        again.extend(batch)
    assert len(again) == len(records)
    return records


def test_values_keys_and_headers_come_back_as_they_were_published(client: Client, topic: str) -> None:
    producer = client.producer(topic)
    values = [{"n": 2**53 + 1, "text": "grüße"}, [1, None], "text", 7, True, None, b"\x00\xff"]
    for number, value in enumerate(values):
        delivery = producer.publish(value, key=f"k{number}", headers={"number": number})
        assert (delivery.partition, delivery.offset, delivery.perhaps_twice) == (0, number, False)
    records = read_all(client, topic, len(values))
    assert [record.value for record in records] == values
    assert [record.key for record in records] == [f"k{number}" for number in range(len(values))]
    assert [record.headers for record in records] == [{"number": number} for number in range(len(values))]
    assert all(record.topic == topic and record.timestamp_ms > 1_600_000_000_000 for record in records)


def test_a_value_without_a_form_in_json_is_refused_and_the_producer_goes_on(
    client: Client, topic: str
) -> None:
    producer = client.producer(topic)
    for bad in (float("nan"), object()):
        with pytest.raises((ValueError, TypeError)):
            producer.publish(bad)
    assert producer.publish(1).offset == 0


def test_many_records_go_to_the_partitions_of_their_keys_in_order(client: Client) -> None:
    topic = new_topic(client, partitions=3)
    records = [NewRecord(number, key=f"k{number % 7}") for number in range(2_500)]
    deliveries = client.producer(topic).publish_many(records)
    assert [delivery.partition for delivery in deliveries] == [
        partition_of_key(r.key or "", 3) for r in records
    ]
    read = read_all(client, topic, len(records))
    assert sorted(record.value for record in read) == list(range(2_500))
    for key in {record.key for record in read}:
        numbers = [record.value for record in read if record.key == key]
        assert numbers == sorted(numbers)


def test_brokers_choose_as_the_client_does(client: Client) -> None:
    topic = new_topic(client, partitions=5)
    plain = client.producer(topic, idempotent=False)
    for number in range(20):
        assert plain.publish(0, key=f"key-{number}").partition == partition_of_key(f"key-{number}", 5)


def test_of_many_records_it_is_told_which_were_published(client: Client) -> None:
    topic = new_topic(client, partitions=2)
    keys = [next(k for k in map(str, range(99)) if partition_of_key(k, 2) == part) for part in (0, 1)]
    records = [NewRecord("small", key=keys[0]), NewRecord("x" * (1 << 20), key=keys[1])]
    with pytest.raises(PartlyPublished) as failure:
        client.producer(topic).publish_many(records)
    first, second = failure.value.deliveries
    assert first is not None and first.offset == 0 and second is None
    assert isinstance(failure.value.__cause__, RecordTooLarge)


def test_a_lost_answer_is_told_as_unknown_unless_the_producer_is_idempotent(
    cluster: Cluster, client: Client
) -> None:
    proxy = Proxy(cluster.url(1))
    try:
        with Client(proxy.url) as through:
            topic = new_topic(client)
            plain = through.producer(topic, idempotent=False)
            plain.publish("first")
            proxy.lose_answers(1)
            with pytest.raises(OutcomeUnknown) as unknown:
                plain.publish("perhaps")
            assert unknown.value.request_id
            once = through.producer(topic)
            once.publish("second")
            proxy.lose_answers(2)
            delivery = once.publish("once")
            assert delivery.retries == 2 and not delivery.perhaps_twice
            assert once.publish("third").offset == delivery.offset + 1
    finally:
        proxy.close()
    assert [record.value for record in read_all(client, topic, 5)] == [
        "first",
        "perhaps",
        "second",
        "once",
        "third",
    ]


def test_after_an_unknown_outcome_an_idempotent_producer_goes_on(cluster: Cluster, client: Client) -> None:
    proxy = Proxy(cluster.url(1))
    try:
        with Client(proxy.url) as through:
            topic = new_topic(client)
            producer = through.producer(topic, deadline=0.5)
            producer.publish(0)
            proxy.lose_answers(1_000)
            with pytest.raises(OutcomeUnknown):
                producer.publish(1)
            proxy.lose_answers(0)
            producer.publish(2)
    finally:
        proxy.close()
    assert [record.value for record in read_all(client, topic, 3)] == [0, 1, 2]


def test_without_a_broker_nothing_was_done_and_it_is_said() -> None:
    settings = Settings(retry=RetryPolicy(deadline=0.3))
    with Client("127.0.0.1:1", settings=settings) as client:
        with pytest.raises(Unavailable) as error:
            client.admin.topics()
    assert error.value.tries > 1 and error.value.waited < 5.0


def test_no_record_is_lost_or_there_twice_when_brokers_are_killed(cluster: Cluster, client: Client) -> None:
    topic = new_topic(client, partitions=2)
    total, killed_at = 400, {100: "leader", 250: "another"}
    producer = client.producer(topic)
    received: list[int] = []
    failed: list[BaseException] = []

    def consume() -> None:
        try:
            with (
                Client(cluster.urls) as own,
                own.consumer(topic, group=f"g-{topic}", consumer="c", wait=1.0) as consumer,
            ):
                for record in consumer:
                    received.append(record.value)
                    if len(received) >= total:
                        return
        except BaseException as error:
            failed.append(error)

    reader = threading.Thread(target=consume, daemon=True)
    reader.start()
    for number in range(total):
        producer.publish(number)
        if number in killed_at:
            leader = int(client.admin.topic(topic)["leader"])
            cluster.kill(leader)
        if number - 50 in killed_at:
            cluster.heal()
    reader.join(60)
    assert not failed and not reader.is_alive(), failed
    assert sorted(received) == list(range(total)), "the consumer lost or repeated records"
    assert sorted(record.value for record in read_all(client, topic, total)) == list(range(total))


def test_a_consumer_learns_the_other_brokers_and_goes_on_at_one_of_them(
    cluster: Cluster, client: Client
) -> None:
    topic = new_topic(client)
    client.producer(topic).publish_many(range(10))
    with Client(cluster.url(2)) as one:
        with one.consumer(topic, group=f"g-{topic}", consumer="c", wait=1.0) as consumer:
            assert [record.value for record in consumer.poll()] == list(range(10))
            consumer.commit()
            assert sorted(consumer.brokers) == sorted(cluster.urls)
            cluster.kill(2)
            client.producer(topic).publish_many(range(10, 20))
            found: list[int] = []
            while len(found) < 10:
                found.extend(record.value for record in consumer.poll())
            assert found == list(range(10, 20))


def test_what_was_committed_is_where_the_next_consumer_begins(client: Client, topic: str) -> None:
    client.producer(topic).publish_many(range(10))
    with client.consumer(topic, group=f"g-{topic}", consumer="one", auto_commit=False) as consumer:
        for record in consumer:
            if record.value == 4:
                consumer.commit(record)
                break
    with client.consumer(topic, group=f"g-{topic}", consumer="two") as consumer:
        assert next(iter(consumer)).value == 5
    # Leaving without an error takes the record at hand as finished.
    with pytest.raises(KeyError):
        with client.consumer(topic, group=f"g-{topic}", consumer="three") as consumer:
            for record in consumer:
                if record.value == 8:
                    raise KeyError("the work on record 8 failed")
    assert client.admin.group(f"g-{topic}")["partitions"][0]["committed"] == 7
    assert client.admin.group(f"g-{topic}")["members"] == []


def test_a_consumer_that_takes_longer_for_a_batch_than_its_session_stays_a_member(
    client: Client, topic: str
) -> None:
    client.producer(topic).publish_many(range(14))
    handled = []
    with client.consumer(topic, group=f"g-{topic}", consumer="slow") as consumer:
        for record in consumer:
            time.sleep(0.9)
            handled.append(record.value)
            if record.value == 12:
                with pytest.raises(GroupBusy):
                    client.consumer(topic, group=f"g-{topic}", consumer="other").poll()
            if record.value == 13:
                break
    assert handled == list(range(14))
    assert client.admin.group(f"g-{topic}")["partitions"][0]["committed"] == 13


def test_a_consumer_begins_where_it_is_told(client: Client, topic: str) -> None:
    client.producer(topic).publish_many(range(10))
    assert client.consumer(topic, start=7).poll()[0].value == 7
    assert client.consumer(topic, start="earliest").poll()[0].value == 0
    latest = client.consumer(topic, start="latest", wait=0.2)
    assert latest.poll() == []
    client.producer(topic).publish(10)
    assert [record.value for record in latest.poll()] == [10]
    latest.seek(0, 3)
    assert latest.poll()[0].value == 3


def test_two_consumers_share_a_group_and_nothing_is_read_twice_or_not_at_all(
    cluster: Cluster, client: Client
) -> None:
    topic = new_topic(client, partitions=4)
    received: dict[str, list[int]] = {"one": [], "two": []}
    assigned: dict[str, list[int]] = {}
    stop = threading.Event()

    def consume(name: str) -> None:
        with Client(cluster.urls) as own:
            with own.consumer(topic, group=f"g-{topic}", consumer=name, standby=True, wait=0.5) as consumer:
                while not stop.is_set():
                    received[name].extend(record.value for record in consumer.poll())
                    assigned[name] = consumer.partitions

    threads = [threading.Thread(target=consume, args=(name,), daemon=True) for name in received]
    try:
        for thread in threads:
            thread.start()
        shared = eventually(
            "both have two partitions",
            lambda: assigned if [len(parts) for parts in assigned.values()] == [2, 2] else None,
            SESSION,
        )
        assert sorted(shared["one"] + shared["two"]) == [0, 1, 2, 3]
        client.producer(topic).publish_many([NewRecord(number, key=str(number)) for number in range(1_000)])
        eventually("all is read", lambda: True if sum(map(len, received.values())) >= 1_000 else None)
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
    assert Counter(received["one"] + received["two"]) == Counter(range(1_000))
    assert received["one"] and received["two"]
    group = client.admin.group(f"g-{topic}")
    assert [part["lag"] for part in group["partitions"]] == [0, 0, 0, 0]


def test_a_partition_that_went_elsewhere_can_not_be_committed(client: Client, topic: str) -> None:
    client.producer(topic).publish_many(range(3))
    first = client.consumer(topic, group=f"g-{topic}", consumer="c", auto_commit=False)
    assert len(first.poll()) == 3
    # A consumer of the same name ends the membership by leaving.
    with client.consumer(topic, group=f"g-{topic}", consumer="c", auto_commit=False) as other:
        other.poll()
    with pytest.raises(MemberFenced) as fenced:
        first.commit()
    assert (fenced.value.code, fenced.value.status) == ("MEMBER_FENCED", 409)


def test_problems_of_brokers_are_exceptions_of_their_own(client: Client, topic: str) -> None:
    admin, missing = client.admin, f"missing-{uuid.uuid4()}"
    with pytest.raises(TopicNotFound) as error:
        client.producer(missing).publish(1)
    assert (error.value.code, error.value.status) == (
        "TOPIC_NOT_FOUND",
        404,
    ) and missing in error.value.detail
    with pytest.raises(TopicNotFound):
        client.consumer(missing).poll()
    with pytest.raises(PartitionNotFound):
        client.producer(topic, partition=7).publish(1)
    with pytest.raises(RecordTooLarge):
        client.producer(topic).publish("x" * (1 << 20))
    with pytest.raises(TopicExists):
        admin.create_topic(topic, partitions=2, rf=3)
    with pytest.raises(ValidationFailed) as fields:
        admin.create_topic("no/such name")
    assert "name" in fields.value.detail
    client.producer(topic).publish(1)
    with pytest.raises(TopicNotEmpty):
        admin.delete_topic(topic, if_empty=True)
    with pytest.raises(GroupNotFound):
        admin.group(missing)
    with client.consumer(topic, group=f"g-{topic}", consumer="one") as consumer:
        consumer.poll()
        with pytest.raises(GroupBusy):
            client.consumer(topic, group=f"g-{topic}", consumer="two").poll()
        with pytest.raises(GroupNotEmpty):
            admin.delete_group(f"g-{topic}")
    with pytest.raises(Refused) as beyond:
        with client.consumer(topic, group=f"g-{topic}", consumer="one", auto_commit=False) as consumer:
            consumer.poll()
            consumer.commit(Record(topic, 0, 99, 0, None, None))
    assert beyond.value.code == "OFFSET_OUT_OF_RANGE"
    with pytest.raises(ConsumerRequired):
        raise Refused.of("b", {"code": "CONSUMER_REQUIRED"})
    with pytest.raises(ValueError):
        client.consumer(topic, group=f"g-{topic}")


def test_topics_and_groups_are_managed(client: Client) -> None:
    admin = client.admin
    topic = new_topic(client, partitions=2)
    assert not admin.create_topic(topic, partitions=2, rf=3)["created"]
    assert topic in [described["name"] for described in admin.topics()]
    assert admin.topic(topic)["partition_count"] == 2
    assert admin.alter_topic(topic, retention_ms=60_000)["config"]["retention_ms"] == 60_000
    assert len(admin.replicas(topic)["replicas"]) == 3
    assert [broker["broker_id"] for broker in admin.brokers()] == [1, 2, 3]
    assert admin.controller()["leader_id"] in (1, 2, 3)
    client.producer(topic).publish_many(range(4))
    group = f"g-{uuid.uuid4()}"
    with client.consumer(topic, group=group, consumer="c") as consumer:
        consumer.poll()
        assert admin.group(group)["members"][0]["consumer_id"] == "c"
    assert group in admin.groups()
    assert admin.delete_group(group)["status"] == "ok"
    assert admin.delete_topic(topic)["status"] == "ok"
    with pytest.raises(TopicNotFound):
        admin.topic(topic)


def test_the_same_works_with_asyncio(cluster: Cluster) -> None:
    async def scenario() -> None:
        async with AsyncClient(cluster.urls) as client:
            topic = f"t-{uuid.uuid4()}"
            await client.admin.create_topic(topic, partitions=2, rf=3)
            producer = client.producer(topic)
            await asyncio.gather(*(producer.publish(number, key=str(number)) for number in range(50)))
            await producer.publish_many(range(50, 100))
            found: list[int] = []
            async with client.consumer(topic, group=f"g-{topic}", consumer="c") as consumer:
                async for record in consumer:
                    found.append(record.value)
                    if len(found) == 100:
                        break
            assert sorted(found) == list(range(100))
            assert sum(part["lag"] for part in (await client.admin.group(f"g-{topic}"))["partitions"]) == 0
            with pytest.raises(TopicNotFound):
                await client.admin.topic("missing")
            # An interrupted publish gives its turn back.
            slow = asyncio.create_task(producer.publish("interrupted", key="0"))
            await asyncio.sleep(0)
            slow.cancel()
            await asyncio.gather(slow, return_exceptions=True)
            await asyncio.wait_for(producer.publish("after", key="0"), 10)

    asyncio.run(scenario())
