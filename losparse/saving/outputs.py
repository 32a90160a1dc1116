"""A few numbers of a model's outputs, kept beside its weights, by which a load is known to be the model that was saved.

A comparison with PyTorch proves nothing where PyTorch itself was loaded wrong: a mask that was not filled in, another
version's code, a config.json that was edited. So `save_pretrained` runs a compressed model once on a made-up input and
writes what came out into the header of its weights; whoever loads the model to export it does the same and compares.

    "losparse_outputs" = {"format": 1, "tolerance": 3.5e-4,
                          "inputs": {"input_ids": [[731, ...]], "pixel_values": [1, 3, 224, 224]},
                          "outputs": {"BertForSequenceClassification": [...], "BertModel": [...]}}

Token ids stand there as they are, other inputs by their shape. Outputs are kept of the model and of the bare model in
it, by class, because a folder is opened with and without its head.
"""

from __future__ import annotations

import inspect
import json
import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from losparse_runtime.contract.feeds import recorded_ids, stable_raw
from losparse_runtime.contract.tensors import DECODER_TOKENS, TOKENS

from ..calibration.modes import evaluating
from ..errors import LosparseError
from ..layers.embedding import CompactTable
from ..layers.factored import FactoredLinear
from ..layers.training import TrainingForm
from ..models.positions import count_positions
from .folder import weight_files
from .headers import read_notes

KEY = "losparse_outputs"
"""Of the record in the header of a safetensors file."""

logger = logging.getLogger(__name__)

_FORMAT = 1
_TOKENS = 64
"""Most tokens of the made-up text. Running them takes about as long as writing the weights."""
_NUMBERS = 32
"""Numbers kept of an output, evenly spaced in it."""
_SMALLEST_SCALE = 0.1
"""Smaller outputs are compared as if they were of this magnitude: they are differences of larger numbers."""
_LARGEST_INPUT = 1 << 24
"""Most numbers of a made-up input; more is taken for damage."""
_TF32_EPS = 2.0**-10
_FP32_TOLERANCE = math.sqrt(torch.finfo(torch.float32).eps)
"""Relative difference that every load may show: a model is loaded in fp32 to export it, also one saved in fp64."""


def record_outputs(model: nn.Module) -> dict[str, Any] | None:
    """Run a compressed model once, as it is, and return what `check_outputs` compares with.

    The model is run in evaluation mode, in its own precision and on its own device, and is left as it was.

    Args:
        model: a transformers model.

    Returns:
        The record as JSON values. None where there is none: for a model still in training form, whose masks move; and,
        with a warning, for one that cannot be run on made-up inputs, or that gives something else every time.
    """
    if any(isinstance(module, TrainingForm) for module in model.modules()):
        return None
    reason = _unfit(model)
    if reason is None:
        try:
            inputs = _made_up(model)
            outputs = {type(one).__name__: _numbers(one, inputs) for one in _with_and_without_head(model)}
            if all(math.isfinite(number) for numbers in outputs.values() for number in numbers):
                return {"format": _FORMAT, "tolerance": _tolerance(model), "inputs": inputs, "outputs": outputs}
            reason = "its outputs are not finite"
        except Exception as error:  # models refuse inputs that they were not made for by errors of any type
            reason = f"it cannot be run on a made-up input: {' '.join(str(error).split())[:160]}"
    logger.warning("no outputs of %s are saved to check later loads by: %s", type(model).__name__, reason)
    return None


def read_record(folder: Path) -> dict[str, Any] | None:
    """Return the record of a saved model; None if it was saved without.

    Raises:
        LosparseError: the record is damaged, or the file that holds it.
    """
    file = weight_files(folder)[0]  # every shard has it
    text = read_notes(file).get(KEY)
    if text is None:
        return None
    try:
        record = json.loads(text)
        _check_record(record)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise LosparseError(
            f"{file}: its record of the model's outputs is damaged ({error}); save the model again"
        ) from error
    return dict(record)


