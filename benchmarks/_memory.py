"""Peak resident memory of this process, from the kernel's own high-water mark (Linux)."""

from __future__ import annotations

from pathlib import Path

from losparse.machine import peak_memory_bytes


def peak_bytes() -> int:
    """Return the largest resident size since the last reset."""
    peak = peak_memory_bytes()
    if peak is None:
        raise RuntimeError("the kernel reports no VmHWM")
    return peak


def reset_peak() -> None:
    """Let the high-water mark start again from the present size."""
    Path("/proc/self/clear_refs").write_text("5")
