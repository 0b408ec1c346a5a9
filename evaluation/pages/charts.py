"""Line charts and histograms as inline SVG: no scripts, no fonts, coloured by the style sheet of the page around.

Kept rather than drawn by matplotlib: a chart takes the page's fonts and its light, dark and print colours, stays sharp
on a phone and in print, weighs a few kilobytes, and says to a screen reader what it shows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor, isfinite, log10

import numpy as np
from markupsafe import Markup

from .rendering import render

_WIDTH, _HEIGHT = 480, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 18, 10, 42
"""Margins around the plot, in units of the view box."""
_STYLES = 4
"""Line styles (colour and dash pattern) that the style sheet knows as `line-0` …"""
_Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Line:
    """One line of a chart; points that are not finite are left out."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True)
class Curve:
    """A chart: lines over a common pair of axes, such as training and validation loss over the step."""

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]


def line_chart(curve: Curve) -> Markup:
    """The chart as an HTML `figure` with its legend, or an empty string when no line has a finite point.

    Raises:
        ValueError: a line whose x and y differ in length.
    """
    lines = [(line.name, points) for line in curve.lines if (points := _finite_points(line))]
    if not lines:
        return Markup()
    axes = _Axes.around([point for _, points in lines for point in points])
    summary = "; ".join(f"{name} from {points[0][1]:.3g} to {points[-1][1]:.3g}" for name, points in lines)
    return _figure(curve, lines, axes, summary)


def histogram(
    title: str,
    x_label: str,
    samples: Mapping[str, Sequence[float]],
    bins: int = 30,
    *,
    y_label: str = "% of reports",
) -> Markup:
    """Outlines of how often values occur, in percent of each sample, over common bins; empty without any value.

    The rarest hundredth of the values at either end shares the outermost bins, or one long text would press all
    others into a corner.

    Args:
        title: the chart's heading.
        x_label: what the values are.
        samples: finite values by the name of their line.
        bins: number of bins.
        y_label: what the percentages are of.
    """
    values = np.concatenate([np.asarray(sample, dtype=np.float64) for sample in samples.values()])
    if not len(values):
        return Markup()
    low, high = _widened(np.quantile(values, [0.005, 0.995]).tolist())
    edges = np.linspace(low, high, bins + 1)
    lines, parts = [], []
    for name, sample in samples.items():
        if not len(sample):
            continue
        counts, _ = np.histogram(np.clip(sample, low, high), edges)
        shares = 100 * counts / len(sample)
        x = np.repeat(edges, 2)
        y = np.concatenate([[0], np.repeat(shares, 2), [0]])
        lines.append((name, list(zip(x.tolist(), y.tolist(), strict=True))))
        parts.append(f"{name}: median {np.median(sample):.4g}")
    axes = _Axes.around([point for _, points in lines for point in points])
    return _figure(Curve(title, x_label, y_label, ()), lines, axes, "; ".join(parts))


def _figure(curve: Curve, lines: Sequence[tuple[str, _Points]], axes: "_Axes", summary: str) -> Markup:
    """Legend, axes and lines; `summary` says for a screen reader what there is to see."""
    frame = {
        "width": _WIDTH,
        "height": _HEIGHT,
        "left": _LEFT,
        "right": _WIDTH - _RIGHT,
        "top": _TOP,
        "bottom": _HEIGHT - _BOTTOM,
    }
    return render(
        "chart.html.jinja",
        title=curve.title,
        summary=summary,
        x_label=curve.x_label,
        y_label=curve.y_label,
        frame=frame,
        x_ticks=[(axes.place(tick, axes.y[0])[0], f"{tick:.6g}") for tick in _ticks(*axes.x)],
        y_ticks=[(axes.place(axes.x[0], tick)[1], f"{tick:.6g}") for tick in _ticks(*axes.y)],
        lines=[(name, axes.path(points)) for name, points in lines],
        styles=_STYLES,
    )


def _finite_points(line: Line) -> _Points:
    if len(line.x) != len(line.y):
        raise ValueError(f"line {line.name!r} has {len(line.x)} x and {len(line.y)} y values; give one y per x")
    return [(x, y) for x, y in zip(line.x, line.y, strict=True) if isfinite(x) and isfinite(y)]


@dataclass(frozen=True)
class _Axes:
    """The ranges that the plot shows: x as wide as the data, y out to the next round number."""

    x: tuple[float, float]
    y: tuple[float, float]

    @classmethod
    def around(cls, points: Sequence[tuple[float, float]]) -> "_Axes":
        x_low, x_high = _widened([x for x, _ in points])
        y_low, y_high = _widened([y for _, y in points])
        step = _step(y_low, y_high)
        return cls((x_low, x_high), (floor(y_low / step) * step, ceil(y_high / step) * step))

    def place(self, x: float, y: float) -> tuple[float, float]:
        across = (x - self.x[0]) / (self.x[1] - self.x[0])
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        return _LEFT + across * (_WIDTH - _LEFT - _RIGHT), _HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM)

    def path(self, points: Sequence[tuple[float, float]]) -> str:
        places = ["{:.1f} {:.1f}".format(*self.place(x, y)) for x, y in points]
        # A line of one point is drawn as a dot: the round cap of a segment without length.
        return "M" + "L".join(places if len(places) > 1 else places * 2)


def _widened(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    # Relative to the value, or the margin would vanish in the rounding of a large one.
    margin = 0.0 if high > low else 0.5 * max(abs(low), 1.0)
    return low - margin, high + margin


def _step(low: float, high: float) -> float:
    """1, 2 or 5 times a power of ten, so that some five steps lead from low to high."""
    raw = (high - low) / 5
    power = 10.0 ** floor(log10(raw))
    return power * next(factor for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)


def _ticks(low: float, high: float) -> list[float]:
    step = _step(low, high)
    # Ends that differ from a round number by rounding only still get their tick.
    return [i * step for i in range(ceil(low / step - 1e-6), floor(high / step + 1e-6) + 1)]
