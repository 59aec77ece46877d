"""What fault tests found becomes a line and a page: n beside every zero, and what is asked beside what was measured."""

import re
import subprocess
import sys
from pathlib import Path

from tests.faults.finding import Finding
from tests.faults.report import HELD_ELSEWHERE, page
from tests.support.checker import Verdict


def a_finding(number: str = "F1", redis: str = "7.0", violations: tuple[str, ...] = ()) -> Finding:
    finding = Finding(say=lambda _: None, test="test_it", redis=redis, outcome="passed")
    finding.about(number, "node `kill -9`", "60 agents | 50 tasks/s")
    finding.struck(2)
    finding.killed(3)
    finding.measured("owned again", 5.125, "<= 10 s")
    finding.judged(Verdict(list(violations), {"tasks accepted": 450}), before=50)
    return finding


def test_a_finding_says_how_much_was_looked_at_beside_every_zero() -> None:
    line = str(a_finding())
    assert (
        "n = 400 tasks, 5 strikes, 3 kills, 0 inputs | 0 lost, 0 doubled, 0 otherwise wrong, 0 falsely offline" in line
    )
    assert "owned again: 5.12 s (asked: <= 10 s)" in line


def test_violations_are_counted_by_what_they_mean() -> None:
    told = ("lost: t1", "acked and not written: m1", "ended twice: t2", "overtaken: t3")
    finding = a_finding(violations=told)
    assert (finding.lost, finding.doubled, finding.otherwise_wrong) == (2, 1, 1)


def test_two_judgements_of_one_test_add_up() -> None:
    finding = a_finding()
    finding.judged(Verdict([], {"tasks accepted": 500}), 3, before=450)
    assert (finding.tasks, finding.falsely_offline) == (450, 3)


def test_the_page_has_a_row_a_finding_in_the_order_of_the_faults_and_their_sums() -> None:
    findings = [a_finding("F10"), a_finding("chaos"), a_finding("F9", "6.2"), a_finding("F9", "7.0"), a_finding("")]
    text = page(findings, is_long=False, command="pytest tests/faults")
    rows = [line for line in text.splitlines() if "node `kill" in line]
    assert [row.split(" | ")[0].removeprefix("| ") for row in rows] == ["F9", "F9", "F10", "chaos"]
    assert "| Redis 6.2 | 1 | 0 | 400 | 5 | 3 |" in text
    assert "| **in all** | 4 | 0 | 1,600 | 20 | 12 |" in text
    assert "60 agents \\| 50 tasks/s" in rows[0]
    assert "The short form" in text
    assert "The last run was `pytest tests/faults`" in text


def test_a_finding_without_a_judged_history_claims_no_zeros() -> None:
    finding = Finding(say=lambda _: None, test="test_it", outcome="failed")
    finding.about("F2", "two nodes")
    assert "no history" in str(finding)
    [row] = [line for line in page([finding], is_long=True, command="").splitlines() if "two nodes" in line]
    assert "| 0 | 0 | 0 | - | - | - | - |" in row


def test_what_is_measured_again_and_again_is_one_line() -> None:
    finding = a_finding()
    finding.measured("owned again", 3.0, "<= 10 s")
    finding.measured("owned again", 9.0, "<= 10 s")
    finding.measured("kept for", 61.0, ">= 60 s")
    finding.measured("kept for", 70.0, ">= 60 s")
    finding.measured("the node grew by", 1.25, "<= 2 MiB", unit="MiB")
    for wrong in (0, 1):
        finding.counted("POSTs refused", wrong, 1_000, "0")
    finding.measured("struck", "1 x node")
    assert finding.figures() == [
        "owned again: n = 3, median 5.12 s, worst 9.00 s (asked: <= 10 s)",
        "kept for: n = 2, median 65.50 s, worst 61.00 s (asked: >= 60 s)",
        "the node grew by: 1.2 MiB (asked: <= 2 MiB)",
        "POSTs refused: 1 of 2,000 (asked: 0)",
        "struck: 1 x node",
    ]


CONFTEST = """
import pytest

@pytest.fixture
def say():
    return print

@pytest.fixture(scope="session")
def is_long():
    return True
"""
TEST = """
import pytest

@pytest.mark.parametrize("redis_version", ["6.2", "7.0"])
def test_it(finding, redis_version):
    finding.about("F1", "a fault")
    finding.struck({strikes})
    finding.measured("took", 1.0)

def test_without_a_row(finding): ...
"""


def reported(folder: Path, *arguments: str, strikes: int) -> list[list[str]]:
    """The cells of the page's rows after one more run."""
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_a.py").write_text(TEST.format(strikes=strikes))
    pytest = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "tests.faults.findings",
        "--rootdir",
        str(folder),
        "-c",
        "/dev/null",
    ]
    command = [*pytest, "-q", "--long", "--report", str(folder / "page.md"), *arguments, str(folder)]
    root = Path(__file__).parents[3]
    said = subprocess.run(command, check=False, cwd=root, capture_output=True, text=True)
    assert said.returncode == 0, said.stdout + said.stderr
    lines = (folder / "page.md").read_text().splitlines()
    return [line.split(" | ")[3:6] for line in lines if "a fault" in line]


def test_the_runs_of_a_report_add_up_and_the_last_row_of_a_test_stands(tmp_path: Path) -> None:
    assert reported(tmp_path, "--redis", "6.2", strikes=1) == [["6.2", "0", "1"]]
    assert reported(tmp_path, "--redis", "7.0", strikes=2) == [["6.2", "0", "1"], ["7.0", "0", "2"]]
    assert reported(tmp_path, "--redis", "6.2", strikes=3) == [["6.2", "0", "3"], ["7.0", "0", "2"]]


def test_what_is_held_elsewhere_is_there() -> None:
    tests = Path(__file__).parents[2]
    for _, _, where in HELD_ELSEWHERE:
        for file, names in re.findall(r"([\w/]+\.py): ((?:`\w+`(?:, )?)+)", where):
            missing = [
                name for name in re.findall(r"`(\w+)`", names) if f"def {name}(" not in (tests / file).read_text()
            ]
            assert not missing
    assert sum(where.count("`test_") for _, _, where in HELD_ELSEWHERE) == 8
