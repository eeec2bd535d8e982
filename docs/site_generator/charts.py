"""Charts as inline SVG, in the colours of the page."""

from __future__ import annotations

import math
from html import escape

from mmrs_bench.evaluation.results.costs import TypicalCost, typical_seconds

#: Seconds at the ends of the axis, widths of names and of the chart, height of a line.
_FROM, _TO, _NAMES, _WIDTH, _LINE, _TOP = 0.1, 1000.0, 140, 480, 19, 34


def seconds_chart() -> str:
    """Seconds of one cell by method: budget smoke, budget quick, and the pretraining that cells share under quick."""
    costs = {name: found for name, found in typical_seconds().seconds.items() if "quick" in found and ":" not in name}
    names = sorted(costs, key=lambda name: _total(costs[name]["quick"]))
    height = _TOP + _LINE * len(names) + 8
    parts = [_axis(height), *_legend()]
    for number, name in enumerate(names):
        y = _TOP + _LINE * (number + 0.5)
        parts.append(f'<text x="{_NAMES - 8}" y="{y + 4:.1f}" text-anchor="end">{escape(name)}</text>')
        quick, smoke = costs[name]["quick"], costs[name].get("smoke")
        ends = [_x(quick.own), *([_x(smoke.own)] if smoke else [])]
        parts.append(f'<path d="M{min(ends):.1f} {y:.1f}H{max(ends):.1f}" class="arrow"/>')
        if smoke:
            parts.append(f'<circle cx="{_x(smoke.own):.1f}" cy="{y:.1f}" r="4.5" class="smoke"/>')
        parts.append(f'<circle cx="{_x(quick.own):.1f}" cy="{y:.1f}" r="4.5" class="quick"/>')
        if quick.pretraining:
            parts.append(_diamond(_x(sum(quick.pretraining.values())), y))
    width = _NAMES + _WIDTH + 20
    return (
        f'<svg viewBox="0 0 {width} {height:.0f}" width="{width}" role="img" '
        f'aria-label="Seconds of one cell by method and budget">{"".join(parts)}</svg>'
    )


def _total(cost: TypicalCost) -> float:
    return cost.own + sum(cost.pretraining.values())


def _x(seconds: float) -> float:
    share = math.log(max(seconds, _FROM) / _FROM) / math.log(_TO / _FROM)
    return _NAMES + _WIDTH * min(share, 1.0)


def _axis(height: float) -> str:
    parts = []
    for exponent in range(round(math.log10(_FROM)), round(math.log10(_TO)) + 1):
        x, seconds = _x(10.0**exponent), 10.0**exponent
        parts.append(f'<path d="M{x:.1f} {_TOP}V{height - 6:.0f}" class="grid"/>')
        parts.append(f'<text x="{x:.1f}" y="{_TOP - 4}" text-anchor="middle">{seconds:g} s</text>')
    return "".join(parts)


def _legend() -> list[str]:
    parts, x = [], float(_NAMES)
    for kind, words in (("smoke", "smoke"), ("quick", "quick"), ("shared", "quick: shared pretraining")):
        mark = _diamond(x + 5, 9) if kind == "shared" else f'<circle cx="{x + 5}" cy="9" r="4.5" class="{kind}"/>'
        parts += [mark, f'<text x="{x + 14}" y="13">{words}</text>']
        x += 80
    return parts


def _diamond(x: float, y: float) -> str:
    return f'<path d="M{x - 5:.1f} {y:.1f}l5 -5 5 5 -5 5z" class="shared"/>'
