"""What a person says of a model that its folder does not."""

from __future__ import annotations

from ..validation import AnyText, checked


@checked
class CardSettings:
    """What a model card says beside what is in the folder.

    Attributes:
        title: heading of the card; the name of the repository by default.
        summary: a sentence or more under the heading.
        base_model: hub id of the model that this one was made from; where the export came from the hub, that is known.
        license: of the model, as the hub spells it ("apache-2.0").
        language: of its texts, by their codes ("en").
        datasets: hub ids of what it was trained and measured on.
        tags: further tags.
    """

    title: AnyText | None = None
    summary: AnyText | None = None
    base_model: AnyText | None = None
    license: AnyText | None = None
    language: tuple[AnyText, ...] = ()
    datasets: tuple[AnyText, ...] = ()
    tags: tuple[AnyText, ...] = ()
