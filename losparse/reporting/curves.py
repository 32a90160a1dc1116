"""Pictures of the layers, and of how they were trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .facts import Facts
from .style import PALETTE, legend

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ROLES = ("query", "key", "value", "attention", "qkv", "out", "output", "gate", "up", "down", "other")
"""Order of the rows of the picture of layers, where the roles are known."""


def _grid(facts: Facts) -> tuple[list[str], int, Mapping[tuple[str, int], Mapping[str, Any]]]:
    """Return roles, number of blocks, and the layers by both."""
    layers = [layer for layer in facts.details["layers"] if layer.get("block") is not None]
    known = {name: place for place, name in enumerate(_ROLES)}
    roles = sorted({layer["role"] for layer in layers}, key=lambda role: (known.get(role, len(known)), role))
    blocks = max((layer["block"] for layer in layers), default=-1) + 1
    return roles, blocks, {(layer["role"], layer["block"]): layer for layer in layers}


_LAYER_PICTURES: Sequence[tuple[str, Callable[[Mapping[str, Any]], float | None]]] = (
    ("parameters kept, share of the dense layer's", lambda layer: layer["parameters"] / layer["dense_parameters"]),
    ("rank, share of the full one", lambda layer: layer["rank"] / min(layer["shape"])),
    ("relative error of the weight", lambda layer: layer.get("error")),
)


def _shown_pictures(facts: Facts) -> list[tuple[str, Callable[[Mapping[str, Any]], float | None]]]:
    layers = facts.details["layers"]
    return [each for each in _LAYER_PICTURES if any(each[1](layer) for layer in layers)]


def layers_height(facts: Facts) -> float:
    """Return the inches that a square of every layer needs."""
    if not facts.details.get("layers"):
        return 1.0
    return len(_shown_pictures(facts)) * (0.75 + 0.2 * len(_grid(facts)[0]))


def draw_layers(facts: Facts, figure: Figure) -> None:
    """Squares by block and role: the darker, the more is kept, or the larger the error."""
    roles, blocks, by_place = _grid(facts)
    shown = _shown_pictures(facts)
    for place, (title, value_of) in enumerate(shown):
        axes = figure.add_subplot(len(shown), 1, place + 1)
        values = {key: value_of(layer) for key, layer in by_place.items()}
        most = max((value for value in values.values() if value is not None), default=0.0) or 1.0
        for (role, block), value in values.items():
            if value is not None:
                y = roles.index(role)
                axes.add_patch(_square(block, y, PALETTE[place], min(1.0, 0.08 + 0.92 * value / most)))
        axes.set_xlim(-0.5, blocks - 0.5)
        axes.set_ylim(len(roles) - 0.5, -0.5)
        axes.set_yticks(range(len(roles)), roles, fontsize=8)
        step = 1 if blocks <= 12 else 4
        axes.set_xticks(range(0, blocks, step), [str(block) for block in range(0, blocks, step)], fontsize=8)
        axes.tick_params(length=0)
        axes.set_title(f"{title}: 0 to {most:.2f}", loc="left", fontsize=8)
        if place == len(shown) - 1:
            axes.set_xlabel("block", fontsize=8)


def _square(x: float, y: float, colour: str, opacity: float) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((x - 0.46, y - 0.44), 0.92, 0.88, facecolor=colour, alpha=opacity, edgecolor="none")


def logs(facts: Facts) -> dict[str, list[Mapping[str, Any]]]:
    """Return what was logged of every training that logged more than once."""
    training = facts.details.get("training") or {}
    found = {name: (entry or {}).get("log") or [] for name, entry in training.items()}
    return {name: log for name, log in found.items() if len(log) > 1}


def draw_training(facts: Facts, figure: Figure) -> None:
    """Loss over the steps, and below it what the schedule keeps."""
    curves = logs(facts)
    kept = {name: [row for row in log if row.get("kept_share") is not None] for name, log in curves.items()}
    count = 2 if any(kept.values()) else 1
    above = figure.add_subplot(count, 1, 1)
    for place, (name, log) in enumerate(curves.items()):
        rows = [row for row in log if row.get("loss") is not None]
        above.plot([row["step"] for row in rows], [row["loss"] for row in rows], color=PALETTE[place], label=name)
    above.set_ylabel("loss")
    above.set_ylim(bottom=0)
    above.grid(visible=True)
    if count == 2:
        below = figure.add_subplot(count, 1, 2, sharex=above)
        for place, rows in enumerate(kept.values()):
            below.plot([row["step"] for row in rows], [row["kept_share"] for row in rows], color=PALETTE[place])
        below.set_ylabel("kept share of\nwhat is pruned")
        below.set_ylim(0, 1.05)
        below.grid(visible=True)
        below.set_xlabel("optimizer step")
        above.tick_params(labelbottom=False)
    else:
        above.set_xlabel("optimizer step")
    legend(figure, above)
