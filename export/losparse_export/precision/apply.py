"""The way of a graph through a library and back: which nodes, what is kept, what is made good again."""

from __future__ import annotations

import logging
import sys
import tempfile
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import onnx_ir as ir
from onnx_ir.passes import common

from losparse.errors import LosparseError
from losparse_runtime.dependencies import import_onnxruntime

from ..graph.naming import module_of_path
from .base import INT8_BITS, Conversion, Precision
from .quantize import Feeds
from .table import check_precision, check_weight_bits, choose_embeddings
from .tables import shrink_tables

logger = logging.getLogger(__name__)

_ACTIVATION_NODES = ("DynamicQuantizeLinear", "QuantizeLinear", "DequantizeLinear")


def apply_precision(
    model: ir.Model,
    precision: str,
    *,
    nodes: Collection[str] | None = None,
    calibration: Sequence[Feeds] | None = None,
    weight_bits: int = INT8_BITS[0],
    embeddings: str = "auto",
) -> ir.Model:
    """Rewrite a finished graph in another precision.

    Args:
        model: a graph with named nodes, as `finish_planned` leaves it; it is not changed.
        precision: one of `PRECISIONS`.
        nodes: names of the MatMul nodes to quantise; None for all of `quantisable_nodes`. fp32 and fp16 have no such
            choice and do not look at it.
        calibration: for int8-static, and for it only: inputs of runs in which the ranges of activations are measured;
            int64 (batch, sequence) by input name.
        weight_bits: of int8 and int8-static: 7, or 8 for CPUs with VNNI.
        embeddings: what becomes of embedding tables, one of `EMBEDDINGS`; "auto" for what the precision says.

    Returns:
        The graph in the precision, with the operator set and file format of `model`; `model` itself for fp32 with its
        tables in float.

    Raises:
        LosparseError: the precision is unknown, calibration is missing, it, weight_bits or embeddings is not for the
            precision, or a node of `nodes` is not a MatMul with a constant float matrix, or the graph has none.
    """
    wanted = check_precision(precision, calibrated=calibration is not None)
    check_weight_bits(weight_bits, precision)
    if calibration is not None and not calibration:
        raise LosparseError(
            "calibration must hold the inputs of at least one run, got none; give some, or choose 'int8'"
        )
    tables = choose_embeddings(embeddings, precision)
    if wanted.convert is None and tables == "float":
        return model
    result = model.clone() if wanted.convert is None else _converted(model, wanted, nodes, calibration, weight_bits)
    if tables == "int8":
        # Last: the libraries would take the dequantisation of a row for one of theirs.
        # What scales activations in every run does so for a tied head too.
        shrink_tables(result, head_bits=weight_bits if wanted.mixes_texts else None)
    return result


def _converted(
    model: ir.Model,
    wanted: Precision,
    nodes: Collection[str] | None,
    calibration: Sequence[Feeds] | None,
    weight_bits: int,
) -> ir.Model:
    """Take a graph through the library that knows the precision, and back."""
    if wanted.warning is not None:
        logger.warning(wanted.warning)
    chosen = () if wanted.marked == "fp32" else _choose_nodes(model, wanted.name, nodes)
    with tempfile.TemporaryDirectory(prefix="losparse.") as name, contained():
        assert wanted.convert is not None, "fp32 takes no library"
        result = wanted.convert(model, Conversion(Path(name), chosen, calibration or (), weight_bits))
        # The tensors of the result may lie in the folder, which goes.
        ir.external_data.load_to_model(result)
    _finish(result, model)
    _check_done(result, chosen)
    return result


def quantisable_nodes(model: ir.Model) -> tuple[str, ...]:
    """Name the MatMul nodes whose second input is a constant float matrix, in graph order."""
    return tuple(node.name or "" for node in model.graph if _has_constant_matrix(node))


