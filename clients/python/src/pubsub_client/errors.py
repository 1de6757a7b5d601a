"""What can go wrong. "No" and "perhaps" are different errors: only OutcomeUnknown and MalformedAnswer may have had an effect."""

from __future__ import annotations

from typing import Any, Mapping, Optional

__all__ = [
    "ConsumerRequired",
    "GroupBusy",
    "GroupNotEmpty",
    "GroupNotFound",
    "MalformedAnswer",
    "MemberFenced",
    "OutcomeUnknown",
    "PartitionNotFound",
    "ProducerFenced",
    "PubsubError",
    "RecordTooLarge",
    "Refused",
    "StorageFull",
    "TopicExists",
    "TopicNotEmpty",
    "TopicNotFound",
    "TopicOwned",
    "Unavailable",
    "ValidationFailed",
]


class PubsubError(Exception):
    """The base of every error of this package."""


class Refused(PubsubError):
    """A broker said no, and asking again would not help. Nothing was done.

    `code` is stable and meant for programs, `detail` for people; `problem` is the whole body of the answer.
    """

    def __init__(self, broker: str, problem: Mapping[str, Any]) -> None:
        self.broker = broker
        self.problem = dict(problem)
        self.code = str(problem.get("code", "OTHER"))
        self.status = int(problem.get("status", 0))
        self.detail = detail_text(problem.get("detail"))
        super().__init__(f"{self.detail} ({self.code})")

    @staticmethod
    def of(broker: str, problem: Mapping[str, Any]) -> "Refused":
        """Return the error of the class that stands for the problem's code."""
        return _BY_CODE.get(str(problem.get("code")), Refused)(broker, problem)


class TopicNotFound(Refused):
    """No such topic."""


class PartitionNotFound(Refused):
    """The topic has no such partition."""


class TopicExists(Refused):
    """A topic of that name has another shape."""


class TopicOwned(Refused):
    """The topic belongs to somebody else; `problem["owner"]` says to whom."""


class TopicNotEmpty(Refused):
    """The topic holds records, and was to be deleted only without any."""


class GroupNotFound(Refused):
    """No such group."""


class GroupBusy(Refused):
    """Every partition has a consumer of that group already."""


class GroupNotEmpty(Refused):
    """The group still has members."""


class MemberFenced(Refused):
    """The consumer does not own the partition any more; its records may be read by others again."""


class ConsumerRequired(Refused):
    """A group was named without the consumer that reads for it."""


class ProducerFenced(Refused):
    """A producer of the same id and a higher epoch has taken over."""


class RecordTooLarge(Refused):
    """A record is larger than the topic takes."""


class StorageFull(Refused):
    """The broker's storage takes no more."""


class ValidationFailed(Refused):
    """The request is not what the route takes; `problem["detail"]` lists the fields."""


_BY_CODE: Mapping[str, type[Refused]] = {
    "CONSUMER_REQUIRED": ConsumerRequired,
    "GROUP_BUSY": GroupBusy,
    "GROUP_NOT_EMPTY": GroupNotEmpty,
    "GROUP_NOT_FOUND": GroupNotFound,
    "MEMBER_FENCED": MemberFenced,
    "PARTITION_NOT_FOUND": PartitionNotFound,
    "PRODUCER_FENCED": ProducerFenced,
    "RECORD_TOO_LARGE": RecordTooLarge,
    "STORAGE_FULL": StorageFull,
    "TOPIC_EXISTS": TopicExists,
    "TOPIC_NOT_EMPTY": TopicNotEmpty,
    "TOPIC_NOT_FOUND": TopicNotFound,
    "TOPIC_OWNED": TopicOwned,
    "VALIDATION_FAILED": ValidationFailed,
}


class Unavailable(PubsubError):
    """No broker took the request before the deadline. Nothing was done."""

    def __init__(self, tries: int, waited: float, last: str) -> None:
        self.tries = tries
        self.waited = waited
        self.last = last
        super().__init__(
            f"no broker could take the request in {tries} tries within {waited:.1f} s; last: {last}"
        )


class OutcomeUnknown(PubsubError):
    """The request may or may not have been carried out. `request_id` names it in the logs of the brokers."""

    def __init__(self, last: str, request_id: str, problem: Optional[Mapping[str, Any]] = None) -> None:
        self.last = last
        self.request_id = request_id
        self.problem = dict(problem) if problem is not None else None
        self.code = str(problem["code"]) if problem is not None and "code" in problem else None
        super().__init__(f"the outcome of the request is not known: {last} (request id {request_id})")


class MalformedAnswer(PubsubError):
    """A broker's answer is not what this client understands. The request was carried out."""

    def __init__(self, broker: str, reason: str) -> None:
        self.broker = broker
        self.reason = reason
        super().__init__(f"the answer of {broker} can't be read: {reason}")


def detail_text(detail: object) -> str:
    """Return the detail of a problem, which is a text, a list of fields or an object with a message, as a sentence."""
    if isinstance(detail, str):
        return detail
    if isinstance(detail, Mapping) and "message" in detail:
        return str(detail["message"])
    if isinstance(detail, list):
        fields = [field for field in detail if isinstance(field, Mapping)]
        return "; ".join(
            f"{'.'.join(map(str, field.get('loc', [])))}: {field.get('msg', '')}" for field in fields
        )
    return "no reason was given"
