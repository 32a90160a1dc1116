"""Opening a model in onnxruntime: with which providers and options, and is the file the one the metadata describes."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any

from ..contract.folder import FINGERPRINT_KEY
from ..contract.metadata import Metadata
from ..contract.tensors import ORT_DTYPES
from ..contract.variant import DEFAULT_PROVIDER, SAFE_WEIGHT_BITS
from ..dependencies import import_onnxruntime, installed_onnxruntimes
from ..errors import FolderError, InputError, ProviderError, one_line
from .choice import GPU_PROVIDERS
from .cpus import int8_overflows
from .external import external_files

MOST_THREADS = 1024
"""Far above what any machine has a use for; onnxruntime starts as many as it is told, until the machine stands."""
_ERRORS_ONLY = 3  # onnxruntime's log severity: its warnings are about the graph, which the user did not write

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """How to open a model.

    Attributes:
        providers: full onnxruntime names, most wanted first.
        threads: intra-op threads, >= 1.
        allow_fallback: run on the CPU where a provider is not there, instead of an error.
        spinning: idle threads wait busily: lowest latency for one model alone on its cores.
        variant: which form of the model, where a folder holds several; None for the one that `chosen` finds.
        graph: which graph, where a model has several; None for the first.
        unchecked: open a model that was not compared with PyTorch yet; for the exporter, which compares it.
    """

    providers: tuple[str, ...]
    threads: int
    allow_fallback: bool = False
    spinning: bool = True
    variant: str | None = None
    graph: str | None = None
    unchecked: bool = False

    def __post_init__(self) -> None:
        """Check the thread count."""
        whole = isinstance(self.threads, int) and not isinstance(self.threads, bool)
        if not whole or not 1 <= self.threads <= MOST_THREADS:
            raise InputError(
                f"threads must be a whole number >= 1, got {self.threads!r}; leave it out for all CPUs granted"
                if not whole or self.threads < 1
                else f"threads must be at most {MOST_THREADS}, got {self.threads}; leave it out for all CPUs granted"
            )


def provider_names(providers: Sequence[str]) -> tuple[str, ...]:
    """Check the form of a list of providers.

    Raises:
        ProviderError: it is a bare string, empty, holds something else than strings, or a name twice.
    """
    if isinstance(providers, str):
        raise ProviderError(f"providers must be a list of names, got the string {providers!r}; write [{providers!r}]")
    names = tuple(providers)
    if not names or not all(isinstance(name, str) for name in names) or len(set(names)) != len(names):
        raise ProviderError(
            f"providers must be names, at least one and each once, as in [{DEFAULT_PROVIDER!r}], got {list(names)!r}"
        )
    return names


def open_model(
    folder: Path,
    metadata: Metadata,
    options: Options,
    *,
    profile: Path | None = None,
    overflows: Callable[[], bool] = int8_overflows,
    ort: ModuleType | None = None,
) -> Any:
    """Open the folder's model.

    Args:
        folder: an exported ONNX folder.
        metadata: what it says of the graph and the variant that are opened.
        options: providers, threads, and whether it must have been compared with PyTorch.
        profile: where onnxruntime writes its profile, as the beginning of a file name; None for no profile.
        overflows: tells whether int8 products with weights of 8 bits overflow on this CPU.
        ort: what opens it; default: the onnxruntime that is installed.

    Returns:
        An `onnxruntime.InferenceSession` on the providers asked for.

    Raises:
        DependencyError: onnxruntime is not installed.
        ProviderError: a provider is unknown, not installed, or was dropped, and falling back is not allowed.
        FolderError: the model file is damaged, is not the one the metadata describes, was not compared with PyTorch,
            or is not for this CPU.
    """
    ort = import_onnxruntime() if ort is None else ort
    _refuse(folder, metadata, options, overflows)
    wanted = _installed(ort, options)
    if any(name in GPU_PROVIDERS for name in wanted):
        _preload_cuda(ort)
    try:
        session = _create(ort, folder, metadata, options, wanted, profile)
    except ProviderError as error:
        _fall_back(str(error), options)
        wanted = [DEFAULT_PROVIDER]
        session = _create(ort, folder, metadata, options, wanted, profile)
    dropped = [name for name in wanted if name not in session.get_providers()]
    if dropped:
        _fall_back(
            f"onnxruntime dropped {', '.join(dropped)} and runs on {', '.join(session.get_providers())} "
            "(its log on stderr says why: mostly a CUDA or cuDNN library that is missing)",
            options,
        )
    _check_model(session, folder, metadata)
    logger.debug(
        "%s: open on %s; optimizers switched off: %s",
        folder,
        ", ".join(session.get_providers()),
        ", ".join(_switched_off(metadata, wanted)) or "none",
    )
    return session


def _refuse(folder: Path, metadata: Metadata, options: Options, overflows: Callable[[], bool]) -> None:
    """Refuse a model nobody compared, one that would overflow here, and weights that its folder does not list."""
    if metadata.parity is None and not options.unchecked:
        raise FolderError(
            f"{folder}: losparse.json has no comparison with PyTorch ('parity' is null), so its export did not finish; "
            "export it again with `losparse export`"
        )
    if metadata.variant.wide and overflows():
        raise FolderError(
            f"{folder}: int8 products with weights of {metadata.weight_bits} bits are for CPUs with VNNI, and this one "
            f"has none, so they would overflow; export the model again with --weight-bits {SAFE_WEIGHT_BITS}"
        )
    name = metadata.model.file
    beside = PurePosixPath(name).parent  # locations are seen from the model's own folder
    unlisted = sorted({(beside / each).as_posix() for each in external_files(folder / name)} - metadata.files.keys())
    if unlisted:
        raise FolderError(
            f"{folder}: {name} takes weights from {unlisted[0]!r}, which losparse.json does not list, so nothing "
            "tells whether they are its own; export the folder again"
        )


def _preload_cuda(ort: Any) -> None:
    """Load CUDA and cuDNN from where pip installs them: by itself onnxruntime finds only those of the system.

    What cannot be loaded onnxruntime prints, and `run` has an output of its own; opening the session says the same.
    """
    if not hasattr(ort, "preload_dlls"):  # before 1.21
        return
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        ort.preload_dlls()
    for line in said.getvalue().splitlines():
        logger.info("%s", line)


def _installed(ort: Any, options: Options) -> list[str]:
    """The providers to ask for: all wanted ones, or those that this onnxruntime has where falling back is allowed."""
    available = ort.get_available_providers()
    here = f"this onnxruntime has {', '.join(available)}"
    for name in options.providers:
        if name not in available and name not in ort.get_all_providers():
            raise ProviderError(f"provider {name!r} is not a name that onnxruntime knows; {here}")
    missing = [name for name in options.providers if name not in available]
    if missing:
        _fall_back(f"provider {', '.join(missing)} is not installed; {here}", options)
    # Never the empty list: onnxruntime would then choose by itself.
    return [name for name in options.providers if name in available] or [DEFAULT_PROVIDER]


def _fall_back(what: str, options: Options) -> None:
    if not options.allow_fallback:
        of_cuda = any(name in GPU_PROVIDERS for name in options.providers)
        way_out = way_to_cuda(installed_onnxruntimes()) if of_cuda else "install the onnxruntime that has it"
        raise ProviderError(
            f"{what}; {way_out}, or run without it: leave --provider out, or give Session allow_fallback=True"
        )
    logger.warning("%s; going on because allow_fallback is set", what)


def way_to_cuda(found: Sequence[str]) -> str:
    """What to install for CUDA. The packages that hold onnxruntime share files, so what is there must go first.

    Args:
        found: the packages that are there.
    """
    if len(found) > 1:
        return (
            f"{' and '.join(found)} are both installed and overwrite each other: pip uninstall {' '.join(found)}, "
            "then pip install 'losparse[gpu]' for CUDA"
        )
    if list(found) == ["onnxruntime-gpu"]:
        return "install the NVIDIA driver, and CUDA and cuDNN (pip install 'onnxruntime-gpu[cuda,cudnn]')"
    if found:
        return f"pip uninstall {found[0]}, then pip install 'losparse[gpu]' for CUDA"
    return "pip install 'losparse[gpu]' for CUDA"


def _create(
    ort: Any, folder: Path, metadata: Metadata, options: Options, providers: list[str], profile: Path | None
) -> Any:
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = options.threads
    settings.inter_op_num_threads = 1
    settings.log_severity_level = _ERRORS_ONLY
    if profile is not None:
        settings.enable_profiling, settings.profile_file_prefix = True, str(profile)
    for scope in ("intra_op", "inter_op"):
        settings.add_session_config_entry(f"session.{scope}.allow_spinning", "1" if options.spinning else "0")
    try:
        # By path, not by bytes: weights beside the model are then mapped, not copied. enable_fallback is onnxruntime's
        # own silent second try on the CPU.
        return ort.InferenceSession(
            str(folder / metadata.model.file),
            settings,
            providers=providers,
            enable_fallback=0,
            disabled_optimizers=_switched_off(metadata, providers),
        )
    except Exception as error:  # onnxruntime's own errors have no common base below Exception
        if isinstance(error, ValueError | RuntimeError) and providers != [DEFAULT_PROVIDER]:
            raise ProviderError(f"onnxruntime cannot start {', '.join(providers)}: {one_line(error)}") from error
        raise FolderError(
            f"{folder / metadata.model.file}: onnxruntime {ort.__version__} cannot open it ({one_line(error)}); "
            "copy it again, or export it again"
        ) from error


def _switched_off(metadata: Metadata, providers: list[str]) -> list[str]:
    """The optimizers that slow the folder's own provider down; on others the same fusions gain."""
    return list(metadata.disabled_optimizers) if providers == [metadata.provider] else []


