"""Blocks and neurons that a recipe does not keep: a shallower and narrower model, before any layer is factored."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from losparse_runtime.contract.progress import Progress

from ..compress import check_compressible
from ..models.depth import drop_layers
from ..models.neurons import drop_neurons
from ..training.recipe import Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def drop_unseen(model: PreTrainedModel, recipe: Recipe) -> None:
    """Drop what can be dropped without a look at texts, and check that the method suits the rest."""
    if recipe.keep_layers is not None and recipe.keep_layers_by == "even":
        drop_layers(model, recipe.keep_layers)
    _check(model, recipe)


def drop_on_texts(
    model: PreTrainedModel,
    recipe: Recipe,
    progress: Progress,
    *,
    few: Callable[[], Iterable[Any]],
    batches: Callable[[], Sequence[Any]],
    sequential: bool | None = None,
) -> None:
    """Drop what texts decide: blocks by importance, then neurons.

    Args:
        model: after `drop_unseen`.
        recipe: what to keep.
        progress: shows a bar for each.
        few: makes the batches on which blocks are measured.
        batches: makes those on which neurons are.
        sequential: let later blocks see narrower ones before them; None where the model allows it.
    """
    if recipe.keep_layers is not None and recipe.keep_layers_by == "importance":
        with progress.stage("measuring blocks"):
            drop_layers(model, recipe.keep_layers, by="importance", batches=few())
        _check(model, recipe)
    if recipe.keep_neurons is not None:
        drop_neurons(
            model, recipe.keep_neurons, batches(), by=recipe.keep_neurons_by, sequential=sequential, progress=progress
        )
        _check(model, recipe)


def _check(model: PreTrainedModel, recipe: Recipe) -> None:
    if recipe.method is not None:
        check_compressible(model, recipe.method, recipe.targets, recipe.ignore)
