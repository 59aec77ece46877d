"""Checks a built wheel: it carries every file of the packages, and its command line runs away from the sources.

Run by .ci/run as `python .ci/check_wheel.py <wheel>`; says what is missing and exits with 1.
"""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("cluster", "node", "router")


def sources() -> set[str]:
    """What a wheel must carry: code, scripts, the pages about them, the mark of typed packages, and what `export` and `config show` write."""
    files = {
        p for package in PACKAGES for p in (ROOT / package).rglob("*") if p.suffix in {".py", ".lua", ".md", ".typed"}
    }
    listed = subprocess.run(["git", "ls-files", "deploy"], cwd=ROOT, check=True, capture_output=True, text=True)
    deploy = {f"cluster/{name}" for name in listed.stdout.splitlines()}
    return {str(p.relative_to(ROOT)) for p in files} | deploy | {"cluster/config.yaml.example"}


def surplus_or_missing(wheel: Path) -> list[str]:
    """One line a difference between the wheel and the sources."""
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    wanted = sources()
    return [*(f"missing: {name}" for name in wanted - packed), *(f"surplus: {name}" for name in packed - wanted)]


def command_line_of(wheel: Path, folder: str) -> str:
    """What `agent-server --help` prints when only the wheel can be imported. Raises: CalledProcessError."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", folder, str(wheel)]
    subprocess.run(pip, check=True)
    command = [f"{folder}/bin/agent-server", "--help"]
    done = subprocess.run(command, check=True, cwd=folder, env={"PYTHONPATH": folder}, capture_output=True, text=True)
    return done.stdout


def main(wheel: Path) -> int:
    """Prints what is wrong with the wheel; returns the exit code."""
    wrong = surplus_or_missing(wheel)
    with tempfile.TemporaryDirectory() as folder:
        if "start" not in command_line_of(wheel, folder):
            wrong.append("agent-server --help: knows no `start`")
    print("\n".join(wrong) or f"{wheel.name}: complete")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
