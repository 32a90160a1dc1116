"""Open, run, compare and time ONNX folders that losparse exported, as in `Session("OUT").classify(["a fine film"])`.

Needs numpy, onnxruntime and tokenizers; no torch.
"""

from .compare import Comparison, Parity, compare, compare_sessions
from .contract.files import changed_files, read_folder, read_metadata, verify_files
from .contract.folder import Folder
from .contract.metadata import Metadata
from .contract.tensors import TensorSpec
from .contract.variant import Variant
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
from .tasks.helpers import Answer, Classification, Tag
from .timing.latency import Latency, measure, peak_memory
from .timing.profile import NodeTime, profile_nodes, time_by

__all__ = [
    "Answer",
    "Classification",
    "Comparison",
    "DependencyError",
    "Folder",
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
    "Variant",
    "changed_files",
    "compare",
    "compare_sessions",
    "measure",
    "peak_memory",
    "profile_nodes",
    "read_folder",
    "read_metadata",
    "time_by",
    "verify_files",
]
