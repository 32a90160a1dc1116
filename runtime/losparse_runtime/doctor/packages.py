"""What is installed: versions that are too old, two packages in one place, and versions that compute wrongly."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version

from ..dependencies import TELEMETRY_SWITCH, installed_onnxruntimes
from ..engine.cpus import CPU_AMX
from .findings import Finding, Level

Versions = Callable[[str], str | None]
"""Tells the version of a distribution by its name; None where it is not installed."""

MINIMUM: Mapping[str, tuple[int, ...]] = {"numpy": (2,), "tokenizers": (0, 21), "onnxruntime": (1, 28)}
"""Oldest versions that the package takes, as its pyproject.toml says."""
TOO_NEW: Mapping[str, tuple[int, ...]] = {"numpy": (3,)}
OLDEST_PYTHON = (3, 11)
EXTRAS: Mapping[str, tuple[str, ...]] = {
    "serve": ("fastapi", "uvicorn", "uvloop", "httptools", "prometheus-client"),
    "sign": ("cryptography",),
    "chat": ("jinja2",),
}
"""What commands of their own need beside the rest, by the extra that brings it."""
_OPTIONAL = ("uvloop", "httptools")  # uvicorn runs without them, and they are not for Windows
_WRONG_INT8 = ((1, 0), (1, 25))


def installed_version(name: str) -> str | None:
    """Return the version of a distribution; None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def numbers(text: str) -> tuple[int, ...]:
    """Return the leading numbers of a version: (1, 31, 1) of "1.31.1+cpu"."""
    return tuple(int(each) for each in re.findall(r"\d+", re.split(r"[^\d.]", text, maxsplit=1)[0]))


def look_at_python(found: Sequence[int] | None = None) -> Finding:
    """Tell Python and the package; one that is too old is a problem.

    Args:
        found: version of Python; default: this one's.
    """
    found = sys.version_info[:3] if found is None else found
    said = f"{platform.python_implementation()} {'.'.join(map(str, found))}, {platform.system()} {platform.machine()}"
    if tuple(found) < OLDEST_PYTHON:
        oldest = ".".join(map(str, OLDEST_PYTHON))
        return Finding("python", "problem", f"{said}; {oldest} or newer is needed", f"install Python {oldest}")
    return Finding("python", "ok", said)


def look_at_packages(versions: Versions = installed_version) -> list[Finding]:
    """Tell losparse, numpy and tokenizers, and what the extras bring.

    Args:
        versions: tells what is installed.
    """
    own = versions("losparse")
    found = [Finding("losparse", "ok", own or "not installed as a package; it runs from its sources")]
    found += [_required(name, versions(name)) for name in ("numpy", "tokenizers")]
    return found + [_extra(name, versions) for name in EXTRAS]


def look_at_onnxruntime(
    found: Sequence[str] | None = None, versions: Versions = installed_version, cpu: str = "", int8: str | None = None
) -> list[Finding]:
    """Tell which onnxruntime is there: none, two in one place, one that is too old, one that multiplies wrongly.

    Args:
        found: the distributions that hold it; default: those that are installed.
        versions: tells what is installed.
        cpu: class of the CPU, of `CPU_CLASSES`.
        int8: a folder with int8 weights that is to run here; None where there is none.
    """
    found = installed_onnxruntimes() if found is None else found
    if not found:
        way_out = "pip install 'losparse[runtime]' (CPU) or 'losparse[gpu]' (CUDA), never both"
        return [Finding("onnxruntime", "problem", "not installed as a package", way_out)]
    if len(found) > 1:
        listed = ", ".join(f"{name} {versions(name)}" for name in found)
        one = f"pip uninstall {' '.join(found)}, then pip install 'losparse[runtime]' (CPU) or 'losparse[gpu]' (CUDA)"
        oldest = min(numbers(versions(name) or "") for name in found)
        twice = Finding("onnxruntime", "problem", f"installed twice, in one place: {listed}", one)
        return [twice, *_wrong_int8(oldest, cpu, int8)]
    told = _required(found[0], versions(found[0]), "onnxruntime")
    return [told, *_wrong_int8(numbers(versions(found[0]) or ""), cpu, int8)]


def _wrong_int8(found: tuple[int, ...], cpu: str, int8: str | None) -> list[Finding]:
    """Tell an onnxruntime whose products of int8 are wrong on AMX, where widths are no multiple of 16."""
    if cpu != CPU_AMX or not _WRONG_INT8[0] <= found < _WRONG_INT8[1]:
        return []
    said = (
        "before 1.25 its int8 products are wrong on this CPU (AMX), for 32 rows or more and widths that are no "
        "multiple of 16, which compressed layers have"
    )
    level: Level = "warning" if int8 is None else "problem"
    said += "" if int8 is None else f"; {int8} has int8 weights"
    return [Finding("onnxruntime", level, said, "pip install -U onnxruntime, or run fp32")]


def look_at_telemetry(environ: Mapping[str, str] = os.environ) -> Finding:
    """Tell whether onnxruntime reports to its maker.

    Args:
        environ: of the process.
    """
    if environ.get(TELEMETRY_SWITCH) == "1":
        return Finding("telemetry", "ok", f"onnxruntime's reports to its maker are off ({TELEMETRY_SWITCH}=1)")
    said = f"{TELEMETRY_SWITCH}={environ.get(TELEMETRY_SWITCH, '')} leaves onnxruntime's reports to its maker on"
    return Finding("telemetry", "warning", said, f"unset {TELEMETRY_SWITCH}, and losparse switches them off")


def _required(name: str, found: str | None, limits: str | None = None) -> Finding:
    """Compare a version with what the package takes."""
    limits = limits or name
    install = f"pip install -U '{name}>={'.'.join(map(str, MINIMUM[limits]))}'"
    facts = {"package": name, "version": found}
    if found is None:
        return Finding(limits, "problem", "not installed", "pip install 'losparse[runtime]'", facts)
    if numbers(found) < MINIMUM[limits]:
        return Finding(limits, "problem", f"{name} {found} is older than this package is made for", install, facts)
    if limits in TOO_NEW and numbers(found) >= TOO_NEW[limits]:
        way_out = f"pip install '{name}<{'.'.join(map(str, TOO_NEW[limits]))}'"
        return Finding(limits, "problem", f"{name} {found} is newer than this package is made for", way_out, facts)
    return Finding(limits, "ok", found if name == limits else f"{name} {found}", facts=facts)


def _extra(extra: str, versions: Versions) -> Finding:
    """Tell what of an extra is there; that it is not is no fault."""
    found = {name: versions(name) for name in EXTRAS[extra]}
    missing = [name for name, there in found.items() if there is None and name not in _OPTIONAL]
    about, facts = f"extra {extra}", {"packages": found}
    if missing:
        said = f"{', '.join(missing)} not installed; only `losparse {extra}` needs it: pip install 'losparse[{extra}]'"
        return Finding(about, "ok", said, facts=facts)
    return Finding(about, "ok", ", ".join(f"{name} {there}" for name, there in found.items() if there), facts=facts)
