"""Runs of an open model: plain, or with inputs and outputs bound to a GPU; and those that warm it up."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..contract.feeds import Draw
from ..contract.signature import Signature
from ..contract.tensors import Arrays
from ..dependencies import import_onnxruntime
from ..errors import InputError
from .choice import GPU_PROVIDERS
from .options import Options

HOST = "cpu"
"""What onnxruntime calls the memory of the machine itself."""
_DEVICE, _DEVICE_OPTION = "cuda", "device_id"


class Running(Protocol):
    """Runs a session once. It holds none, so that a session which is closed is gone."""

    def __call__(self, session: Any, names: Sequence[str], feeds: Mapping[str, NDArray[Any]]) -> Sequence[NDArray[Any]]:
        """Return the outputs of these names, in their order."""


def running(providers: Sequence[str], options: Options, ort: Any = None) -> Running:
    """Return how sessions are run that were opened with these options.

    Args:
        providers: that a session really uses, in order.
        options: it was opened with.
        ort: onnxruntime; default: the one that is installed.
    """
    device, number = device_of(providers, options)
    return run_plainly if device == HOST else Bound(import_onnxruntime() if ort is None else ort, device, number)


def device_of(providers: Sequence[str], options: Options) -> tuple[str, int]:
    """Return where a session keeps its tensors: onnxruntime's name of a kind of device, and which one of them.

    Args:
        providers: that the session really uses, in order.
        options: it was opened with.
    """
    if providers[0] in GPU_PROVIDERS:
        return _DEVICE, int(options.settings.get(providers[0], {}).get(_DEVICE_OPTION, "0"))
    return HOST, 0


def run_plainly(session: Any, names: Sequence[str], feeds: Mapping[str, NDArray[Any]]) -> Sequence[NDArray[Any]]:
    """Give arrays and take arrays, a `Running`."""
    outputs: Sequence[NDArray[Any]] = session.run(names, feeds)
    return outputs


class Bound:
    """Copies inputs to a device before a run and outputs back after it, so that the run itself copies nothing.

    Every run has a binding of its own: threads may share a session.

    Args:
        ort: onnxruntime.
        device: onnxruntime's name of a kind of device.
        number: of the device among those.
    """

    def __init__(self, ort: Any, device: str, number: int = 0) -> None:
        self._value, self._device, self._number = ort.OrtValue, device, number

    def __call__(self, session: Any, names: Sequence[str], feeds: Mapping[str, NDArray[Any]]) -> Sequence[NDArray[Any]]:
        """Run it."""
        binding = session.io_binding()
        for name, array in feeds.items():
            # Slices have gaps between their rows, which a copy to a device would take along.
            value = self._value.ortvalue_from_numpy(np.ascontiguousarray(array), self._device, self._number)
            binding.bind_ortvalue_input(name, value)
        for name in names:
            binding.bind_output(name, self._device, self._number)
        session.run_with_iobinding(binding)
        outputs: Sequence[NDArray[Any]] = binding.copy_outputs_to_cpu()
        return outputs


def warm_up(run: Callable[[Arrays], Arrays], signature: Signature, shapes: Sequence[tuple[int, int]]) -> None:
    """Run made-up tokens of some shapes.

    Args:
        run: runs a model once, and checks what it is given.
        signature: of the model.
        shapes: pairs of batch and length.

    Raises:
        InputError: one is no pair of whole numbers above 0, or the model does not take it.
    """
    for shape in shapes:
        pair = tuple(shape) if isinstance(shape, tuple | list) else ()
        if len(pair) != 2 or not all(
            isinstance(each, int) and not isinstance(each, bool) and each > 0 for each in pair
        ):
            raise InputError(f"warmup must be pairs of batch and length, as in [(1, 16), (8, 128)], got {shape!r}")
        run(signature.random_feeds(Draw(*pair)))
