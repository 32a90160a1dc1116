"""Opening a model in onnxruntime: with which providers and options, and is the file the one the metadata describes."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any

from ..contract.folder import FINGERPRINT_KEY
from ..contract.metadata import Metadata
from ..contract.tensors import ORT_DTYPES
from ..contract.variant import DEFAULT_PROVIDER, SAFE_WEIGHT_BITS
from ..dependencies import import_onnxruntime
from ..errors import FolderError, ProviderError, one_line
from .choice import GPU_PROVIDERS
from .cpus import int8_overflows
from .external import read_asked
from .options import Options
from .providers import fall_back, installed, last_words, preload_cuda, require_settings, tell_nodes
from .settings import session_settings

# What onnxruntime says of nodes that would be left to the CPU, and of options that a provider does not take.
_CPU_NODES = "assigned to the default CPU EP"
_OPTION = re.compile(r"(provider|EP) option", re.IGNORECASE)
# What it raises of a file that is no model, and how it begins; anything else that a provider makes is of the provider.
_OF_THE_FILE, _LOADING = ("InvalidProtobuf", "InvalidGraph", "NoModel", "NoSuchFile"), "Load model from"

logger = logging.getLogger(__name__)


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
        ProviderError: a provider is unknown, not installed, or was dropped, and falling back is not allowed; it has not
            an option; or nodes are left to the CPU, and that is not allowed.
        FolderError: the model file is damaged, is not the one the metadata describes, was not compared with PyTorch,
            or is not for this CPU.
    """
    ort = import_onnxruntime() if ort is None else ort
    _refuse(folder, metadata, options, overflows)
    wanted = installed(ort, options)
    if any(name in GPU_PROVIDERS for name in wanted):
        preload_cuda(ort)
    try:
        session = _create(ort, folder, metadata, options, wanted, profile)
    except _CannotStartError as error:
        fall_back(str(error), options)
        wanted = [DEFAULT_PROVIDER]
        session = _create(ort, folder, metadata, options, wanted, profile)
    dropped = [name for name in wanted if name not in session.get_providers()]
    if dropped:
        fall_back(
            f"onnxruntime dropped {', '.join(dropped)} and runs on {', '.join(session.get_providers())} "
            "(its log on stderr says why: mostly a CUDA or cuDNN library that is missing)",
            options,
        )
    require_settings(session, options)
    tell_nodes(session, folder, wanted)
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
    asked = read_asked(folder / name)
    if asked.foreign:
        raise FolderError(
            f"{folder}: {name} has nodes of {asked.foreign[0]}, which is no operator of ONNX or onnxruntime; code for "
            "others is never loaded: export the folder again with `losparse export`"
        )
    unlisted = sorted({(beside / each).as_posix() for each in asked.files} - metadata.files.keys())
    if unlisted:
        raise FolderError(
            f"{folder}: {name} takes weights from {unlisted[0]!r}, which losparse.json does not list, so nothing "
            "tells whether they are its own; export the folder again"
        )


class _CannotStartError(ProviderError):
    """A provider is there and does not start, which is a reason to fall back where that is allowed."""


def _create(
    ort: Any, folder: Path, metadata: Metadata, options: Options, providers: list[str], profile: Path | None
) -> Any:
    settings = session_settings(ort, options)
    if profile is not None:
        settings.enable_profiling, settings.profile_file_prefix = True, str(profile)
    try:
        # By path, not by bytes: weights beside the model are then mapped, not copied. enable_fallback is onnxruntime's
        # own silent second try on the CPU.
        return ort.InferenceSession(
            str(folder / metadata.model.file),
            settings,
            providers=[(name, options.settings[name]) if options.settings.get(name) else name for name in providers],
            enable_fallback=0,
            disabled_optimizers=_switched_off(metadata, providers),
        )
    except Exception as error:  # onnxruntime's own errors have no common base below Exception
        raise _why_not(ort, folder / metadata.model.file, options, providers, error) from error


def _why_not(
    ort: Any, file: Path, options: Options, providers: list[str], error: Exception
) -> ProviderError | FolderError:
    """Say why a model does not open: an option, nodes that would run on the CPU, a provider, or the file."""
    said, named = last_words(error), ", ".join(providers)
    if not options.cpu_nodes and _CPU_NODES in said:
        return ProviderError(
            f"{file}: some of its nodes do not run on {named}, and cpu_nodes=False lets none run on the CPU; leave "
            "cpu_nodes out, or export the model for that provider"
        )
    if any(options.settings.get(name) for name in providers) and _OPTION.search(said):
        return ProviderError(f"{named} does not take its options: {said}; leave out the one that is named")
    if providers != [DEFAULT_PROVIDER] and type(error).__name__ not in _OF_THE_FILE and _LOADING not in said:
        return _CannotStartError(f"onnxruntime cannot start {named}: {said}")
    return FolderError(
        f"{file}: onnxruntime {ort.__version__} cannot open it ({one_line(error)}); copy it again, or export it again"
    )


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