def _check_model(session: Any, folder: Path, metadata: Metadata) -> None:
    """Refuse a model file that the metadata beside it does not describe."""
    carried = session.get_modelmeta().custom_metadata_map.get(FINGERPRINT_KEY)
    if carried != metadata.fingerprint:
        got = "none" if carried is None else f"{carried[:16]}..."
        raise FolderError(
            f"{folder}: {metadata.model.file} carries fingerprint {got}, losparse.json says "
            f"{metadata.fingerprint[:16]}...: the two files are from different exports; export the folder again"
        )
    for kind, specs, nodes in (
        ("inputs", metadata.inputs, session.get_inputs()),
        ("outputs", metadata.outputs, session.get_outputs()),
    ):
        described = {spec.name: (spec.dtype, spec.shape) for spec in specs}
        real = {node.name: (ORT_DTYPES.get(node.type, node.type), tuple(node.shape)) for node in nodes}
        if not _agree(described, real):
            raise FolderError(
                f"{folder}: the model's {kind} are {_listed(real)}, losparse.json says {_listed(described)}; "
                "export the folder again"
            )


_Tensors = dict[str, tuple[str, tuple[int | str | None, ...]]]


def _agree(described: Any, real: _Tensors) -> bool:
    """Same names and element types, and the same size on every axis that has a fixed size on both sides."""
    if {name: dtype for name, (dtype, _) in described.items()} != {name: dtype for name, (dtype, _) in real.items()}:
        return False
    # onnxruntime gives an output whose rank it does not know the shape (): nothing to compare then.
    axes = (axis for name in real for axis in zip(described[name][1], real[name][1], strict=False))
    return all(a == b for a, b in axes if isinstance(a, int) and isinstance(b, int))


def _listed(tensors: Any) -> str:
    return ", ".join(f"{name} {dtype} {list(shape)}" for name, (dtype, shape) in tensors.items())
