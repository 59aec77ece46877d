"""Checks of what Redis says of itself. They look at answers, and ask nothing."""

from statistics import median

from cluster.client.doctor.finding import Finding, broken, ok, unchecked, warning
from cluster.client.doctor.patient import Patient
from cluster.redis_client import LOWEST_VERSION, REQUEST_TIMEOUT_S

SLOW_MS = 5.0  # a durable result takes two round trips
LONG_FORK_MS = 200.0  # nothing is answered meanwhile
FILLING, FULL = 0.8, 0.95
_MIB = 1 << 20
_AWAY = "Redis does not answer"


async def reachable(patient: Patient) -> Finding:
    """Whether it answers at all."""
    if patient.redis.error:
        fix = "start it, or correct redis.url (AGENT_SERVER_REDIS_URL) and its password; --redis-url or --data-dir name another"
        return broken(patient.redis.error, fix)
    return ok(f"answers, {len(patient.redis.round_trips_ms)} times of {len(patient.redis.round_trips_ms)}")


async def version(patient: Patient) -> Finding:
    """6.2 or newer."""
    text = str(patient.redis.info.get("redis_version", ""))
    if not text:
        return _untold(patient, "its version")
    if tuple(int(part) for part in text.split(".")[:2]) < LOWEST_VERSION:
        return broken(f"Redis {text}", "upgrade it: 6.2 or newer is needed")
    return ok(f"Redis {text}")


async def persistence(patient: Patient) -> Finding:
    """The append-only file, and how often it reaches the disk."""
    info = patient.redis.info
    if "aof_enabled" not in info:
        return _untold(patient, "whether it persists")
    if not int(info["aof_enabled"]):
        return broken(
            "appendonly is no: tasks that were accepted are lost when Redis restarts",
            "CONFIG SET appendonly yes, and appendonly yes in redis.conf",
        )
    failed = [name for name in ("aof_last_write_status", "aof_last_bgrewrite_status") if info.get(name, "ok") != "ok"]
    if failed:
        return broken(f"{failed[0]} is {info[failed[0]]}", "look into Redis's log: most often its disk is full")
    fsync = patient.redis.config.get("appendfsync", "")
    if fsync == "no":
        return warning(
            "appendonly is yes, but appendfsync is no: a power cut loses what the kernel had not written, 30 s and more",
            "CONFIG SET appendfsync everysec",
        )
    return ok(f"append-only file, appendfsync {fsync or 'is not told'}")


async def eviction(patient: Patient) -> Finding:
    """Nothing may be deleted to make room."""
    policy = str(patient.redis.info.get("maxmemory_policy", ""))
    if not policy:
        return _untold(patient, "its maxmemory-policy")
    if policy != "noeviction":
        says = f"maxmemory-policy is {policy}: a full Redis deletes tasks silently"
        fix = "CONFIG SET maxmemory-policy noeviction, and the same in redis.conf"
        return warning(says, fix) if patient.settings.redis.allow_eviction else broken(says, fix)
    return ok("noeviction")


async def memory(patient: Patient) -> Finding:
    """Used, and what is left."""
    info = patient.redis.info
    if "used_memory" not in info:
        return _untold(patient, "how much memory it uses")
    used, limit, machine = (int(info.get(name, 0)) for name in ("used_memory", "maxmemory", "total_system_memory"))
    bound = limit or machine
    of_what = "maxmemory" if limit else "the machine's memory, no maxmemory"
    says = (
        f"{used / _MIB:.0f} MiB used of {bound / _MIB:.0f} MiB ({of_what})" if bound else f"{used / _MIB:.0f} MiB used"
    )
    if bound and used > FILLING * bound:
        fix = "give it more memory (maxmemory), or trim feeds: lower keep, max_len and max_age of the *_stream sections"
        return (broken if used > FULL * bound else warning)(f"{says}: once it is full, every write is refused", fix)
    if not limit and machine:
        return ok(f"{says}; without maxmemory the kernel ends Redis when the machine is full")
    return ok(f"{says}, {(bound - used) / _MIB:.0f} MiB left" if bound else says)


async def latency(patient: Patient) -> Finding:
    """Round trips from here, and what held Redis up."""
    trips = sorted(patient.redis.round_trips_ms)
    if not trips:
        return unchecked(_AWAY)
    says = f"round trip {median(trips):.2f} ms, worst {trips[-1]:.2f} ms of {len(trips)}"
    fork_ms = int(patient.redis.info.get("latest_fork_usec", 0)) / 1000
    says += f"; last fork {fork_ms:.0f} ms" if fork_ms else ""
    if trips[-1] > REQUEST_TIMEOUT_S * 500:
        return broken(
            says, f"calls are given up after {REQUEST_TIMEOUT_S:g} s: bring Redis nearer, or relieve its machine"
        )
    if median(trips) > SLOW_MS:
        return warning(says, "run nodes and routers in Redis's own network; each result takes two round trips")
    if fork_ms > LONG_FORK_MS:
        return warning(
            f"{says}, during which nothing is answered",
            "transparent huge pages off on Redis's machine, smaller feeds, or a machine with faster memory",
        )
    return ok(says)


async def rights(patient: Patient) -> Finding:
    """What this user of Redis may not do."""
    if not patient.redis.answers:
        return unchecked(_AWAY)
    forbidden = patient.redis.forbidden
    if forbidden:
        names = sorted({line.partition(":")[0] for line in forbidden})
        return broken(
            f"this user of Redis may not: {', '.join(names)}",
            "ACL SETUSER <user> ~<redis.prefix>* ~<each feed> +@all -@admin -@dangerous +info, or as little as is named here",
            *forbidden[:20],
        )
    return ok("every command that nodes and routers give is allowed")


def _untold(patient: Patient, what: str) -> Finding:
    if not patient.redis.answers:
        return unchecked(_AWAY)
    return unchecked(f"this Redis does not tell {what}")
