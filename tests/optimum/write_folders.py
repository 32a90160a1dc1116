"""Write ONNX folders, and what our own runtime says to some texts, for `check_optimum.py` in the other environment.

    python tests/optimum/write_folders.py OUT

Runs where losparse is installed. The model is the real MiniLM: as it is for embeddings, and compressed for a
classifier, because opening our folders is a promise about real models.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from losparse import LoSparse, compact_, compress_
from losparse.demo.model import find_minilm
from losparse.layers.training import training_layers
from losparse.methods.losparse.algorithm import update_masks
from losparse_export import export_model
from losparse_runtime import Session

TEXTS = ["a stirring , funny and finally transporting film", "dull", "The quick brown fox jumps over the lazy dog."]
METHOD = LoSparse(keep=0.2, low_rank=0.05, structure="foldable")


def write_classifier(folder: Path) -> None:
    """Compress MiniLM without training it: the numbers need not mean anything, they must only be equal."""
    torch.manual_seed(0)
    source = find_minilm()
    model = AutoModelForSequenceClassification.from_pretrained(source, num_labels=3)
    compress_(model, METHOD)
    layers = training_layers(model)
    for layer in layers.values():
        layer.score_avg.copy_(layer.sparse.abs().mean(dim=1 if layer.axis == "out" else 0))
    update_masks(layers, METHOD.families(layers, model.config), METHOD.sparse_budget(list(layers.values())))
    compact_(model, METHOD)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)


def main() -> None:
    """Write both folders and their expected outputs."""
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    write_classifier(out / "classifier")
    export_model(out / "classifier", out / "classifier-onnx", task="text-classification", overwrite=True)
    export_model(find_minilm(), out / "embedder-onnx", task="feature-extraction", overwrite=True)
    (out / "texts.json").write_text(json.dumps(TEXTS))
    for name, output in (("classifier", "logits"), ("embedder", "last_hidden_state")):
        session = Session(out / f"{name}-onnx", threads=1)
        np.save(out / f"{name}.npy", session.run(session.encode(TEXTS))[output])


if __name__ == "__main__":
    main()
