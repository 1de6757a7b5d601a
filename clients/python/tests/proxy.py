"""A broker seen through a bad network: a TCP proxy that can take a request to the broker and lose the answer."""

from __future__ import annotations

import socket
import threading
from typing import Optional
from urllib.parse import urlsplit


class Proxy:
    """Passes bytes on to a broker. `lose_answers(n)` has it close the connection instead of the next n answers."""

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        self._target = (parts.hostname or "", parts.port or 0)
        self._to_lose = 0
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def lose_answers(self, count: int) -> None:
        """Lose the next answers: the broker has done what was asked, and nobody hears of it."""
        with self._lock:
            self._to_lose = count

    def close(self) -> None:
        """Take no more connections."""
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(self._target) as broker:
            threading.Thread(target=self._pass_requests, args=(client, broker), daemon=True).start()
            while True:
                data = _receive(broker)
                if not data or self._loses():
                    break
                client.sendall(data)
            for end in (client, broker):
                _shut(end)

    def _loses(self) -> bool:
        with self._lock:
            lose = self._to_lose > 0
            self._to_lose -= lose
            return lose

    @staticmethod
    def _pass_requests(client: socket.socket, broker: socket.socket) -> None:
        while data := _receive(client):
            try:
                broker.sendall(data)
            except OSError:
                return
        _shut(broker)


def _receive(end: socket.socket) -> Optional[bytes]:
    try:
        return end.recv(1 << 16)
    except OSError:
        return None


def _shut(end: socket.socket) -> None:
    try:
        end.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
