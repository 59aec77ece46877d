"""A Prometheus that a test owns, and what metrics in its text format say."""

import json
import re
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

from tests.support.eventually import eventually_blocking
from tests.support.ports import free_port
from tests.support.spawned import spawn

_SAMPLE = re.compile(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


class Sample(NamedTuple):
    """One line of /metrics."""

    name: str
    labels: Mapping[str, str]
    value: float


class Scrape:
    """What one process told."""

    def __init__(self, text: str) -> None:
        lines = text.splitlines()
        self.text = text
        self.types = dict(line.split(" ")[2:4] for line in lines if line.startswith("# TYPE "))
        self.helps = dict(line.split(" ", 3)[2:4] for line in lines if line.startswith("# HELP "))
        self.samples = [_sample(line) for line in lines if line and not line.startswith("#")]

    def sum(self, name: str, **labels: str) -> float:
        """The sum of the samples of this name with these labels. Raises: KeyError when there is none."""
        found = [one.value for one in self.samples if one.name == name and labels.items() <= one.labels.items()]
        if not found:
            raise KeyError(f"{name} {labels}")
        return sum(found)

    def names(self) -> set[str]:
        """What a query may name."""
        histograms = {name for name, kind in self.types.items() if kind == "histogram"}
        parts = {f"{name}_{part}" for name in histograms for part in ("bucket", "sum", "count")}
        return (set(self.types) - histograms) | parts


def _sample(line: str) -> Sample:
    found = _SAMPLE.fullmatch(line)
    assert found, line
    return Sample(found[1], dict(_LABEL.findall(found[2] or "")), float(found[3]))


class Prometheus:
    """Scrapes these addresses every second as the job `agent-server`, with these rules, while it is entered."""

    def __init__(self, binary: str, folder: Path, targets: Sequence[str], rules: Path) -> None:
        self._binary = binary
        self._folder = folder
        self._url = f"http://127.0.0.1:{(port := free_port())}"
        self._port = port
        self._targets = list(targets)
        self._rules = rules
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True)
        config = self._folder / "prometheus.json"  # JSON is YAML
        config.write_text(json.dumps(self._config()))
        argv = [self._binary, f"--config.file={config}", f"--storage.tsdb.path={self._folder / 'data'}"]
        argv.append(f"--web.listen-address=127.0.0.1:{self._port}")
        out = self._folder / "prometheus.log"
        self._process = spawn(argv, cwd=self._folder, stdout=out, stderr=out)
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _config(self) -> dict[str, Any]:
        return {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(self._rules)],
            "scrape_configs": [{"job_name": "agent-server", "static_configs": [{"targets": self._targets}]}],
        }

    def await_scrapes(self, count: int, timeout_s: float = 20.0) -> None:
        """Wait until each target was scraped so often. Raises: AssertionError."""
        wanted = f"count(count_over_time(up[1m]) >= {count}) == {len(self._targets)}"
        eventually_blocking(lambda: not self.query(wanted) and "not scraped yet", timeout_s, every_s=0.2)

    def query(self, expression: str) -> list[Any]:
        """The answer to an instant query. Raises: AssertionError when it is wrong."""
        answer = self._ask("query", query=expression)
        assert answer["status"] in ("success", "away"), (expression, answer)
        return list(answer["data"]["result"])

    def rules(self) -> list[dict[str, Any]]:
        """All rules, with their health."""
        return [rule for group in self._ask("rules")["data"]["groups"] for rule in group["rules"]]

    def _ask(self, path: str, **query: str) -> dict[str, Any]:
        url = f"{self._url}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        try:
            with urllib.request.urlopen(url, timeout=10.0) as answer:  # noqa: S310 - our own, on loopback
                said: dict[str, Any] = json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return {"status": "error" if error.code < 500 else "away", "said": error.read(), "data": {"result": []}}
        except OSError:
            return {"status": "away", "data": {"result": [], "groups": []}}
        return said
