"""Copies of models to run: what a model changes in itself while it runs is then nobody's loss."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

from torch import Tensor, nn

from losparse.errors import LosparseError

_Module = TypeVar("_Module", bound=nn.Module)


def private_copy(module: _Module) -> _Module:
    """Copy a module with everything it may change while it runs - attributes, buffers, configuration - but its weights.

    Raises:
        LosparseError: something in it cannot be copied.
    """
    memo: dict[int, Any] = {id(weight): weight for weight in module.parameters()}
    for part in module.modules():
        for tensor in vars(part).values():
            if isinstance(tensor, Tensor) and not tensor.is_leaf:  # kept from a training step; torch copies only leaves
                memo[id(tensor)] = tensor.detach().clone()
    try:
        return copy.deepcopy(module, memo)
    except (TypeError, RuntimeError, NotImplementedError) as error:  # locks, open files, handles of other libraries
        raise LosparseError(
            f"{type(module).__name__}: holds something that cannot be copied ({error}); save the model and give its "
            "folder"
        ) from error
