"""What became of a run: tables on standard output, JSON, a page of HTML. `facts` are those of the machine."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from cluster.client.tables import pairs, table
from cluster.errors import CommandFailed
from cluster.lab.bench import figures, report
from cluster.lab.bench.findings import Findings
from cluster.lab.bench.run import ABOUT


def tell(findings: Findings) -> None:
    """Prints the table of one scenario."""
    rows = [(reading.name, figures.text(reading.value, reading.unit)) for reading in findings.readings]
    _put(f"\n{table((findings.scenario, ''), rows)}")
    for note in findings.notes:
        _put(f"{note}\n")


def tell_figures(found: Sequence[Findings], facts: Mapping[str, str]) -> None:
    """Prints the machine, and the figures of all scenarios."""
    _put(f"\n{pairs(facts)}")
    cells = figures.cells(figure for findings in found for figure in findings.figures)
    if cells:
        _put(f"\n{table(figures.HEADS, cells)}")


def write_json(path: Path, found: Sequence[Findings], facts: Mapping[str, str], how: str) -> None:
    """All numbers. Raises: CommandFailed."""
    said = {"machine": facts, "how": how, "scenarios": list(found)}
    _write(path, msgspec.json.format(msgspec.json.encode(said)))


def write_report(path: Path, found: Sequence[Findings], facts: Mapping[str, str], how: str) -> None:
    """The page. Raises: CommandFailed."""
    _write(path, report.page(found, facts, how, ABOUT).encode())


def _write(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except OSError as error:
        raise CommandFailed(f"cannot write {path}: {error.strerror}", 1) from error


def _put(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
