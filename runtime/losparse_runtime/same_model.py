"""Whether sessions are of one model: only then do their times, or their numbers, compare."""

from __future__ import annotations

from collections.abc import Sequence

from .errors import InputError
from .session import Session


def require_same_model(sessions: Sequence[Session], *, labels: bool = True) -> None:
    """Refuse to compare models that do different things.

    Args:
        sessions: of the models; at least one.
        labels: whether their labels must be equal too.

    Raises:
        InputError: task, labels, inputs or outputs differ.
    """
    first, *others = sessions
    for other in others:
        for what, one, two in (
            ("task", first.task, other.task),
            ("labels", first.labels, other.labels),
            ("inputs", first.inputs, other.inputs),
            ("outputs", first.outputs, other.outputs),
        ):
            if one != two and (labels or what != "labels"):
                raise InputError(
                    f"only folders of the same model can be compared; the {what} of '{first.folder}' "
                    f"and '{other.folder}' differ: {one!r} and {two!r}"
                )
