"""Write one model as ONNX folders, and what our own runtime makes of some texts, for clients that nobody here wrote.

    python tests/clients/write_folders.py OUT

Runs where losparse is installed. The model is the real MiniLM, compressed and not trained: its numbers need not mean
anything, they must only be equal everywhere.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModel

from losparse import LoSparse, compact_, compress_
from losparse.demo.model import find_minilm
from losparse.layers.training import training_layers
from losparse.methods.losparse.algorithm import update_masks
from losparse_export import ExportSettings, export_model, export_variants, trace_model
from losparse_runtime import Session

TEXTS = [
    "a stirring , funny and finally transporting film",
    "dull",
    "The quick brown fox jumps over the lazy dog.",
    "one two three four five six seven eight nine ten " * 40,  # longer than the 256 tokens that the model reads
]
METHOD = LoSparse(keep=0.3, low_rank=0.1, structure="foldable")
FOLDERS: dict[str, dict[str, Any]] = {
    "fp32": {},
    "fp32-opset-18": {"opset": 18},
    "int8": {"precision": "int8"},
    "int8-opset-18": {"precision": "int8", "opset": 18},
    "fp16": {"precision": "fp16"},
}
"""Options of the export, by name of the folder."""
SEVERAL = {
    "variants": ExportSettings(precision=("fp32", "int8", "fp16", "int8-weights", "int4-weights")),
    "transformers-js": ExportSettings(precision=("fp32", "int8", "fp16", "int4-weights"), layout="transformers.js"),
}
"""Settings of folders of several forms; what each form gives is saved as of a folder NAME/FORM."""


def write_compressed(folder: Path) -> None:
    """Compress MiniLM, with the files by which sentence-transformers opens it."""
    torch.manual_seed(0)
    source = find_minilm()
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.bin", "*.safetensors", "onnx", "openvino"))
    model = AutoModel.from_pretrained(source)
    compress_(model, METHOD)
    layers = training_layers(model)
    for layer in layers.values():
        layer.score_avg.copy_(layer.sparse.abs().mean(dim=1 if layer.axis == "out" else 0))
    update_masks(layers, METHOD.families(layers, model.config), METHOD.sparse_budget(list(layers.values())))
    compact_(model, METHOD)
    model.save_pretrained(folder)


def save_numbers(session: Session, file: Path) -> None:
    """Save the inputs of two runs, their outputs, and the vectors of all texts."""
    feeds, alone = session.encode(TEXTS[:3]), session.encode(TEXTS[0])
    np.savez(
        file,
        vectors=session.embed(TEXTS, batch_size=1),  # by itself, so that no client's batches matter
        hidden=session.run(feeds)["last_hidden_state"],
        hidden_alone=session.run(alone)["last_hidden_state"],
        **{f"feed:{key}": value for key, value in feeds.items()},
        **{f"alone:{key}": value for key, value in alone.items()},
    )
    print(f"{file.stem}: {session.metadata.model.file}", flush=True)


def main() -> None:
    """Write the folders, and what our runtime makes of the texts."""
    out = Path(sys.argv[1])
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    write_compressed(out / "model")
    traced: list[Any] = []

    def tracer(model: Any) -> Any:
        if not traced:
            traced.append(trace_model(model))
        return traced[0].clone()

    for name, options in FOLDERS.items():
        export_model(out / "model", out / name, tracer=tracer, **options)
        save_numbers(Session(out / name, threads=1), out / f"{name}.npz")
    for name, settings in SEVERAL.items():
        report = export_variants(out / "model", out / name, settings, tracer=tracer)
        assert not report.failed, report.failed
        for form in settings.precision:
            save_numbers(Session(out / name, threads=1, variant=form), out / f"{name}-{form}.npz")
    (out / "texts.json").write_text(json.dumps(TEXTS))


if __name__ == "__main__":
    main()
