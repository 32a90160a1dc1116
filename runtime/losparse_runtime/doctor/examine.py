"""All of it: what is installed, what the machine grants, what becomes of folders."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ..contract.variant import DEFAULT_PROVIDER
from ..engine.cgroups import cgroup_memory
from ..engine.cpus import UNKNOWN, cpu_class
from ..engine.options import Provider
from ..errors import InputError, one_line
from .findings import Diagnosis, Finding
from .folders import has_int8, look_at_folder
from .machine import (
    free_memory,
    look_at_cpu,
    look_at_memory,
    look_at_open_files,
    look_at_shared_memory,
    look_at_threads,
)
from .packages import look_at_onnxruntime, look_at_packages, look_at_python, look_at_telemetry
from .providers import look_at_providers


def examine(folders: Sequence[Path | str] = (), providers: Sequence[Provider] = (DEFAULT_PROVIDER,)) -> Diagnosis:
    """Look at everything that decides whether folders run here, and how well.

    Args:
        folders: that `losparse export` wrote; each is opened and run once.
        providers: that they are opened on; see `Session`.

    Returns:
        One finding a thing: packages, execution providers, the machine, folders. It raises nothing: what does not work
        is a finding.
    """
    places = [Path(folder) for folder in folders]
    cpu, at_cpu = _cpu()
    int8 = next((str(place) for place in places if has_int8(place)), None)
    computing = look_at_providers()
    found = [
        look_at_python(),
        *look_at_packages(),
        *look_at_onnxruntime(cpu=cpu, int8=int8),
        *computing,
        at_cpu,
        look_at_threads(omp=os.environ.get("OMP_NUM_THREADS")),
        look_at_memory(),
        look_at_shared_memory(),
        look_at_open_files(),
        look_at_telemetry(),
    ]
    free = free_memory(granted=cgroup_memory())
    for place in places:
        found += look_at_folder(place, providers, free=free)
    return Diagnosis(tuple(found))


def _cpu() -> tuple[str, Finding]:
    """Return the class of the CPU, and what is to be said of it."""
    try:
        return cpu_class(), look_at_cpu()
    except InputError as error:  # the variable names no class
        return UNKNOWN, Finding("cpu", "problem", one_line(error))
