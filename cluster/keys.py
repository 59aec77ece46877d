"""Every Redis key of the cluster: its name, type, owner and time to live. No other module spells a key.

An agent belongs to a shard, a hash of its id; the keys of a shard carry one hash tag, so that a script about an agent touches one slot.
`<p>` is `redis.prefix`, which keeps these keys apart from the control plane's and from the Go server's.

| key | type | lives | holds |
| --- | --- | --- | --- |
| `<p>meta` | hash | for ever | schema, shards, and the key from which agent ids are made |
| `<p>{s}:owners` | hash | - | agent id -> `node:boot:epoch`: ownership |
| `<p>{s}:agent:<id>` | hash | until forgotten | profile, token hash, incarnation, epoch, mailbox cursors, status |
| `<p>{s}:agents` | zset | - | agent id -> ms at which an agent that stays away is forgotten: the directory |
| `<p>{s}:lease:<id>` | string, PX | last heard + timeout | `node:boot:epoch`; its expiry is the heartbeat timeout |
| `<p>{s}:deadlines` | zset | - | agent id -> ms at which its lease ends: finds expiries that were not notified |
| `<p>{s}:mail:<id>` | zset | while tasks are open | task id -> sequence: what has not ended, in order |
| `<p>{s}:cancels:<id>` | zset | while they are open | task id -> number of the cancel: what is to be told to every session |
| `<p>{s}:task:<id>:<task>` | hash | while open or owed, then 25 h | one task's record |
| `<p>{s}:strangers` | hash, PX | 25 h | agent id -> how often it spoke of tasks that nobody knows |
| `<p>{s}:due` | zset | - | `<id>:<task>` -> ms at which it must have ended |
| `<p>{s}:pending` | zset | - | agent id -> ms since when, at the earliest, a task waits that was never handed out (see oldest.lua) |
| `<p>{s}:unfed` | hash | - | message id -> entry owed to a feed |
| `<p>{s}:ledger` | hash | - | how many tasks were accepted and ended, how many entries owed and paid |
| `<p>host:<host_id>` | string | until forgotten | agent id |
| `<p>node:{<id>}` | hash, PX | 4 s after the last beat | boot, address, load, state |
| `<p>nodes` | set | - | node ids |
| `<p>inbox:{<node>}` | stream | 60 s after the last beat | router -> node |
| feeds | stream | trimmed | named by the configuration, without prefix: the control plane reads them |
| `<p>{<feed>}:seen`, `:seen:0`, `:seen:1` | string, sets | 2 generations | hashes of the message ids already written |
| `<p>{<feed>}:epochs` | hash | until forgotten | status feed: agent id -> epoch of its newest entry |
| `<p>{<feed>}:execution:<id>` | hash | 24 h after a change | results feed: progress of an execution |
"""

from zlib import crc32

SCHEMA = "1"
RECORD_MS = 25 * 3_600_000  # an ended task's record outlives a Go agent's outbox, which replays up to 24 h


class Keys:
    """Spells keys for one prefix and one number of shards."""

    def __init__(self, prefix: str, shards: int) -> None:
        self.prefix = prefix
        self.shards = shards
        self._tags = [f"{prefix}{{s{n}}}:" for n in range(shards)]
        self.meta = f"{prefix}meta"
        self.nodes = f"{prefix}nodes"

    def shard(self, agent_id: str) -> int:
        """The shard of an agent: the same on every machine and in every version."""
        return crc32(agent_id.encode()) % self.shards if self.shards > 1 else 0

    def in_shard(self, shard: int, name: str) -> str:
        """A key of a shard: `owners`, `agents`, `deadlines`, `due`, `pending`, `unfed`, `strangers`, `ledger`, or the head of a per-agent key."""
        return self._tags[shard] + name

    def of_agent(self, name: str, agent_id: str) -> str:
        """A key of one agent: `agent`, `lease`, `mail` or `cancels`."""
        return f"{self._tags[self.shard(agent_id)]}{name}:{agent_id}"

    def task(self, agent_id: str, task_id: str) -> str:
        """A task's record. Agent ids hold no colon, so that no two pairs share a key."""
        return f"{self._tags[self.shard(agent_id)]}task:{agent_id}:{task_id}"

    def host(self, host_id: str) -> str:
        """Which agent a host id belongs to."""
        return f"{self.prefix}host:{host_id}"

    def node(self, node_id: str) -> str:
        """A node's announcement."""
        return f"{self.prefix}node:{{{node_id}}}"

    def inbox(self, node_id: str) -> str:
        """A node's inbox."""
        return f"{self.prefix}inbox:{{{node_id}}}"

    def of_feed(self, feed: str, name: str) -> str:
        """A key that must share the slot of a feed. The whole name of the feed is its hash tag."""
        return f"{self.prefix}{{{feed}}}:{name}"
