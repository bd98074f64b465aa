"""Charts, as SVG for the report and as PNG for Dagster's metadata."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

BEFORE, AFTER, INK, FAINT = "#8a93a3", "#0f8a6d", "#7b8494", "#8a93a359"
WIDTH = 4.8
"""Inches. On a page of 390 pixels the chart is scaled to about 0.7."""
PAGE_COLOURS = {AFTER: "var(--green)", INK: "var(--soft)"}
"""Colours that the page's CSS sets, for light and dark mode."""


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.patch.set_alpha(0)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)
    axes.tick_params(colors=INK, length=0, labelsize=9)
    axes.grid(axis="y", color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def curve(points: Sequence[Mapping[str, Any]], y: str, label: str, window: int = 5) -> Figure:
    """`y` over `step`: single points in a light colour, and their running mean over `window` points."""
    figure, axes = _axes(WIDTH, 2.3)
    kept = [p for p in points if p.get(y) is not None]
    steps, values = [p["step"] for p in kept], [float(p[y]) for p in kept]
    means = [sum(values[max(0, i - window + 1) : i + 1]) / min(i + 1, window) for i in range(len(values))]
    axes.plot(steps, values, color=AFTER, linewidth=0.8, alpha=0.35, marker="o", markersize=2.5)
    axes.plot(steps, means, color=AFTER, linewidth=2.2)
    if means:
        axes.annotate(
            f"{means[-1]:.2f}",
            (steps[-1], means[-1]),
            xytext=(6, 0),
            textcoords="offset points",
            color=AFTER,
            fontsize=10,
            fontweight="bold",
            va="center",
        )
        axes.margins(x=0.06)
    axes.set_xlabel("step", color=INK, fontsize=9)
    axes.set_ylabel(label, color=INK, fontsize=9)
    return figure


def before_and_after(slices: Sequence[Mapping[str, Any]]) -> Figure:
    """Success per slice, before (grey) and after (green), with 95 % intervals as bars."""
    figure, axes = _axes(WIDTH, 0.5 * len(slices) + 0.6)
    axes.grid(False)
    axes.grid(axis="x", color=FAINT, linewidth=0.6)
    for row, part in enumerate(reversed(slices)):
        before, after = part["before"], part["after"]
        axes.plot([before["rate"], after["rate"]], [row, row], color=FAINT, linewidth=2, zorder=1)
        for point, colour, shift in ((before, BEFORE, -0.13), (after, AFTER, 0.13)):
            axes.plot(
                [point["low"], point["high"]], [row + shift] * 2, color=colour, linewidth=1.4, alpha=0.5
            )
            axes.scatter([point["rate"]], [row], color=colour, s=52, zorder=3)
    names = [f"{_short(p['name'])}  (n={p['n']})" for p in reversed(slices)]
    axes.set_yticks(range(len(slices)), names, parse_math=False)  # a name can contain dollar signs
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.6, len(slices) - 0.4)
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    return figure


def _short(name: str, length: int = 28) -> str:
    """A slice's name, cut so that it leaves room for the chart."""
    return name if len(name) <= length else name[: length - 1] + "…"


def svg(figure: Figure) -> str:
    """The chart as an SVG element for an HTML page."""
    text = io.StringIO()
    figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    body = text.getvalue()
    for colour, variable in PAGE_COLOURS.items():
        body = body.replace(f": {colour}", f": {variable}")
    # The page sets the width; the view box keeps the proportions.
    opening, rest = body[body.index("<svg") :].split(">", 1)
    return re.sub(r' (width|height)="[^"]*"', "", opening) + ">" + rest


def markdown(figure: Figure, alternative: str) -> str:
    """The chart as Markdown with an embedded PNG, for Dagster's UI."""
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=144, facecolor="white")
    return f"![{alternative}](data:image/png;base64,{base64.b64encode(data.getvalue()).decode()})"
