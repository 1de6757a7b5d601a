"""Which broker to ask: a short list with one that is stuck to until it fails. Time is an argument."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Iterable, Optional, Union
from urllib.parse import urlsplit

#: Most brokers that are remembered: an answer that named thousands would not be believed.
BROKERS_MAX = 64
#: A broker that failed is passed over for so many seconds at first, twice as long with each further failure.
PENALTY_FIRST = 0.25
#: A broker that failed often is still tried this often: it may have come back.
PENALTY_CAP = 5.0


def base_url(given: str) -> str:
    """Return the address of a broker without a slash at the end; a bare `host:port` means plain HTTP.

    Raises ValueError for what is no such address.
    """
    trimmed = given.strip()
    parts = urlsplit(trimmed if "://" in trimmed else f"http://{trimmed}")
    try:
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
        valid = valid and not any(character.isspace() for character in trimmed)
    except ValueError:
        valid = False
    if not valid or parts.query or parts.fragment:
        raise ValueError(f"{given[:80]!r} is not a broker's address: write http://host:port")
    return f"{parts.scheme}://{parts.netloc}{parts.path}".rstrip("/")


def broker_list(given: Union[str, Iterable[str]]) -> list[str]:
    """Return checked addresses of a list, or of a text with commas or blanks between them."""
    texts = given.replace(",", " ").split() if isinstance(given, str) else list(given)
    urls = [base_url(text) for text in texts]
    if not urls:
        raise ValueError("no broker was named: give at least one address such as http://127.0.0.1:8081")
    return urls


@dataclass
class _Entry:
    url: str
    failures: int = 0
    usable_from: Optional[float] = None


class BrokerBook:
    """The brokers that a client knows, and the one that it sticks to. Threads may share it."""

    def __init__(self, urls: Iterable[str]) -> None:
        self._entries: list[_Entry] = []
        self._current = 0
        self._lock = threading.Lock()
        self.learn(urls)

    def __len__(self) -> int:
        return len(self._entries)

    def copy(self) -> "BrokerBook":
        """Return a book with the same addresses that goes its own way."""
        return BrokerBook(self.urls())

    def urls(self) -> list[str]:
        """Return all known addresses."""
        with self._lock:
            return [entry.url for entry in self._entries]

    def learn(self, urls: Iterable[str]) -> None:
        """Add addresses that are not known yet, behind the others; what is no address is passed over."""
        for given in urls:
            try:
                url = base_url(given)
            except ValueError:
                continue
            with self._lock:
                if len(self._entries) < BROKERS_MAX and all(entry.url != url for entry in self._entries):
                    self._entries.append(_Entry(url))

    def pick(self, now: float) -> str:
        """Return the one that answered last, else the next that has not just failed, else the one that failed first."""
        with self._lock:
            count = len(self._entries)
            order = [(self._current + step) % count for step in range(count)]
            usable = [at for at in order if (self._entries[at].usable_from or now) <= now]
            self._current = (
                usable[0] if usable else min(order, key=lambda at: self._entries[at].usable_from or now)
            )
            return self._entries[self._current].url

    def succeeded(self, url: str) -> None:
        """Note that a broker answered."""
        with self._lock:
            for entry in self._entries:
                if entry.url == url:
                    entry.failures, entry.usable_from = 0, None

    def failed(self, url: str, now: float) -> None:
        """Note that a broker could not be reached or can't serve now, so that the next pick is another one."""
        with self._lock:
            for entry in self._entries:
                if entry.url == url:
                    entry.usable_from = now + min(PENALTY_FIRST * 2 ** min(entry.failures, 16), PENALTY_CAP)
                    entry.failures += 1

    def prefer(self, url: str) -> None:
        """Stick to a broker from now on, if it is known."""
        with self._lock:
            for at, entry in enumerate(self._entries):
                if entry.url == url:
                    self._current = at
