"""The write path: frames to a transport, with a bound on what may wait for a peer that reads slowly.

Owns what is gathered while a pass over the peer's messages runs (its answers leave in one write), and the two rules of
patience once more than `high_water_bytes` wait. What to do with a peer that breaks them is the link's.

- What crossed the line may go, however long; beyond that a quarter of `high_water_bytes` of small frames.
- The peer has to take half of `high_water_bytes` in every `stall_s`.
"""

import asyncio

# A pass holds back 512 KiB at the most: so many frames, none longer than that.
GATHERED_FRAMES = 128
GATHERED_FRAME_BYTES = 4096


class Writer:
    """Writes for one connection.

    `writable` is False while more than `high_water_bytes` wait. `gathered` is None; set to a list, it keeps small frames
    together until `flush`.
    """

    __slots__ = (
        "_ceiling_bytes",
        "_high_water_bytes",
        "_mark_bytes",
        "_stalled_s",
        "gathered",
        "transport",
        "writable",
    )

    def __init__(self, transport: asyncio.Transport, high_water_bytes: int) -> None:
        self.transport = transport
        self.writable = True
        self._high_water_bytes = high_water_bytes
        self.gathered: list[bytes] | None = None
        self._ceiling_bytes = 0
        self._mark_bytes = 0  # what waited when the peer last had taken enough
        self._stalled_s = 0  # since then

    @property
    def is_gathering(self) -> bool:
        """Whether a pass is under way."""
        return self.gathered is not None

    def flush(self) -> None:
        """Writes what was gathered, and gathers no more."""
        gathered, self.gathered = self.gathered, None
        if gathered:
            self.transport.write(gathered[0] if len(gathered) == 1 else b"".join(gathered))

    def put(self, data: bytes) -> bool:
        """Writes whole frames, in order. False: they were dropped, because too much waits already."""
        gathered = self.gathered
        if gathered is None or not self.writable or len(data) > GATHERED_FRAME_BYTES:
            return self._put_now(data)
        gathered.append(data)
        if len(gathered) >= GATHERED_FRAMES:
            self.flush()
            self.gathered = []
        return True

    def _put_now(self, data: bytes) -> bool:
        if self.gathered:
            self.flush()
            self.gathered = []
        if not self.writable and self.transport.get_write_buffer_size() + len(data) > self._ceiling_bytes:
            return False
        self.transport.write(data)
        return True

    def on_crowded(self) -> None:
        """The transport says that more than `high_water_bytes` wait."""
        self.writable = False
        self._stalled_s = 0
        self._mark_bytes = self.transport.get_write_buffer_size()
        self._ceiling_bytes = self._mark_bytes + self._high_water_bytes // 4

    def on_drained(self) -> None:
        """The transport says that less than half of it is left."""
        self.writable = True

    def stalled_s(self) -> int:
        """To be asked every second: for how long the peer has not taken enough."""
        if self.writable:
            return 0
        waiting_bytes = self.transport.get_write_buffer_size()
        self._stalled_s += 1
        if self._mark_bytes - waiting_bytes >= self._high_water_bytes // 2:
            self._mark_bytes, self._stalled_s = waiting_bytes, 0
        return self._stalled_s

    def drop(self) -> None:
        """Forgets what was gathered and not written."""
        if self.gathered is not None:
            self.gathered = []
