"""Figures as SVG text: one panel, several runs, made to stand inside a page."""

import html
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from gradbatch.experiments.curves import Points, thin

__all__ = ["COLOURS", "Curve", "Panel", "draw", "draw_file"]

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#444444", "#7d3c1d", "#6b4fb3")
"""Told apart by colour-blind eyes. Source: Okabe and Ito 2008, without the yellow that white swallows; the last two
are ours, darker than their neighbours in hue."""

_INK = "#3d444d"
_GRID = "#e4e7eb"
_SIZE = (5.4, 3.1)
"""Inches. The page scales it; small, so that its letters stay readable on a phone."""

_LETTERS = 80
"""Letters of a legend that fit a panel's width."""

_MANY = 10
"""More curves than these are drawn thinner, as those of several seeds are."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One line.

    Attributes:
        run: Number of the run, which gives the colour.
        points: Where it goes.
        style: ``"raw"`` is faint, ``"line"`` plain, ``"dashed"`` dashed, ``"steps"`` goes in steps, ``"marked"`` shows
            its points.
    """

    run: int
    points: Points
    style: Literal["line", "raw", "dashed", "steps", "marked"] = "line"


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One figure.

    Attributes:
        title: What it shows, for those who cannot see it.
        x_label: What lies along the bottom, with its unit.
        curves: The lines; the later ones lie on top.
        scale: ``"linear"``, ``"log"``, or ``"log2"`` for powers of two.
        x_scale: ``"linear"`` from 0 on, or ``"log"``.
        percent: Whether the values are shares.
        y_limits: Lowest and highest value shown, where they are not the data's own.
        overlap: Whether lines may coincide; earlier ones are then drawn wider, so that each can be seen.
    """

    title: str
    x_label: str
    curves: Sequence[Curve]
    scale: Literal["linear", "log", "log2"] = "linear"
    x_scale: Literal["linear", "log"] = "linear"
    percent: bool = False
    y_limits: tuple[float, float] | None = None
    overlap: bool = False


def draw(panel: Panel, name: str) -> str:
    """The panel as an ``<svg>`` element without outside references.

    Args:
        panel: What to draw.
        name: Begins the element's ids, so that several fit one page.

    Returns:
        The element.
    """
    # Letters stay letters: smaller, selectable, and set in the page's own font.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "path.simplify": True}):
        figure = Figure(figsize=_SIZE, layout="constrained")
        axes = figure.add_subplot()
        _draw_panel(axes, panel)
        buffer = io.StringIO()
        no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=no_metadata)
    return _embed(buffer.getvalue(), panel, name)


def draw_file(panels: Sequence[Panel], legend: Sequence[str], name: str) -> str:
    """Panels side by side as an SVG document of its own, with titles and a legend.

    Args:
        panels: What to draw.
        legend: What the numbers of the curves stand for.
        name: The same for the same figure, so that it is drawn the same.

    Returns:
        The document.
    """
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "path.simplify": True}):
        width, height = _SIZE
        figure = Figure(figsize=(width * len(panels), height + 0.5), layout="constrained")
        for axes, panel in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels, strict=True):
            if panel.curves:
                _draw_panel(axes, panel)
            axes.set_title(panel.title, color=_INK, fontsize=11, loc="left")
        handles = [Line2D([], [], color=COLOURS[n % len(COLOURS)], linestyle=_dash(n)) for n in range(len(legend))]
        room = _LETTERS * len(panels) // (max(map(len, legend)) + 8)  # what is wider would be cut off
        columns = max(1, min(len(legend), room))
        figure.legend(handles, legend, loc="outside lower center", ncols=columns, frameon=False, fontsize=9)
        buffer = io.StringIO()
        no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", facecolor="white", metadata=no_metadata)
    return re.sub(r"<[^>]+>", lambda tag: re.sub(r"(\d\.\d\d)\d+", r"\1", tag[0]), buffer.getvalue())


def _draw_panel(axes: Axes, panel: Panel) -> None:
    """Curves, scales, letters."""
    num_runs = 1 + max(curve.run for curve in panel.curves)
    for curve in panel.curves:
        _draw_curve(axes, curve, panel, num_runs)
    _dress(axes, panel)


def _dash(run: int) -> Any:
    """Beyond the palette the colours come again, dotted."""
    return (0, (1, 1)) if run >= len(COLOURS) else "-"


def _draw_curve(axes: Axes, curve: Curve, panel: Panel, num_runs: int) -> None:
    # Few enough that a page with many runs stays small, enough that no run looks coarse.
    points = thin(curve.points, max_points=max(120, 1600 // len(panel.curves)))
    width = {"raw": 0.7, "dashed": 1.2}.get(curve.style, 1.7)
    if panel.overlap:
        width += 2.4 * (num_runs - 1 - curve.run) / max(1, num_runs - 1)
    if len(panel.curves) > _MANY:
        width *= 0.6
    axes.plot(
        points.x,
        points.y,
        color=COLOURS[curve.run % len(COLOURS)],
        alpha=0.25 if curve.style == "raw" else 1.0,
        linewidth=width,
        linestyle=(0, (4, 2.5)) if curve.style == "dashed" else _dash(curve.run),
        drawstyle="steps-post" if curve.style == "steps" else "default",
        marker="o" if len(points.x) == 1 or curve.style == "marked" else "",
        markersize=4,
        solid_joinstyle="round",
    )


def _dress(axes: Axes, panel: Panel) -> None:
    """Scales, grid, letters."""
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color("#b6bdc6")
    axes.grid(axis="y", color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", colors=_INK, labelsize=10, length=0, pad=5)
    axes.set_xlabel(panel.x_label, color=_INK, fontsize=10, loc="right")
    if panel.x_scale == "log":
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(base=10, subs=(1, 3), numticks=9))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_xlim(left=0)
        axes.margins(x=0.01)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=False))
    axes.xaxis.set_major_formatter(FuncFormatter(_short))
    if panel.scale == "linear":
        axes.yaxis.set_major_locator(MaxNLocator(6))
        axes.yaxis.set_major_formatter(FuncFormatter(_percent if panel.percent else _short))
    else:
        _dress_log(axes, panel)
    if panel.y_limits is not None:
        axes.set_ylim(*panel.y_limits)


def _dress_log(axes: Axes, panel: Panel) -> None:
    """A logarithmic axis with ticks at powers, and between them where there are few."""
    base = 2 if panel.scale == "log2" else 10
    axes.set_yscale("log", base=base, nonpositive="mask")
    values = np.concatenate([curve.points.y for curve in panel.curves])
    values = values[np.isfinite(values) & (values > 0)]
    if base == 2 and len(values) > 0 and values.max() < 2 * values.min():
        axes.set_ylim(values.min() / 2, 2 * values.max())  # what hardly moves is to look so
    is_narrow = base == 10 and len(values) > 0 and values.max() / values.min() < 100
    axes.yaxis.set_major_locator(LogLocator(base=base, subs=(1, 2, 5) if is_narrow else (1,), numticks=9))
    axes.yaxis.set_major_formatter(FuncFormatter(_short))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _percent(value: float, position: int | None = None) -> str:
    """A tick's share."""
    return f"{100 * value:.4g} %"


