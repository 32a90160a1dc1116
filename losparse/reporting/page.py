"""The report as one HTML page that needs nothing else: no network, no script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import names_extra
from .pictures import Picture

_FOLDED = ("operators", "layers", "steps", "recipe", "versions")
"""Tables that are folded, since a picture says them, or since few ask."""


def to_html(report: Mapping[str, Any], pictures: Sequence[Picture]) -> str:
    """Write a report as a page.

    Args:
        report: as `collect_report` returns it.
        pictures: of the build.

    Raises:
        LosparseError: jinja2 is not installed.
    """
    with names_extra("losparse report", "report"):
        from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("losparse.reporting", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(report=report, pictures=_apart(pictures), folded=_FOLDED)


def _apart(pictures: Sequence[Picture]) -> list[Picture]:
    """Give the parts of every picture names of their own: matplotlib calls those of all pictures alike."""
    found = []
    for picture in pictures:
        svg = picture.svg
        for mark in ('id="', 'href="#', "url(#"):
            svg = svg.replace(mark, f"{mark}{picture.name}-")
        found.append(Picture(picture.name, picture.title, picture.says, svg))
    return found
