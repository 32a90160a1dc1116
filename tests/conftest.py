"""What all tests share: a quiet, offline, single-threaded process."""

from __future__ import annotations

import os

# Tiny tensors gain nothing from threads, and on a busy machine threads that wait for each other cost a hundredfold.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["LOSPARSE_CPU"] = "cpu-avx2"  # plans are tested by what they choose, on whatever machine this is
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # some tests load onnxruntime before this package does
