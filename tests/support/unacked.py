"""What an agent process keeps until it is acked: sent messages with their resends, and the outbox for what it could not send.

Pure: time is passed in. Two rooms, as in the Go agent:

| room | holds | lost with the process | leaves |
| --- | --- | --- | --- |
| Unacked | sent messages; each is due again 3, 6, 12 .. 138 s after its first sending | yes | acked, dropped after the last, over 5,000, over 10 min |
| Outbox | messages made while disconnected | no, it is a file | acked, over 2,000 (cut to 1,000), over 24 h |

While disconnected nothing is resent, and no attempt is used up. An outbox is replayed at each reconnect under the same ids, and by a new
process under new ones.
"""

import heapq
import itertools
from collections.abc import Callable

import msgspec

from tests.support.go_wire import Outgoing, with_id


class Limits(msgspec.Struct, frozen=True):
    """Of both rooms."""

    unacked: int = 5_000
    outbox: int = 2_000
    outbox_kept: int = 1_000


class _Waiting(msgspec.Struct):
    message: Outgoing
    since_s: float
    attempt: int = 0


class Unacked:
    """Sent, and not acked."""

    def __init__(self, resend_after_s: tuple[float, ...], age_s: float, limit: int) -> None:
        self._gaps_s = (resend_after_s[0], *(b - a for a, b in itertools.pairwise(resend_after_s)))
        self._age_s = age_s
        self._limit = limit
        self._waiting: dict[str, _Waiting] = {}
        self._due: list[tuple[float, str]] = []
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, message_id: str) -> bool:
        return message_id in self._waiting

    def sent(self, message: Outgoing, now_s: float) -> None:
        """A message was sent for the first time; the oldest gives way when there are too many."""
        if message.message_id in self._waiting:
            return
        self._waiting[message.message_id] = _Waiting(message, now_s)
        self._plan(message.message_id, now_s)
        if len(self._waiting) > self._limit:
            self._drop(next(iter(self._waiting)))

    def acked(self, message_id: str) -> None:
        """It need not be sent again."""
        self._waiting.pop(message_id, None)

    def next_due_s(self) -> float | None:
        """When something is due, or None."""
        while self._due and self._due[0][1] not in self._waiting:
            heapq.heappop(self._due)
        return self._due[0][0] if self._due else None

    def take_due(self, now_s: float) -> list[Outgoing]:
        """What must be sent again now. Drops what is too old, or was sent often enough."""
        taken = []
        while (due_s := self.next_due_s()) is not None and due_s <= now_s:
            message_id = heapq.heappop(self._due)[1]
            waiting = self._waiting[message_id]
            waiting.attempt += 1
            if waiting.attempt > len(self._gaps_s) or now_s - waiting.since_s > self._age_s:
                self._drop(message_id)
            else:
                taken.append(waiting.message)
                self._plan(message_id, now_s)
        return taken

    def _plan(self, message_id: str, now_s: float) -> None:
        """The next resend; after the last one the message is dropped as long after it as that one came after its own last.

        Counted from now, not from the first sending: what fell due in vain while disconnected is one resend, not five at once.
        """
        attempt = self._waiting[message_id].attempt
        heapq.heappush(self._due, (now_s + self._gaps_s[min(attempt, len(self._gaps_s) - 1)], message_id))

    def _drop(self, message_id: str) -> None:
        del self._waiting[message_id]
        self.dropped += 1


class _Kept(msgspec.Struct):
    message: Outgoing
    since_s: float
    is_acked: bool = False


class Outbox:
    """The file beside the agent: it outlives the process. `keeps_acked`: an ack does not remove a message from the file, so that a new
    process sends it once more.
    """

    def __init__(self, age_s: float, limits: Limits, *, keeps_acked: bool = False) -> None:
        self._age_s = age_s
        self._limits = limits
        self._keeps_acked = keeps_acked
        self._kept: dict[str, _Kept] = {}
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._kept)

    def add(self, message: Outgoing, now_s: float) -> None:
        """Keep a message; when there are too many only the newest stay."""
        self._kept[message.message_id] = _Kept(message, now_s)
        if len(self._kept) > self._limits.outbox:
            surplus = len(self._kept) - self._limits.outbox_kept
            self.dropped += surplus
            for message_id in list(self._kept)[:surplus]:
                del self._kept[message_id]

    def acked(self, message_id: str) -> None:
        """It need not be replayed by this process."""
        if self._keeps_acked and message_id in self._kept:
            self._kept[message_id].is_acked = True
        else:
            self._kept.pop(message_id, None)

    def to_replay(self) -> list[Outgoing]:
        """What a reconnect sends, oldest first."""
        return [kept.message for kept in self._kept.values() if not kept.is_acked]

    def reissue(self, now_s: float, new_id: Callable[[], str]) -> None:
        """A new process has read the file: what is not too old gets new ids, and has not been acked under them."""
        young = [kept for kept in self._kept.values() if now_s - kept.since_s <= self._age_s]
        self.dropped += len(self._kept) - len(young)
        self._kept = {(name := new_id()): _Kept(with_id(kept.message, name), kept.since_s) for kept in young}
