"""Execution providers: those that are there, what is done where one is not, and whether it took its options."""

from __future__ import annotations

import contextlib
import io
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..contract.variant import DEFAULT_PROVIDER
from ..dependencies import installed_onnxruntimes
from ..errors import ProviderError
from .choice import GPU_PROVIDERS
from .options import Options

_MESSAGE_LIMIT = 300

logger = logging.getLogger(__name__)


def preload_cuda(ort: Any) -> None:
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


def installed(ort: Any, options: Options) -> list[str]:
    """The providers to ask for: all wanted ones, or those that this onnxruntime has where falling back is allowed.

    Raises:
        ProviderError: one is unknown, or is not there and falling back is not allowed.
    """
    available = ort.get_available_providers()
    here = f"this onnxruntime has {', '.join(available)}"
    for name in options.providers:
        if name not in available and name not in ort.get_all_providers():
            raise ProviderError(f"provider {name!r} is not a name that onnxruntime knows; {here}")
    missing = [name for name in options.providers if name not in available]
    if missing:
        fall_back(
            f"provider {', '.join(missing)} is not installed; {here}", options, "install the onnxruntime that has it"
        )
    # Never the empty list: onnxruntime would then choose by itself.
    return [name for name in options.providers if name in available] or [DEFAULT_PROVIDER]


def fall_back(what: str, options: Options, way_out: str = "install what it needs") -> None:
    """Log a warning that a provider is not used, where that is allowed.

    Args:
        what: happened.
        options: of opening a model.
        way_out: for other providers than those of CUDA.

    Raises:
        ProviderError: it is not.
    """
    if not options.allow_fallback:
        of_cuda = any(name in GPU_PROVIDERS for name in options.providers)
        way_out = way_to_cuda(installed_onnxruntimes()) if of_cuda else way_out
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


def last_words(error: Exception) -> str:
    """Return the end of what a provider said as one line: it begins with C++ signatures, and ends with the matter."""
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= _MESSAGE_LIMIT else f"...{words[3 - _MESSAGE_LIMIT :]}"


def tell_nodes(session: Any, folder: Path, wanted: Sequence[str]) -> None:
    """Log how many operators each provider has, and warn where the one that is wanted most has none.

    A provider that cannot use the device of its options may take no operator, without a word. Where onnxruntime does
    not tell (before 1.24), nothing is said.

    Args:
        session: an `onnxruntime.InferenceSession`, opened with `session.record_ep_graph_assignment_info`.
        folder: that it is of.
        wanted: providers that were asked for, most wanted first.
    """
    if wanted[0] == DEFAULT_PROVIDER or not hasattr(session, "get_provider_graph_assignment_info"):
        return
    counts = Counter[str]()
    for part in session.get_provider_graph_assignment_info():
        counts[part.ep_name] += len(part.get_nodes())
    listed = ", ".join(f"{count} on {name}" for name, count in counts.most_common())
    if wanted[0] in counts:
        logger.info("%s: operators: %s", folder, listed)
    else:
        logger.warning("%s: no operator runs on %s: %s; cpu_nodes=False refuses that", folder, wanted[0], listed)


def require_settings(session: Any, options: Options) -> None:
    """Refuse options that a provider left out without a word.

    The CPU provider takes none, and onnxruntime drops what it is given. Providers that report their options report the
    ones they know; of one that reports none at all nothing can be said.

    Args:
        session: an `onnxruntime.InferenceSession`.
        options: it was opened with.

    Raises:
        ProviderError: an option has no effect.
    """
    reported = session.get_provider_options()
    for name, asked in options.settings.items():
        taken = reported.get(name, {})
        if name not in reported or (not taken and name != DEFAULT_PROVIDER):
            continue
        ignored = [key for key in asked if key not in taken]
        if ignored:
            known = f"it has {', '.join(sorted(taken))}" if taken else "it has none"
            raise ProviderError(f"{name} has no option {ignored[0]!r}, {known}; leave it out")
