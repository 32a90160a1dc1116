"""Open, run, compare and time ONNX folders that losparse exported, as in `Session("OUT").classify(["a fine film"])`.

Needs numpy, onnxruntime and tokenizers; no torch.
"""

from .compare import Comparison, Parity, compare, compare_sessions
from .errors import (
    DependencyError,
    FolderError,
    InputError,
    LosparseRuntimeError,
    ProviderError,
    RunError,
    TokenizerError,
)
from .folder import changed_files, read_metadata, verify_files
from .measure import Latency, measure, peak_memory
from .metadata import Metadata, TensorSpec
from .opening import Options
from .profile import NodeTime, profile_nodes, time_by
from .session import Session
from .tasks import Answer, Classification, Tag

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
