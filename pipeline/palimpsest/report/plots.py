"""The figures as inline SVG: colours are the page's CSS variables, so they follow the reader's light or dark scheme.

Precision is drawn on a scale that stretches towards 100 %: what matters is how many characters are wrong, and 99.9 % is as far
from 99 % as that is from 90 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, floor, log10

import numpy as np
from markupsafe import Markup, escape

from palimpsest.report.measures import Group
from palimpsest.report.summary import Summary

COLOURS = 8  # --c0 … --c7 in report.css
_TICKS = (0.0, 0.2, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 1.0)
_FINEST = 5e-4  # an error rate below about this is drawn like none at all
_SHAPES = (
    "M-5,0a5,5 0 1,0 10,0a5,5 0 1,0 -10,0z",  # circle
    "M-4.6,-4.6h9.2v9.2h-9.2z",  # square
    "M0,-6.4l6.4,6.4l-6.4,6.4l-6.4,-6.4z",  # diamond
    "M0,-6l6,10.6h-12z",  # triangle
    "M0,6l6,-10.6h-12z",  # triangle on its tip
    "M-1.8,-5.6h3.6v3.8h3.8v3.6h-3.8v3.8h-3.6v-3.8h-3.8v-3.6h3.8z",  # cross
)


def colours(summary: Summary) -> dict[str, str]:
    """Class -> the CSS colour that it has in every figure."""
    return {name: f"var(--c{number % COLOURS})" for number, name in enumerate(sorted(summary.by_class))}


def shapes(summary: Summary) -> dict[str, Markup]:
    """Mode -> its mark in the first figure, as a small SVG for the legend."""
    return {
        mode: _svg(14, 14, "", f'<path d="{path}" transform="translate(7,7)"/>', "key") for mode, path in _paths(summary).items()
    }


def rate_distortion(summary: Summary) -> Markup:
    """Precision against compression: a point for each class and mode, its 95 % interval, and a cloud of single pages."""
    shown = [group for group in summary.groups if group.precision and group.ratio]
    points = summary.exhibits.points
    if not shown:
        return Markup("")
    low = min(point.precision for point in points)
    ratios = [point.ratio for point in points] + [group.ratio for group in shown if group.ratio]
    frame = _Frame(780, 430, x=_round_ticks(0, max(ratios) * 1.04), y=_ticks_from(low))
    colour, path = colours(summary), _paths(summary)
    cloud = [
        f'<circle cx="{frame.x(point.ratio):.1f}" cy="{frame.y(_stretch(point.precision)):.1f}" r="2.2" '
        f'style="fill:{colour[point.text_class]}"/>'
        for point in points
    ]
    marks = [_mark(frame, group, colour[group.text_class], path[group.mode]) for group in shown]
    edge = frame.x(1)
    body = [
        frame.axes("text tokens per context token", [(f"{tick:g}×", tick) for tick in frame.x_ticks]),
        f'<path class="even" d="M{edge:.1f},{frame.top}V{frame.bottom}"/>'
        f'<text class="note" x="{edge + 5:.1f}" y="{frame.bottom - 7}">no saving left of here</text>',
        f'<g class="cloud">{"".join(cloud)}</g>',
        *marks,
    ]
    return _svg(780, 430, "Precision against compression, by class and mode", "".join(body))


def survival(summary: Summary, mode: str) -> Markup:
    """The share of one mode's pages that reads at least this well: one line for each class."""
    curves = {name: curve for (name, of), curve in summary.exhibits.curves.items() if of == mode}
    low = min(float(values[0]) for (values, _) in summary.exhibits.curves.values())
    ticks = _ticks_from(low)
    frame = _Frame(340, 260, x=[_stretch(tick) for tick in ticks], y=[0, 0.25, 0.5, 0.75, 1], y_stretched=False)
    lines = [_stairs(frame, name, curve, colours(summary)[name]) for name, curve in curves.items()]
    spaced = [(_percent(tick), _stretch(tick)) for tick in _apart(ticks, frame)]
    body = frame.axes("precision of at least", spaced) + "".join(lines)
    return _svg(340, 260, f"Share of pages of mode {mode} that reach a precision", body)


def _stairs(frame: _Frame, name: str, curve: tuple[np.ndarray, np.ndarray], colour: str) -> str:
    """The share of a class's pages at or above each precision, as a line."""
    values, counts = curve
    after = 1 - np.cumsum(counts) / counts.sum()  # above each value
    steps = "".join(f"H{frame.x(_stretch(value)):.1f}V{frame.y(share):.1f}" for value, share in zip(values, after, strict=True))
    start = f"M{frame.left},{frame.y(1):.1f}"
    title = f"<title>{escape(name)}: {counts.sum():,} pages</title>"
    return f'<path class="line" style="stroke:{colour}" d="{start}{steps}">{title}</path>'


