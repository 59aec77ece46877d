"""One page of HTML for a run, with everything in it: the figures, a chart and a table a scenario, the machine. Loads nothing."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from cluster.lab.bench import figures
from cluster.lab.bench.charts import svg
from cluster.lab.bench.findings import Findings

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #5c6878; --line: #d9dee6; --paper: #fff; --c0: #2f6fb2; --c1: #d9822b; --c2: #3c9a6b;
  --c3: #a4508b; --good: #1d7f4e; --bad: #b3372f; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ee; --soft: #98a3b3; --line: #333c49; --paper: #14181f; --c0: #6aa5e0; --c1: #e8a25c;
  --c2: #6cc497; --c3: #cf8dbb; --good: #5fc48f; --bad: #e88079; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 1080px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.5rem; border-bottom: 1px solid var(--line); padding-bottom: .3rem; }
table { border-collapse: collapse; width: 100%; font-size: .87rem; } th { text-align: left; color: var(--soft); font-weight: 500; }
td, th { padding: .28rem .6rem .28rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td:not(:first-child), th:not(:first-child) { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
.beyond, .reached { color: var(--good); } .missed { color: var(--bad); } .soft { color: var(--soft); }
figure { margin: 1rem 0; } figcaption { color: var(--soft); font-size: .87rem; margin-bottom: .3rem; }
svg { width: 100%; max-width: 720px; height: auto; font-size: 12px; } svg text { fill: var(--ink); } .grid { stroke: var(--line); }
.c0 { fill: var(--c0); background: var(--c0); } .c1 { fill: var(--c1); background: var(--c1); } .c2 { fill: var(--c2); background: var(--c2); }
.c3 { fill: var(--c3); background: var(--c3); } polyline { fill: none; stroke-width: 2; } .l0 { stroke: var(--c0); } .l1 { stroke: var(--c1); }
.l2 { stroke: var(--c2); } .l3 { stroke: var(--c3); } .legend span { margin-right: 1rem; font-size: .85rem; }
.legend i { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin-right: .35em; }
"""


def page(found: Sequence[Findings], machine: Mapping[str, str], how: str, about: Mapping[str, str]) -> str:
    """The whole page. `how`: what was run; `about`: a line on each scenario."""
    cells = figures.cells(figure for findings in found for figure in findings.figures)
    parts = [
        "<h1>Agent-Server benchmark</h1>",
        f'<p class="soft">{escape(how)}. Figures are ratios to limits of the same machine, measured in the same run.</p>',
        f"<h2>Figures</h2>{_figures(cells)}" if cells else "",
        *(_section(findings, about.get(findings.scenario, "")) for findings in found),
        f"<h2>Machine</h2>{_table(machine.items())}",
    ]
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Agent-Server benchmark</title><style>{_STYLE}</style>'
    return f"{head}<body>{''.join(parts)}</body></html>\n"


def _section(findings: Findings, about: str) -> str:
    rows = [(reading.name, figures.text(reading.value, reading.unit)) for reading in findings.readings]
    notes = "".join(f'<p class="soft">{escape(note)}</p>' for note in findings.notes)
    charts = "".join(map(svg, findings.charts))
    return f'<h2>{escape(findings.scenario)}</h2><p class="soft">{escape(about)}</p>{charts}{_table(rows)}{notes}'


def _figures(cells: Sequence[tuple[str, ...]]) -> str:
    rows = "".join(
        f'<tr>{"".join(f"<td>{escape(cell)}</td>" for cell in row[:-1])}<td class="{row[-1]}">{row[-1]}</td></tr>'
        for row in cells
    )
    return f"<table><tr>{''.join(f'<th>{escape(head)}</th>' for head in figures.HEADS)}</tr>{rows}</table>"


def _table(rows: Iterable[tuple[str, str]]) -> str:
    return (
        f"<table>{''.join(f'<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>' for name, value in rows)}</table>"
    )