def _has_constant_matrix(node: ir.Node) -> bool:
    if (node.domain, node.op_type) != ("", "MatMul"):
        return False
    first, weight = node.inputs
    if first is None or weight is None or first.const_value is not None or not weight.is_initializer():
        return False
    matrix = weight.const_value
    return matrix is not None and matrix.dtype == ir.DataType.FLOAT and len(matrix.shape) == 2


def _choose_nodes(model: ir.Model, precision: str, nodes: Collection[str] | None) -> tuple[str, ...]:
    allowed = quantisable_nodes(model)
    if nodes is None:
        wanted = allowed
    else:
        unknown = sorted(set(nodes) - set(allowed))
        if unknown:
            raise LosparseError(
                f"node {unknown[0]!r} cannot be quantised: it must be a MatMul with a constant float matrix, "
                f"the graph has {len(allowed)} of them"
            )
        wanted = tuple(name for name in allowed if name in set(nodes))
    if not wanted:
        raise LosparseError(
            f"precision {precision!r} needs a MatMul node with a constant float matrix to quantise, got none; "
            "fp32 and fp16 need none"
        )
    return wanted


def _finish(result: ir.Model, model: ir.Model) -> None:
    """Give the result what the libraries changed beside the nodes: header, order, names of the glue."""
    result.ir_version, result.graph.name = model.ir_version, model.graph.name
    result.producer_name, result.producer_version = model.producer_name, model.producer_version
    result.metadata_props.clear()
    result.metadata_props.update(model.metadata_props)
    common.TopologicalSortPass()(result)
    common.RemoveUnusedNodesPass()(result)
    common.RemoveUnusedOpsetsPass()(result)
    version = model.graph.opset_imports[""]
    assert result.graph.opset_imports[""] == version, "the quantisers were made for this operator set"
    counts: Counter[str] = Counter()
    for node in result.graph:
        if node.op_type in _ACTIVATION_NODES and _is_between_layers(node):
            # Named by the library after the layer that made the activation, whose output would seem to be int8.
            node.name = f"/{node.op_type}_{counts[node.op_type]}"
            counts[node.op_type] += 1


def _is_between_layers(node: ir.Node) -> bool:
    """Tell whether a node quantises an activation, and not a weight, that other layers read than the one it is from."""
    if node.inputs[0] is None or node.inputs[0].producer() is None:
        return False
    layer = module_of_path(node.name or "")
    return any(module_of_path(reader) != layer for reader in _readers(node))


def _readers(node: ir.Node) -> Iterator[str]:
    """Name the nodes that read an activation which is quantised in this node, or after it."""
    for output in node.outputs:
        for user, _ in output.uses():
            if user.op_type in _ACTIVATION_NODES:
                yield from _readers(user)
            else:
                yield user.name or ""


def _check_done(result: ir.Model, nodes: Sequence[str]) -> None:
    """Refuse a result in which a chosen node is as it was: the quantisers skip what they cannot type, without a word.

    Raises:
        LosparseError: a node was skipped.
    """
    skipped = sorted(set(nodes) & set(quantisable_nodes(result)))
    if skipped:
        raise LosparseError(
            f"onnxruntime did not quantise node {skipped[0]!r} ({len(skipped)} in all); leave it out with nodes="
        )


@contextmanager
def contained() -> Iterator[None]:
    """Keep what the libraries do to the process to the block.

    They configure the root logger when it has no handler, and put a folder with modules of common names on the path.
    Those modules are looked for whenever one of the libraries is first used, but the folder is put there once, by
    whichever library comes first; so it is put there again.
    """
    path, root = list(sys.path), logging.getLogger()
    sys.path.append(str(Path(import_onnxruntime().__file__ or "").parent / "transformers"))
    guard = (logging.lastResort or logging.NullHandler()) if not root.handlers else logging.NullHandler()
    root.addHandler(guard)
    try:
        yield
    finally:
        root.removeHandler(guard)
        sys.path[:] = path
