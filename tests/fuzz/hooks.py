"""What the fuzzer of the HTTP API is told beside the API's own description: names that exist, waits that end, and what an answer must be.

Choices depend on the generated value alone, so that a seed makes the same requests again.
"""

from __future__ import annotations

import json
import zlib
from typing import Any

import schemathesis

# The first one is never deleted; the others come and go with the requests.
TOPICS = ["fuzz", "fuzz-1", "fuzz-2", "fuzz-3"]
GROUPS = ["group-1", "group-2"]
BROKERS = [1, 2, 3, 9]
OFFSETS = ["earliest", "latest", "0", "17", "timestamp:1", "-1"]
# Refusals with 5xx that a cluster without a fault may give, to requests that ask for what it can't do in that time.
IMPATIENT = {"COMMIT_TIMEOUT", "OUTCOME_UNKNOWN", "NOT_ENOUGH_REPLICAS", "BROKER_UNREACHABLE"}
POOLS: dict[str, list[Any]] = {
    "topic": TOPICS,
    "name": TOPICS,
    "group": GROUPS,
    "group_id": GROUPS,
    "consumer_id": ["a", "b"],
    "broker": BROKERS,
    "broker_id": BROKERS,
    "broker_id_to_add": BROKERS,
    "owner_id": BROKERS,
    "from": OFFSETS,
    "from_offset": OFFSETS,
    "acks": ["all", "leader", "none"],
    "wait": ["true", "false"],
    "partition": [0, 1],
}
# Beyond it a cluster is busy with what was asked for, and nothing new is found.
MOST = {"timeout_ms": 500, "wait_ms": 20, "partitions": 4}


def known(name: str, value: Any) -> Any:
    """Returns `value`, or in three of four cases one of those that exist."""
    digest = zlib.crc32(json.dumps([name, value], default=str).encode())
    if name in POOLS and digest % 4 != 0:
        pool = POOLS[name]
        return pool[(digest >> 8) % len(pool)]
    if name in MOST and isinstance(value, int) and not isinstance(value, bool) and value > MOST[name]:
        return MOST[name]
    return value


def all_known(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: known(name, all_known(inner)) for name, inner in value.items()}
    if isinstance(value, list):
        return [all_known(inner) for inner in value]
    return value


@schemathesis.hook
def map_path_parameters(context: Any, path_parameters: Any) -> Any:
    found = all_known(path_parameters)
    # What is deleted must leave something for the others to find.
    if isinstance(found, dict) and context.operation.method.lower() == "delete" and found.get("name") == TOPICS[0]:
        found["name"] = TOPICS[1]
    return found


@schemathesis.hook
def map_query(context: Any, query: Any) -> Any:
    found = all_known(query)
    if isinstance(found, dict) and context.operation.path == "/poll":
        found["timeout_ms"] = found["timeout_ms"] if "timeout_ms" in found else 10
        if isinstance(found["timeout_ms"], int):
            found["timeout_ms"] = min(found["timeout_ms"], 20)
    return found


@schemathesis.hook
def map_body(context: Any, body: Any) -> Any:
    return all_known(body)


@schemathesis.check
def no_fault(context: Any, response: Any, case: Any) -> None:
    """A cluster that nothing was done to has no reason for 5xx."""
    if response.status_code < 500:
        return
    code = None
    try:
        code = response.json().get("code")
    except ValueError:
        pass
    if code in IMPATIENT:
        return
    raise AssertionError(f"{response.status_code} {code}: {response.text[:300]}")


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    # Whatever else is accepted opens a stream, which does not end.
    if case.operation.path == "/admin/events":
        case.headers["Accept"] = "application/json"