def _short(value: float, position: int | None = None) -> str:
    """A tick's number in few letters: 0.05, 250, 20k, 1.5M, 1e30; powers of two up to 2^24 stay whole."""
    if abs(value) >= 1e12 or 0 < abs(value) < 1e-4:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            short = f"{value / size:.6g}{suffix}"
            if len(short) < 6:
                return short
            return f"{value:.0f}" if abs(value) <= 2**24 else f"{value / size:.3g}{suffix}"
    return f"{value:.4g}"


def _embed(svg: str, panel: Panel, name: str) -> str:
    """What a page needs of an SVG file: the element, flexible, with ids of its own."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.S)
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r'href="#', f'href="#{name}-', body)
    body = body.replace("url(#", f"url(#{name}-")
    head = rf'<svg viewBox="\1" role="img" aria-label="{html.escape(panel.title)}">'
    body = re.sub(r'<svg[^>]*?viewBox="([^"]+)"[^>]*>', head, body, count=1)
    # A hundredth of a point is less than a pixel; the digits after it would be half the page. Only within tags:
    # a tick's text says 0.001.
    body = re.sub(r"<[^>]+>", lambda tag: re.sub(r"(\d\.\d\d)\d+", r"\1", tag[0]), body)
    return re.sub(r"\s*\n\s*", "\n", body)
