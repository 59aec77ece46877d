"""Where the Redis listens that a cluster has started itself."""

import json

from tests.support.cluster_process import ClusterProcess


def redis_url(cluster: ClusterProcess) -> str:
    """Its URL, as the cluster has written it down. Raises: FileNotFoundError before the first start."""
    port = json.loads((cluster.folder / "data/redis/embedded.json").read_text())["port"]
    return f"redis://127.0.0.1:{port}/0"
