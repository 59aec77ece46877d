"""Rendering of `deploy/kubernetes` with a real kustomize of version 5: the program itself, or the one inside kubectl.

An overlay is rendered from a copy, with secrets from its example, as an operator fills them in.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

from tests.support.required_tool import missing

KUBERNETES = Path(__file__).parents[2] / "deploy" / "kubernetes"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "agent-server" / "bin"
SECRET = "a-secret-of-the-test"
_VERSION = re.compile(r"(?:Kustomize Version: )?v(\d+)\.\d+\.\d+")
Object = dict[str, Any]


def kustomize() -> list[str]:
    """A command that renders a folder. Raises: pytest's Skipped, or Failed where CI is set."""
    path = f"{CACHE}{os.pathsep}{os.environ.get('PATH', '')}"
    for name, ask, render in (
        ("kustomize", ["version"], ["build"]),
        ("kubectl", ["version", "--client"], ["kustomize"]),
    ):
        program = shutil.which(name, path=path)
        if program and _major([program, *ask]) >= 5:
            return [program, *render]
    return missing("there is no kustomize 5 on this machine, nor a kubectl that carries it")


def rendered(overlay: str, folder: Path) -> list[Object]:
    """The objects of an overlay. Raises: CalledProcessError; pytest's Skipped or Failed."""
    command = kustomize()
    copy = folder / "kubernetes"
    shutil.copytree(KUBERNETES, copy, ignore=shutil.ignore_patterns("secrets.env"))
    for example in copy.rglob("secrets.env.example"):
        filled = re.sub(r"^(\w+)=$", rf"\1={SECRET}", example.read_text(), flags=re.MULTILINE)
        example.with_suffix("").write_text(filled)
    done = subprocess.run([*command, str(copy / "overlays" / overlay)], check=True, capture_output=True, text=True)
    return [found for found in yaml.safe_load_all(done.stdout) if found]


def _major(ask: list[str]) -> int:
    """Of the kustomize that this program is, or carries; 0 where it does not say."""
    said = subprocess.run(ask, check=False, capture_output=True, text=True).stdout
    lines = [line for line in said.splitlines() if "ustomize" in line or line.startswith("v")]
    found = _VERSION.search(lines[-1]) if lines else None
    return int(found.group(1)) if found else 0
