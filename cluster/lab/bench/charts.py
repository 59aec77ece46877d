"""Charts as inline SVG: bars of names, lines over a number. No scripts, no fonts, no assets; colours are those of the page's style sheet."""

from html import escape

from cluster.lab.bench.figures import text
from cluster.lab.bench.findings import Chart

_WIDTH, _LEFT, _RIGHT = 720, 230, 90
_BAR, _GAP, _TOP = 16, 8, 6
_HEIGHT, _FOOT = 240, 44


def svg(chart: Chart) -> str:
    """A chart with its title."""
    drawn = _lines(chart) if chart.is_line else _bars(chart)
    return f"<figure><figcaption>{escape(chart.title)}, {escape(chart.unit)}</figcaption>{drawn}</figure>"


def _bars(chart: Chart) -> str:
    most = max((value for values in chart.series.values() for value in values), default=0) or 1
    rows = [
        (label, values[place], number)
        for place, label in enumerate(chart.x)
        for number, values in enumerate(chart.series.values())
    ]
    scale = (_WIDTH - _LEFT - _RIGHT) / most
    parts = []
    for place, (label, value, number) in enumerate(rows):
        y = _TOP + place * (_BAR + _GAP)
        name = label if not number else ""
        parts.append(_text(_LEFT - 8, y + _BAR - 4, name, "end"))
        parts.append(
            f'<rect class="c{number}" x="{_LEFT}" y="{y}" width="{max(1.0, value * scale):.1f}" height="{_BAR}" rx="2"/>'
        )
        parts.append(_text(_LEFT + max(0.0, value) * scale + 6, y + _BAR - 4, text(value, chart.unit), "start"))
    return _frame(_TOP + len(rows) * (_BAR + _GAP), parts) + _legend(chart)


def _lines(chart: Chart) -> str:
    most = max((value for values in chart.series.values() for value in values), default=0) or 1
    left, right = 60, _WIDTH - 20
    bottom = _HEIGHT - _FOOT
    step = (right - left) / max(1, len(chart.x) - 1)
    parts = []
    for share in (0, 0.25, 0.5, 0.75, 1):
        y = bottom - share * (bottom - _TOP - 8)
        parts.append(f'<line class="grid" x1="{left}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}"/>')
        parts.append(_text(left - 6, y + 4, text(most * share, ""), "end"))
    parts += [_text(left + place * step, bottom + 18, label, "middle") for place, label in enumerate(chart.x)]
    for number, values in enumerate(chart.series.values()):
        dots = [
            (left + place * step, bottom - value / most * (bottom - _TOP - 8)) for place, value in enumerate(values)
        ]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in dots)
        parts.append(f'<polyline class="l{number}" points="{path}"/>')
        parts += [f'<circle class="c{number}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in dots]
    return _frame(_HEIGHT, parts) + _legend(chart)


def _legend(chart: Chart) -> str:
    if len(chart.series) < 2:
        return ""
    items = (f'<span><i class="c{number}"></i>{escape(name)}</span>' for number, name in enumerate(chart.series))
    return f'<div class="legend">{"".join(items)}</div>'


def _frame(height: float, parts: list[str]) -> str:
    return f'<svg viewBox="0 0 {_WIDTH} {height:.0f}" role="img">{"".join(parts)}</svg>'


def _text(x: float, y: float, words: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'
