"""The calls that post tasks, answered without an application: most of what control planes ask, and all that they ask in a hurry.

A shortcut of the HTTP protocol, which has judged the request's head and holds the whole of its body. Owns the calls that it took until
they are answered. Knows the rules of no call: signature, decoding, acceptance and answers are those of the ordinary way.

Rules:

- What is unusual in any way is declined, before anything was done about it, and goes the ordinary way: another path or method, a signature
  or a body that is not good. So what is said to a bad request is said in one place.
- What was taken is answered within `WITHIN_S`, as in `router.in_time`: one timer looks after all of them.
"""

import asyncio
import logging
import re
from functools import partial

from msgspec.structs import replace

from cluster.acceptance import Acceptance, Outcome
from cluster.errors import BadInput, PeerError, StoreUnavailable, UnknownAgent
from cluster.exchange import Exchange, answer_json, answer_with
from cluster.hosts import NO_SUCH_HOST, Hosts
from cluster.mailbox import Accepted, Post
from cluster.replies import reply_to, reply_to_fault
from cluster.security import Signer
from router import posting
from router.in_time import LATE, WITHIN_S
from router.signature import refusal_of

_PATH = re.compile(r"/api/agents/(?P<agent>[A-Za-z0-9._-]{1,64})/tasks(?P<batch>/batch)?/?")

logger = logging.getLogger(__name__)


class HotCalls:
    """A `cluster.http_protocol.Shortcut`."""

    def __init__(self, acceptance: Acceptance, hosts: Hosts, signer: Signer | None) -> None:
        """`signer`: None where calls need no signature."""
        self._acceptance = acceptance
        self._hosts = hosts
        self._signer = signer
        self._under_way: dict[Exchange, float] = {}  # and until when; the oldest first
        self._timer: asyncio.TimerHandle | None = None

    def __call__(self, exchange: Exchange) -> bool:
        """Takes this request, or declines it."""
        scope = exchange.scope
        found = _PATH.fullmatch(scope["path"]) if scope["method"] == "POST" else None
        if found is None:
            return False
        body = exchange.body
        if self._signer is not None and refusal_of(self._signer, scope, body):
            return False
        try:
            post = (posting.batch if found["batch"] else posting.single)(found["agent"], body)
        except BadInput:
            return False
        self._wait(exchange)
        if post.agent_id.isdigit():
            self._hosts.find(int(post.agent_id)).add_done_callback(partial(self._on_host, exchange, post))
        else:
            self._put(exchange, post)
        return True

    def _on_host(self, exchange: Exchange, post: Post, sought: asyncio.Future[str | None]) -> None:
        error = sought.exception()
        agent_id = None if error else sought.result()
        if exchange not in self._under_way:  # it was told that it took too long
            return
        if agent_id is None:
            self._refuse(exchange, error or UnknownAgent(NO_SUCH_HOST))
        else:
            self._put(exchange, replace(post, agent_id=agent_id))

    def _put(self, exchange: Exchange, post: Post) -> None:
        self._acceptance.put(post).add_done_callback(partial(self._on_outcome, exchange, post))

    def _on_outcome(self, exchange: Exchange, post: Post, asked: asyncio.Future[Outcome]) -> None:
        outcome = asked.exception() or asked.result()
        if not isinstance(outcome, Accepted):
            self._refuse(exchange, outcome)
        elif self._under_way.pop(exchange, None) is not None:
            told = posting.told_batch if post.batch else posting.told_single
            answer_json(exchange, told(post, outcome))

    def _refuse(self, exchange: Exchange, why: BaseException) -> None:
        if self._under_way.pop(exchange, None) is None:
            return
        if isinstance(why, PeerError | StoreUnavailable):
            answer_with(exchange, reply_to(why))
        else:
            logger.error("POST %s failed", exchange.scope["path"], exc_info=why)
            answer_with(exchange, reply_to_fault())

    # ---- in time

    def _wait(self, exchange: Exchange) -> None:
        loop = asyncio.get_running_loop()
        self._under_way[exchange] = loop.time() + WITHIN_S
        if self._timer is None:
            self._timer = loop.call_later(WITHIN_S, self._look_at_the_clock)

    def _look_at_the_clock(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = None
        late = [exchange for exchange, deadline_s in self._under_way.items() if deadline_s <= loop.time()]
        for exchange in late:
            del self._under_way[exchange]
        if self._under_way:
            self._timer = loop.call_at(next(iter(self._under_way.values())), self._look_at_the_clock)
        for exchange in late:  # an answer lets the next call of its connection come in
            answer_with(exchange, reply_to(LATE))
