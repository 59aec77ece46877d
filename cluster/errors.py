"""The errors that cross a room's door, in three branches: the peer did wrong, we did wrong, the store is away.

Driver exceptions do not leave the Redis modules: they become `StoreUnavailable`, with their `__cause__` kept.
What status or close code an error turns into is decided at the HTTP and WebSocket edges alone.
"""


class AgentServerError(Exception):
    """Root of everything raised on purpose; its text is one line, fit for a log and for the peer."""


class ConfigError(AgentServerError):
    """Settings cannot be used. Each problem is a line that names the key, the value (never a secret's) and what is allowed."""

    def __init__(self, *problems: str) -> None:
        super().__init__(*problems)
        self.problems = problems

    def __str__(self) -> str:
        return "; ".join(self.problems)


class StartError(AgentServerError):
    """This process cannot start: a port in use, a Redis that will not do, a node id that lives elsewhere."""


class StoreAway(StartError):
    """Redis does not answer yet. Waiting may help; every other reason not to start stays."""


class StoreUnavailable(AgentServerError):
    """Redis is away, stalled, full or failing over. What was asked may or may not have been done."""


class FeedBlocked(StoreUnavailable):
    """What has a feed's name in Redis is no stream. Nothing can be written there until it is gone; everything else works."""


class CommandFailed(AgentServerError):
    """A command of the command line did not do what it was asked; `exit_code` says how (cluster/client/outcome.py)."""

    def __init__(self, text: str, exit_code: int) -> None:
        super().__init__(text)
        self.exit_code = exit_code


class PeerError(AgentServerError):
    """The caller did wrong; nothing was changed."""


class BadInput(PeerError):
    """A field is missing, of the wrong type or out of bounds. Names the field, never echoes its value."""


class UnknownAgent(PeerError):
    """No agent has this id or host id."""


class UnknownTask(PeerError):
    """The agent has no such task."""


class UnknownNode(PeerError):
    """No node that lives has this id."""


class TaskConflict(PeerError):
    """The task id was used before, with other bytes."""


class MailboxFull(PeerError):
    """The agent has as many open tasks as may wait for one agent."""


class TooManyNew(PeerError):
    """This address registers new agents faster than they are taken."""


class NotConnected(PeerError):
    """The agent holds no connection, and what was asked of it is not kept."""


class Refused(PeerError):
    """The token is not accepted."""


class WrongToken(PeerError):
    """The token is not this agent's, or there is none."""
