"""Open, run, compare and time ONNX folders that losparse exported, as in `Session("OUT").classify(["a fine film"])`.

Needs numpy, onnxruntime and tokenizers; no torch.
"""

from .compare import Comparison, Parity, compare, compare_sessions
from .contract.folder import changed_files, read_metadata, verify_files
from .contract.metadata import Metadata, TensorSpec
from .engine.opening import Options
from .errors import (
    DependencyError,
    FolderError,
    InputError,
    LosparseRuntimeError,
    ProviderError,
    RunError,
    TokenizerError,
)
from .session import Session
from .tasks.answer import Answer
from .tasks.classify import Classification
from .tasks.rank import Ranked
from .tasks.tag import Tag
from .timing.latency import Latency, measure, peak_memory
from .timing.profile import NodeTime, profile_nodes, time_by

__all__ = [
    "Answer",
    "Classification",
    "Comparison",
    "DependencyError",
    "FolderError",
    "InputError",
    "Latency",
    "LosparseRuntimeError",
    "Metadata",
    "NodeTime",
    "Options",
    "Parity",
    "ProviderError",
    "Ranked",
    "RunError",
    "Session",
    "Tag",
    "TensorSpec",
    "TokenizerError",
    "changed_files",
    "compare",
    "compare_sessions",
    "measure",
    "peak_memory",
    "profile_nodes",
    "read_metadata",
    "time_by",
    "verify_files",
]
