"""The settings in use as files to deploy with: systemd units, a compose file, Kubernetes manifests, on the basis of `deploy/`.

Owns which settings go where; starts nothing. Rules:

- Secrets are written to the one file that is meant for them, which its owner alone can read, and nowhere else.
- What belongs to this machine (folders, certificates) is left out, and so is what the basis decides itself: ports, where its Redis is.
- Nothing is overwritten. What was written is loaded as it will be: an export that could not start is an error here.
"""

import os
import re
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from cluster import config, config_text, environment
from cluster.config import Loaded
from cluster.errors import ConfigError
from cluster.redis_client import url_of
from cluster.settings import HIDDEN, keys

KINDS: Final = ("systemd", "compose", "kubernetes")
_OF_THIS_MACHINE: Final = frozenset(
    ("cluster.data_dir", "logging.dir", "logging.file", "server.tls_cert", "server.tls_key")
)
_WHERE_REDIS_IS: Final = frozenset(f"redis.{key}" for key in ("enabled", "addr", "password", "db", "url"))
_OF_CONTAINERS: Final = _WHERE_REDIS_IS | {"server.host", "server.port", "server.admin_host", "cluster.nodes"}
_PLAIN = re.compile(r"[A-Za-z0-9_@%+=:,./~-]*")
_BUILD = "  build:\n    context: ../..\n    dockerfile: deploy/docker/Dockerfile\n"
_ENV_FILES = "  env_file: [settings.env, secrets.env]\n"
_OF_THE_SOURCES = """\
#   REDIS_PASSWORD=$(openssl rand -hex 32) docker compose -f deploy/docker/compose.yaml up --build --wait
# deploy/docker/certs/ holds the certificate and its key, in one PEM file.
"""
_OF_THE_EXPORT = """\
#   docker compose -f compose.yaml up --wait
# certs/ holds the certificate and its key, in one PEM file; .env the password of Redis.
"""


