"""What a run says: lines of output, ends, and how it went; for people as text, for programs as an object a line."""

import json
from collections.abc import Mapping, Sequence

from cluster.client.agents import told_apart
from cluster.client.ends import End, counted, summary
from cluster.client.job import Job
from cluster.client.screen import Screen, prefixes

NAMED = 5  # tasks that a line names


class Report:
    """The words of one run of these jobs."""

    def __init__(self, screen: Screen, jobs: Sequence[Job], *, as_json: bool = False) -> None:
        self._screen = screen
        self._as_json = as_json
        self._names = told_apart(job.agent for job in jobs)
        self._prefixes = prefixes(self._names) if len(jobs) > 1 else {}

    def say(self, words: str) -> None:
        """Words about the run."""
        self._screen.say(words)

    def say_of(self, job: Job, words: str) -> None:
        """Words about one agent's part."""
        self._screen.say(f"{self._names[job.agent.id]}: {words}")

    def line(self, job: Job, fields: Mapping[str, str]) -> None:
        """A line of output, as its entry in the feed has it."""
        content, stream = fields.get("content", ""), fields.get("stream", "")
        if self._as_json:
            self._put("log", job, {"stream": stream, "content": content, "timestamp": fields.get("timestamp", "")})
        else:
            self._screen.line(content, prefix=self._prefixes.get(job.agent.id, ""), is_err=stream == "stderr")

    def waiting(self, jobs: Sequence[Job]) -> None:
        """Agents that are offline."""
        if jobs and not self._as_json:
            names = ", ".join(self._names[job.agent.id] for job in jobs[:NAMED])
            more = f" and {len(jobs) - NAMED} more" if len(jobs) > NAMED else ""
            what = "its task waits for it" if len(jobs) == 1 else "their tasks wait for them"
            self.say(f"offline: {names}{more}; {what} (Ctrl-C cancels, --detach does not wait)")

    def end(self, job: Job, end: End, *, is_asked_for: bool) -> None:
        """How one ended; nothing of a success or of a cancel that was asked for, which people see."""
        if self._as_json:
            self._put("end", job, {"status": end.status, "exit_code": end.exit_code, "error_msg": end.error_msg})
        elif end.status != "success" and not (end.status == "cancelled" and is_asked_for):
            self.say_of(job, end.words)

    def progress(self, jobs: Sequence[Job]) -> None:
        """How far all are."""
        ends = [job.end for job in jobs if job.end and job.is_told]
        self._screen.progress(len(ends), sum(end.status == "failed" for end in ends))

    def finish(self) -> None:
        """No progress any more."""
        self._screen.finish()

    def summed_up(self, jobs: Sequence[Job], *, is_stopped: bool) -> None:
        """How it went."""
        if still := [job for job in jobs if job.end is None]:
            ids = ", ".join(f"{self._names[job.agent.id]} {job.task_id}" for job in still[:NAMED])
            more = f" and {len(still) - NAMED} more" if len(still) > NAMED else ""
            self.say(f"{counted(len(still), 'task')} not ended yet: {ids}{more}")
        ends = [job.end for job in jobs if job.end]
        if ends and (len(jobs) > 1 or is_stopped):
            self.say(summary(ends))

    def _put(self, kind: str, job: Job, rest: Mapping[str, object]) -> None:
        about = {"type": kind, "agent": job.agent.name, "agent_id": job.agent.id, "task_id": job.task_id}
        self._screen.data(json.dumps({**about, **rest}, ensure_ascii=False))
