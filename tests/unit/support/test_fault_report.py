"""What fault tests found becomes a line and a page: n beside every zero, and what is asked beside what was measured."""

import re
from pathlib import Path

from tests.faults.finding import Finding
from tests.faults.report import HELD_ELSEWHERE, page
from tests.support.checker import Verdict


def a_finding(number: str = "F1", redis: str = "7.0", violations: tuple[str, ...] = ()) -> Finding:
    finding = Finding(lambda _: None, "test_it", redis=redis, outcome="passed")
    finding.about(number, "node `kill -9`", "60 agents | 50 tasks/s")
    finding.struck(2)
    finding.killed(3)
    finding.measured("owned again", 5.125, "<= 10 s")
    finding.judged(Verdict(list(violations), {"tasks accepted": 450}), before=50)
    return finding


def test_a_finding_says_how_much_was_looked_at_beside_every_zero() -> None:
    line = str(a_finding())
    assert "n = 400 tasks, 5 strikes, 3 kills | 0 lost, 0 doubled, 0 otherwise wrong, 0 falsely offline" in line
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
    assert "**1,600 tasks, 12 kills**" in text
    assert "60 agents \\| 50 tasks/s" in rows[0]
    assert "`pytest tests/faults`, the short form" in text


def test_a_finding_without_a_judged_history_claims_no_zeros() -> None:
    finding = Finding(lambda _: None, "test_it", outcome="failed")
    finding.about("F2", "two nodes")
    assert "no history" in str(finding)
    [row] = [line for line in page([finding], is_long=True, command="").splitlines() if "two nodes" in line]
    assert "| 0 | 0 | 0 | - | - | - | - |" in row


def test_what_is_held_elsewhere_is_there() -> None:
    tests = Path(__file__).parents[2]
    for _, _, where in HELD_ELSEWHERE:
        for file, names in re.findall(r"([\w/]+\.py): ((?:`\w+`(?:, )?)+)", where):
            missing = [
                name for name in re.findall(r"`(\w+)`", names) if f"def {name}(" not in (tests / file).read_text()
            ]
            assert not missing
    assert sum(where.count("`test_") for _, _, where in HELD_ELSEWHERE) == 8
