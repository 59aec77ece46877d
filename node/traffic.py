"""How many messages of which type go to and from agents, and how many bytes. Knows nothing of what they mean.

Bytes from agents are those of whole messages, inflated, without frame heads; bytes to agents are as they were written.
"""

RECEIVED = ("log", "task_result", "heartbeat", "ack", "other")
SENT = ("task", "tasks_batch", "cancel", "ack", "heartbeat", "control")


class Flow:
    """Messages of one type, one way."""

    __slots__ = ("messages", "size_bytes")

    def __init__(self) -> None:
        self.messages = self.size_bytes = 0

    def add(self, size_bytes: int, messages: int = 1) -> None:
        """So many more."""
        self.messages += messages
        self.size_bytes += size_bytes


class Flows(dict[str | None, Flow]):
    """By type; what has none, or another, is `other`. Looked up for each message: no call is made for those that are there."""

    def __init__(self) -> None:
        super().__init__((name, Flow()) for name in RECEIVED)
        self.malformed = Flow()  # what has no type: no peer names it

    def __missing__(self, _: str | None) -> Flow:
        return self["other"]


def flows(types: tuple[str, ...]) -> dict[str, Flow]:
    """One of each."""
    return {name: Flow() for name in types}
