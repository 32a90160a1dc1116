"""What a request asks for: which texts, of which model, until when."""

from __future__ import annotations

from fastapi import Request

from ..contract.task import TASKS
from ..errors import InputError
from .gate import state_of
from .models import ModelTable, ServedModel

_MOST_DIGITS = 15  # of milliseconds: 30,000 years


def checked_texts(texts: str | list[str], limit: int) -> list[str]:
    """Return texts as a list.

    Raises:
        InputError: there are none or too many, or one is not text.
    """
    listed = [texts] if isinstance(texts, str) else texts
    if not 0 < len(listed) <= limit:
        raise InputError(f"texts must be 1 to {limit} in one request, got {len(listed)}; send them in parts")
    return listed


def size_of(*given: str | list[str] | None) -> int:
    """Return the characters of texts."""
    return sum(len(each) if isinstance(each, str) else sum(map(len, each)) for each in given if each is not None)


def choose(models: ModelTable, name: str | None, helper: str, request: Request) -> ServedModel:
    """Return the model that a request names, or the first whose task is done by a helper.

    Raises:
        NotFound: there is none of that name.
        InputError: no model does the task.
    """
    state = state_of(request.scope)
    state.route = request.scope["path"]
    if name is not None:
        model = models.get(name)
    else:
        found = next((each for each in models if _does(each, helper)), None)
        if found is None:
            listed = ", ".join(f"{each.name} ({each.session.task})" for each in models)
            raise InputError(f"no model here does {helper}; there are {listed}")
        model = found
    state.model = model.name
    return model


def _does(model: ServedModel, helper: str) -> bool:
    task = TASKS[model.session.task]
    return task.helper == helper or (helper == "classify" and task.scores_texts)


def deadline_of(request: Request) -> float | None:
    """Return the seconds that a client gives its request, by the header `X-Timeout-Ms`; None where it names none.

    Raises:
        InputError: it is no number of milliseconds above 0.
    """
    given = request.headers.get("x-timeout-ms")
    if given is None:
        return None
    if not given.isascii() or not given.isdigit() or len(given) > _MOST_DIGITS or int(given) == 0:
        raise InputError(f"header X-Timeout-Ms must be whole milliseconds above 0, got {given[:40]!r}")
    return int(given) / 1000
