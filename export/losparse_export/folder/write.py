"""Write a folder whole or not at all, and a model into it.

Everything is written into a hidden folder beside the target, which takes the target's name when it is complete. A
failure leaves nothing behind, and an old folder is only removed once the new one stands in its place.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx_ir as ir

from losparse.errors import LosparseError
from losparse_runtime.contract.files import METADATA_FILE
from losparse_runtime.contract.folder import Folder
from losparse_runtime.contract.variant import MODEL_FILE, data_file

# Weights beyond this go into a file of their own, which onnxruntime maps instead of copying. In bytes.
EXTERNAL_FROM = 100 * 2**20
# A protobuf message, which a graph is with its weights in it, ends at 2 GiB; nodes and names take some of that.
_INLINE_AT_MOST = 2**31 - 2**27
# Smaller tensors stay in the graph: onnxruntime must see shape constants when it infers shapes. In bytes.
_INLINE_BELOW = 1024


@contextmanager
def staged_folder(out: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Give an empty folder to write in; it becomes `out` when the block ends without an error.

    Args:
        out: where the folder shall stand.
        overwrite: replace a folder that an earlier export wrote.

    Yields:
        The folder to write in, beside `out`.

    Raises:
        LosparseError: `out` is there and may not be replaced, or its parent cannot be written.
    """
    check_out(out, overwrite=overwrite)
    out = Path(os.path.abspath(out))  # "." has no name to put others beside
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        staging = _sibling(out, "tmp")
        staging.mkdir()
    except OSError as error:
        raise LosparseError(f"{out.parent}: cannot be written ({error.strerror}); choose another OUT") from error
    try:
        yield staging
        _swap(staging, out, overwrite=overwrite)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def check_out(out: Path, *, overwrite: bool) -> None:
    """Refuse a target that exists, unless it is an earlier export and may be replaced.

    Raises:
        LosparseError: it may not be replaced.
    """
    if not out.exists() and not out.is_symlink():
        return
    if not overwrite:
        raise LosparseError(f"{out}: already exists; choose another OUT, or pass overwrite=True (--overwrite)")
    if out.is_symlink() or not out.is_dir():
        raise LosparseError(f"{out}: is not a folder, and only a folder is overwritten; choose another OUT")
    if any(out.iterdir()) and not (out / METADATA_FILE).is_file():
        raise LosparseError(f"{out}: holds no {METADATA_FILE}, so no export wrote it; it is not overwritten")


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


def _swap(staging: Path, out: Path, *, overwrite: bool) -> None:
    check_out(out, overwrite=overwrite)  # again: the export took a while
    if not out.exists():
        staging.rename(out)
        return
    old = _sibling(out, "old")
    out.rename(old)
    try:
        staging.rename(out)
    except OSError:
        old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _sibling(out: Path, ending: str) -> Path:
    """Return a hidden name beside `out` that nothing else has: a rename within one folder is atomic."""
    return out.with_name(f".{out.name}.{secrets.token_hex(4)}.{ending}")
