"""One cluster for all tests: starting it takes longer than most of them."""

from __future__ import annotations

import uuid
from typing import Iterator

import pytest
from cluster import Cluster

from pubsub_client import Client


@pytest.fixture(scope="session")
def shared() -> Iterator[Cluster]:
    cluster = Cluster()
    yield cluster
    cluster.close()


@pytest.fixture
def cluster(shared: Cluster) -> Iterator[Cluster]:
    """The cluster, whole; brokers that a test killed are started again after it."""
    yield shared
    shared.heal()


@pytest.fixture
def client(cluster: Cluster) -> Iterator[Client]:
    with Client(cluster.urls) as client:
        yield client


@pytest.fixture
def topic(client: Client) -> str:
    """A new topic of one partition with three replicas."""
    return new_topic(client)


def new_topic(client: Client, partitions: int = 1) -> str:
    name = f"t-{uuid.uuid4()}"
    assert client.admin.create_topic(name, partitions=partitions, rf=3)["created"]
    return name
