"""How tasks end: one end as it is told by the results feed or by the API, in words and as an exit code; and many ends together."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cluster.client.outcome import FAILED, OK, PARTLY, TIMEOUT
from cluster.client.tables import shown

ENDS = frozenset(("success", "failed", "cancelled"))
TIMED_OUT = "1004"  # an error code


@dataclass(frozen=True)
class End:
    """How a task ended."""

    status: str
    exit_code: int = 1
    error_msg: str = ""
    error_code: str = "0"
    log_size: int = 0

    @property
    def exit(self) -> int:
        """The exit code that stands for it."""
        if self.status == "success":
            return OK
        if self.error_code == TIMED_OUT:
            return TIMEOUT
        return self.exit_code if self.status == "failed" and 0 < self.exit_code < 256 else FAILED

    @property
    def words(self) -> str:
        """For people, on one line."""
        how = "timed out" if self.exit == TIMEOUT else self.status
        code = f", exit code {self.exit_code}" if self.status == "failed" and self.error_code == "0" else ""
        said = shown(self.error_msg)
        if said.startswith(how):
            return said
        return f"{how}{code}" + (f": {said}" if said not in {"", f"exit status {self.exit_code}"} else "")


def not_done(why: str, status: str = "failed") -> End:
    """The end of what never was a task of the cluster, or is none any more."""
    return End(status, -1, why, "-1")


def end_of(fields: Mapping[str, object]) -> End:
    """The end that an entry of the results feed, or the API, tells."""
    code, size = (_whole(fields.get(name)) for name in ("exit_code", "log_size"))
    message, error_code = (str(fields.get(name) or "") for name in ("error_msg", "error_code"))
    return End(str(fields["status"]), code, message, error_code or "0", size)


def _whole(value: object) -> int:
    try:
        return int(str(value))
    except ValueError:
        return 0


def exit_code(ends: Sequence[End]) -> int:
    """The exit code of a run: the task's own where there is one."""
    codes = {end.exit for end in ends}
    if len(ends) == 1 or (len(codes) == 1 and codes <= {OK, TIMEOUT}):
        return codes.pop()
    return PARTLY if OK in codes else FAILED


def summary(ends: Sequence[End]) -> str:
    """How many ended how, the most first; of as many, what went well."""
    counts = Counter(
        "succeeded" if not end.exit else "timed out" if end.exit == TIMEOUT else end.status for end in ends
    )
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0] != "succeeded", item[0]))
    return f"{counted(len(ends), 'agent')}: {', '.join(f'{count} {how}' for how, count in ordered)}"


def counted(count: int, noun: str, nouns: str = "") -> str:
    """`1 task`, `2 tasks`."""
    return f"{count} {noun}" if count == 1 else f"{count} {nouns or noun + 's'}"
