"""Recovery by adapters: the factors stay as they are, low-rank adapters on them are trained, and merged at the end.

    u + scaling B A     v + scaling B A     sparse + scaling B A      as peft's `target_parameters` adapts parameters

Afterwards the checkpoint has the same tensors as before, and nothing of peft in it. Only one-shot methods leave
factors that an adapter can stand on: while a method prunes, its scores need the gradients of the weights themselves.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from ..errors import LosparseError
from ..layers.factored import FactoredLinear
from ..layers.joint import groups_of
from ..layers.training import TrainingForm
from ..methods import Method
from .divergence import diverged
from .recipe import Training, check_lora

_SCALING = 2.0
"""What an adapter's product is multiplied by: alpha / rank, as SVD-LLM and most recipes for LoRA have it."""


def require_lora(training: Training, method: Method | None) -> None:
    """Refuse what adapters cannot be trained for, before anything is changed.

    Raises:
        LosparseError: the method leaves no factors for adapters, or peft is not installed.
    """
    check_lora(training, method)
    if training.lora_rank > 0:
        try:
            import peft  # noqa: F401
        except ImportError:
            raise LosparseError("lora_rank needs peft; install it with: pip install 'losparse[train]'") from None


def attach_adapters(model: nn.Module, training: Training) -> Any:
    """Put adapters on the tensors of every compact factored layer, and freeze all else but what the recipe names.

    A right factor that several layers share (`joint`) gets none.

    Args:
        model: with compact factored layers; changed in place.
        training: the rank of the adapters and what is trained beside them; what is frozen already stays frozen.

    Returns:
        What `merge_adapters` takes.

    Raises:
        LosparseError: the model has no factored layer, or one that is still pruned.

    References:
        LoRA, arXiv:2106.09685; SVD-LLM, arXiv:2403.07378, which recovers its factors this way.
    """
    from peft import LoraConfig, LoraModel

    factored = {name: m for name, m in model.named_modules() if isinstance(m, FactoredLinear)}
    if not factored or any(isinstance(module, TrainingForm) for module in factored.values()):
        raise LosparseError("adapters need compact factored layers; compress_(model, method) with a one-shot method")
    # peft adapts a parameter while its own module runs, so layers that share it would go on with the old one.
    shared = {id(group[0].v) for group in groups_of(model)}
    targets = [
        f"{name}.{tensor}"
        for name, module in factored.items()
        for tensor, parameter in module.named_parameters(recurse=False)
        if parameter.dim() == 2 and id(parameter) not in shared
    ]
    beside = [parameter for parameter in trained_beside(model, training.lora_also) if parameter.requires_grad]
    config = LoraConfig(
        r=training.lora_rank,
        lora_alpha=_SCALING * training.lora_rank,
        target_modules=[],  # None would take the modules peft knows for this architecture
        target_parameters=targets,
    )
    adapted = LoraModel(model, config, "default")
    for parameter in beside:
        parameter.requires_grad_(True)
    return adapted


def merge_adapters(adapted: Any) -> None:
    """Add the adapters to the tensors they stand on and take them away; the model has its former layers again.

    Raises:
        LosparseError: an adapter holds NaN or infinity.
    """
    try:
        adapted.merge_and_unload(safe_merge=True)
    except ValueError as error:
        raise diverged("the adapters hold NaN or infinity") from error


def trained_beside(model: nn.Module, also: str) -> list[nn.Parameter]:
    """Return the parameters that are trained beside adapters.

    Args:
        model: a transformers model.
        also: "nothing"; "head": what stands outside the base model, but not an output embedding; "small": that, and
            all biases and norms.
    """
    if also == "nothing":
        return []
    base: nn.Module = getattr(model, getattr(model, "base_model_prefix", ""), model)  # a bare model has no head
    output = getattr(model, "get_output_embeddings", lambda: None)()
    inner = {id(parameter) for part in (base, output) if part is not None for parameter in part.parameters()}
    return [
        parameter
        for parameter in model.parameters()
        if id(parameter) not in inner or (also == "small" and parameter.dim() == 1)
    ]
