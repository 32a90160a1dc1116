"""How pictures are drawn: of one width, which a phone shows whole, in the colours of the page that holds them.

matplotlib draws with the colours of `PALETTE`; each is then replaced by a variable of the page, so that one picture is
right on white and on black. Text stays text. The same data gives the same bytes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..errors import names_extra
from .facts import Facts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 4.2
"""Inches of a picture."""
INK, FAINT = "#010203", "#a0b0c0"
"""Colours of text and of grids while drawing; the page has its own for them."""
# Okabe and Ito's colours, which people with any colour vision tell apart, but for yellow, which white swallows.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#8a6d3b", "#6a51a3")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
SETTINGS: dict[Any, Any] = {  # its keys are a type of matplotlib of its own
    "svg.fonttype": "none",
    "svg.hashsalt": "losparse",
    "font.size": 9.0,
    "font.family": "DejaVu Sans",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.titlesize": 9.0,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": FAINT,
    "grid.linewidth": 0.4,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}


def svg_of(draw: Callable[[Figure], None], height: float) -> str:
    """Draw one picture; returns its SVG, without a size of its own and in the page's colours."""
    with names_extra("losparse report", "report"):
        from matplotlib import rc_context
        from matplotlib.figure import Figure

    with rc_context(SETTINGS):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        draw(figure)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    return _themed(stream.getvalue())


def _themed(svg: str) -> str:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = svg.replace(INK, "currentColor").replace(FAINT, "var(--faint)")
    for place, colour in enumerate(PALETTE, start=1):
        svg = svg.replace(colour, f"var(--c{place})")
    return svg.replace("'DejaVu Sans'", "inherit")


def colour_of(facts: Facts, name: str) -> int:
    """Return the place of a model's colour, the same in all pictures."""
    return list(facts.models).index(name) % len(PALETTE)


def legend(figure: Figure, axes: Axes) -> None:
    """Put names below a picture, where they hide nothing."""
    handles, labels = axes.get_legend_handles_labels()
    longest = max(map(len, labels), default=0)
    columns = 1 if longest > 34 else 2 if longest > 16 or len(labels) == 4 else 3
    figure.legend(handles, labels, loc="outside lower center", ncols=min(columns, len(labels) or 1), fontsize=8)
