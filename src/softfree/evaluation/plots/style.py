"""One plain style for all figures, and SVG that follows the light or dark colors of the page."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from functools import wraps
from html import escape
from typing import Any, ParamSpec

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

INK, MUTED, RULE = "#1b1f24", "#66707c", "#d3d8de"
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito's colors, distinguishable with any color vision; dashes distinguish the lines as well."""
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)), (0, (3, 1)), (0, (8, 2)))
VARIABLES = {INK: "ink", MUTED: "muted", RULE: "rule"} | {c: f"series-{i}" for i, c in enumerate(SERIES, start=1)}
"""CSS variables that a page may set; without them these colors apply."""

WIDTH = 4.2  # inches: shown 400 pixels wide, 9 points are 12 pixels
FONTS = 'system-ui, "Segoe UI", "Helvetica Neue", "Liberation Sans", Arial, sans-serif'
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # wider than a browser's font, so that nothing is cut off there
    "font.size": 9,
    "text.color": INK,
    "text.parse_math": False,  # a class may be called "$"
    "axes.edgecolor": RULE,
    "axes.labelcolor": INK,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.unicode_minus": True,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "butt",
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "svg.fonttype": "none",
}

P = ParamSpec("P")


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Apply the style without changing the user's matplotlib settings."""

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with mpl.rc_context(STYLE):
            return draw(*args, **kwargs)

    return drawn


def figure(height: float, width: float = WIDTH) -> Figure:
    """Create a figure of the standard width."""
    return Figure(figsize=(width, height), layout="constrained")


def square(axes: Axes, x: str, y: str) -> None:
    """Set up axes for two shares, each from 0 to 1, with a small margin."""
    axes.set(xlim=(-0.015, 1.015), ylim=(-0.015, 1.015), xlabel=x, ylabel=y, aspect="equal")
    ticks = [0, 0.25, 0.5, 0.75, 1]
    axes.set_xticks(ticks, ["0", "0.25", "0.5", "0.75", "1"])
    axes.set_yticks(ticks, ["0", "0.25", "0.5", "0.75", "1"])


def short(name: str, most: int = 26) -> str:
    """Shorten a long name with an ellipsis."""
    name = " ".join(name.split())
    return name if len(name) <= most else name[: most - 1].rstrip() + "…"


def legend_below(axes: Axes, columns: int = 1) -> None:
    """Put the legend below the axes, where it never covers data."""
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=columns, handlelength=2.4, borderaxespad=0)


def svg(drawing: Figure, label: str) -> str:
    """Turn a figure into an ``<svg>`` element for a page.

    Text stays text, colors become CSS variables with the color itself as fallback, and figures with different labels
    share no ids.

    Args:
        drawing: The figure.
        label: Description for screen readers; unique within a page.
    """
    stream = io.StringIO()
    with mpl.rc_context({**STYLE, "svg.hashsalt": label}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the browser has fonts for it
        no_metadata = {"Date": None, "Creator": None, "Format": None, "Type": None}
        FigureCanvasSVG(drawing).print_svg(stream, metadata=no_metadata)
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r'(<g|<path|<text) id="[^"]*_\d+"', r"\1", text)
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text, flags=re.DOTALL)  # would rule the whole page
    for color, name in VARIABLES.items():
        text = re.sub(rf"(?<=: ){color}\b", f"var(--{name}, {color})", text)
    text = text.replace("'DejaVu Sans'", escape(FONTS))
    opening = f'<svg role="img" aria-label="{escape(label)}" style="stroke-linejoin: round" '
    return text.replace("<svg ", opening, 1).strip()
