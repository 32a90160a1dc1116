"""Names of the same layer in a model with a head and in the bare model inside it; loads no torch."""

from __future__ import annotations

from collections.abc import Container


def local_name(name: str, prefix: str, names: Container[str]) -> str | None:
    """Find a layer saved from a model with a head in the bare model, and the other way round.

    Args:
        name: of the layer where it was saved.
        prefix: what the model with a head calls the bare model in it: "bert".
        names: of the layers that there are.

    Returns:
        The name among `names`, None if it is not there under any.
    """
    candidates = (name, name.removeprefix(f"{prefix}."), f"{prefix}.{name}")
    return next((candidate for candidate in candidates if candidate in names), None)
