"""A model and its tokenizer, as whoever has no losparse_runtime opens them: what all peers share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime
from tokenizers import Tokenizer


class Classifier:
    """Classifies texts in one run.

    Args:
        model: file of the model.
        tokenizer: file of the tokenizer.
        labels: by class id.
        max_length: tokens that are kept of a text.
        threads: of a run.
        disabled_optimizers: graph optimizers that losparse_runtime switches off for this model too.
    """

    def __init__(
        self,
        model: str,
        tokenizer: str,
        labels: Sequence[str],
        max_length: int,
        threads: int,
        disabled_optimizers: Sequence[str],
    ) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession(
            model, options, ["CPUExecutionProvider"], disabled_optimizers=list(disabled_optimizers)
        )
        self.names = {each.name for each in self.session.get_inputs()}
        self.tokenizer = Tokenizer.from_file(tokenizer)
        self.tokenizer.enable_truncation(max_length)
        self.tokenizer.enable_padding()
        self.labels = labels

    def __call__(self, texts: Sequence[str]) -> list[dict[str, Any]]:
        """Return label and score of each text."""
        encodings = self.tokenizer.encode_batch(list(texts))
        inputs = {
            "input_ids": np.array([each.ids for each in encodings], np.int64),
            "attention_mask": np.array([each.attention_mask for each in encodings], np.int64),
            "token_type_ids": np.array([each.type_ids for each in encodings], np.int64),
        }
        (logits,) = self.session.run(["logits"], {name: inputs[name] for name in self.names})
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        scores = odds / odds.sum(axis=1, keepdims=True)
        best = scores.argmax(axis=1)
        return [
            {"label": self.labels[label], "score": float(row[label])} for label, row in zip(best, scores, strict=True)
        ]
