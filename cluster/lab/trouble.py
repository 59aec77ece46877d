"""What goes wrong, in two kinds: with the way to the server, and with a task. The texts are fit for logs; they hold no secrets.

| error_code of a result | name | said when |
| --- | --- | --- |
| 0 | | the task itself exited, with whatever code |
| 1001 | FAILED_HERE | this host could not: no such interpreter, disk full |
| 1002 | BAD_TASK | the task cannot be carried out as it is written |
| 1003 | NOT_FOUND | its folder or user does not exist |
| 1004 | TIMED_OUT | `timeout_sec` passed |
| 2000 | NETWORK | a download failed or brought something else |
"""

from cluster.errors import AgentServerError

FAILED_HERE = 1001
BAD_TASK = 1002
NOT_FOUND = 1003
TIMED_OUT = 1004
NETWORK = 2000


class Trouble(AgentServerError):
    """No connection: it was refused, failed or is gone. Come back later."""

    def __init__(
        self, text: str, *, retry_after_s: float = 0.0, is_unknown: bool = False, is_barred: bool = False
    ) -> None:
        """`is_unknown`: the server knows neither this agent nor its token; it must register again. `is_barred`: it may not, with this token."""
        super().__init__(text)
        self.retry_after_s = retry_after_s
        self.is_unknown = is_unknown
        self.is_barred = is_barred


class TaskFault(AgentServerError):
    """A task fails before it could run."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code
