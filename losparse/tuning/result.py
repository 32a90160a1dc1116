"""What a search found, as a table and as a picture."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ..reporting import numbers
from ..reporting.style import MARKERS, PALETTE, legend, svg_of
from .candidates import Timed, misses
from .run import TuneReport
from .settings import Search

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = ("form", "ms", "speed-up", "size", "target", "validation, points")
MARKDOWN, PICTURE = "tune.md", "tune.svg"
_HEIGHT = 3.6


def rows_of(report: TuneReport, search: Search) -> list[tuple[str, ...]]:
    """Return a row a form: those that were trained first, the best on top, then the others by how much they keep.

    Args:
        report: of the search.
        search: has the target.
    """
    scores = scores_of(report)
    order = sorted(
        report.timed, key=lambda each: (each != report.best, each not in scores, -scores.get(each, 0.0), -each.keep)
    )
    return [tuple(_cells(each, report, search, scores)) for each in order]


def scores_of(report: TuneReport) -> dict[Timed, float]:
    """Return the last score of every form that was trained."""
    return {each: score for one in report.rounds for each, score in one.scores}


def _cells(each: Timed, report: TuneReport, search: Search, scores: dict[Timed, float]) -> Iterator[str]:
    yield f"{each.words} (chosen)" if each == report.best else each.words
    yield f"{each.ms:.2f}"
    yield numbers.times(each.speedup)
    yield numbers.megabytes(each.bytes)
    yield "reached" if misses(each, search) is None else "missed"
    share = next((one.share for one in reversed(report.rounds) if each in dict(one.scores)), None)
    yield "" if share is None else f"{numbers.points(scores[each])} after {numbers.share(share)} of the steps"


def write_result(report: TuneReport, search: Search) -> dict[str, Path]:
    """Write table and picture into the folder of a search; returns the files by their names.

    Raises:
        LosparseError: matplotlib is not installed.
    """
    files = {name: report.folder / name for name in (MARKDOWN, PICTURE)}
    lines = [f"| {' | '.join(row)} |" for row in (COLUMNS, ("---",) * len(COLUMNS), *rows_of(report, search))]
    said = [] if report.nearest is None else ["", f"No form reaches the target; the nearest, {report.nearest}."]
    files[MARKDOWN].write_text("\n".join([*lines, *said]) + "\n", encoding="utf-8")
    colours = ":root{--faint:#c4cbd1;" + "".join(f"--c{place}:{c};" for place, c in enumerate(PALETTE, 1)) + "}"
    svg = svg_of(lambda figure: _draw(report, search, figure), _HEIGHT)
    first = svg.index(">") + 1
    files[PICTURE].write_text(f"{svg[:first]}<style>{colours}</style>{svg[first:]}", encoding="utf-8")
    return files


def _draw(report: TuneReport, search: Search, figure: Figure) -> None:
    """Latency against keep of every form, the target as a line, the chosen one ringed."""
    axes = figure.add_subplot()
    kinds = dict.fromkeys((each.group, each.precision) for each in report.timed)
    for place, (group, precision) in enumerate(kinds):
        own = sorted(
            (each.keep, each.ms) for each in report.timed if (each.group, each.precision) == (group, precision)
        )
        keeps, ms = [keep for keep, _ in own], [value for _, value in own]
        colour, marker = PALETTE[place % len(PALETTE)], MARKERS[(place // len(PALETTE)) % len(MARKERS)]
        label = f"{group.words}, {precision}"
        axes.plot(keeps, ms, linewidth=1, markersize=4, label=label, color=colour, marker=marker)
    if search.target_latency is not None:
        axes.axhline(search.target_latency, color=PALETTE[1], linestyle="--", linewidth=1, label="target")
    if report.best is not None:
        axes.plot([report.best.keep], [report.best.ms], "o", markersize=12, markerfacecolor="none", color=PALETTE[1])
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("keep: share of the layers' parameters")
    axes.set_ylabel("milliseconds")
    axes.grid(visible=True)
    legend(figure, axes)
