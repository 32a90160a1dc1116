"""Peak resident memory of this process, from the kernel's own high-water mark (Linux)."""

from __future__ import annotations

from pathlib import Path


def peak_bytes() -> int:
    """Return the largest resident size since the last reset."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("the kernel reports no VmHWM")


def reset_peak() -> None:
    """Let the high-water mark start again from the present size."""
    Path("/proc/self/clear_refs").write_text("5")
