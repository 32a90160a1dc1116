"""Pictures of what was measured of models: accuracy, speed, bytes, operators."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from . import numbers
from .facts import Facts
from .style import INK, MARKERS, PALETTE, colour_of, legend

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_BARS = 8


def front_points(facts: Facts) -> list[tuple[str, float, float, float]]:
    """Return name, milliseconds at the first shape, points and their error of every model that has both."""
    found = []
    for name, entry in facts.models.items():
        accuracy = entry.get("accuracy")
        row = facts.time(name, facts.shapes[0]) if facts.shapes else None
        if accuracy is not None and row is not None:
            found.append((name, float(row["median_ms"]), 100 * accuracy["value"], 100 * (accuracy["error"] or 0.0)))
    return found


def draw_front(facts: Facts, figure: Figure) -> None:
    """Accuracy against latency, with standard errors; names stand beside the picture, so none hides another."""
    axes = figure.add_subplot()
    for name, ms, value, error in front_points(facts):
        place = colour_of(facts, name)
        variant = facts.models[name]["kind"] == "variant"
        axes.errorbar(
            ms,
            value,
            yerr=error,
            color=PALETTE[place],
            marker=MARKERS[place],
            markersize=7,
            markerfacecolor=PALETTE[place] if variant else "none",
            linestyle="none",
            elinewidth=1,
            capsize=3,
            label=name,
        )
    axes.set_xlim(left=0)
    axes.grid(visible=True)
    batch, length = facts.shapes[0]
    axes.set_xlabel(f"milliseconds at {batch} x {length}")
    axes.set_ylabel(f"{facts.data['metric']}, points")
    legend(figure, axes)


def draw_speed(facts: Facts, figure: Figure) -> None:
    """Speed-up over the base at every shape, with the 95 % interval."""
    axes = figure.add_subplot()
    names = [name for name in facts.models if any(row["model"] == name for row in facts.results)]
    shapes = facts.shapes
    height = 0.8 / len(names)
    for turn, name in enumerate(names):
        rows = [facts.time(name, shape) for shape in shapes]
        places = [place + turn * height for place, row in enumerate(rows) if row is not None]
        known = [row for row in rows if row is not None]
        values = [float(row["speedup"]) for row in known]
        low = [max(0.0, value - float(row["speedup_low"])) for value, row in zip(values, known, strict=True)]
        high = [max(0.0, float(row["speedup_high"]) - value) for value, row in zip(values, known, strict=True)]
        bars = axes.barh(
            places, values, height * 0.9, color=PALETTE[colour_of(facts, name)], label=name,
            xerr=[low, high], error_kw={"ecolor": INK, "elinewidth": 0.7, "capsize": 1.5},
        )  # fmt: skip
        axes.bar_label(bars, [numbers.times(value) for value in values], padding=6, fontsize=7)
    axes.set_yticks([place + 0.4 - height / 2 for place in range(len(shapes))], [f"{a} x {b}" for a, b in shapes])
    axes.invert_yaxis()
    axes.margins(x=0.16)
    axes.set_xlabel(f"times as fast as {facts.base} fp32")
    axes.grid(visible=True, axis="x")
    axes.set_axisbelow(True)
    legend(figure, axes)


def speed_height(facts: Facts) -> float:
    """Return the inches that the bars of all models at all shapes need."""
    names = {row["model"] for row in facts.results}
    return 1.2 + 0.2 * len(names) * len(facts.shapes) + 0.09 * len(names)


def draw_keep(facts: Facts, figure: Figure) -> None:
    """Latency against keep, a line a variant."""
    rows = facts.details["keep"]
    axes = figure.add_subplot()
    for place, variant in enumerate(dict.fromkeys(row.get("variant", "fp32") for row in rows)):
        own = sorted((row["keep"], row["ms"]) for row in rows if row.get("variant", "fp32") == variant)
        axes.plot(
            [keep for keep, _ in own],
            [ms for _, ms in own],
            color=PALETTE[place],
            marker=MARKERS[place],
            label=variant,
        )
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.grid(visible=True)
    axes.set_xlabel("keep: share of the layers' parameters")
    axes.set_ylabel(f"milliseconds at {rows[0]['batch']} x {rows[0]['length']}")
    legend(figure, axes)


def draw_parts(facts: Facts, figure: Figure) -> None:
    """Bytes by part, a bar a model."""
    parts: Mapping[str, Mapping[str, int]] = facts.details["parts"]
    axes = figure.add_subplot()
    names = list(parts)
    before = [0.0] * len(names)
    for place, part in enumerate(dict.fromkeys(part for found in parts.values() for part in found)):
        values = [found.get(part, 0) / 1e6 for found in parts.values()]
        if max(values) == 0:
            continue
        axes.barh(range(len(names)), values, 0.7, left=before, color=PALETTE[place % len(PALETTE)], label=part)
        before = [done + value for done, value in zip(before, values, strict=True)]
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel("MB")
    axes.grid(visible=True, axis="x")
    axes.set_axisbelow(True)
    legend(figure, axes)


def _heaviest(facts: Facts) -> list[str]:
    spent: dict[str, float] = {}
    for rows in facts.details["operators"].values():
        for row in rows:
            spent[row["operator"]] = max(spent.get(row["operator"], 0.0), row["ms"])
    return sorted(spent, key=lambda name: -spent[name])[:_MOST_BARS]


def operators_height(facts: Facts) -> float:
    """Return the inches that the bars of all models and operators need."""
    profiles = facts.details.get("operators")
    return 1.0 if not profiles else 1.1 + 0.16 * len(_heaviest(facts)) * len(profiles)


def draw_operators(facts: Facts, figure: Figure) -> None:
    """Milliseconds by kind of operator, a bar a model."""
    profiles, names = facts.details["operators"], _heaviest(facts)
    axes = figure.add_subplot()
    height = 0.8 / len(profiles)
    for turn, (model, rows) in enumerate(profiles.items()):
        values = [sum(row["ms"] for row in rows if row["operator"] == name) for name in names]
        colour = PALETTE[colour_of(facts, model) if model in facts.models else turn]
        axes.barh(
            [place + turn * height for place in range(len(names))], values, height * 0.9, color=colour, label=model
        )
    axes.set_yticks(
        [place + 0.4 - height / 2 for place in range(len(names))], [_short(name) for name in names], fontsize=8
    )
    axes.invert_yaxis()
    axes.set_xlabel("milliseconds")
    axes.grid(visible=True, axis="x")
    axes.set_axisbelow(True)
    legend(figure, axes)


def _short(name: str) -> str:
    return name if len(name) <= 24 else f"{name[:23]}…"
