"""Open, run, compare and time ONNX folders that losparse exported, as in `Session("OUT").classify(["a fine film"])`.

Needs numpy, onnxruntime and tokenizers; no torch.
"""

from .checking.against_golden import check_golden
from .checking.numbers import Reference
from .checking.report import CheckReport
from .compare import Comparison, Parity, compare, compare_sessions
from .contract.feeds import Draw
from .contract.files import changed_files, read_folder, read_metadata, verify_files
from .contract.folder import Folder
from .contract.metadata import Metadata
from .contract.progress import Advance, Progress
from .contract.signature import Signature
from .contract.tensors import TensorSpec
from .contract.variant import Variant
from .doctor.examine import examine
from .doctor.findings import Diagnosis, Finding
from .drop_in.cross import CrossEncoder
from .drop_in.sentence import SentenceEncoder
from .engine.options import Options, Provider
from .errors import (
    BusyError,
    DeadlineError,
    DependencyError,
    FolderError,
    InputError,
    LosparseRuntimeError,
    ProviderError,
    RunError,
    TokenizerError,
)
from .evaluation.choices import ChoiceScore, Question, measure_choices
from .evaluation.folder import FolderModel
from .evaluation.perplexity import Perplexity, measure_perplexity
from .generation.loop import Generation
from .generation.settings import GenerationSettings
from .generation.streaming import TextStream
from .packaging.settings import TritonSettings
from .packaging.triton import TritonModel, package_triton
from .session import Session
from .tasks.answer import Answer
from .tasks.classify import Classification
from .tasks.rank import Ranked
from .tasks.tag import Tag
from .timing.benchmark import Benchmark, Timing, benchmark, open_folders
from .timing.latency import Latency, measure, peak_memory
from .timing.openvino import OpenVino, OpenVinoFacts, find_openvino
from .timing.profile import NodeTime, Profile, profile_nodes, profile_sessions, time_by
from .timing.ratio import Ratio, RatioVerdict, compare_latency
from .timing.record import Recorded, record_times
from .trust.keys import new_key
from .trust.signing import sign_folder
from .trust.verifying import TrustReport, verify_folder

__all__ = [
    "Advance",
    "Answer",
    "Benchmark",
    "BusyError",
    "CheckReport",
    "ChoiceScore",
    "Classification",
    "Comparison",
    "CrossEncoder",
    "DeadlineError",
    "DependencyError",
    "Diagnosis",
    "Draw",
    "Finding",
    "Folder",
    "FolderError",
    "FolderModel",
    "Generation",
    "GenerationSettings",
    "InputError",
    "Latency",
    "LosparseRuntimeError",
    "Metadata",
    "NodeTime",
    "OpenVino",
    "OpenVinoFacts",
    "Options",
    "Parity",
    "Perplexity",
    "Profile",
    "Progress",
    "Provider",
    "ProviderError",
    "Question",
    "Ranked",
    "Ratio",
    "RatioVerdict",
    "Recorded",
    "Reference",
    "RunError",
    "SentenceEncoder",
    "Session",
    "Signature",
    "Tag",
    "TensorSpec",
    "TextStream",
    "Timing",
    "TokenizerError",
    "TritonModel",
    "TritonSettings",
    "TrustReport",
    "Variant",
    "benchmark",
    "changed_files",
    "check_golden",
    "compare",
    "compare_latency",
    "compare_sessions",
    "examine",
    "find_openvino",
    "measure",
    "measure_choices",
    "measure_perplexity",
    "new_key",
    "open_folders",
    "package_triton",
    "peak_memory",
    "profile_nodes",
    "profile_sessions",
    "read_folder",
    "read_metadata",
    "record_times",
    "sign_folder",
    "time_by",
    "verify_files",
    "verify_folder",
]
