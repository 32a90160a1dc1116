"""What a user can have for nothing: the dense model in the runtimes there are, to be timed beside ours.

    onnxruntime    what torch exports, and onnxruntime's `quantize_dynamic` of it, by their own defaults
    OpenVINO       the same export in f32, bf16 and int8 (by NNCF), where a Python with openvino is found

Each is compared with our dense fp32 export before it is timed. One that computes something else is left out, and so is
one that its own library refuses: a model is not estimated worse because a third party fails.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from losparse_runtime import Draw, OpenVino, Session, compare, find_openvino
from losparse_runtime.checking.bounds import allowed_difference
from losparse_runtime.contract.files import write_metadata
from losparse_runtime.contract.folder import Folder
from losparse_runtime.dependencies import import_onnxruntime
from losparse_runtime.errors import LosparseRuntimeError

from .costs import Call
from .folder.model import model_sizes
from .folder.write import write_folder
from .opening.load import Loaded
from .planning.plan import Plan
from .precision.apply import contained
from .precision.table import PRECISION_TABLE
from .verdict import ONNXRUNTIME, OPENVINO

# OpenVINO's names for precisions, by ours.
_IN_OPENVINO = {"f32": "fp32", "bf16": "bf16", "int8": "int8"}
# Smallest centred cosine with fp32; fp32 itself must be equal up to rounding. bf16 has 8 bits for a number: 6 x 384 of
# random weights has 0.999998. int8 is held to what our own is: NNCF's had 0.998 and more, by what it was calibrated on.
_COSINES: Mapping[str, float | None] = {"fp32": None, "bf16": 0.999, "int8": PRECISION_TABLE["int8"].cosine}


@dataclass(frozen=True)
class Opponent:
    """One dense model that others make.

    Attributes:
        runtime: `ONNXRUNTIME` or `OPENVINO`.
        precision: "fp32", "bf16" or "int8".
        model: to be timed beside sessions.
        file_bytes: of its files; None where it is made in memory.
    """

    runtime: str
    precision: str
    model: Session | OpenVino
    file_bytes: int | None


@contextmanager
def dense_opponents(
    loaded: Loaded,
    plain: ir.Model,
    root: Path,
    reference: Session,
    call: Call,
    *,
    python: str | Path | None = None,
) -> Iterator[tuple[list[Opponent], list[str]]]:
    """Open every dense model that others make, ended at the end.

    Args:
        loaded: the dense model.
        plain: its graph as torch writes it, built for the target `PLAIN`; it is not changed.
        root: a folder to write into.
        reference: our dense fp32 export, which each must equal.
        call: to be compared at, and whose threads they run on.
        python: the interpreter that has OpenVINO; this one, or that of $LOSPARSE_OPENVINO_PYTHON, by default.

    Yields:
        The opponents, and a sentence for each that was left out.

    Raises:
        InputError: the interpreter cannot be started.
    """
    found, left_out = [], []
    feeds = reference.signature.random_feeds(Draw(call.batch, call.length))
    expected = reference.run(feeds)
    with ExitStack() as stack:
        for opponent, failure in _opened(loaded, plain, root, call, python, stack):
            try:
                why = failure or (
                    difference(opponent.model.run(feeds), expected, opponent.precision) if opponent else None
                )
            except LosparseRuntimeError as error:
                why = str(error)
            if opponent is not None and why is None:
                found.append(opponent)
            elif why is not None:
                left_out.append(why if opponent is None else f"dense {opponent.precision} in {opponent.runtime}: {why}")
        yield found, left_out


def _opened(
    loaded: Loaded, plain: ir.Model, root: Path, call: Call, python: str | Path | None, stack: ExitStack
) -> Iterator[tuple[Opponent | None, str | None]]:
    """Yield opponents as they are opened, or why one could not be."""
    folders = {precision: root / f"plain-{precision}" for precision in ("fp32", "int8")}
    for precision, folder in folders.items():
        folder.mkdir()
        contents = write_plain(folder, loaded, plain, precision)
        session = Session(folder, threads=call.threads, unchecked=True)
        yield Opponent(ONNXRUNTIME, precision, session, sum(model_sizes(contents).values())), None
    facts = find_openvino(python)
    for name in () if facts is None else facts.precisions:
        try:
            model = stack.enter_context(OpenVino(folders["fp32"], name, threads=call.threads, python=python))
        except LosparseRuntimeError as error:
            yield None, f"dense {_IN_OPENVINO[name]} in OpenVINO: {error}"
            continue
        yield Opponent(OPENVINO, _IN_OPENVINO[name], model, None), None


def difference(outputs: Mapping[str, NDArray[Any]], expected: Mapping[str, NDArray[Any]], precision: str) -> str | None:
    """Say how outputs differ by more than their precision explains, or None.

    Args:
        outputs: of a dense model that others made.
        expected: of our dense fp32 export, for the same inputs.
        precision: "fp32", "bf16" or "int8".
    """
    parity, least = compare(outputs, expected), _COSINES[precision]
    if least is None:
        scale = max(float(np.abs(array).max()) for array in expected.values())
        allowed = allowed_difference(PRECISION_TABLE["fp32"].difference, scale)
        return None if parity.passed(allowed) else f"differs by {parity.max_abs:.1e}, allowed is {allowed:.1e}"
    if parity.finite and parity.centred_cosine >= least:
        return None
    return f"has a cosine of {parity.centred_cosine:.4f} with fp32, allowed is {least} or more"


def write_plain(folder: Path, loaded: Loaded, plain: ir.Model, precision: str = "fp32") -> Folder:
    """Write what torch exported, or its form by onnxruntime's `quantize_dynamic`, to be run as onnxruntime does it.

    Args:
        folder: an empty one.
        loaded: the dense model.
        plain: as torch writes it, built for the target `PLAIN`; it is not changed.
        precision: "fp32" or "int8".

    Returns:
        What the folder holds; only `Session(folder, unchecked=True)` opens it before it is compared with PyTorch.
    """
    graph = plain if precision == "fp32" else quantise_by_default(plain, folder)
    contents = write_folder(folder, loaded, graph, Plan({}), precision=precision)
    variant = replace(contents.variants[precision], disabled_optimizers=())  # as onnxruntime runs it by itself
    contents = replace(contents, variants={precision: variant})
    write_metadata(folder, contents)
    return contents


def quantise_by_default(graph: ir.Model, folder: Path) -> ir.Model:
    """Quantise with onnxruntime's own settings, products alone: it mistakes the standard Attention for its own.

    Args:
        graph: in fp32.
        folder: for two files and their weights, which are gone afterwards.
    """
    before, after = folder / "before.onnx", folder / "after.onnx"
    ir.save(graph, before, external_data="before.data")
    quantization = import_onnxruntime("quantization")
    with contained():
        quantization.quantize_dynamic(before, after, op_types_to_quantize=["MatMul"], use_external_data_format=True)
    model = ir.load(after)
    ir.external_data.load_to_model(model)
    for file in folder.iterdir():
        if file.name.startswith((before.stem, after.stem)):
            file.unlink()
    return model
