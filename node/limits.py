"""What one agent's connection may take, and how long: injected into the handshake and the links it makes."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds are those of the wheel, where no other clock is named."""

    max_message_bytes: int = 32 << 20  # also after joining and inflating
    high_water_bytes: int = 1 << 20  # what may wait for a slow reader
    pass_messages: int = 128  # bounds how long one peer's backlog keeps the others waiting
    ping_s: int = 20
    close_s: int = 5
    stall_s: int = 8
    large_frames_bytes: int = 256 << 20  # what unfinished frames over 64 KiB may hold, all links of a process together
    deflate: bool = True
    handshake_timeout_s: float = 10.0  # by the loop's clock
    unacknowledged_s: int = 60  # by the kernel's: TCP_USER_TIMEOUT