def check_outputs(model: nn.Module, record: Mapping[str, Any], source: str) -> None:
    """Compare a loaded model with the record that was made when it was saved.

    Args:
        model: as loaded, in any precision.
        record: as `read_record` returns it.
        source: what to call the model in messages.

    Raises:
        LosparseError: it gives other numbers than the model that was saved.
    """
    known = record["outputs"]
    compared = [one for one in _with_and_without_head(model) if type(one).__name__ in known]
    if not compared:
        logger.warning(
            "%s: its outputs were recorded as %s, so they cannot be checked as %s",
            source,
            " and ".join(known),
            type(model).__name__,
        )
    for one in compared:
        name = type(one).__name__
        wanted = np.asarray(known[name], float)
        try:
            found = np.asarray(_numbers(one, record["inputs"]))
        except Exception as error:  # models refuse inputs that they were not made for by errors of any type
            raise LosparseError(
                f"{source}: {name} cannot be run on the input that its outputs were recorded for "
                f"({' '.join(str(error).split())[:160]}); its config.json or transformers differ, save the model again"
            ) from error
        scale = max(_rms(wanted), _SMALLEST_SCALE)
        difference = _rms(found - wanted) / scale if found.shape == wanted.shape else math.inf
        allowed = max(record["tolerance"], _FP32_TOLERANCE)  # earlier records of fp64 models allow less
        if not difference <= allowed:  # not so for NaN either
            raise LosparseError(
                f"{source}: {name} gives other outputs than when it was saved (relative difference {difference:.1e}, "
                f"allowed {allowed:.1e}): its files were changed, or this transformers loads or runs it "
                "differently; save the model again with save_pretrained if these outputs are right"
            )


def _unfit(model: Any) -> str | None:
    """Say why a model is not run at all, or None."""
    if any(type(parameter.data) is not Tensor or parameter.is_meta for parameter in model.parameters()):
        return "its weights are spread over several processes, or not in memory"
    if getattr(model.config, "attention_type", None) == "block_sparse":  # BigBird and its relatives
        return "a short text would change its attention (block-sparse)"
    return None


def _with_and_without_head(model: nn.Module) -> list[nn.Module]:
    """Return a model, and the bare model in it if that is another one with factored layers or compact tables."""
    base = getattr(model, "base_model", model)
    compressed = any(isinstance(module, FactoredLinear | CompactTable) for module in base.modules())
    return [model, base] if base is not model and compressed else [model]


def _made_up(model: Any) -> dict[str, Any]:
    """Return inputs that a model takes, as the record has them: rows of token ids, and shapes."""
    config, takes = model.config, inspect.signature(model.forward).parameters
    main = str(model.main_input_name)
    inputs: dict[str, Any] = {}
    if main == TOKENS:
        inputs[main] = [_token_ids(config.get_text_config(), _length(model))]
    if DECODER_TOKENS in takes and getattr(config, "is_encoder_decoder", False):
        # As many as the encoder has: classifiers look for the end of the text at the same place of both.
        text = config.get_text_config(decoder=True)
        inputs[DECODER_TOKENS] = inputs.get(TOKENS) or [_token_ids(text, _length(model))]
    vision = getattr(config, "vision_config", config)
    if "pixel_values" in takes and hasattr(vision, "image_size"):
        size = vision.image_size
        height, width = (size, size) if isinstance(size, int) else size
        inputs["pixel_values"] = [1, getattr(vision, "num_channels", 3), height, width]
    if main == "input_features" and hasattr(config, "num_mel_bins"):
        inputs[main] = [1, config.num_mel_bins, 2 * getattr(config, "max_source_positions", 64)]
    if main == "input_values":
        inputs[main] = [1, 16_000]  # a second of sound
    if main not in inputs:
        raise LosparseError(f"its input {main!r} is of no known shape")
    return inputs


