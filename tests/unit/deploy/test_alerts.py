"""The alert rules: what promtool says of them, and that each says what to do."""

import json
import re
import subprocess
from typing import Any

import pytest
import yaml

from tests.support.cluster_process import ROOT
from tests.support.required_tool import require_tool

FOLDER = ROOT / "deploy" / "prometheus"
DASHBOARD = ROOT / "deploy" / "grafana" / "agent-server.json"


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


@pytest.mark.parametrize(
    "words",
    [("check", "rules", "alerts.yaml"), ("check", "config", "prometheus.yaml"), ("test", "rules", "alerts.test.yaml")],
    ids=" ".join,
)
def test_promtool_agrees(words: tuple[str, ...]) -> None:
    said = subprocess.run([require_tool("promtool"), *words], cwd=FOLDER, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stdout + said.stderr


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_an_alert_says_what_it_is_how_bad_and_where_to_read_on(rule: dict[str, Any]) -> None:
    readme = (FOLDER / "README.md").read_text()
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert rule["annotations"].keys() == {"summary", "description", "runbook"}
    assert rule["annotations"]["runbook"] == f"deploy/prometheus/README.md#{rule['alert'].lower()}"
    told = re.search(rf"^### {rule['alert']}\n\n(.*?)(?=^### |\Z)", readme, re.MULTILINE | re.DOTALL)
    assert told, "README.md has no paragraph of this name"
    assert re.findall(r"^- \*\*(.+?):\*\* \S", told[1], re.MULTILINE) == ["Means", "Look at", "Do"]
    assert f"*{rule['labels']['severity']}* `{rule['expr']}`" in told[1]


def test_no_paragraph_is_about_an_alert_that_is_not_there() -> None:
    headings = re.findall(r"^### (\w+)$", (FOLDER / "README.md").read_text(), re.MULTILINE)
    assert headings == [rule["alert"] for rule in rules()]


def test_the_dashboard_asks_the_source_that_was_chosen() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    assert [variable["name"] for variable in dashboard["templating"]["list"]] == ["datasource", "job", "instance"]
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    assert {panel["datasource"]["uid"] for panel in panels} == {"${datasource}"}
    assert {target["datasource"]["uid"] for panel in panels for target in panel["targets"]} == {"${datasource}"}
    assert all(panel["title"] and panel["description"] for panel in panels)


def test_no_panel_covers_another() -> None:
    taken: dict[tuple[int, int], str] = {}
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        for x in range(at["x"], at["x"] + at["w"]):
            for y in range(at["y"], at["y"] + at["h"]):
                assert taken.setdefault((x, y), panel["title"]) == panel["title"]