@dataclass
class Export:
    """What was written: the folder, the files with secrets, and what an operator should know."""

    folder: Path
    secret_files: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def export(kind: str, loaded: Loaded, folder: Path) -> Export:
    """Writes the files of one of KINDS. Raises: ConfigError, when the folder holds something, or an export could not be used."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"--output {folder}: is there already, and not empty")
    made = Export(folder)
    try:
        {"systemd": _systemd, "compose": _compose, "kubernetes": _kubernetes}[kind](loaded, made)
    except (OSError, ConfigError) as error:
        shutil.rmtree(
            folder, ignore_errors=True
        )  # all that is in it is ours; half of it is of no use, and holds secrets
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"--output {folder}: {error.strerror or error}") from error
    left_out = sorted(_OF_THIS_MACHINE & loaded.given.keys())
    if left_out:
        made.notes.append(f"left out, as they belong to this machine: {', '.join(left_out)}")
    return made


def _systemd(loaded: Loaded, made: Export) -> None:
    shutil.copytree(_basis("systemd"), made.folder, dirs_exist_ok=True)
    file = made.folder / "config.yaml"
    file.write_text(_yaml(_sections(_open_values(loaded, _OF_THIS_MACHINE))), encoding="utf-8")
    given = _secrets(loaded, _OF_THIS_MACHINE)
    _write_secrets(made, made.folder / "secrets.env", {name: _quoted(name, text) for name, text in given.items()})
    _try(file, given)
    made.notes.append("README.md says where they go; config.yaml and secrets.env belong into /etc/agent-server")


def _compose(loaded: Loaded, made: Export) -> None:
    shutil.copytree(_basis("docker"), made.folder / "docker", ignore=shutil.ignore_patterns("Dockerfile*", "README.md"))
    shutil.copytree(_basis("haproxy"), made.folder / "haproxy", ignore=shutil.ignore_patterns("servers.cfg"))
    folder, left_out = made.folder / "docker", _OF_THIS_MACHINE | _OF_CONTAINERS | {"server.trusted_proxies"}
    file = folder / "compose.yaml"
    (folder / "certs").mkdir()
    text = file.read_text(encoding="utf-8").replace(_BUILD, _ENV_FILES).replace(_OF_THE_SOURCES, _OF_THE_EXPORT)
    file.write_text(text, encoding="utf-8")
    opened = {environment.name_of(n): environment.as_text(v) for n, v in _open_values(loaded, left_out).items()}
    (folder / "settings.env").write_text(
        "".join(f"{name}={_quoted(name, text)}\n" for name, text in opened.items()), encoding="utf-8"
    )
    given = _secrets(loaded, left_out)
    _write_secrets(made, folder / "secrets.env", {name: _quoted(name, text) for name, text in given.items()})
    _write_secrets(made, folder / ".env", {"REDIS_PASSWORD": secrets.token_hex(32)})
    _try(None, {**opened, **given})
    made.notes.append("the compose file brings a Redis of its own, with a new password")
    made.notes.append(
        f"docker compose -f {file} up --wait, once the image is there and {folder / 'certs'} holds a certificate"
    )


def _kubernetes(loaded: Loaded, made: Export) -> None:
    """Overlay `ha` where a Redis is configured, else `single`, which brings one."""
    shutil.copytree(
        _basis("kubernetes"), made.folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("secrets.env", "dev")
    )
    settings, left_out = loaded.settings, _OF_THIS_MACHINE | _OF_CONTAINERS
    overlay = "ha" if settings.redis.enabled else "single"
    file = made.folder / ("overlays/ha" if settings.redis.enabled else "base") / "config.yaml"
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    for section, values in _sections(_open_values(loaded, left_out)).items():
        content.setdefault(section, {}).update(values)
    content.setdefault("auth", {})["require_signature"] = settings.auth.require_signature
    file.write_text(_yaml(content), encoding="utf-8")
    redis = (
        {"AGENT_SERVER_REDIS_URL": url_of(settings.redis)}
        if settings.redis.enabled
        else {"AGENT_SERVER_REDIS_PASSWORD": secrets.token_hex(32)}
    )
    given = {**redis, **_secrets(loaded, left_out)}
    _write_secrets(made, made.folder / "overlays" / overlay / "secrets.env", given)
    _try(file, given)
    made.notes.append(
        f"kubectl apply -k {made.folder / 'overlays' / overlay}, once the host name in its kustomization.yaml, trusted_proxies in config.yaml"
        " and the way to Redis in network.yaml are yours"
    )


# ---- parts


def _basis(name: str) -> Path:
    """A folder of `deploy/`: as it travels with the package, or beside it in a checkout."""
    here = Path(__file__).parent
    packed = here / "deploy" / name
    return packed if packed.is_dir() else here.parent / "deploy" / name


def _open_values(loaded: Loaded, left_out: frozenset[str]) -> dict[str, Any]:
    """What was given and is no secret, by key."""
    values = config_text.values(loaded)
    return {name: values[name] for name in loaded.given if name not in left_out and not _is_hidden(values[name])}


def _secrets(loaded: Loaded, left_out: frozenset[str]) -> dict[str, str]:
    """Secrets that are set, and URLs with credentials, by variable."""
    hidden = [name for name, value in config_text.values(loaded).items() if _is_hidden(value) and name not in left_out]
    found = {name: getattr(getattr(loaded.settings, keys()[name].section), keys()[name].attribute) for name in hidden}
    return {environment.name_of(name): str(value) for name, value in found.items()}


def _is_hidden(value: object) -> bool:
    return isinstance(value, str) and HIDDEN in value


def _sections(values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        section, _, key = name.partition(".")
        found.setdefault(section, {})[key] = value
    return found


def _yaml(content: Mapping[str, Any]) -> str:
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True) if content else ""


def _quoted(name: str, text: str) -> str:
    """As systemd and compose read it in a file of variables: neither looks into single quotes."""
    if _PLAIN.fullmatch(text):
        return text
    if "'" in text:
        raise ConfigError(f"{name}: a value with a single quote cannot be exported")
    return f"'{text}'"


def _write_secrets(made: Export, path: Path, variables: Mapping[str, str]) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.writelines(f"{name}={text}\n" for name, text in variables.items())
    made.secret_files.append(path)


def _try(file: Path | None, environ: Mapping[str, str]) -> None:
    """Raises: ConfigError when what was written cannot be loaded."""
    config.load(str(file) if file else os.devnull, environ=environ)
