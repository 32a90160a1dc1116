"""Write a graph with its weights inside or beside it, and say what of it counts."""

from __future__ import annotations

import hashlib
from pathlib import Path

import onnx_ir as ir

from losparse_runtime.contract.folder import Folder
from losparse_runtime.contract.variant import MODEL_FILE, data_file

# Weights beyond this go into a file of their own, which onnxruntime maps instead of copying. In bytes.
EXTERNAL_FROM = 100 * 2**20
# A protobuf message, which a graph is with its weights in it, ends at 2 GiB; nodes and names take some of that.
_INLINE_AT_MOST = 2**31 - 2**27
# Smaller tensors stay in the graph: onnxruntime must see shape constants when it infers shapes. In bytes.
_INLINE_BELOW = 1024


def save_model(
    model: ir.Model,
    folder: Path,
    *,
    file: str = MODEL_FILE,
    external_from: int = EXTERNAL_FROM,
    inline_at_most: int = _INLINE_AT_MOST,
) -> None:
    """Write a graph and its weights.

    Args:
        model: the finished graph.
        folder: where to.
        file: name of its file; large weights go into one of the same name and ".data".
        external_from: weights of more bytes in all go into the second file.
        inline_at_most: weights of more bytes in all do so whatever `external_from` says.
    """
    external = weight_bytes(model) > min(external_from, inline_at_most)
    (folder / data_file(file)).unlink(missing_ok=True)  # of a graph that was larger
    ir.save(
        model,
        folder / file,
        external_data=data_file(file) if external else None,
        size_threshold_bytes=_INLINE_BELOW,
    )


def save_weights(model: ir.Model, folder: Path, *, file: str, external: bool) -> None:
    """Write a graph whose weights may be in other files of the folder, where they stay; it may not be used afterwards.

    Args:
        model: the finished graph.
        folder: where to.
        file: name of its file.
        external: whether its other weights go into a second file, as `save_model` writes them, or into this one.
    """
    values = [value for value in model.graph.initializers.values() if not _lies_in(value.const_value, folder)]
    if external:
        large = [(value, value.const_value) for value in values if value.const_value is not None]
        large = [(value, tensor) for value, tensor in large if tensor.nbytes > _INLINE_BELOW]
        written = ir.external_data.convert_tensors_to_external([tensor for _, tensor in large], folder, data_file(file))
        for (value, _), tensor in zip(large, written, strict=True):
            value.const_value = tensor
    ir.save(model, folder / file)


def _lies_in(tensor: ir.TensorProtocol | None, folder: Path) -> bool:
    return isinstance(tensor, ir.ExternalTensor) and Path(tensor.base_dir) == folder


def model_sizes(folder: Folder) -> dict[str, int]:
    """Return the bytes of the files of graphs and weights, by file name."""
    names = (name for variant in folder.variants.values() for model in variant.models.values() for name in model.names)
    return {name: folder.files[name].bytes for name in names if name in folder.files}


def weight_bytes(model: ir.Model) -> int:
    """Count the bytes of all initialisers."""
    return sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)


def fingerprint(model: ir.Model) -> str:
    """Return the SHA-256, in hexadecimal, of what a model computes: nodes, inputs, outputs and weights.

    Metadata, the producer's name and where weights are stored do not count.
    """
    graph, digest = model.graph, hashlib.sha256()
    ends = [value.name for value in (*graph.inputs, *graph.outputs)]
    digest.update(repr((model.ir_version, sorted(graph.opset_imports.items()), ends)).encode())
    for node in graph:
        digest.update(ir.to_proto(node).SerializeToString(deterministic=True))
    for name, value in graph.initializers.items():
        tensor = value.const_value
        assert tensor is not None, "an initialiser has a value"
        digest.update(repr((name, tensor.dtype.name, tensor.shape.numpy())).encode())
        digest.update(tensor.tobytes())
    return digest.hexdigest()
