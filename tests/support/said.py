"""What tests say of themselves at the end of a run: figures, and how much was looked at where nothing was found.

The lines travel with a test's report, so that they arrive from wherever the test ran.
"""

from collections.abc import Callable

import pytest

Say = Callable[[str], None]
_SAID = "said"


def sayer(item: pytest.Item) -> Say:
    """Takes down lines under the name of this test."""
    return lambda line: item.user_properties.append((_SAID, f"{item.name}: {line}"))


def tell(terminal: pytest.TerminalReporter) -> None:
    """Print them all. The report of a test's last phase holds everything that it has said."""
    reports = [
        report for reports in terminal.stats.values() for report in reports if isinstance(report, pytest.TestReport)
    ]
    lines = [
        str(line)
        for report in reports
        if report.when == "teardown"
        for name, line in report.user_properties
        if name == _SAID
    ]
    if lines:
        terminal.section("said")
        terminal.write_line("\n".join(lines))
