"""Looking at a cluster and managing it: topics, brokers, groups. Answers are the JSON objects of the API."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Optional

import httpx

from .steps import run, run_async
from .transport import Request, Transport, segment

Json = Dict[str, Any]


def _create(name: str, partitions: Optional[int], rf: Optional[int], settings: Mapping[str, Any]) -> Request:
    body: Json = {"name": name, **settings}
    if partitions is not None:
        body["partitions"] = partitions
    if rf is not None:
        body["replication_factor"] = rf
    return Request("POST", "/admin/topics", {"wait": "ready"}, body)


def _topics(internal: bool) -> Request:
    return Request("GET", "/admin/topics", {"internal": internal or None})


def _topic(
    method: str, name: str, query: Optional[Mapping[str, object]] = None, body: object = None
) -> Request:
    return Request(method, f"/admin/topics/{segment(name)}", query or {}, body)


def _delete(name: str, if_empty: bool) -> Request:
    return _topic("DELETE", name, {"if_empty": if_empty or None})


def _group(method: str, group: str) -> Request:
    return Request(method, f"/groups/{segment(group)}")


class Admin:
    """The admin calls. Any broker takes them; it passes on what only the controller can do. All can be repeated."""

    def __init__(self, transport: Transport, http: httpx.Client) -> None:
        self._transport = transport
        self._http = http

    def _call(self, request: Request) -> Json:
        answer: Json = run(self._transport.json(request), self._http)
        return answer

    def create_topic(
        self, name: str, *, partitions: Optional[int] = None, rf: Optional[int] = None, **settings: Any
    ) -> Json:
        """Create a topic and wait until its replicas are in sync; one of the same shape may be there (`created`).

        Further settings are `min_isr`, `retention_ms`, `retention_bytes`, `compact`, `max_record_bytes`,
        `unclean_election`, `owner`. Raises TopicExists for another shape.
        """
        return self._call(_create(name, partitions, rf, settings))

    def topics(self, *, internal: bool = False) -> List[Json]:
        """Return all topics in order of name."""
        topics: List[Json] = self._call(_topics(internal))["topics"]
        return topics

    def topic(self, name: str) -> Json:
        """Describe one topic."""
        return self._call(_topic("GET", name))

    def alter_topic(self, name: str, **settings: Any) -> Json:
        """Change settings of a topic (`partitions`, `replication_factor` and those of `create_topic`)."""
        return self._call(_topic("PATCH", name, body=settings))

    def delete_topic(self, name: str, *, if_empty: bool = False) -> Json:
        """Delete a topic and its records; with `if_empty` only one without records (TopicNotEmpty otherwise)."""
        return self._call(_delete(name, if_empty))

    def replicas(self, topic: str) -> Json:
        """Return who holds a topic."""
        return self._call(Request("GET", f"/replicas/{segment(topic)}"))

    def brokers(self) -> List[Json]:
        """Return the registered brokers."""
        brokers: List[Json] = self._call(Request("GET", "/admin/brokers"))["brokers"]
        return brokers

    def controller(self) -> Json:
        """Return who controls the cluster, as the answering broker sees it."""
        return self._call(Request("GET", "/admin/leader"))

    def groups(self) -> List[str]:
        """Return the names of the consumer groups."""
        return [str(group["group_id"]) for group in self._call(Request("GET", "/groups"))["groups"]]

    def group(self, group: str) -> Json:
        """Describe one group: members, positions, lag."""
        return self._call(_group("GET", group))

    def delete_group(self, group: str) -> Json:
        """Delete a group without members, and its positions."""
        return self._call(_group("DELETE", group))


class AsyncAdmin:
    """As `Admin`, for asyncio."""

    def __init__(self, transport: Transport, http: httpx.AsyncClient) -> None:
        self._transport = transport
        self._http = http

    async def _call(self, request: Request) -> Json:
        answer: Json = await run_async(self._transport.json(request), self._http)
        return answer

    async def create_topic(
        self, name: str, *, partitions: Optional[int] = None, rf: Optional[int] = None, **settings: Any
    ) -> Json:
        """As `Admin.create_topic`."""
        return await self._call(_create(name, partitions, rf, settings))

    async def topics(self, *, internal: bool = False) -> List[Json]:
        """As `Admin.topics`."""
        topics: List[Json] = (await self._call(_topics(internal)))["topics"]
        return topics

    async def topic(self, name: str) -> Json:
        """As `Admin.topic`."""
        return await self._call(_topic("GET", name))

    async def alter_topic(self, name: str, **settings: Any) -> Json:
        """As `Admin.alter_topic`."""
        return await self._call(_topic("PATCH", name, body=settings))

    async def delete_topic(self, name: str, *, if_empty: bool = False) -> Json:
        """As `Admin.delete_topic`."""
        return await self._call(_delete(name, if_empty))

    async def replicas(self, topic: str) -> Json:
        """As `Admin.replicas`."""
        return await self._call(Request("GET", f"/replicas/{segment(topic)}"))

    async def brokers(self) -> List[Json]:
        """As `Admin.brokers`."""
        brokers: List[Json] = (await self._call(Request("GET", "/admin/brokers")))["brokers"]
        return brokers

    async def controller(self) -> Json:
        """As `Admin.controller`."""
        return await self._call(Request("GET", "/admin/leader"))

    async def groups(self) -> List[str]:
        """As `Admin.groups`."""
        return [str(group["group_id"]) for group in (await self._call(Request("GET", "/groups")))["groups"]]

    async def group(self, group: str) -> Json:
        """As `Admin.group`."""
        return await self._call(_group("GET", group))

    async def delete_group(self, group: str) -> Json:
        """As `Admin.delete_group`."""
        return await self._call(_group("DELETE", group))
