"""The pictures of a build, as SVG text: those that there is data for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from . import bars, curves
from .facts import Facts
from .style import svg_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Picture:
    """One picture.

    Attributes:
        name: for readers of the JSON, and anchors of the page.
        title: above it.
        says: what it shows, for who cannot see it.
        svg: the picture.
    """

    name: str
    title: str
    says: str
    svg: str


@dataclass(frozen=True)
class Sketch:
    """A picture before it is drawn.

    Attributes:
        name: see `Picture`, as for the next two.
        title: see there.
        says: see there.
        draw: draws it into a figure.
        height: of the figure, in inches.
    """

    name: str
    title: str
    says: str
    draw: Callable[[Facts, Figure], None]
    height: float


def pictures(facts: Facts) -> list[Picture]:
    """Draw what there is data for.

    Raises:
        LosparseError: matplotlib is not installed.
    """
    return [
        Picture(each.name, each.title, each.says, svg_of(partial(each.draw, facts), each.height))
        for each in sketches(facts)
    ]


def sketches(facts: Facts) -> Iterator[Sketch]:
    """Yield the pictures that there is data for, in order."""
    details = facts.details
    if bars.front_points(facts):
        says = "Accuracy of every model against its time at the first shape; up and left is better."
        yield Sketch("front", "Accuracy against latency", says, bars.draw_front, 3.2)
    if facts.results:
        says = "Speed-up over the dense model in fp32 at every shape."
        yield Sketch("speed", "Speed-up", says, bars.draw_speed, bars.speed_height(facts))
    if details.get("parts"):
        height = 1.1 + 0.36 * len(details["parts"])
        yield Sketch("parts", "Where the bytes are", "Bytes by part of every model.", bars.draw_parts, height)
    if details.get("keep"):
        says = "Time of models with random weights against the share of parameters that they keep."
        yield Sketch("keep", "Latency against keep", says, bars.draw_keep, 2.8)
    if details.get("layers"):
        says = "Kept parameters, rank and error of every layer, by block and role."
        yield Sketch("layers", "Layers", says, curves.draw_layers, curves.layers_height(facts))
    if details.get("operators"):
        says = "Milliseconds by kind of operator, of the dense model and of every variant."
        yield Sketch(
            "operators", "Operators, before and after", says, bars.draw_operators, bars.operators_height(facts)
        )
    if curves.logs(facts):
        says = "Loss over the optimizer steps, and the share of parameters that the schedule keeps."
        yield Sketch("training", "Training", says, curves.draw_training, 3.8)
