"""A cluster of real programs on loopback, with the means to break it.

The programs end when their standard input does, so none outlives this process however it ends.
"""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Callable, Optional, TypeVar

import httpx

T = TypeVar("T")
ROOT = Path(os.environ.get("PUBSUB_ROOT") or Path(__file__).resolve().parents[3])
#: Below the ports that the system gives to outgoing connections: one of those must not take a stopped broker's place.
PORTS = range(20_000, 31_999)
READY_DEADLINE = 60.0


def program() -> str:
    """Return the path of the `pubsub` program, which is all of them."""
    target = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target")
    found = os.environ.get("PUBSUB_PROGRAM") or str(target / "debug" / "pubsub")
    if not os.access(found, os.X_OK):
        raise RuntimeError(
            f"{found} is not there: build it with `cargo build -p pubsub-cli`, or name it in PUBSUB_PROGRAM"
        )
    return found


_given: set[int] = set()


def free_port() -> int:
    """Return a port that nobody listens on, never the same one twice."""
    for _ in range(1_000):
        port = random.choice(PORTS)
        if port in _given:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _given.add(port)
        return port
    raise RuntimeError("no free port")


def eventually(what: str, check: Callable[[], Optional[T]], deadline: float = 30.0) -> T:
    """Wait until a check returns something."""
    end = time.monotonic() + deadline
    while True:
        found = check()
        if found is not None:
            return found
        assert time.monotonic() < end, f"not within {deadline} s: {what}"
        time.sleep(0.05)


class Cluster:
    """Discovery and some brokers, with ids from 1."""

    def __init__(self, brokers: int = 3) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="pubsub-python-"))
        self._discovery_port = free_port()
        self._ports = {number: (free_port(), free_port()) for number in range(1, brokers + 1)}
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        try:
            self._start("discovery", "run-discovery", {"DISCOVERY_PORT": str(self._discovery_port)})
            for number in self._ports:
                self.start(number)
            self.wait_ready()
        except BaseException:
            self.close()
            raise

    def url(self, number: int) -> str:
        """Return a broker's address."""
        return f"http://127.0.0.1:{self._ports[number][0]}"

    @property
    def urls(self) -> list[str]:
        """The addresses of all brokers."""
        return [self.url(number) for number in self._ports]

    def number(self, url: str) -> int:
        """Return the broker at an address."""
        return next(number for number in self._ports if self.url(number) == url)

    def _start(self, name: str, command: str, environment: dict[str, str]) -> None:
        common = {
            "PATH": os.environ.get("PATH", ""),
            "DISCOVERY_HOST": "127.0.0.1",
            "DISCOVERY_URL": f"http://127.0.0.1:{self._discovery_port}",
            "GENESIS_VOTERS": ",".join(map(str, self._ports)),
            "PUBSUB_CLUSTER_SECRET": "loopback-cluster-secret-for-tests-only",
        }
        with open(self.directory / f"{name}.log", "ab") as log:
            self._running[name] = subprocess.Popen(
                [program(), command, "--stop-on-stdin-eof"],
                env={**common, **environment},
                cwd=self.directory,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def start(self, number: int) -> None:
        """Start a broker that does not run."""
        http, peer = self._ports[number]
        environment = {
            "BROKER_ID": str(number),
            "BROKER_HTTP_HOST": "127.0.0.1",
            "BROKER_HTTP_PORT": str(http),
            "BROKER_API_BASE": self.url(number),
            "ELECTION_HOST": "127.0.0.1",
            "ELECTION_PORT": str(peer),
            "PUBSUB_DATA_DIR": str(self.directory / f"broker-{number}"),
        }
        self._start(f"broker-{number}", "run-broker", environment)

    def kill(self, number: int) -> None:
        """Kill a broker at once (SIGKILL)."""
        self._end(f"broker-{number}")

    def _end(self, name: str) -> None:
        process = self._running.pop(name)
        process.kill()
        process.wait()
        if process.stdin:
            process.stdin.close()

    def heal(self) -> None:
        """Start every broker that does not run, and wait until all are ready."""
        for number in self._ports:
            if f"broker-{number}" not in self._running:
                self.start(number)
        self.wait_ready()

    def wait_ready(self) -> None:
        """Wait until every broker is ready, knows the controller and counts all others as active."""
        for number in self._ports:
            eventually(
                f"broker {number} is ready\n{self.log(number)}", lambda: self._ready(number), READY_DEADLINE
            )

    def _ready(self, number: int) -> Optional[bool]:
        process = self._running[f"broker-{number}"]
        assert process.poll() is None, f"broker {number} ended\n{self.log(number)}"
        try:
            ready = httpx.get(f"{self.url(number)}/readyz", trust_env=False).status_code == 200
            brokers = httpx.get(f"{self.url(number)}/admin/brokers", trust_env=False).json()["brokers"]
        except (httpx.HTTPError, KeyError, ValueError):
            return None
        active = [broker for broker in brokers if broker["state"] == "active"]
        return True if ready and len(active) == len(self._ports) else None

    def log(self, number: int) -> str:
        """Return the end of a broker's log."""
        path = self.directory / f"broker-{number}.log"
        return (
            "\n".join(path.read_text("utf-8", "replace").splitlines()[-40:]) if path.exists() else "(no log)"
        )

    def close(self) -> None:
        """End everything and remove its files."""
        for name in list(self._running):
            self._end(name)
        shutil.rmtree(self.directory, ignore_errors=True)
