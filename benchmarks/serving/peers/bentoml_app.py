"""The same behind BentoML, which batches by itself: `bentoml serve bentoml_app:Sentiment`, settings in $SETTINGS."""

from __future__ import annotations

import json
import os
from typing import Any

import bentoml
from classifier import Classifier


@bentoml.service(workers=1, metrics={"enabled": False}, traffic={"timeout": 60})
class Sentiment:
    """Classifies texts."""

    def __init__(self) -> None:
        self.classifier = Classifier(**json.loads(os.environ["SETTINGS"]))

    @bentoml.api(batchable=True, max_batch_size=32, max_latency_ms=10_000)
    def classify(self, texts: list[str]) -> list[dict[str, Any]]:
        """Classify texts of many requests."""
        return self.classifier(texts)
