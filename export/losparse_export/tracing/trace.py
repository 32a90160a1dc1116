"""From a transformers model to a graph: torch's exporter, with one node left for every factored layer."""

from __future__ import annotations

import ast
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

import onnx_ir as ir
import torch
import torch.export._trace as torch_trace
from torch import Tensor
from torch.export import ExportedProgram

from losparse.errors import LosparseError
from losparse_runtime.contract.signature import Signature
from losparse_runtime.contract.tensors import TOTAL

from ..graph.marks import SCOPE
from ..graph.opsets import IR_VERSIONS, NEWEST, OLDEST
from ..opening.task_model import TaskModel
from .capture import axes_of, capture_program
from .exact import exact_constants

logger = logging.getLogger(__name__)

# What torch 2.13's exporter says on every correct export, or beside its errors; anything else is heard.
_KNOWN_WARNINGS = (
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    r"# The axis name: \w+ will not be used, since it shares the same shape constraints",
    # Of the copy that is traced, which nobody uses afterwards: what it computed is in the program.
    r"The tensor attributes? self\..* assigned during export",
)
_KNOWN_RECORDS = {
    "torch.onnx._internal.exporter._registration": "torchvision is not installed",
    "onnxscript.optimizer._constant_folding": "Skipping constant folding for op",
    "torch.fx.experimental.symbolic_shapes": "Unable to find user code corresponding to",  # on errors, which say why
}


class Tracer(Protocol):
    """What makes a graph of a model, as `trace_model` does."""

    def __call__(self, model: TaskModel) -> ir.Model:
        """Return a graph that the caller may change."""


_PAST = 5  # tokens of earlier runs that a trace begins with, where a model keeps some
_WRAPPED = "model"  # where TaskModel holds the model
_SCOPES = "pkg.torch.onnx.name_scopes"


def trace_model(model: TaskModel) -> ir.Model:
    """Trace a model with dynamic batch and sequence axes.

    Args:
        model: the model with its task.

    Returns:
        The graph in the newest operator set, where attention is one node, which passes know; in the oldest where torch
        cannot write it with that, which is logged. Its inputs and outputs are named
        as in the task, its weights by their qualified names, and every node carries the qualified name of its module in
        the metadata entry `SCOPE`.

    Raises:
        LosparseError: torch cannot trace the model.
    """
    longest = model.longest
    sample = sample_inputs(model, batch=2, length=min(7, longest))
    name = type(model.model).__name__
    _try(model, sample, name)
    with quiet_export(), torch.no_grad():
        captured = capture_program(
            model, sample, signature=model.signature, longest=longest, name=name, arguments=model.arguments
        )
        try:
            graph = _translate(captured, model, sample, NEWEST)
        except RuntimeError as error:  # torch's own export errors are of this kind; the cause says more than they do
            reason = _first_line(error.__cause__ or error).partition(" : [")[0]  # what follows is the node's arguments
            graph = _translate_older(captured, model, sample, reason)
    _drop_wrapper(graph)
    _name_axes(graph, model.signature)
    return graph


class TraceOnce:
    """Traces one model once, for all exports of it: a trace takes ten seconds, a copy nothing."""

    def __init__(self) -> None:
        """Begin without a trace."""
        self._trace: ir.Model | None = None

    def __call__(self, model: TaskModel) -> ir.Model:
        """Return a graph that the caller may change; `model` is the same one every time."""
        if self._trace is None:
            self._trace = trace_model(model)
        return self._trace.clone()


def _translate(program: ExportedProgram, model: TaskModel, sample: Mapping[str, Tensor], opset: int) -> ir.Model:
    """Turn torch's program into a graph."""
    written = torch.onnx.export(
        program,
        (),
        kwargs=model.arguments(sample),
        dynamo=True,
        opset_version=opset,
        dynamic_shapes=model.arguments(axes_of(model.signature, 1, model.longest)),  # for their names alone
        input_names=list(sample),
        output_names=list(model.outputs),
        optimize=False,
        verbose=False,
    )
    assert written is not None
    with exact_constants(written.model):
        written.optimize()
    graph: ir.Model = written.model
    graph.ir_version = IR_VERSIONS[opset]
    return graph


