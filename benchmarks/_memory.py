"""Peak resident memory of this process, from the kernel's own high-water mark (Linux)."""

from __future__ import annotations

from pathlib import Path

import torch

from losparse.environment import peak_memory_bytes


def peak_bytes() -> int:
    """Return the largest resident size since the last reset."""
    peak = peak_memory_bytes()
    if peak is None:
        raise RuntimeError("the kernel reports no VmHWM")
    return peak


def reset_peak() -> None:
    """Let the high-water mark start again from the present size."""
    Path("/proc/self/clear_refs").write_text("5")


def warm_up() -> None:
    """Use the libraries once, so that what they hold for themselves is there before a peak is measured."""
    layer = torch.nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
    layer(torch.ones(2, 8, 64)).sum().backward()
    for kind in (torch.linalg.eigh, torch.linalg.qr, torch.linalg.svd):
        kind(torch.eye(256, dtype=torch.float64))
