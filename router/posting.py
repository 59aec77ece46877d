"""What the two calls that post tasks bring and are answered, whichever way they are served."""

import secrets
from typing import Any

from cluster import messages
from cluster.mailbox import Accepted, Post


def single(agent_id: str, body: bytes) -> Post:
    """One task. Raises: BadInput."""
    return Post(agent_id, "", [messages.new_task(body)])


def batch(agent_id: str, body: bytes) -> Post:
    """Many tasks for one agent: all or none. Raises: BadInput."""
    return Post(agent_id, f"batch:{secrets.token_hex(8)}", messages.new_tasks(body))


def told_single(post: Post, accepted: Accepted) -> dict[str, Any]:
    """The answer to one task."""
    return {"task_id": post.tasks[0].id, "agent_id": post.agent_id, "status": accepted.status}


def told_batch(post: Post, accepted: Accepted) -> dict[str, Any]:
    """The answer to many."""
    ids = [task.id for task in post.tasks]
    return {"task_ids": ids, "agent_id": post.agent_id, "status": accepted.status, "count": len(ids)}
