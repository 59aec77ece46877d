"""Which tasks were accepted and have not ended yet, as far as a history has come. Owns no judgement (checker.py has it)."""

from itertools import islice

from tests.support.go_wire import ENDS
from tests.support.recorder import Answered, Entry, Posted, Recorder


class Ledger:
    """Follows a recorder; asking costs only what was recorded since the last time."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._read = 0
        self._posted: dict[str, tuple[str, ...]] = {}
        self._accepted: set[str] = set()
        self._ended: set[str] = set()

    def forget(self) -> None:
        """Begin anew with what the recorder holds now."""
        self._read = 0
        for known in (self._posted, self._accepted, self._ended):
            known.clear()

    def accepted(self) -> int:
        """How many tasks were answered with 200."""
        self._follow()
        return len(self._accepted)

    def open(self) -> set[str]:
        """Accepted, and without a terminal entry."""
        self._follow()
        return self._accepted - self._ended

    def unfinished(self) -> str:
        """What is left, for `eventually`; "" when nothing is."""
        left = self.open()
        return (
            f"{len(left)} of {len(self._accepted)} tasks have no end, such as {list(islice(left, 3))}" if left else ""
        )

    def _follow(self) -> None:
        events, self._read = self._recorder.events[self._read :], len(self._recorder.events)
        for event in events:
            match event:
                case Posted() if event.tasks:
                    self._posted[event.call] = tuple(task.task_id for task in event.tasks)
                case Answered():
                    tasks = self._posted.pop(event.call, ())
                    self._accepted.update(tasks if event.status == 200 else ())
                case Entry() if event.feed == "results" and event.fields.get("status") in ENDS:
                    self._ended.add(event.fields.get("task_id", ""))
                case _:
                    pass
