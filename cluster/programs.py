"""What the processes of one machine are run as: their names, CPUs, sockets, arguments and environment.

Must not know when they run (`launcher`). Rules:
- Names are unique among all that share a Redis: `n1` where it is this machine's own, `<host>-n1` where other machines may use it too.
- Settings reach a child by the same file and environment, and flags as AGENT_SERVER_<SECTION>_<KEY>; what we decided ourselves goes last.
- Children import our packages and not what happens to lie in the working directory.
"""

import os
import re
import site
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit

from cluster import environment, ports
from cluster.process import Program
from cluster.settings import Redis, Settings, keys, without_url_credentials

_FORBIDDEN_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]")
_LONGEST_HOST = 40
_TUNING = ("redis.pool_size", "redis.min_idle", "redis.max_idle", "redis.idle_timeout", "redis.wait_timeout")


@dataclass(frozen=True)
class Commands:
    """How a router and a node are run; their arguments follow."""

    router: tuple[str, ...]
    node: tuple[str, ...]


@dataclass(frozen=True)
class Post:
    """A place in the cluster that a process fills, and another one after its death."""

    name: str
    cpu: int
    admin: socket.socket
    public: socket.socket | None = None
    handover: str = ""

    @property
    def address(self) -> str:
        """Where it listens, for eyes."""
        admin = f"admin {ports.url(self.admin)}"
        return f"{ports.url(self.public)}, {admin}" if self.public else admin


def of_this_python() -> Commands:
    """The router and the node that came with this package."""
    return Commands(module_command("router"), module_command("node"))


def module_command(module: str) -> tuple[str, ...]:
    """Runs one of our packages; -P leaves the working directory out, where a folder of the same name may lie."""
    return (sys.executable, "-P", "-m", module)


def child_environ(environ: Mapping[str, str], decided: Mapping[str, object]) -> dict[str, str]:
    """The environment that tells a child these settings; other names of the same keys are taken out."""
    names = {name for key in decided for name in environment.names_of(keys()[key])}
    kept = {name: value for name, value in environ.items() if name not in names}
    return {**kept, **_python_path(environ), **environment.as_environment(decided)}


def how_to_reach(url: str, redis: Redis) -> dict[str, object]:
    """Settings that lead a child to the embedded Redis; the rest is as loaded, where what nobody could read became a default."""
    rest = {key: getattr(redis, keys()[key].attribute) for key in _TUNING}
    return {**rest, "redis.enabled": True, "redis.url": url}


def where_it_is(redis: Redis) -> str:
    """A configured Redis for eyes: its URL without a password."""
    return without_url_credentials(redis.url) or f"redis://{redis.addr}/{redis.db}"


def node_count(settings: Settings) -> int:
    """How many nodes run on this machine."""
    return settings.cluster.nodes or max(2, len(_cpus()) - 1)


def version() -> str:
    """Of this package, as it was installed; "" when it was not."""
    try:
        return metadata.version("agent-server")
    except metadata.PackageNotFoundError:
        return ""


def host_name() -> str:
    """This machine's name, as far as it fits into the name of a process."""
    return _FORBIDDEN_IN_NAMES.sub("-", socket.gethostname().partition(".")[0])[:_LONGEST_HOST] or "host"


def own_name(redis: Redis) -> str:
    """What the names of this machine's processes begin with: nothing, unless other machines may reach the same Redis."""
    host = urlsplit(redis.url or f"redis://{redis.addr}").hostname or ""
    is_ours = not redis.enabled or host in {"", "localhost", "::1"} or host.startswith("127.")
    return "" if is_ours else host_name()


def posts(
    name: str, public: socket.socket, admins: Sequence[socket.socket], handovers: Path
) -> tuple[Post, list[Post]]:
    """The router's post and the nodes', dealt out to the CPUs in turn. `name` begins their names, `admins` with the router's."""
    cpus = _cpus()
    prefix = f"{name}-" if name else ""
    router = Post(f"{prefix}r1", cpus[0], admins[0], public=public)
    nodes = [
        Post(f"{prefix}n{number}", cpus[number % len(cpus)], admin, handover=str(handovers / f"n{number}.sock"))
        for number, admin in enumerate(admins[1:], start=1)
    ]
    return router, nodes


def program(post: Post, command: tuple[str, ...], config_path: str | None, environ: Mapping[str, str]) -> Program:
    """What fills a post."""
    sockets = [post.admin, post.public] if post.public else [post.admin]
    arguments = ["--id", post.name, "--cpu", str(post.cpu), "--admin-fd", str(post.admin.fileno()), "--supervised"]
    if config_path:
        arguments += ["--config", config_path]
    if post.public:
        arguments += ["--listen-fd", str(post.public.fileno())]
    if post.handover:
        arguments += ["--handover", post.handover]
    return Program(post.name, (*command, *arguments), environ, tuple(sock.fileno() for sock in sockets))


def _cpus() -> list[int]:
    return sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else list(range(os.cpu_count() or 1))


def _python_path(environ: Mapping[str, str]) -> dict[str, str]:
    """A checkout that is not installed is found by PYTHONPATH; what is installed is found anyway, behind the standard library."""
    root = str(Path(__file__).resolve().parents[1])
    if root in (*site.getsitepackages(), site.getusersitepackages()):
        return {}
    present = environ.get("PYTHONPATH", "")
    return {"PYTHONPATH": os.pathsep.join(filter(None, (root, present)))}
