"""The product with one thing changed: `python -m tests.support.altered NAME start --config FILE`, its nodes and router changed alike.

Owns the changes, by name. Some break a promise on purpose, so that a test can see that it is noticed; others make what takes long come
soon, or a clock wrong. The product itself has no switch for any of it: a change reaches into its modules when a process starts, and
fails there when what it changes is not as it was.

| name | what it does |
| --- | --- |
| acks_early | a node acks what it has only read |
| ends_twice | neither the record nor the feed refuses a second end of a task |
| runs_again | a task that may have run goes to a new process of its agent although nobody asked for it |
| first_wins | a newer connection does not become the owner, and the older one is not closed |
| never_renews | a node lets the leases of living agents run out |
| never_sweeps | a router does not look for leases that ran out |
| keeps_due | a task that ended stays among those that are due |
| tells_tokens | a token stands in the log |
| away_soon | Redis counts as away for too long after 4 s |
| hour_ahead | the clocks of node n1 are an hour ahead |
"""

import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cluster import cli, programs, scripts, security
from cluster.inbox import Inbox
from cluster.service import main
from node import app as node_app
from node import presence, uplink
from node.presence import Presence
from router import app as router_app
from router.reaper import Reaper

_MODULE = "tests.support.altered"
AWAY_S = 4.0
AHEAD_S = 3600
CLOCK_SAYS = "the clock says "  # on standard error, when it is wrong


def start_with(name: str) -> tuple[str, ...]:
    """The command line of a cluster with this change, for ClusterProcess. Raises: KeyError."""
    assert name in CHANGES
    return (sys.executable, "-m", _MODULE, name, "start")


def _acks_early(_: Sequence[str]) -> None:
    put = uplink.Lane.put

    def put_and_ack(lane: uplink.Lane[uplink.Item], item: uplink.Item) -> None:
        put(lane, item)
        uplink._acknowledge([item])

    _put(uplink.Lane, "put", put_and_ack)


def _ends_twice(_: Sequence[str]) -> None:
    _rewrite(
        ("tell", "local open = state", "local open = true or state"),
        ("tell", "ENDED[state] and task or items[at + 1]", "items[at + 16]"),  # the message id
    )


def _runs_again(_: Sequence[str]) -> None:
    _rewrite(("resume", "ARGV[6] == 'fail'", "ARGV[6] == 'never'"))


def _first_wins(_: Sequence[str]) -> None:
    async def say_nothing(*_: object) -> None: ...

    _put(Inbox, "close", say_nothing)
    _rewrite(("claim", "redis.call('HSET', KEYS[1], id, mine)", "redis.call('HSETNX', KEYS[1], id, mine)"))


def _never_renews(_: Sequence[str]) -> None:
    _put(Presence, "_due", lambda *_: [])


def _never_sweeps(_: Sequence[str]) -> None:
    async def look_away(_: Reaper) -> None: ...

    _put(Reaper, "_expire_leases", look_away)


def _keeps_due(_: Sequence[str]) -> None:
    _rewrite(("tell", "gone(due, agent .. ':' .. task)", ""))


def _tells_tokens(_: Sequence[str]) -> None:
    token_hash = security.token_hash

    def tell(token: str) -> str:
        logging.getLogger(_MODULE).warning("the token %s", token)
        return token_hash(token)

    _put(security, "token_hash", tell)


def _away_soon(_: Sequence[str]) -> None:
    assert presence.AWAY_S > AWAY_S
    _put(presence, "AWAY_S", AWAY_S)


def _hour_ahead(arguments: Sequence[str]) -> None:
    if arguments[arguments.index("--id") + 1] == "n1":
        now_s, now_ns = time.time, time.time_ns
        _put(time, "time", lambda: now_s() + AHEAD_S)
        _put(time, "time_ns", lambda: now_ns() + AHEAD_S * 10**9)
        sys.stderr.write(f"{CLOCK_SAYS}{time.time():.0f}\n")


CHANGES: Mapping[str, Callable[[Sequence[str]], None]] = {
    "acks_early": _acks_early, "ends_twice": _ends_twice, "runs_again": _runs_again, "first_wins": _first_wins,
    "never_renews": _never_renews, "never_sweeps": _never_sweeps, "keeps_due": _keeps_due, "tells_tokens": _tells_tokens,
    "away_soon": _away_soon, "hour_ahead": _hour_ahead,
}  # fmt: skip


def _put(where: Any, name: str, what: object) -> None:
    """In the place of what is there. Raises: AssertionError when nothing is."""
    assert hasattr(where, name), f"{where} has no {name}"
    setattr(where, name, what)


def _rewrite(*changes: tuple[str, str, str]) -> None:
    """Scripts with other words in them: (script, words, others). Raises: AssertionError where a script does not have the words."""
    text = scripts.text
    changed: dict[str, str] = {}
    for name, old, new in changes:
        before = changed.get(name, text(name))
        changed[name] = before.replace(old, new)
        assert changed[name] != before, f"{name} does not say {old}"
    _put(scripts, "text", lambda name: changed.get(name) or text(name))


def _run_part(name: str, role: str, arguments: Sequence[str]) -> int:
    """A node or a router, changed."""
    CHANGES[name](arguments)
    return main(role, node_app.serve if role == "node" else router_app.serve, arguments)


def _run_cluster(name: str, arguments: Sequence[str]) -> int:
    """The supervisor, which is as it was, and starts changed children."""
    _put(programs, "module_command", lambda module: (sys.executable, "-P", "-m", _MODULE, name, "-m", module))
    return cli.run(arguments)


def _main(name: str, *arguments: str) -> int:
    if arguments[0] == "-m":
        return _run_part(name, arguments[1], arguments[2:])
    return _run_cluster(name, arguments)


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
