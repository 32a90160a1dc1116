"""Whether sessions are of one model: only then do their times, or their numbers, compare."""

from __future__ import annotations

from collections.abc import Sequence

from .errors import InputError
from .session import Session


def same_labels(one: Sequence[str] | None, two: Sequence[str] | None) -> bool:
    """Tell whether two models may have the same classes in the same order.

    Of as many classes, those that a model does not name (LABEL_0, LABEL_1, ...) are taken to be those of the other one:
    a compression that was trained on named labels takes them so, and says that it does.

    Args:
        one: labels by class id; None where there are none.
        two: of the other model.
    """
    if one is None or two is None or len(one) != len(two):
        return one is two is None
    nameless = tuple(f"LABEL_{number}" for number in range(len(one)))
    return tuple(one) == tuple(two) or nameless in (tuple(one), tuple(two))


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
            if what == "labels" and (not labels or same_labels(first.labels, other.labels)):
                continue
            if one != two:
                raise InputError(
                    f"only folders of the same model can be compared; the {what} of '{first.folder}' "
                    f"and '{other.folder}' differ: {one!r} and {two!r}"
                )
