"""Who is examined: the cluster that the settings and flags mean, and what of it was asked before any check."""

from dataclasses import dataclass

from cluster.client.doctor import redis_says
from cluster.client.doctor.redis_says import RedisSays
from cluster.client.options import Cluster
from cluster.client.outcome import Failed
from cluster.client.streams import redis_of
from cluster.errors import ConfigError
from cluster.settings import Settings

FEEDS = ("log_stream", "result_stream", "status_stream", "task_stats_stream")


@dataclass(frozen=True)
class Patient:
    """`url`: where agents and the control plane are said to reach it; `idle_s`: how long a connection is to be held idle, 0 = not."""

    settings: Settings
    redis: RedisSays
    url: str
    admin_url: str = ""
    secret: str = ""
    idle_s: float = 0.0


async def admitted(cluster: Cluster, url: str, idle_s: float = 0.0) -> Patient:
    """The patient, with what Redis says."""
    settings = cluster.settings
    try:
        said = await redis_says.ask(redis_of(settings), feeds_of(settings))
    except Failed as error:
        said = RedisSays(error=str(error))
    try:
        admin_url = cluster.admin_url
    except ConfigError:
        admin_url = ""
    return Patient(settings, said, url, admin_url, settings.auth.shared_secret, idle_s)


def feeds_of(settings: Settings) -> list[str]:
    """The streams that are written."""
    return [getattr(settings, name).key for name in FEEDS if getattr(settings, name).enabled]
