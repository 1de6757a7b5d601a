"""Publish to and consume from a Pubsub cluster.

from pubsub_client import Client

with Client("http://127.0.0.1:8081") as client:
    client.producer("orders").publish({"n": 1}, key="user-1")
"""

from .admin import Admin, AsyncAdmin
from .client import AsyncClient, Client
from .consumer import AsyncConsumer, Consumer
from .errors import *  # noqa: F403
from .errors import __all__ as _errors
from .producer import AsyncProducer, PartlyPublished, Producer
from .records import Delivery, NewRecord, Record, partition_of_key
from .retry import RetryPolicy
from .stream import AsyncStream, Stream
from .transport import VERSION as __version__
from .transport import Settings

__all__ = [
    "Admin",
    "AsyncAdmin",
    "AsyncClient",
    "AsyncConsumer",
    "AsyncProducer",
    "AsyncStream",
    "Client",
    "Consumer",
    "Delivery",
    "NewRecord",
    "PartlyPublished",
    "Producer",
    "Record",
    "RetryPolicy",
    "Settings",
    "Stream",
    "__version__",
    "partition_of_key",
    *_errors,
]
