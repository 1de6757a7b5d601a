"""The event stream format of the HTML standard, as far as brokers use it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Iterator, Optional


@dataclass
class Message:
    """One message of an event stream."""

    event: str = ""
    data: str = ""
    #: Where the stream stands, once this message was taken in.
    id: Optional[str] = None
    #: How long to wait before the stream is opened again, in milliseconds.
    retry: Optional[int] = None


@dataclass
class EventParser:
    """Cuts a stream into messages."""

    _rest: bytes = b""
    _lines: list[str] = field(default_factory=list)

    def feed(self, chunk: bytes) -> Iterator[Message]:
        """Take what came, and return the messages that are whole now."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for raw in lines:
            line = raw.rstrip(b"\r").decode("utf-8", "replace")
            if line:
                self._lines.append(line)
                continue
            lines_of_one, self._lines = self._lines, []
            message = _message(lines_of_one)
            if message is not None:
                yield message


def _message(lines: list[str]) -> Optional[Message]:
    message, data, found = Message(), [], False
    for line in lines:
        name, _, value = line.partition(":")
        value = value[1:] if value.startswith(" ") else value
        if name == "id":
            message.id, found = value, True
        elif name == "event":
            message.event, found = value, True
        elif name == "data":
            data.append(value)
            found = True
        elif name == "retry" and value.isdigit():
            message.retry, found = int(value), True
    message.data = "\n".join(data)
    return message if found else None
