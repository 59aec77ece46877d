"""A configuration as text: what loading it gives, or says."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from cluster import settings
from cluster.config import Loaded, load
from cluster.errors import ConfigError

SECRET = "correct-horse-battery"

# Every key of the Go server, as its own files write them, and what becomes of it here.
GO_FILE = """
server: {host: "0.0.0.0", port: 8080, read_timeout: "30s", write_timeout: "1m30s"}
websocket:
  handshake_timeout: "10s"
  read_buffer_size: 4096
  write_buffer_size: 4096
  enable_compression: true
  allowed_origins: []
agent: {heartbeat_timeout: "60s", max_connections: 1000, task_queue_size: 100, cleanup_interval: "30s"}
auth: {shared_secret: "", require_signature: false, clock_skew: "300s"}
control_plane:
  url: "http://localhost:8000"
  token: "server-auth-token"
  timeout: "30s"
  task_poll_interval: "5s"
  scope: "default"
logging:
  level: "info"
  file: "logs/agent-server.log"
  dir: ""
  max_size: 100
  max_files: 10
  max_age: 7
  format: "json"
  report_caller: true
log_stream: {enabled: true, key: "agent_logs", buffer_size: 1000, batch_size: 50, flush_interval: 2000}
result_stream: {enabled: true, key: "agent_results", push_interval: 30}
status_stream: {enabled: true, key: "agent_status", push_interval: 30}
task_stats_stream: {enabled: true, key: "agent_task_stats", push_interval: 30}
redis:
  enabled: true
  addr: "redis:6379"
  password: ""
  db: 0
  pool_size: 10
  min_idle: 2
  max_idle: 5
  idle_timeout: "300s"
  wait_timeout: "3s"
"""


def from_file(text: str, environ: Mapping[str, str] | None = None, flags: Mapping[str, object] | None = None) -> Loaded:
    """What a file of this text, in the working directory, gives."""
    Path("given.yaml").write_text(text, encoding="utf-8")
    return load("given.yaml", environ=environ or {}, flags=flags or {})


def value(loaded: Loaded, name: str) -> object:
    """One setting by its name in the file."""
    key = settings.keys()[name]
    return getattr(getattr(loaded.settings, key.section), key.attribute)


def problem(text: str = "", environ: Mapping[str, str] | None = None, flags: Mapping[str, object] | None = None) -> str:
    """The words of the ConfigError, which are always one line."""
    with pytest.raises(ConfigError) as caught:
        from_file(text, environ, flags)
    words = str(caught.value)
    assert words.isprintable(), words
    return words
