"""Dense models as others run them, each compared with PyTorch before anybody times it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from losparse_export import Plan, trace_model, wrap_model
from losparse_export.folder.write import write_folder
from losparse_export.opening.evaluation import evaluation
from losparse_export.opening.load import Loaded
from losparse_export.opponents import quantise_by_default
from losparse_export.parity.gate import check_parity
from losparse_export.passes import NamePass
from losparse_export.precision.table import PRECISION_TABLE
from losparse_runtime import Draw, OpenVino, OpenVinoFacts, compare, find_openvino
from losparse_runtime.checking.bounds import allowed_difference
from losparse_runtime.contract.files import write_metadata

# A centred cosine, of outputs on random tokens. bf16 has 8 bits for a number, int8 what our own int8 is held to. In a
# 6 x 384 encoder of random weights bf16 has 0.999998 and int8 0.9998.
COSINES = {"bf16": 0.999, "int8": PRECISION_TABLE["int8"].cosine}
CASES = (Draw(1, 16), Draw(3, 24, seed=1, padding="drawn"), Draw(2, 64, seed=2, padding="half", pairs=True))


def export_plain(loaded: Loaded, root: Path) -> dict[str, Path]:
    """Write what torch.onnx.export gives, and its quantised form by onnxruntime's defaults."""
    folders = {name: root / name for name in ("dense-fp32-default", "dense-int8-default")}
    with evaluation(loaded.model):
        wrapped = wrap_model(loaded.model, loaded.task)
        graph = trace_model(wrapped)
        NamePass()(graph)
        for name, folder in folders.items():
            folder.mkdir()
            precision = "int8" if "int8" in name else "fp32"
            written = quantise_by_default(graph, root) if precision == "int8" else graph
            contents = write_folder(folder, loaded, written, Plan({}), precision=precision)
            variant = replace(contents.variants[precision], disabled_optimizers=())  # as onnxruntime runs it
            contents = replace(contents, variants={precision: variant})
            write_metadata(folder, contents)
            parity = check_parity(wrapped, folder, precision=precision)
            write_metadata(folder, contents.measured(parity=parity.to_dict()))
    return folders


@contextmanager
def in_openvino(
    loaded: Loaded, folder: Path, *, threads: int, python: str | None
) -> Iterator[tuple[dict[str, OpenVino], OpenVinoFacts | None]]:
    """Open a plain fp32 export in OpenVINO, in every precision that this machine has; ended at the end.

    Args:
        loaded: the model it is of.
        folder: the export.
        threads: of one run.
        python: the interpreter that has OpenVINO; see `find_openvino`.

    Yields:
        Models by the name of the variant, none where OpenVINO is not there; and versions.
    """
    facts = find_openvino(python)
    with ExitStack() as stack:
        models = {}
        for precision in () if facts is None else facts.precisions:
            model = stack.enter_context(OpenVino(folder, precision, threads=threads, python=python))
            check_opponent(loaded, model)
            models[f"openvino-{precision}"] = model
        yield models, facts


def check_opponent(loaded: Loaded, model: OpenVino) -> None:
    """Compare a model in OpenVINO with PyTorch.

    Raises:
        SystemExit: it computes something else, by more than its precision explains.
    """
    wrapped = wrap_model(loaded.model, loaded.task)
    for case in CASES:
        feeds = model.signature.random_feeds(case)
        with torch.no_grad():
            outputs = wrapped.reference({name: torch.from_numpy(array) for name, array in feeds.items()})
        expected = {name: tensor.numpy() for name, tensor in outputs.items()}
        mask = model.signature.mask_of(feeds)
        parity = compare(model.run(feeds), expected, mask=mask)
        scale = max(float(abs(array[mask == 1]).max()) for array in expected.values())
        exact = parity.passed(allowed_difference(PRECISION_TABLE["fp32"].difference, scale))
        cosine = COSINES.get(model.precision)
        if not (exact if cosine is None else parity.finite and parity.centred_cosine >= cosine):
            raise SystemExit(
                f"OpenVINO in {model.precision} differs from PyTorch by {parity.max_abs:.1e}, with a cosine of "
                f"{parity.centred_cosine:.4f}; its time would mean nothing"
            )
    print(f"openvino-{model.precision}: cosine {parity.centred_cosine:.6f}, off by {parity.max_abs:.1e}", flush=True)
