"""Execution providers: those that are there, what is done where one is not, and whether it took its options."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Sequence
from typing import Any

from ..contract.variant import DEFAULT_PROVIDER
from ..dependencies import installed_onnxruntimes
from ..errors import ProviderError
from .choice import GPU_PROVIDERS
from .options import Options

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
        fall_back(f"provider {', '.join(missing)} is not installed; {here}", options)
    # Never the empty list: onnxruntime would then choose by itself.
    return [name for name in options.providers if name in available] or [DEFAULT_PROVIDER]


def fall_back(what: str, options: Options) -> None:
    """Log a warning that a provider is not used, where that is allowed.

    Raises:
        ProviderError: it is not.
    """
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
