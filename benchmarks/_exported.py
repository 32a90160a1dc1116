"""Exported classifiers over a whole labelled set: are they PyTorch's, and how often right?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, EvalPrediction

from losparse.data.metrics import classification
from losparse_runtime import Session, compare

TOLERANCE = 1e-4  # on logits of a few units: fp32 sums in another order
BATCH = 32


def in_batches(texts: Sequence[str]) -> list[list[int]]:
    """Return places of texts, short ones first, in batches."""
    order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
    return [order[start : start + BATCH] for start in range(0, len(order), BATCH)]


def torch_logits(session: Session, folder: Path, texts: Sequence[str]) -> np.ndarray:
    """Return what the PyTorch model of `folder` says of every text, on the session's inputs; (texts, labels)."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    logits = np.zeros((len(texts), model.config.num_labels), np.float32)
    for places in in_batches(texts):
        feed = session.encode([texts[place] for place in places])
        with torch.no_grad():
            logits[places] = model(**{name: torch.from_numpy(array) for name, array in feed.items()}).logits.numpy()
    return logits


def whole_test_set(
    session: Session, reference: np.ndarray, texts: Sequence[str], labels: Sequence[int], precision: str
) -> dict[str, Any]:
    """Run every text through a session, and count.

    Args:
        session: an exported classifier.
        reference: of `torch_logits`; (texts, labels).
        texts: to classify.
        labels: the right answers.
        precision: of the export.

    Raises:
        SystemExit: the logits or the predictions of an fp32 export differ, or a number is not finite.
    """
    onnx = np.zeros_like(reference)
    for places in in_batches(texts):
        onnx[places] = session.run(session.encode([texts[place] for place in places]))["logits"]
    parity = compare(onnx, reference)
    same = onnx.argmax(-1) == reference.argmax(-1)
    if not parity.finite or (precision == "fp32" and not (parity.passed(TOLERANCE) and same.all())):
        raise SystemExit(
            f"{session.folder}: max difference {parity.max_abs:.1e}, {same.mean():.2%} of predictions equal"
        )
    scores = classification(EvalPrediction(predictions=onnx, label_ids=np.array(labels)))
    return {
        "test_accuracy": round(scores["accuracy"], 4),
        "test_matthews": round(scores["matthews"], 4),
        "max_abs_difference": float(parity.max_abs),
        "predictions_identical": bool(same.all()),
        "same_predictions": round(float(same.mean()), 4),
        "sentences": len(texts),
    }