def _translate_older(program: ExportedProgram, model: TaskModel, sample: Mapping[str, Tensor], reason: str) -> ir.Model:
    """Write a program that torch cannot write with the newest operator set (Falcon's attention) with the oldest one.

    Raises:
        LosparseError: that cannot be either.
    """
    name = type(model.model).__name__
    try:
        graph = _translate(program, model, sample, OLDEST)
    except RuntimeError as error:
        raise LosparseError(f"torch.onnx.export cannot translate {name}: {reason}") from error
    logger.warning("%s cannot be written with opset %d, and has opset %d: %s", name, NEWEST, OLDEST, reason)
    return graph


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _try(model: TaskModel, sample: Mapping[str, Tensor], name: str) -> None:
    """Run the model once as it is: what fails here is no matter of tracing."""
    try:
        model.reference(sample)
    except LosparseError:
        raise
    except Exception as error:  # whatever the model's own code raises
        line = _first_line(error)
        padding = "; set pad_token_id in its configuration" if "pad" in line.lower() else ""
        raise LosparseError(
            f"{name} fails in PyTorch itself on {' and '.join(sample)} of {_shape(sample)}: {line}{padding}"
        ) from error


def _shape(sample: Mapping[str, Tensor]) -> str:
    rows, tokens = next(iter(sample.values())).shape
    return f"{rows} rows of {tokens} tokens"


def sample_inputs(model: TaskModel, *, batch: int, length: int) -> dict[str, Tensor]:
    """Return inputs to trace with. The last row is padded: a mask of ones alone may be folded out of the graph."""
    past = _PAST if model.signature.states else 0
    feeds = model.signature.counted_feeds(batch=batch, length=length, past=past)
    return {name: torch.from_numpy(array) for name, array in feeds.items()}


@contextmanager
def quiet_export() -> Iterator[None]:
    """Keep known messages of torch's exporter off the terminal, and let every other one through."""
    filters = [(logging.getLogger(name), _Without(start)) for name, start in _KNOWN_RECORDS.items()]
    for logger, without in filters:
        logger.addFilter(without)
    # On an error that the caller is told in one line, torch also prints the graph so far, which is hundreds of them.
    vars(torch_trace)["print"] = lambda *_values, **_options: None
    try:
        with warnings.catch_warnings():
            for message in _KNOWN_WARNINGS:
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        vars(torch_trace).pop("print", None)
        for logger, without in filters:
            logger.removeFilter(without)


class _Without(logging.Filter):
    """Drops records whose message starts with a text."""

    def __init__(self, start: str) -> None:
        super().__init__()
        self._start = start

    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(self._start)


def _name_axes(graph: ir.Model, signature: Signature) -> None:
    """Call the axes of inputs as the signature does: torch has no names for sums of two."""
    specs = {spec.name: spec for spec in signature.inputs}
    for value in graph.graph.inputs:
        spec = specs.get(value.name or "")
        if spec is None or value.shape is None or len(value.shape) != len(spec.shape):
            continue
        for place, axis in enumerate(spec.shape):
            if axis == TOTAL:
                value.shape[place] = axis


def _drop_wrapper(model: ir.Model) -> None:
    """Name weights and scopes as the wrapped model does."""
    for value in tuple(model.graph.initializers.values()):
        assert value.name is not None
        if value.name.startswith(f"{_WRAPPED}."):
            value.name = value.name.removeprefix(f"{_WRAPPED}.")
    for node in model.graph:
        node.metadata_props[SCOPE] = _module_of(node)


def _module_of(node: ir.Node) -> str:
    """Return the qualified name of the module a node came from; "" for nodes between modules.

    The trace lists the modules from the outermost to the innermost, and last the name of the operation.
    """
    scopes = ast.literal_eval(node.metadata_props.get(_SCOPES, "[]"))[:-1]
    innermost = scopes[-1] if scopes else ""
    if innermost == _WRAPPED or not innermost.startswith(f"{_WRAPPED}."):
        return ""
    return str(innermost).removeprefix(f"{_WRAPPED}.")
