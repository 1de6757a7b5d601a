"""What needs no cluster: choosing partitions and brokers, waiting, reading streams, telling outcomes apart."""

from __future__ import annotations

import pytest

from pubsub_client import RetryPolicy, ValidationFailed, partition_of_key
from pubsub_client.brokers import BROKERS_MAX, BrokerBook, base_url, broker_list
from pubsub_client.errors import Refused
from pubsub_client.events import EventParser, Message
from pubsub_client.records import crc32c
from pubsub_client.retry import Backoff
from pubsub_client.transport import judge


def test_keys_have_the_partition_that_brokers_give_them() -> None:
    # The published check value of CRC-32C over these nine digits.
    assert crc32c(b"123456789") == 0xE3069283
    assert partition_of_key("123456789", 2**32 - 1) == 0xAC7081CC
    assert partition_of_key("123456789", 8) == 4
    assert partition_of_key("anything", 1) == 0


def test_addresses_are_taken_as_people_write_them() -> None:
    assert base_url("http://127.0.0.1:8081/") == "http://127.0.0.1:8081"
    assert base_url("broker-0.pubsub:8081") == "http://broker-0.pubsub:8081"
    assert broker_list("a:1, b:2,c:3") == ["http://a:1", "http://b:2", "http://c:3"]
    for bad in ("", "ftp://a", "http://", "http://a:99999", "http://a?x=1"):
        with pytest.raises(ValueError):
            base_url(bad)
    with pytest.raises(ValueError):
        broker_list(" , ")


def test_the_same_broker_is_asked_until_it_fails() -> None:
    book = BrokerBook(["a:1", "b:1", "c:1"])
    assert [book.pick(0.0), book.pick(0.0)] == ["http://a:1", "http://a:1"]
    book.failed("http://a:1", 0.0)
    assert book.pick(0.0) == "http://b:1"
    assert book.pick(60.0) == "http://b:1", "a broker that came back is not returned to for its own sake"


def test_with_every_broker_down_the_one_that_failed_first_is_tried_first() -> None:
    book = BrokerBook(["a:1", "b:1"])
    book.failed("http://a:1", 0.0)
    book.failed("http://b:1", 0.01)
    assert book.pick(0.02) == "http://a:1"
    book.failed("http://a:1", 0.02)
    assert book.pick(0.03) == "http://b:1"


def test_learned_brokers_come_last_once_each_and_not_without_bound() -> None:
    book = BrokerBook(["a:1"])
    book.learn(["http://b:1", "http://a:1", "no address?", "http://b:1/"])
    assert book.urls() == ["http://a:1", "http://b:1"]
    book.learn(f"c:{port}" for port in range(1, 1000))
    assert len(book) == BROKERS_MAX


def test_waits_double_up_to_the_cap_and_end_at_the_deadline() -> None:
    policy = RetryPolicy(first=0.1, cap=1.0, deadline=10.0)
    assert [policy.ceiling(retry) for retry in range(5)] == [0.1, 0.2, 0.4, 0.8, 1.0]
    assert policy.ceiling(10**9) == 1.0
    backoff = Backoff(policy)
    for retry in range(8):
        wait = backoff.next_wait()
        assert wait is not None and policy.ceiling(retry) / 2 <= wait <= policy.ceiling(retry)
    asked = backoff.next_wait(3.0)
    assert asked is not None and asked >= 3.0
    assert backoff.next_wait(11.0) is None


def test_an_event_stream_is_cut_from_any_pieces() -> None:
    text = (
        b'id: 0:5,1:-1\n\n: alive\r\n\r\nevent: record\nid: 0:6,1:-1\ndata: {"a":\ndata: 1}\n\nretry: 500\n\n'
    )
    expected = [
        Message(id="0:5,1:-1"),
        Message(event="record", id="0:6,1:-1", data='{"a":\n1}'),
        Message(retry=500),
    ]
    for size in (1, 7, len(text)):
        parser = EventParser()
        pieces = [text[at : at + size] for at in range(0, len(text), size)]
        assert [message for piece in pieces for message in parser.feed(piece)] == expected


@pytest.mark.parametrize(
    ("status", "problem", "verdict"),
    [
        (503, {}, "again"),
        (504, {}, "unknown"),
        (504, {"ambiguous": True}, "unknown"),
        (504, {"ambiguous": False}, "again"),
        (503, {"ambiguous": True}, "unknown"),
        (500, {}, "unknown"),
        (500, {"ambiguous": False}, "no"),
        (507, {}, "no"),
        (429, {}, "slow"),
        (404, {"code": "TOPIC_NOT_FOUND"}, "no"),
        (409, {"code": "OUT_OF_ORDER"}, "again"),
        (409, {"code": "MEMBER_FENCED", "ambiguous": True}, "unknown"),
    ],
)
def test_an_answer_says_whether_anything_was_done(
    status: int, problem: dict[str, object], verdict: str
) -> None:
    assert judge(status, problem) == verdict


def test_a_refusal_is_of_the_class_of_its_code_and_names_the_fields() -> None:
    fields = [{"type": "missing", "loc": ["body", "value"], "msg": "add it"}]
    error = Refused.of("b", {"code": "VALIDATION_FAILED", "status": 422, "detail": fields})
    assert isinstance(error, ValidationFailed)
    assert str(error) == "body.value: add it (VALIDATION_FAILED)"
    newer = Refused.of("b", {"code": "FROM_THE_FUTURE", "status": 409, "detail": "why"})
    assert type(newer) is Refused and (newer.code, newer.status, newer.detail) == (
        "FROM_THE_FUTURE",
        409,
        "why",
    )
