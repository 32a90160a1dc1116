"""Opening the variant of a folder that is best here: what `choice` says, of this CPU and of the providers there are."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from ..contract.files import read_metadata
from ..contract.metadata import Metadata, select
from ..contract.variant import DEFAULT_PROVIDER
from ..dependencies import import_onnxruntime
from .choice import Choice, choose_variant
from .cpus import UNKNOWN, cpu_class
from .opening import open_model
from .options import Options

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Opened:
    """A model that is open.

    Attributes:
        session: an `onnxruntime.InferenceSession`.
        metadata: what the folder says of it.
        choice: which variant it is, and why.
    """

    session: Any
    metadata: Metadata
    choice: Choice


def open_chosen(folder: Path, options: Options, *, ort: ModuleType | None = None) -> Opened:
    """Open what `select_here` finds; where onnxruntime fell back to other providers, what is best on those.

    Args:
        folder: an exported ONNX folder.
        options: of opening it.
        ort: what opens it; default: the onnxruntime that is installed.

    Raises:
        LosparseRuntimeError: see `select_here` and `open_model`.
    """
    metadata, choice = select_here(folder, options, ort)
    session = open_model(folder, metadata, options, ort=ort)
    ran = tuple(session.get_providers())
    if options.variant is None and len(metadata.folder.variants) > 1 and options.providers[0] not in ran:
        again = choose_variant(metadata.folder, cpu_class(), ran, invariant=options.batch_invariant)
        if again.name != choice.name:
            logger.info("%s: %s", folder, again.reason)
            metadata, choice = select(metadata.folder, again.name, options.graph), again
            session = open_model(folder, metadata, replace(options, providers=ran), ort=ort)
    return Opened(session, metadata, choice)


def select_here(folder: Path, options: Options, ort: Any = None) -> tuple[Metadata, Choice]:
    """Find what is to be opened of a folder: what the options name, and the variant that is best here.

    Args:
        folder: an exported folder.
        options: of opening it.
        ort: what opens it; default: the onnxruntime that is installed.

    Raises:
        FolderError: its `losparse.json` is missing or wrong.
        InputError: it has no variant or graph of that name, or `CPU_VARIABLE` names no class of CPU.
        DependencyError: onnxruntime is not installed.
    """
    first = read_metadata(folder, options.variant, options.graph)
    if options.variant is not None:
        return first, Choice(options.variant, f"variant {options.variant}, as asked for")
    if len(first.folder.variants) == 1:
        return first, choose_variant(first.folder, UNKNOWN, options.providers, invariant=options.batch_invariant)
    providers = options.providers
    if options.allow_fallback:
        available = (import_onnxruntime() if ort is None else ort).get_available_providers()
        providers = tuple(name for name in providers if name in available) or (DEFAULT_PROVIDER,)
    choice = choose_variant(first.folder, cpu_class(), providers, invariant=options.batch_invariant)
    logger.info("%s: %s", folder, choice.reason)
    return select(first.folder, choice.name, options.graph), choice
