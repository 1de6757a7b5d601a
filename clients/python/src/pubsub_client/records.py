"""Records on their way to a topic and from it."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import Any, Mapping, Optional, Union

#: CRC-32C, by bytes.
_CRC_TABLE: list[int] = []
for _byte in range(256):
    _sum = _byte
    for _ in range(8):
        _sum = (_sum >> 1) ^ (0x82F63B78 if _sum & 1 else 0)
    _CRC_TABLE.append(_sum)


@dataclass(frozen=True)
class NewRecord:
    """A record to publish. The value is anything that JSON has a form for, or bytes. Records of one key stay in order."""

    value: Any
    key: Optional[str] = None
    headers: Optional[Mapping[str, Any]] = None

    def wire(self) -> dict[str, Any]:
        """Return the record as a broker takes it."""
        wire: dict[str, Any] = {"value": self.value}
        if isinstance(self.value, (bytes, bytearray, memoryview)):
            wire = {"value": base64.b64encode(self.value).decode("ascii"), "value_encoding": "base64"}
        if self.key is not None:
            wire["key"] = self.key
        if self.headers is not None:
            wire["headers"] = dict(self.headers)
        return wire


@dataclass(frozen=True)
class Record:
    """A record as read."""

    topic: str
    partition: int
    offset: int
    #: Given by the leader, milliseconds since 1970; the same on every replica.
    timestamp_ms: int
    #: Bytes if it is not UTF-8.
    key: Union[str, bytes, None]
    #: As published: bytes come back as bytes.
    value: Any
    headers: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def of(topic: str, wire: Mapping[str, Any]) -> "Record":
        """Read a record as a broker writes it."""
        return Record(
            topic,
            int(wire["partition"]),
            int(wire["offset"]),
            int(wire["ts_ms"]),
            _decoded(wire.get("key"), wire.get("key_encoding")),
            _decoded(wire.get("value"), wire.get("value_encoding")),
            wire.get("headers") or {},
        )


@dataclass(frozen=True)
class Delivery:
    """What became of a record that was published."""

    partition: int
    offset: int
    #: How many tries failed before.
    retries: int = 0
    #: Whether one of them may have taken it as well, so that it is there twice. Never of an idempotent producer.
    perhaps_twice: bool = False


def _decoded(value: Any, encoding: Optional[str]) -> Any:
    return base64.b64decode(value) if encoding == "base64" and isinstance(value, str) else value


def crc32c(data: bytes) -> int:
    """Return the CRC-32C of some bytes."""
    total = 0xFFFFFFFF
    for byte in data:
        total = (total >> 8) ^ _CRC_TABLE[(total ^ byte) & 0xFF]
    return total ^ 0xFFFFFFFF


def partition_of_key(key: str, partitions: int) -> int:
    """Return the partition of a key, as brokers and all clients choose it: CRC-32C, mixed as in MurmurHash3."""
    mixed = crc32c(key.encode())
    mixed = (mixed ^ (mixed >> 16)) * 0x85EBCA6B & 0xFFFFFFFF
    mixed = (mixed ^ (mixed >> 13)) * 0xC2B2AE35 & 0xFFFFFFFF
    return (mixed ^ (mixed >> 16)) % max(partitions, 1)