class _Frame:
    """The rectangle that data is drawn in: `x` and `y` map data to pixels."""

    def __init__(self, width: int, height: int, x: Sequence[float], y: Sequence[float], y_stretched: bool = True) -> None:
        self.left, self.right, self.top, self.bottom = 52, width - 22, 14, height - 46
        self.x_ticks, self.y_ticks, self._stretched = x, y, y_stretched
        self._y_range = (_stretch(y[0]), _stretch(y[-1])) if y_stretched else (y[0], y[-1])

    def x(self, value: float) -> float:
        low, high = self.x_ticks[0], self.x_ticks[-1]
        return self.left + (value - low) / ((high - low) or 1) * (self.right - self.left)

    def y(self, value: float) -> float:
        low, high = self._y_range
        return self.bottom - (value - low) / ((high - low) or 1) * (self.bottom - self.top)

    def axes(self, x_label: str, x_ticks: Sequence[tuple[str, float]]) -> str:
        out = []
        for tick in self.y_ticks:
            y = self.y(_stretch(tick) if self._stretched else tick)
            out.append(f'<path class="rule" d="M{self.left},{y:.1f}H{self.right}"/>')
            out.append(f'<text x="{self.left - 8}" y="{y + 4:.1f}" text-anchor="end">{_percent(tick)}</text>')
        for label, value in x_ticks:
            x = self.x(value)
            out.append(f'<path class="tick" d="M{x:.1f},{self.bottom}v5"/>')
            out.append(f'<text x="{x:.1f}" y="{self.bottom + 19}" text-anchor="middle">{label}</text>')
        out.append(f'<path class="axis" d="M{self.left},{self.bottom}H{self.right}"/>')
        middle = (self.left + self.right) / 2
        out.append(f'<text class="label" x="{middle}" y="{self.bottom + 39}" text-anchor="middle">{x_label}</text>')
        return "".join(out)


def _mark(frame: _Frame, group: Group, colour: str, path: str) -> str:
    spread = group.precision
    assert spread and group.ratio
    x, y = frame.x(group.ratio), frame.y(_stretch(spread.mean))
    interval = whisker = ""
    if spread.low is not None and spread.high is not None:
        top, bottom = frame.y(_stretch(spread.high)), frame.y(_stretch(spread.low))
        whisker = f'<path class="whisker" style="stroke:{colour}" d="M{x - 4:.1f},{top:.1f}h8m-4,0V{bottom:.1f}m-4,0h8"/>'
        interval = f", 95% interval {spread.low:.2%} to {spread.high:.2%}"
    bound = "at most " if group.bounds else ""
    title = (
        f"{escape(group.text_class)}, {escape(group.mode)}: {bound}{spread.mean:.2%} at {group.ratio:.2f}×, "
        f"{spread.n:,} pages{interval}"
    )
    shape = f'<path class="mark" style="fill:{colour}" d="{path}" transform="translate({x:.1f},{y:.1f})"/>'
    return f"<g>{whisker}{shape}<title>{title}</title></g>"


def _paths(summary: Summary) -> dict[str, str]:
    modes = [group.mode for group in summary.modes if group.precision]
    return {mode: _SHAPES[number % len(_SHAPES)] for number, mode in enumerate(modes)}


def _stretch(precision: float) -> float:
    """Precision -> its position on the axis: linear in the logarithm of the error rate."""
    return -log10((1 - precision + _FINEST) / (1 + _FINEST))


def _ticks_from(low: float) -> list[float]:
    """Ticks of a precision axis that begins at or below `low`, none closer than a label is high."""
    first = max(tick for tick in _TICKS[:-2] if tick <= max(low, 0))
    ticks = [tick for tick in _TICKS if tick >= first]
    room = 0.05 * (_stretch(1) - _stretch(first))
    kept = [ticks[0]]
    for tick in ticks[1:-1]:
        if _stretch(tick) - _stretch(kept[-1]) >= room and _stretch(1) - _stretch(tick) >= room:
            kept.append(tick)
    return [*kept, 1.0]


def _apart(ticks: Sequence[float], frame: _Frame, pixels: float = 42) -> list[float]:
    """The ticks, the last one first, whose labels do not touch each other."""
    kept: list[float] = []
    for tick in reversed(ticks):
        if not kept or frame.x(_stretch(kept[-1])) - frame.x(_stretch(tick)) >= pixels:
            kept.append(tick)
    return kept[::-1]


def _round_ticks(low: float, high: float) -> list[float]:
    """About five round numbers that cover a range."""
    step = 10 ** floor(log10((high - low) / 5))
    step *= next(factor for factor in (1, 2, 2.5, 5, 10) if (high - low) / (step * factor) <= 7)
    return [step * count for count in range(floor(low / step), ceil(high / step) + 1)]


def _percent(value: float) -> str:
    return f"{100 * value:.4g}%"


def _svg(width: int, height: int, label: str, body: str, kind: str = "plot") -> Markup:
    """`body` is markup already; whatever comes from a corpus was escaped on its way in."""
    named = f'role="img" aria-label="{escape(label)}"' if label else 'aria-hidden="true"'
    return Markup(f'<svg class="{kind}" viewBox="0 0 {width} {height}" {named}>{body}</svg>')
