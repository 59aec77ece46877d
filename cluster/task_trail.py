"""The trail of a task through the processes: one line at each of its steps, at debug level, so that a search for its id finds them all.

Owns the steps' names. Knows nothing of what a step does, and says nothing of a task's contents. Rule: whoever tells of several tasks asks
`is_followed` once before; a level that is off costs that question and nothing else.

| step | said by | when |
| --- | --- | --- |
| accepted | router, or a node that polls | its POST will be answered 200 |
| cancel asked | router | the cancel is kept |
| sent | node | it was written to the agent's socket |
| in hand | node | the agent acked it, or spoke of it |
| result came | node | a result arrived; `status` says which |
| written | node, or router | its entry is in the results feed |
"""

import logging

logger = logging.getLogger(__name__)


def is_followed() -> bool:
    """Whether anybody reads it."""
    return logger.isEnabledFor(logging.DEBUG)


def tell(step: str, agent_id: str, task_id: str, **more: object) -> None:
    """A step of a task."""
    logger.debug("task %s", step, extra={"task_id": task_id, "agent_id": agent_id, **more}, stacklevel=2)
