"""The dense weight of a factored layer, for code that asks a linear layer for its `weight`.

Transformers' models do more with their linear layers than call them. T5 casts its input to `self.wo.weight.dtype`;
GPT-2 and T5 initialise `module.c_proj.weight` from the module above, unless it is marked as loaded; Reformer and WavLM
multiply by weights themselves. So a factored layer has a `weight`, whose dtype, device and shape cost nothing, and
whose values are multiplied out where they are used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from ..errors import LosparseError

_PROPERTIES = ("dtype", "device", "shape", "ndim", "layout", "is_cuda", "is_meta")
_FACTS = {
    *(getattr(Tensor, name).__get__ for name in _PROPERTIES),
    *(Tensor.dim, Tensor.size, Tensor.numel, Tensor.is_floating_point, torch.is_floating_point),
}
"""What is answered without the values."""


class LazyWeight(Tensor):
    """A tensor that stands for a dense weight, (out, in), which is computed whenever its values are used.

    It can be read, with gradients to the factors, and not be written: what was written would be lost. It is marked as
    loaded, so that transformers leaves it alone while it initialises what a checkpoint lacks.
    """

    _dense: Callable[[], Tensor]
    _is_hf_initialized: bool

    @staticmethod
    def __new__(cls, dense: Callable[[], Tensor], shape: tuple[int, ...], like: Tensor) -> Self:
        """Return the weight that `dense` gives: of this shape, (out, in), and of the dtype and device of `like`."""
        weight: Self = Tensor._make_wrapper_subclass(cls, shape, dtype=like.dtype, device=like.device)
        weight._dense = dense
        weight._is_hf_initialized = True
        return weight

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Answer what needs no values at once, and anything else with the dense weight.

        Raises:
            LosparseError: the weight would be written.
        """
        if func in _FACTS:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **(kwargs or {}))
        if isinstance(_written(func, args, kwargs or {}), cls):
            raise LosparseError(
                "the weight of a factored layer can be read, not written: it is made of u, v and sparse; change those"
            )
        return cls._dense_call(func, args, kwargs)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch declares it without the function
        cls,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[Any, Any] | None = None,
    ) -> Any:
        """Compute with the dense weight where torch itself hands this one on, without asking `__torch_function__`."""
        return cls._dense_call(func, args, kwargs)

    @staticmethod
    def _dense_call(func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any] | None) -> Any:
        dense_args, dense_kwargs = tree_map(_values, (tuple(args), dict(kwargs or {})))
        return func(*dense_args, **dense_kwargs)


_DATA: Any = Tensor.data
_ASSIGNMENTS = {Tensor.__setitem__, _DATA.__get__, _DATA.__set__}
"""Ways to write in place that do not end in `_`; `data` is asked for to be written past autograd."""


def _written(func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Return what a call writes in place, None if nothing."""
    name = getattr(func, "__name__", "")
    if func in _ASSIGNMENTS or name.startswith("__i") or (name.endswith("_") and not name.endswith("__")):
        return args[0] if args else kwargs.get("tensor")  # as torch.nn.init has it
    return kwargs.get("out")


def _values(value: Any) -> Any:
    return value._dense() if isinstance(value, LazyWeight) else value