def _length(model: nn.Module) -> int:
    """Return how many tokens the made-up text has: no more than half of what the model has positions for."""
    positions = count_positions(model)
    return _TOKENS if positions is None else min(_TOKENS, max(positions // 2, 1))


def _token_ids(config: Any, length: int) -> list[int]:
    """Return ids that mean nothing in particular, and the end of a text last, which some models look for."""
    special = {value for name, value in vars(config).items() if name.endswith("_token_id") and isinstance(value, int)}
    size = int(getattr(config, "vocab_size", 0) or 1000)
    end = getattr(config, "eos_token_id", None)
    return recorded_ids(length, size=size, special=special, end=end if isinstance(end, int) else None)


def _tensors(inputs: Mapping[str, Any], like: Tensor) -> dict[str, Tensor]:
    """Return recorded inputs as tensors; numbers are in the dtype of `like`, all on its device."""
    tensors = {}
    for name, value in inputs.items():
        if isinstance(value[0], list):
            tensors[name] = torch.tensor(value, dtype=torch.int64, device=like.device)
        else:
            numbers = stable_raw(math.prod(value)) / 2.0**63 - 1.0
            tensors[name] = torch.from_numpy(numbers).reshape(value).to(like)
    return tensors


def _numbers(model: Any, inputs: Mapping[str, Any]) -> list[float]:
    """Return a few numbers of a model's first output.

    Raises:
        LosparseError: the model draws random numbers while it runs.
    """
    takes = inspect.signature(model.forward).parameters
    like = next(parameter for parameter in model.parameters() if parameter.is_floating_point())
    tensors = {name: tensor for name, tensor in _tensors(inputs, like).items() if name in takes}
    with _undisturbed(model, like.device), _as_loaded(model):
        before = _random_state(like.device)
        result = model(**tensors, return_dict=True)
        if not torch.equal(before, _random_state(like.device)):
            raise LosparseError("it draws random numbers while it runs")
    values = next(value for value in result.values() if isinstance(value, Tensor) and value.is_floating_point())
    flat = values.flatten()
    places = torch.linspace(0, len(flat) - 1, min(_NUMBERS, len(flat)), dtype=torch.float64).long()
    return [float(number) for number in flat[places.to(flat.device)].to("cpu", torch.float64)]


def _random_state(device: torch.device) -> Tensor:
    """Return the state of the generators that a model on a device draws from."""
    states = [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]
    return torch.cat(states)


@contextmanager
def _undisturbed(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Run a model in evaluation mode, and leave it and all random numbers as they were."""
    numpy_state = np.random.get_state()
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[device] if device.type == "cuda" else []))
        stack.enter_context(torch.autocast(device.type, enabled=False))
        stack.enter_context(torch.no_grad())
        stack.enter_context(evaluating(model))
        try:
            yield
        finally:
            np.random.set_state(numpy_state)


@contextmanager
def _as_loaded(model: nn.Module) -> Iterator[None]:
    """Run a model that a Trainer had under autocast without it.

    accelerate wraps the `forward` of the model, and the wrapper turns autocast on again whatever is on outside.
    """
    original = vars(model).get("_original_forward")
    wrapped = vars(model).get("forward")
    if original is None or wrapped is None:
        yield
        return
    vars(model)["forward"] = original
    try:
        yield
    finally:
        vars(model)["forward"] = wrapped


def _tolerance(model: nn.Module) -> float:
    """Return the relative difference that a load may show: half of the digits of the precision that was recorded in.

    Rounding in another order, on another device or in fp32 instead of bf16, costs a deep model a digit or two; a wrong
    mask or table moves outputs by a tenth and more.
    """
    eps = max(torch.finfo(p.dtype).eps for p in model.parameters() if p.is_floating_point())
    on_gpu = any(parameter.is_cuda for parameter in model.parameters())
    if on_gpu and torch.get_float32_matmul_precision() != "highest":
        eps = max(eps, _TF32_EPS)
    return max(math.sqrt(eps), _FP32_TOLERANCE)


def _rms(values: np.ndarray[Any, np.dtype[np.float64]]) -> float:
    return float(np.sqrt(np.mean(np.square(values)))) if values.size else 0.0


def _check_record(record: Any) -> None:
    """Raise ValueError, TypeError, LookupError or AttributeError where a record is not as `record_outputs` makes it."""
    if record["format"] != _FORMAT:
        raise ValueError(f"format {record['format']!r}, this losparse reads {_FORMAT}")
    if not 0 < float(record["tolerance"]) < 1:
        raise ValueError(f"tolerance {record['tolerance']!r}")
    for name, value in record["inputs"].items():
        rows = value if isinstance(value[0], list) else [value]
        numbers = [number for row in rows for number in row]
        if not numbers or not all(type(number) is int and number >= 0 for number in numbers):
            raise ValueError(f"input {name!r}")
        if rows[0] is value and math.prod(numbers) > _LARGEST_INPUT:
            raise ValueError(f"input {name!r} of the shape {value}")
    for name, value in record["outputs"].items():
        if not value or not all(type(number) is float and math.isfinite(number) for number in value):
            raise ValueError(f"output {name!r}")
