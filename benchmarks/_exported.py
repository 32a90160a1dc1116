"""Exported classifiers over a whole labelled set: are they PyTorch's, and how often right?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, EvalPrediction

from losparse.metrics import classification
from losparse_runtime import Session, compare

TOLERANCE = 1e-4  # on logits of a few units: fp32 sums in another order
BATCH = 32


def whole_test_set(
    session: Session, folder: Path, texts: Sequence[str], labels: Sequence[int], precision: str
) -> dict[str, Any]:
    """Run every text through the session and through the PyTorch model of `folder`, and count.

    Raises:
        SystemExit: the logits or the predictions of an fp32 export differ, or a number is not finite.
    """
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
    ours, torchs = [], []
    for start in range(0, len(order), BATCH):
        feed = session.encode([texts[place] for place in order[start : start + BATCH]])
        ours.append(session.run(feed)["logits"])
        with torch.no_grad():
            torchs.append(model(**{name: torch.from_numpy(array) for name, array in feed.items()}).logits.numpy())
    onnx, reference = np.concatenate(ours), np.concatenate(torchs)
    parity = compare(onnx, reference)
    same = onnx.argmax(-1) == reference.argmax(-1)
    if not parity.finite or (precision == "fp32" and not (parity.passed(TOLERANCE) and same.all())):
        raise SystemExit(f"{folder.name}: max difference {parity.max_abs:.1e}, {same.mean():.2%} of predictions equal")
    sorted_labels = np.array([labels[place] for place in order])
    scores = classification(EvalPrediction(predictions=onnx, label_ids=sorted_labels))
    return {
        "test_accuracy": round(scores["accuracy"], 4),
        "test_matthews": round(scores["matthews"], 4),
        "max_abs_difference": float(parity.max_abs),
        "predictions_identical": bool(same.all()),
        "same_predictions": round(float(same.mean()), 4),
        "sentences": len(texts),
    }
