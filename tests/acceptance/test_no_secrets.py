"""Nothing that is logged, measured or answered, and no command line, holds a secret: at debug level, with mistakes of every side."""

import re
from pathlib import Path

from tests.acceptance.canaries import CANARIES, TASK, provoke, watched
from tests.support.cluster_process import ClusterProcess
from tests.support.http_client import HttpClient
from tests.support.redis_server import RedisServer
from tests.support.required_redis import require_redis


async def test_no_secret_is_logged_measured_answered_or_shown_to_ps(tmp_path: Path) -> None:
    require_redis("7.0")
    with RedisServer(tmp_path / "redis") as redis:
        async with watched(tmp_path / "cluster", redis) as cluster:
            answers = await provoke(cluster, redis)
            texts = {f"answer {number}": answer.body.decode() for number, answer in enumerate(answers)}
            texts |= {f"headers {number}": str(answer.headers) for number, answer in enumerate(answers)}
            texts |= {f"argv of {child.pid}": " ".join(child.argv) for child in cluster.children()}
            texts |= await _pages(cluster)
            logs = {path.name: path.read_text() for path in (cluster.folder / "logs").iterdir()}
            texts |= logs | {"output": cluster.output(1 << 20)}
    found = {(name, canary) for name, text in texts.items() for canary, word in CANARIES.items() if word in text}
    assert not found
    everything = "".join(logs.values())
    assert TASK in everything  # what was looked through is what was said
    assert '"log.level":"debug"' in everything
    assert '"error.stack_trace"' in everything


async def _pages(cluster: ClusterProcess) -> dict[str, str]:
    urls = re.findall(r"http://127\.0\.0\.1:\d+", cluster.stdout.read_text())
    assert len(urls) >= 4
    answers = {url: await HttpClient(url).request("GET", "/metrics") for url in urls}
    pages = {f"metrics of {url}": answer.body.decode() for url, answer in answers.items() if answer.status == 200}
    assert len(pages) >= 3
    return pages
